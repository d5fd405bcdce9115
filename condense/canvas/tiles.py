"""Mosaics of small images, each of which is enlarged to an image."""

from __future__ import annotations

import torch
from torch import Tensor

from condense.canvas.pixels import Pixels
from condense.data.spec import DatasetSpec
from condense.errors import ConfigError

__all__ = ["Tiles", "check_factor", "enlarge_tiles", "mosaic"]


class Tiles(Pixels):
    """Pixels of which each image is a mosaic of ``factor`` x ``factor`` tiles: the multi-formation of IDC.

    ``values`` are (G, B, C, H, W) as of :class:`Pixels`; ``images`` are those of all tiles, (factor^2 * G, B, C, H, W),
    tile by tile and within a tile group by group. Enlarging is bilinear between the middles of pixels, as stored rows
    of the canvas ``tiles`` are decoded, but for the rounding there. Source: IDC, arXiv 2205.14959, section 4.1. Raises
    `ConfigError` for a factor that does not divide the sides.
    """

    def __init__(self, start: Tensor, spec: DatasetSpec, factor: int) -> None:
        check_factor(factor, spec)
        super().__init__(start, spec)
        self.factor = factor

    def decode(self, values: Tensor) -> Tensor:
        return enlarge_tiles(values, self.factor)


def check_factor(factor: int, spec: DatasetSpec) -> None:
    if factor < 1 or spec.height % factor or spec.width % factor:
        raise ConfigError(
            f"factor is {factor}, which does not divide images of {spec.height} x {spec.width} pixels into whole "
            "tiles; take one that does, or bring the images to another size with --size"
        )


def enlarge_tiles(values: Tensor, factor: int) -> Tensor:
    """Mosaics (G, B, C, H, W) -> their tiles at full size (factor^2 * G, B, C, H, W); linear, as matrix products.

    Tile k is at row k // factor, column k % factor of the mosaic.
    """
    groups, images, channels, height, width = values.shape
    tall, wide = height // factor, width // factor
    tiles = values.view(groups, images, channels, factor, tall, factor, wide).permute(3, 5, 0, 1, 2, 4, 6)
    down, across = (between(length, factor, values) for length in (tall, wide))
    return (down @ tiles @ across.T).reshape(factor * factor * groups, images, channels, height, width)


def between(length: int, factor: int, like: Tensor) -> Tensor:
    """Weights (length * factor, length) of bilinear enlargement along one side; pixels at the rim are repeated."""
    outputs = torch.arange(length * factor, device=like.device, dtype=like.dtype)
    places = ((outputs + 0.5) / factor - 0.5).clamp(0, length - 1)
    inputs = torch.arange(length, device=like.device, dtype=like.dtype)
    return (1 - (places[:, None] - inputs).abs()).clamp(min=0)


def mosaic(images: Tensor, factor: int) -> Tensor:
    """Images (factor^2 * G, B, C, H, W), ordered as :func:`enlarge_tiles` orders them -> mosaics (G, B, C, H, W).

    Each image is made small by taking the mean of every factor x factor pixels.
    """
    _, count, channels, height, width = images.shape
    small = images.view(factor, factor, -1, count, channels, height // factor, factor, width // factor, factor)
    return small.mean((6, 8)).permute(2, 3, 4, 0, 5, 1, 6).reshape(-1, count, channels, height, width)
