"""Views of images under optimisation: the curriculum, torchvision's crop, and independence of groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import resized_crop

from condense import seeding
from condense.errors import ConfigError
from condense.views.recovery import RecoveryDraws, RecoveryViews, apply_recovery, least_area, recovery_draws
from condense.views.render import channels_last

GROUPS = [(0, 0, 0), (0, 1, 0), (0, 1, 10)]


def pictures(groups: int, images: int, channels: int, height: int, width: int) -> Tensor:
    values = seeding.generator(0, "pictures").random((groups, images, height, width, channels))
    return torch.from_numpy(values).permute(0, 1, 4, 2, 3)


def draws(
    config: RecoveryViews, groups: list[tuple[int, ...]] = GROUPS, steps: range = range(20), size: int = 12
) -> RecoveryDraws:
    return recovery_draws(config, 7, groups, steps, total_steps=20, images=4, height=size, width=size + 3)


def cda(schedule: str, t: int, total: int, milestone: float) -> float:
    """The published formulas (arXiv 2311.18838), one step at a time."""
    if t >= milestone * total or schedule == "constant":
        return 0.08
    share = t / (milestone * total)
    return {
        "step": 1.0,
        "linear": 0.08 + 0.92 * (1 - share),
        "cosine": 0.08 + 0.92 * (1 + math.cos(math.pi * share)) / 2,
    }[schedule]


@pytest.mark.parametrize("milestone", [0.0, 0.004, 0.3, 1.0])
@pytest.mark.parametrize("schedule", ["constant", "step", "linear", "cosine"])
def test_the_least_area_follows_the_published_curriculum(schedule: str, milestone: float) -> None:
    config = RecoveryViews(schedule=schedule, milestone=milestone)  # type: ignore[arg-type]
    areas = least_area(config, np.arange(100.0), 100)
    np.testing.assert_allclose(areas, [cda(schedule, t, 100, milestone) for t in range(100)], rtol=1e-14)


def test_a_curriculum_starts_with_the_whole_image_and_ends_with_small_crops() -> None:
    config = RecoveryViews(schedule="cosine")
    groups = [(0, slot) for slot in range(100)]
    made = recovery_draws(config, 0, groups, range(0, 400, 399), total_steps=400, images=1, height=32, width=32)
    area = made.boxes[..., 2:].prod(-1).double() / 32**2
    assert (area[0] == 1.0).all()
    assert area[1].min() < 0.2
    assert area[1].mean() == pytest.approx(0.54, abs=0.08)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_views_equal_torchvisions_crop_then_flip_then_roll(shared: bool, channels: int) -> None:
    images = pictures(3, 4, channels, 12, 15)
    made = draws(RecoveryViews(shared=shared, roll=5, two_sided=True))
    for step in range(20):
        seen = apply_recovery(images, made, step)
        assert seen.shape == images.shape
        flat = channels_last(seen.flatten(0, 1))
        assert flat.data_ptr() == seen.data_ptr()
        assert flat.stride() == (180 * channels, 1, 15 * channels, channels)
        for group in range(3):
            for index in range(4):
                view = (step, group, 0 if shared else index)
                expected = resized_crop(images[group, index], *made.boxes[view].tolist(), size=[12, 15])
                expected = expected.flip(2) if made.flips[view] else expected
                expected = torch.roll(expected, made.rolls[view].tolist(), dims=(1, 2))
                torch.testing.assert_close(seen[group, index], expected, atol=1e-12, rtol=0.0)


def test_draws_lie_in_their_ranges_and_use_them() -> None:
    one, two = draws(RecoveryViews(roll=3, shared=False)), draws(RecoveryViews(roll=3, shared=False, two_sided=True))
    assert set(one.rolls.flatten().tolist()) == set(range(4))
    assert set(two.rolls.flatten().tolist()) == set(range(-3, 4))
    assert one.flips.double().mean().item() == pytest.approx(0.5, abs=0.15)
    assert one.boxes.shape == (20, 3, 4, 4)
    assert draws(RecoveryViews()).boxes.shape == (20, 3, 1, 4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_group_is_the_same_whatever_shares_its_forward(shared: bool) -> None:
    config = RecoveryViews(shared=shared, schedule="linear")
    images, together = pictures(3, 4, 3, 12, 15), draws(config)
    for index, group in enumerate(GROUPS):
        alone = draws(config, [group])
        for name in ("boxes", "flips", "rolls"):
            assert torch.equal(getattr(alone, name)[:, 0], getattr(together, name)[:, index])
        for step in (0, 9, 19):
            torch.testing.assert_close(
                apply_recovery(images[index : index + 1], alone, step)[0],
                apply_recovery(images, together, step)[index],
                atol=1e-12,
                rtol=0.0,
            )
    assert not torch.equal(together.boxes[:, 0], together.boxes[:, 1])
    assert not torch.equal(together.boxes[:, 1], together.boxes[:, 2])


def test_drawing_in_chunks_of_steps_changes_nothing() -> None:
    config, images = RecoveryViews(schedule="cosine"), pictures(3, 4, 1, 12, 15)
    whole, tail = draws(config), draws(config, steps=range(13, 20)).to("cpu")
    assert torch.equal(tail.boxes, whole.boxes[13:])
    assert torch.equal(apply_recovery(images, tail, 15), apply_recovery(images, whole, 15))


def test_without_crop_pixels_only_move() -> None:
    images = pictures(3, 4, 3, 12, 15)
    cropped, made = draws(RecoveryViews()), draws(RecoveryViews(crop="none"))
    assert torch.equal(made.flips, cropped.flips)
    assert torch.equal(made.rolls, cropped.rolls)
    seen = apply_recovery(images, made, 3)
    assert torch.equal(seen.flatten(2).sort().values, images.flatten(2).sort().values)


@pytest.mark.parametrize("shared", [True, False])
def test_views_are_differentiable(shared: bool) -> None:
    made = draws(RecoveryViews(shared=shared), size=5)
    images = pictures(3, 4, 1, 5, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_recovery(x, made, 4), images, fast_mode=True)


@pytest.mark.parametrize("settings", [
    {"crop": "pad"}, {"aspect": "wide"}, {"schedule": "cosin"}, {"scale": (0.5, 0.1)}, {"milestone": 1.1},
    {"flip": -0.1}, {"roll": -1}, {"roll": 0.5},
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    (name, _) = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"^{name} is "):
        RecoveryViews(**settings)  # type: ignore[arg-type]
