"""Residual matching: the mixing against its equation, sizes and steps of stages, and a run that goes on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_inversion import SIDE, SPEC, Interrupted, Memory, canvas_of, stage
from test_inversion import run as inverted
from test_methods import teacher_of
from torch import Tensor

from condense.canvas import Pixels
from condense.errors import ConfigError, MethodError
from condense.inversion import Hooks
from condense.methods.parts.residual import Residual, check_sizes, residual_sizes, residual_stages, resized
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.views.recovery import RecoveryViews

FULL, SMALL = (SIDE, SIDE), (8, 8)
OBJECTIVE = CrossEntropy() + 0.05 * BatchNormDistance()


def images(height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.randn(2, 3, 2, height, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def plain_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel by pixel: centres at (i + 1/2) / scale - 1/2, coordinates kept within the image."""
    height, width = image.shape
    out = torch.zeros(size, dtype=image.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = math.floor(y), math.floor(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            v, u = y - top, x - left
            out[i, j] = (1 - v) * ((1 - u) * image[top, left] + u * image[top, right]) + v * (
                (1 - u) * image[below, left] + u * image[below, right]
            )
    return out


def each_plain(given: Tensor, size: tuple[int, int]) -> Tensor:
    flat = given.flatten(0, 2)
    return torch.stack([plain_resize(one, size) for one in flat]).view(*given.shape[:3], *size)


@pytest.mark.parametrize("size", [(8, 8), (4, 7), (12, 10), (9, 9)])
def test_resizing_is_bilinear_without_antialiasing(size: tuple[int, int]) -> None:
    torch.testing.assert_close(resized(images(), size), each_plain(images(), size), rtol=1e-12, atol=1e-12)


def mixed(values: Tensor, hooks: Hooks, number: int) -> Tensor:
    canvas = Pixels(values, SPEC)
    hooks.between_stages(canvas, number)
    return canvas.values


def test_mixing_is_the_papers_equation() -> None:
    """Both are resized, the real images always from full size."""
    hooks = Residual(images(), (SMALL, FULL, SMALL, FULL), alpha=0.3)
    now = torch.randn(2, 3, 2, *SMALL, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    wanted = 0.3 * each_plain(now, FULL) + 0.7 * images()
    torch.testing.assert_close(mixed(now, hooks, 1), wanted, rtol=1e-12, atol=1e-12)
    larger = mixed(now, hooks, 1)
    wanted = 0.3 * each_plain(larger, SMALL) + 0.7 * each_plain(images(), SMALL)
    torch.testing.assert_close(mixed(larger, hooks, 2), wanted, rtol=1e-12, atol=1e-12)


def run(sizes: Any, alpha: float = 0.5, hooks: Hooks | None = None, **given: Any) -> Pixels:
    start = canvas_of((0, 1))
    start.project()
    stages = residual_stages(sizes, steps=7, views=RecoveryViews(), objective=OBJECTIVE)
    hooks = hooks or Residual(start.values, sizes, alpha)
    return inverted(stages, canvas=Pixels(start.values, SPEC), hooks=hooks, **given)


class Stretched(Hooks):
    """The same loop's steps by hand: what the hooks of `Residual` should do, with the plain resize."""

    def __init__(self, start: Tensor, sizes: Any) -> None:
        self.start, self.sizes = start, sizes

    def prepare(self, canvas: Any, teachers: Any) -> Any:
        canvas.values = each_plain(canvas.values, self.sizes[0])
        return teachers

    def between_stages(self, canvas: Any, stage: int) -> None:
        canvas.values = (each_plain(canvas.values, self.sizes[stage]) + each_plain(self.start, self.sizes[stage])) / 2


SIZES = (SMALL, FULL, SMALL, FULL)


def test_a_run_over_changing_sizes_equals_mixing_by_hand() -> None:
    start = canvas_of((0, 1))
    start.project()
    made = run(SIZES)
    assert made.values.shape[-2:] == FULL
    assert made.rows().shape == (6, SIDE, SIDE, 2)
    by_hand = run(SIZES, hooks=Stretched(start.values, SIZES))
    torch.testing.assert_close(made.values, by_hand.values, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(made.values, run(SIZES, alpha=1.0).values)


def test_without_mixing_and_resizing_it_is_the_plain_loop() -> None:
    assert torch.equal(run((FULL,) * 4, alpha=1.0).values, run((FULL,) * 4, hooks=Hooks()).values)


def test_with_nothing_kept_only_the_last_stage_is_left() -> None:
    """alpha 0: every stage begins with the real images again."""
    start = canvas_of((0, 1))
    start.project()
    assert torch.equal(mixed(images(), Residual(start.values, (SMALL, FULL), 0.0), 1), start.values)


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_resumed_run_ends_with_the_same_bits(stop: int) -> None:
    """Also where it was interrupted between two stages, at either size."""
    whole, memory = run(SIZES), Memory(stop)
    with pytest.raises(Interrupted):
        run(SIZES, checkpoint=memory)
    assert torch.equal(run(SIZES, checkpoint=memory).values, whole.values)


def test_the_start_is_not_changed() -> None:
    start = images()
    hooks = Residual(start, (FULL, FULL), 0.5)
    canvas = Pixels(start, SPEC)
    hooks.prepare(canvas, lambda _: [])
    canvas.values.add_(1)
    hooks.between_stages(canvas, 1)
    assert torch.equal(start, images())


def test_sizes_alternate_and_end_full() -> None:
    assert residual_sizes((224, 224), 4, 200 / 224) == ((200, 200), (224, 224), (200, 200), (224, 224))
    assert residual_sizes((32, 32), 4) == ((32, 32),) * 4
    assert residual_sizes((10, 20), 3, 0.5) == ((10, 20), (5, 10), (10, 20))
    assert residual_sizes((9, 9), 1, 0.1) == ((9, 9),)


def test_steps_are_shared_out() -> None:
    made = residual_stages(((8, 8),) * 4, steps=2000, views=RecoveryViews(), objective=OBJECTIVE)
    assert [one.steps for one in made] == [500] * 4
    made = residual_stages(((8, 8),) * 4, steps=10, views=RecoveryViews(roll=2), objective=OBJECTIVE)
    assert [one.steps for one in made] == [3, 3, 2, 2]
    assert all(one.views == RecoveryViews(roll=2) and one.objective is OBJECTIVE for one in made)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha must be in \[0, 1\], got 1.5"):
        Residual(images(), (FULL,), 1.5)
    with pytest.raises(ConfigError, match=r"the last of the sizes is \(8, 8\); expected that of the images, \(9, 9\)"):
        Residual(images(), (FULL, SMALL))
    with pytest.raises(ConfigError, match="last of the sizes is missing"):
        Residual(images(), ())
    with pytest.raises(ConfigError, match="blocks must be at least 1"):
        residual_sizes(FULL, 0)
    with pytest.raises(ConfigError, match=r"low must be in \(0, 1\]"):
        residual_sizes(FULL, 4, 1.1)
    with pytest.raises(ConfigError, match="steps must be at least 1 in each of 4 blocks, got 3 in all"):
        residual_stages(SIZES, steps=3, views=stage().views, objective=OBJECTIVE)


def test_a_network_of_one_size_is_refused() -> None:
    for name, sizes in (("resnet8", SIZES), ("convnet3-w8-bn", (FULL,))):
        check_sizes(name, teacher_of(SPEC, name).network, SPEC, sizes)
    with pytest.raises(MethodError, match="network convnet1-w8-bn takes no images of 6x6, the size of a stage"):
        check_sizes("convnet1-w8-bn", teacher_of(SPEC, "convnet1-w8-bn").network, SPEC, ((6, 6), FULL))
