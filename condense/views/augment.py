"""Random changes of a student's batches that no label was made for: DSA, IDC's, RandAugment, CutMix.

They come after the view plan and go with hard targets only. Every draw is from the generator that is handed in, so a
run that is taken up again sees the same batches. Methods that match real images with synthetic ones show both through
:func:`siamese` changes, which are the same operations with one parameter for a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from condense.views.config import check_choice
from condense.views.render import crop_flip
from condense.views.resample import resample

__all__ = [
    "AUGMENTS",
    "FAMILIES",
    "Augment",
    "Family",
    "augment",
    "cut_and_mix",
    "dsa",
    "each_by_itself",
    "idc",
    "rand_augment",
    "siamese",
]

Augment = Literal["none", "dsa", "dsa-unmirrored", "idc", "idc-unmirrored", "randaugment"]
AUGMENTS: tuple[str, ...] = get_args(Augment)

Family = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""The operations of DSA, in its order."""


def augment(kind: Augment, images: Tensor, mean: Tensor, std: Tensor, draws: np.random.Generator) -> Tensor:
    """Normalised ``images`` (n, C, H, W), changed; ``mean`` and ``std`` (C, 1, 1) are those of the normalisation."""
    check_choice("augment", kind, AUGMENTS)
    if kind == "none":
        return images
    if kind == "randaugment":
        return (rand_augment((images * std + mean).clamp(0, 1), draws) - mean) / std
    if kind in ("idc", "idc-unmirrored"):
        return idc(images, draws, mirrored=kind == "idc")
    return dsa(images, draws, mirrored=kind == "dsa")


def dsa(images: Tensor, draws: np.random.Generator, *, mirrored: bool = True) -> Tensor:
    """The augmentation of DSA (arXiv 2102.08259) as its networks are trained and tested with it.

    One family of operations for the batch, drawn from all six (``mirrored``: flips among them), with parameters for
    each image. ``images`` are normalised, which color's ranges are meant for; what moves in is 0. Differentiable.
    """
    families = [color, crop, cutout, *([flip] if mirrored else []), scale, rotate]
    changed: Tensor = families[draws.integers(len(families))](images, draws)
    return changed


def idc(images: Tensor, draws: np.random.Generator, *, mirrored: bool = True) -> Tensor:
    """The augmentation that IDC (arXiv 2205.14959) and NCFM (arXiv 2502.20653) test with, but for CutMix.

    Flips (``mirrored``), color, and one of crop, scale and rotate, which is drawn for the batch; parameters are each
    image's own. ``images`` (n, C, H, W) are normalised, as for :func:`dsa`.
    """
    images = color(flip(images, draws) if mirrored else images, draws)
    changed: Tensor = (crop, scale, rotate)[draws.integers(3)](images, draws)
    return changed


def cut_and_mix(images: Tensor, draws: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """CutMix (arXiv 1905.04899) with one box for the batch, whose area is uniform, cut off at the border.

    ``images`` (n, C, H, W) with the box of a partner in each; which image that is, int64 (n,) on their device; and the
    share of the area that is left of the own image.
    """
    height, width = images.shape[2:]
    side = (1 - draws.beta(1.0, 1.0)) ** 0.5
    spans = []
    for length in (height, width):
        centre, half = int(draws.integers(length)), int(length * side) // 2
        spans.append(slice(max(0, centre - half), min(length, centre + half)))
    partner = torch.from_numpy(draws.permutation(len(images))).to(images.device, non_blocking=True)
    mixed = images.clone()
    mixed[..., spans[0], spans[1]] = images[partner][..., spans[0], spans[1]]
    area = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return mixed, partner, 1 - area / (height * width)


class Shared:
    """Draws that images share, run by run: as many numbers as there are images, from a generator for each run.

    It stands for a generator of numbers that are each image's own: what it gives for run k, of ``sizes[k]`` images, is
    the one number that ``generators[k]`` draws, so often.
    """

    def __init__(self, generators: Sequence[np.random.Generator], sizes: Sequence[int]) -> None:
        self.generators, self.sizes = generators, sizes

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return self._each([one.uniform(low, high, (1, *size[1:])) for one in self.generators])

    def integers(self, low: Any, high: Any, size: tuple[int, ...]) -> npt.NDArray[np.int64]:
        return self._each([one.integers(low, high, (1, *size[1:])) for one in self.generators])

    def random(self, size: int) -> npt.NDArray[np.float64]:
        return self._each([one.random(1) for one in self.generators])

    def _each(self, numbers: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate(numbers).repeat(self.sizes, axis=0)


Draws = np.random.Generator | Shared


def siamese(
    images: Tensor,
    families: Sequence[Family],
    generators: Sequence[np.random.Generator],
    sizes: Sequence[int],
) -> Tensor:
    """Normalised ``images`` (n, C, H, W) after each of ``families``, with parameters that each run of them shares.

    Runs are consecutive, ``sizes[k]`` images by the numbers of ``generators[k]``. The draws depend on the images' shape
    and not on their number, so generators of one key change two batches alike: the siamese rule of DSA,
    arXiv 2102.08259, section 3.2. Differentiable, on a GPU deterministically.
    """
    draws = Shared(generators, sizes)
    for family in families:
        images = BY_ITSELF[family](images, draws)
    return images


def each_by_itself(images: Tensor, family: Family, draws: np.random.Generator) -> Tensor:
    """Normalised ``images`` (n, C, H, W) after a change of one family with parameters for each of them, as in
    :func:`dsa`. Differentiable, on a GPU deterministically.
    """
    return BY_ITSELF[family](images, draws)


def drawn(images: Tensor, draws: Draws, low: float, high: float) -> Tensor:
    """A uniform number for each image: (n, 1, 1, 1)."""
    numbers = torch.from_numpy(draws.uniform(low, high, (len(images), 1, 1, 1)))
    return numbers.to(images.device, images.dtype, non_blocking=True)


def color(images: Tensor, draws: Draws) -> Tensor:
    """Brightness, then saturation, then contrast."""
    images = images + drawn(images, draws, -0.5, 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, drawn(images, draws, 0.0, 2.0)) if images.shape[1] > 1 else images
    middle = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(middle, images, drawn(images, draws, 0.5, 1.5))


def crop(images: Tensor, draws: Draws) -> Tensor:
    """Shifts by up to an eighth of each side."""
    sides = np.array(images.shape[2:])
    most = (0.125 * sides + 0.5).astype(np.int64)
    shifts = draws.integers(-most, most + 1, (len(images), 2))
    boxes = np.concatenate([shifts, np.broadcast_to(sides, shifts.shape)], 1)
    still = torch.zeros(len(boxes), dtype=torch.bool, device=images.device)
    return crop_flip(images, torch.from_numpy(boxes).to(images.device, non_blocking=True), still)


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """A block of half of each side is 0, cut off where it sticks out."""
    masks = []
    for side in images.shape[2:]:
        size = int(0.5 * side + 0.5)
        start = draws.integers(0, side + (1 - size % 2), (len(images), 1)) - size // 2
        places = np.arange(side)
        inside = torch.from_numpy((places >= start) & (places < start + size))
        masks.append(inside.to(images.device, non_blocking=True))
    down, across = masks
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0)


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Left to right, every second image."""
    turned = torch.from_numpy(draws.random(len(images)) < 0.5).to(images.device, non_blocking=True)
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def scale(images: Tensor, draws: Draws) -> Tensor:
    """Rows and columns, each by its own factor from 1/1.2 to 1.2, around the middle."""
    lines = []
    for side in reversed(images.shape[2:]):  # the factor of columns comes first in an affine matrix
        factor = drawn(images, draws, 1 / 1.2, 1.2).view(-1, 1)
        centres = torch.arange(0.5, side, device=images.device, dtype=images.dtype) - side / 2
        lines.append(factor * centres + (side - 1) / 2)
    return resample(images, lines[1], lines[0])


def rotate(images: Tensor, draws: Draws) -> Tensor:
    """By up to 15 degrees."""
    angle = drawn(images, draws, -15.0, 15.0).view(-1) * (math.pi / 180)
    sine, cosine, none = angle.sin(), angle.cos(), torch.zeros_like(angle)
    matrices = torch.stack([cosine, -sine, none, sine, cosine, none], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def rotate_some(images: Tensor, draws: Draws) -> Tensor:
    """:func:`rotate` as the weighted sum of four shifted copies.

    The backward of PyTorch's sampling of a grid adds in no order on a GPU; that of an index does not have to.
    """
    n, channels, height, width = images.shape
    angle = drawn(images, draws, -15.0, 15.0).view(-1, 1, 1) * (math.pi / 180)
    down, across = (
        torch.arange(0.5, side, device=images.device, dtype=images.dtype) / side * 2 - 1 for side in (height, width)
    )
    columns = ((across * angle.cos() - down[:, None] * angle.sin() + 1) * width - 1) / 2
    rows = ((across * angle.sin() + down[:, None] * angle.cos() + 1) * height - 1) / 2
    own = torch.arange(n, device=images.device)[:, None, None] * (height * width)
    flat = images.permute(0, 2, 3, 1).reshape(-1, channels)
    parts = []
    for row in (rows.floor(), rows.floor() + 1):
        for column in (columns.floor(), columns.floor() + 1):
            weight = (1 - (rows - row).abs()) * (1 - (columns - column).abs())
            weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            place = own + (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            parts.append(flat.index_select(0, place.flatten()) * weight.reshape(-1, 1))
    return torch.stack(parts).sum(0).view(n, height, width, channels).permute(0, 3, 1, 2)


BY_ITSELF: dict[Family, Callable[[Tensor, Draws], Tensor]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate_some,
}
"""The operations, each of which is deterministic on a GPU forwards and backwards."""


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
