"""Residual matching (FADRM): between stages the images are mixed with the real ones that they began as."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.canvas import Canvas
from condense.data.spec import DatasetSpec
from condense.errors import ConfigError, MethodError
from condense.inversion import Hooks, Stage, Teachers
from condense.objectives import Objective
from condense.views.recovery import RecoveryViews

__all__ = ["Residual", "Size", "check_sizes", "residual_sizes", "residual_stages", "resized"]

Size = tuple[int, int]
"""Height, width."""


class Residual(Hooks):
    """Begins at the size of the first stage; before every other, ``x <- alpha * x + (1 - alpha) * P``.

    ``start``: P, (G, B, C, H, W), normalised, at full size, from which it is resized for every stage. ``sizes``: of the
    canvas in each stage, the last of them full. The canvas's ``values`` must be images, as those of `Pixels` are, and
    nothing is drawn, so a resumed run goes on to the same bits.

    Source: "FADRM: Fast and Accurate Data Residual Matching" (NeurIPS 2025, arXiv 2506.24125), alpha 0.5, four blocks.
    As in its program, Adam's moments begin anew in every stage, and nothing is mixed in after the last.

    Raises `ConfigError` for an ``alpha`` out of range and for a last size that is not full.
    """

    def __init__(self, start: Tensor, sizes: Sequence[Size], alpha: float = 0.5) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha must be in [0, 1], got {alpha}")
        if not sizes or tuple(sizes[-1]) != tuple(start.shape[-2:]):
            last, full = tuple(sizes[-1]) if sizes else "missing", tuple(start.shape[-2:])
            raise ConfigError(f"the last of the sizes is {last}; expected that of the images, {full}")
        self.start, self.sizes, self.alpha = start, tuple(sizes), alpha

    def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
        canvas.values = resized(canvas.values, self.sizes[0])
        return teachers

    def between_stages(self, canvas: Canvas, stage: int) -> None:
        size = self.sizes[stage]
        real = resized(self.start.to(canvas.values), size)
        canvas.values = self.alpha * resized(canvas.values, size) + (1 - self.alpha) * real


@torch.no_grad()
def resized(images: Tensor, size: Size) -> Tensor:
    """Images (G, B, C, H, W) at another size, bilinear with no corners aligned and no antialiasing."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    small = F.interpolate(images.flatten(0, 1), tuple(size), mode="bilinear", align_corners=False, antialias=False)
    return small.view(*images.shape[:-2], *size)


def residual_sizes(full: Size, blocks: int, low: float = 1.0) -> tuple[Size, ...]:
    """The sizes of so many stages: ``low`` times the full size in every other one, so that the last is full.

    Published: 200 px and 224 px in turn, ``low`` 200/224; below 224 px all full.

    >>> residual_sizes((224, 224), 4, 200 / 224)
    ((200, 200), (224, 224), (200, 200), (224, 224))
    """
    if blocks < 1:
        raise ConfigError(f"blocks must be at least 1, got {blocks}")
    if not 0 < low <= 1:
        raise ConfigError(f"low must be in (0, 1], got {low}")
    small = (max(1, round(low * full[0])), max(1, round(low * full[1])))
    return tuple(full if (blocks - block) % 2 else small for block in range(blocks))


def residual_stages(
    sizes: Sequence[Size], *, steps: int, views: RecoveryViews, objective: Objective
) -> tuple[Stage, ...]:
    """A stage for each size; ``steps`` are shared out evenly, the first stages having one more where they must.

    A canvas knows its size, which `Residual` gives it, so stages differ in their steps only. Raises `ConfigError` for
    fewer steps than stages.
    """
    blocks = len(sizes)
    if steps < blocks:
        raise ConfigError(f"steps must be at least 1 in each of {blocks} blocks, got {steps} in all")
    each = [steps // blocks + (block < steps % blocks) for block in range(blocks)]
    return tuple(Stage(steps=count, views=views, objective=objective) for count in each)


@torch.no_grad()
def check_sizes(name: str, network: nn.Module, spec: DatasetSpec, sizes: Sequence[Size]) -> None:
    """Raises `MethodError` for a network ``name`` that does not take images of one of the sizes."""
    like = next(network.parameters(), torch.zeros(0))
    for size in sorted(set(sizes) - {(spec.height, spec.width)}):
        try:
            network.eval()(like.new_zeros(1, spec.channels, *size))
        except (RuntimeError, ValueError):
            raise MethodError(
                f"network {name} takes no images of {size[0]}x{size[1]}, the size of a stage; keep all stages at full "
                "size (residual.low=1), or use teachers that take any size, such as resnet20"
            ) from None
