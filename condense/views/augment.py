"""Random changes of a student's batches that no label was made for: DSA, RandAugment.

They come after the view plan and go with hard targets only. Every draw is from the generator that is handed in, so a
run that is taken up again sees the same batches.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from condense.views.config import check_choice
from condense.views.render import crop_flip
from condense.views.resample import resample

__all__ = ["AUGMENTS", "Augment", "augment", "dsa", "rand_augment"]

Augment = Literal["none", "dsa", "dsa-unmirrored", "randaugment"]
AUGMENTS: tuple[str, ...] = get_args(Augment)


def augment(kind: Augment, images: Tensor, mean: Tensor, std: Tensor, draws: np.random.Generator) -> Tensor:
    """Normalised ``images`` (n, C, H, W), changed; ``mean`` and ``std`` (C, 1, 1) are those of the normalisation."""
    check_choice("augment", kind, AUGMENTS)
    if kind == "none":
        return images
    if kind == "randaugment":
        return (rand_augment((images * std + mean).clamp(0, 1), draws) - mean) / std
    return dsa(images, draws, mirrored=kind == "dsa")


def dsa(images: Tensor, draws: np.random.Generator, *, mirrored: bool = True) -> Tensor:
    """The augmentation of DSA (arXiv 2102.08259) as its networks are trained and tested with it.

    One family of operations for the batch, drawn from all six (``mirrored``: flips among them), with parameters for
    each image. ``images`` are normalised, which color's ranges are meant for; what moves in is 0. Differentiable.
    """
    families = [color, crop, cutout, *([flip] if mirrored else []), scale, rotate]
    changed: Tensor = families[draws.integers(len(families))](images, draws)
    return changed


def drawn(images: Tensor, draws: np.random.Generator, low: float, high: float) -> Tensor:
    """One uniform number for each image, (n, 1, 1, 1)."""
    numbers = torch.from_numpy(draws.uniform(low, high, (len(images), 1, 1, 1)))
    return numbers.to(images.device, images.dtype)


def color(images: Tensor, draws: np.random.Generator) -> Tensor:
    """Brightness, then saturation, then contrast."""
    images = images + drawn(images, draws, -0.5, 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, drawn(images, draws, 0.0, 2.0)) if images.shape[1] > 1 else images
    middle = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, images, drawn(images, draws, 0.5, 1.5))


def crop(images: Tensor, draws: np.random.Generator) -> Tensor:
    """Shifts by up to an eighth of each side."""
    sides = np.array(images.shape[2:])
    most = (0.125 * sides + 0.5).astype(np.int64)
    shifts = draws.integers(-most, most + 1, (len(images), 2))
    boxes = np.concatenate([shifts, np.broadcast_to(sides, shifts.shape)], 1)
    still = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return crop_flip(images, torch.from_numpy(boxes).to(images.device), still)


def cutout(images: Tensor, draws: np.random.Generator) -> Tensor:
    """A block of half of each side is 0, cut off where it sticks out."""
    masks = []
    for side in images.shape[2:]:
        size = int(0.5 * side + 0.5)
        start = draws.integers(0, side + (1 - size % 2), (len(images), 1)) - size // 2
        places = np.arange(side)
        masks.append(torch.from_numpy((places >= start) & (places < start + size)).to(images.device))
    down, across = masks
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0)


def flip(images: Tensor, draws: np.random.Generator) -> Tensor:
    """Left to right, every second image."""
    turned = torch.from_numpy(draws.random(len(images)) < 0.5).to(images.device)
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def scale(images: Tensor, draws: np.random.Generator) -> Tensor:
    """Rows and columns, each by its own factor from 1/1.2 to 1.2, around the middle."""
    lines = []
    for side in reversed(images.shape[2:]):  # the factor of columns comes first in an affine matrix
        factor = drawn(images, draws, 1 / 1.2, 1.2).view(-1, 1)
        centres = torch.arange(0.5, side, device=images.device, dtype=images.dtype) - side / 2
        lines.append(factor * centres + (side - 1) / 2)
    return resample(images, lines[1], lines[0])


def rotate(images: Tensor, draws: np.random.Generator) -> Tensor:
    """By up to 15 degrees."""
    angle = drawn(images, draws, -15.0, 15.0).view(-1) * (math.pi / 180)
    sine, cosine, none = angle.sin(), angle.cos(), torch.zeros_like(angle)
    matrices = torch.stack([cosine, -sine, none, sine, cosine, none], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def rand_augment(pixels: Tensor, draws: np.random.Generator, *, operations: int = 2, magnitude: int = 9) -> Tensor:
    """RandAugment (arXiv 1909.13719) by torchvision, each image by its own draws. ``pixels`` (n, C, H, W) in [0, 1].

    Images take part as bytes, as its operations on histograms want them.
    """
    from torchvision.transforms import v2

    change = v2.RandAugment(num_ops=operations, magnitude=magnitude)
    whole = (pixels * 255).round().to(torch.uint8).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draws.integers(2**62)))
        changed = torch.stack([change(image) for image in whole])
    return changed.to(pixels.device, pixels.dtype) / 255
