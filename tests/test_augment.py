"""DSA and RandAugment: each operation against its plain form, and that draws are only those handed in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from condense import seeding
from condense.errors import ConfigError
from condense.views import augment as module
from condense.views.augment import augment, cut_and_mix, dsa, idc, rand_augment

FAMILIES = ["color", "crop", "cutout", "flip", "scale", "rotate"]


def pictures(n: int = 6, channels: int = 3, height: int = 8, width: int = 12) -> Tensor:
    values = seeding.generator(0, "pictures").normal(size=(n, channels, height, width))
    return torch.from_numpy(values)


def draws(number: int = 0) -> np.random.Generator:
    return seeding.generator(number, "test draws")


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_then_saturation_then_contrast(channels: int) -> None:
    images, again = pictures(channels=channels), draws()
    seen = module.color(images, draws())
    brightness = again.uniform(-0.5, 0.5, 6)
    saturation = again.uniform(0, 2, 6) if channels == 3 else np.ones(6)
    contrast = again.uniform(0.5, 1.5, 6)
    for image, made, b, s, c in zip(images, seen, brightness, saturation, contrast, strict=True):
        plain = image + b
        plain = (plain - plain.mean(0)) * s + plain.mean(0)
        plain = (plain - plain.mean()) * c + plain.mean()
        torch.testing.assert_close(made, plain, atol=1e-12, rtol=0)


def test_crop_shifts_and_fills_with_zeros() -> None:
    images = pictures(60)
    seen, again = module.crop(images, draws()), draws()
    shifts = again.integers(-np.array([1, 2]), np.array([2, 3]), (60, 2))
    assert {tuple(shift) for shift in shifts.tolist()} == {(d, a) for d in (-1, 0, 1) for a in (-2, -1, 0, 1, 2)}
    padded = functional.pad(images, (2, 2, 1, 1))
    for number, (down, across) in enumerate(shifts.tolist()):
        plain = padded[number, :, 1 + down : 9 + down, 2 + across : 14 + across]
        torch.testing.assert_close(seen[number], plain, atol=0, rtol=0)


def test_cutout_clears_a_block_of_half_of_each_side_or_less() -> None:
    images = torch.ones(300, 3, 8, 12)
    gone = module.cutout(images, draws()) == 0
    assert (gone == gone[:, :1]).all()
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows * columns)
    assert (int(rows.max()), int(columns.max())) == (4, 6)
    assert int(rows.min()) == 2  # centred on the border, half of it sticks out
    assert int(columns.min()) == 3


def test_flip_turns_every_second_image() -> None:
    images = pictures(400)
    seen = module.flip(images, draws())
    turned = (seen == images.flip(3)).flatten(1).all(1)
    assert torch.equal(seen[~turned], images[~turned])
    assert 160 < int(turned.sum()) < 240


def test_scale_is_the_affine_map_of_two_factors() -> None:
    images, again = pictures(20), draws()
    seen = module.scale(images, draws())
    across, down = (again.uniform(1 / 1.2, 1.2, 20) for _ in range(2))
    matrices = torch.zeros(20, 2, 3, dtype=torch.float64)
    matrices[:, 0, 0], matrices[:, 1, 1] = torch.from_numpy(across), torch.from_numpy(down)
    torch.testing.assert_close(seen, affine(images, matrices), atol=1e-10, rtol=0)


def test_rotate_is_the_affine_map_of_an_angle() -> None:
    images, again = pictures(20), draws()
    angles = again.uniform(-15, 15, 20) * math.pi / 180
    rows = [[[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]] for a in angles]
    expected = affine(images, torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(module.rotate(images, draws()), expected, atol=1e-10, rtol=0)


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("mirrored", [True, False])
def test_one_family_changes_a_batch(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()

    def counting(name: str) -> Callable[[Tensor, Any], Tensor]:
        def operation(images: Tensor, _: Any) -> Tensor:
            seen[name] += 1
            return images

        return operation

    for name in FAMILIES:
        monkeypatch.setattr(module, name, counting(name))
    generator = draws()
    for _ in range(600):
        dsa(pictures(1), generator, mirrored=mirrored)
    assert sum(seen.values()) == 600
    assert set(seen) == {*FAMILIES} - (set() if mirrored else {"flip"})
    assert min(seen.values()) > 60


@pytest.mark.parametrize("name", FAMILIES)
def test_every_operation_is_differentiable(name: str) -> None:
    images = pictures(2, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: getattr(module, name)(given, draws()), images)


@pytest.mark.parametrize("mirrored", [True, False])
def test_idc_flips_colours_and_moves_in_one_way(mirrored: bool) -> None:
    """Image by image from the description: flip, brightness, saturation, contrast, then one of three for the batch."""
    images, seen = pictures(5), Counter[str]()
    for number in range(30):
        again, plain = draws(number), []
        turned = again.random(5) < 0.5 if mirrored else np.zeros(5, bool)
        shifts, saturations, contrasts = (again.uniform(*span, 5) for span in ((-0.5, 0.5), (0, 2), (0.5, 1.5)))
        for image, turn, b, s, c in zip(images, turned, shifts, saturations, contrasts, strict=True):
            one = (image.flip(2) if turn else image) + b
            one = (one - one.mean(0)) * s + one.mean(0)
            plain.append((one - one.mean()) * c + one.mean())
        name = ["crop", "scale", "rotate"][again.integers(3)]
        seen[name] += 1
        expected = getattr(module, name)(torch.stack(plain), again)
        made = idc(images, draws(number), mirrored=mirrored)
        torch.testing.assert_close(made, expected, atol=1e-10, rtol=0)
    assert len(seen) == 3


def test_cutmix_puts_a_box_of_a_partner_into_each_image() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 12)
    shares = []
    for number in range(400):
        made, partner, share = cut_and_mix(images, draws(number))
        assert sorted(partner.tolist()) == list(range(6))
        box = made[partner != torch.arange(6)] != images[partner != torch.arange(6)]
        if len(box):
            assert (box == box[:1]).all()
            assert share == pytest.approx(1 - float(box[0, 0].double().mean()), abs=1e-12)
            rows, columns = box[0, 0].any(1).sum(), box[0, 0].any(0).sum()
            assert int(box[0, 0].sum()) == int(rows * columns)
        for image, own, other in zip(made, range(6), partner.tolist(), strict=True):
            assert set(image.unique().tolist()) <= {float(own), float(other)}
        shares.append(share)
    assert 0.5 < float(np.mean(shares)) < 0.8


@pytest.mark.parametrize("kind", ["dsa", "dsa-unmirrored", "idc", "idc-unmirrored", "randaugment"])
def test_draws_are_those_handed_in(kind: Any) -> None:
    images = pictures().float()
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    before = torch.get_rng_state()
    first, second, other = (augment(kind, images, mean, std, draws(number)) for number in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert torch.equal(augment("none", images, mean, std, draws()), images)


def test_randaugment_stays_among_pixels() -> None:
    pixels = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = rand_augment(pixels, draws())
    assert seen.min() >= 0
    assert seen.max() <= 1
    changed = (seen - pixels).abs().flatten(1).amax(1) > 0.01
    assert changed.sum() > 20


def test_unknown_kinds_are_refused() -> None:
    nothing = torch.zeros(3, 1, 1)
    with pytest.raises(ConfigError, match='augment is "dsq"'):
        augment("dsq", pictures(), nothing, nothing, draws())  # type: ignore[arg-type]
