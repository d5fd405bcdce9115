"""Masks on what an optimisation may change: the part of an image that does not make its class stays open."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from condense.canvas import Canvas
from condense.checkpoint import Checkpoint
from condense.data.pixels import normalise
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.inversion import Hooks, Teachers
from condense.networks.base import InputShape
from condense.teachers import Teacher
from condense.teachers.cam import activation_maps_of

__all__ = ["NonCriticalMask", "non_critical_mask"]


def non_critical_mask(maps: Tensor, eps: float) -> Tensor:
    """max(0, 1 - C / ``eps``) of activation maps C (G, B, H, W) in [0, 1]: (G, B, 1, H, W) in [0, 1].

    Exactly 0 where C >= ``eps``, 1 where C is 0. Source: NRR-DD (arXiv 2503.18267), whose mask is max(0, eps - C);
    divided by ``eps`` here, so that the length of steps does not depend on it.
    """
    return torch.where(maps >= eps, 0.0, 1 - maps / eps).unsqueeze(2)


class NonCriticalMask(Hooks):
    """Pixels that make an image's class, by the activation maps of ``teachers``, are not changed.

    ``targets``: the classes as the loop has them, for all groups or group by group.

    The maps are those of the images as they start; with ``every`` above 0 they are made anew after so many steps, again
    and again. A resumed run has the mask of the interrupted one: with ``every`` 0 because it begins with the same
    images, otherwise because the mask is saved with the state, for which the loop has to be given
    ``kept_in(checkpoint)``. Of several teachers maps are averaged.

    For canvases whose values are the images, of the size that the teachers take. Raises `ConfigError` for ``eps`` or
    ``every`` out of range, `TeacherError` for a teacher without maps.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        teachers: Sequence[Teacher],
        targets: Sequence[int] | Sequence[Sequence[int]],
        *,
        eps: float = 0.5,
        every: int = 0,
        compute: Compute,
    ) -> None:
        if not 0 < eps <= 1:
            raise ConfigError(f"eps must be above 0 and at most 1, got {eps}")
        if every < 0:
            raise ConfigError(f"every must be at least 0, got {every}")
        shape, device = InputShape(spec.channels, spec.height, spec.width), compute.torch_device
        self.spec, self.eps, self.every, self.compute = spec, eps, every, compute
        self.targets = torch.tensor(targets, device=device)
        self.maps = [
            (activation_maps_of(one.info.network, one.network.to(device), shape), one.info.spec) for one in teachers
        ]
        self.mask: Tensor | None = None

    def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
        if canvas.values.shape != canvas.images().shape:
            raise MethodError("a mask by activation maps needs a canvas of pixels; choose one, or leave the mask out")
        self.mask = self.made(canvas)
        return teachers

    def update_mask(self, canvas: Canvas, step: int) -> Tensor | None:
        if self.every and step and step % self.every == 0:
            self.mask = self.made(canvas)
        return self.mask

    @torch.no_grad()
    def made(self, canvas: Canvas) -> Tensor:
        """The mask of the canvas as it is: (G, B, 1, H, W)."""
        images = canvas.images()
        mean, std = (images.new_tensor(each).view(-1, 1, 1) for each in (self.spec.mean, self.spec.std))
        pixels, targets = (images * std + mean).flatten(0, 1), self.targets.expand(len(images), -1).flatten()
        total = images.new_zeros(len(pixels), *images.shape[3:])
        for maps, own in self.maps:
            with self.compute.autocast():
                total += maps(normalise(pixels, own), targets)
        return non_critical_mask((total / len(self.maps)).view(*images.shape[:2], *images.shape[3:]), self.eps)

    def kept_in(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint that saves and restores the mask beside the state of the loop."""
        return _WithMask(self, checkpoint)


class _WithMask:
    """``checkpoint`` with one more tensor, which the loop does not see."""

    def __init__(self, hooks: NonCriticalMask, checkpoint: Checkpoint) -> None:
        self.hooks, self.inner = hooks, checkpoint

    def load(self) -> dict[str, Tensor] | None:
        saved = self.inner.load()
        if saved is None:
            return None
        mask = saved["mask"].to(self.hooks.compute.torch_device)
        self.hooks.mask = mask
        return {name: value for name, value in saved.items() if name != "mask"}

    def due(self) -> bool:
        return self.inner.due()

    def save(self, state: dict[str, Tensor]) -> None:
        assert self.hooks.mask is not None
        self.inner.save({**state, "mask": self.hooks.mask})
