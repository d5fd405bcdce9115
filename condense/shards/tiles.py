"""Canvas `tiles`: a row is a mosaic of factor * factor small images, each an item once it is enlarged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from condense.shards.items import Images, Items, Numbers, Shape, in_blocks, numbers, other_names, shown, whole
from condense.shards.layout import Columns, Settings

__all__ = ["check_tiles", "decode_tiles", "tile_items"]

MAX_FACTOR = 1024


def check_tiles(shape: Shape, settings: Settings) -> str:
    """``factor`` divides height and width."""
    if fault := other_names(settings, "factor"):
        return fault
    factor, (height, width, _) = settings["factor"], shape
    if not whole(factor, 1, MAX_FACTOR):
        return f"factor {shown(factor)}; expected an integer from 1 to {MAX_FACTOR}"
    if height % factor or width % factor:
        return f"factor {factor}, which does not divide items of {height} x {width} pixels"
    return ""


def tile_items(settings: Settings) -> int:
    return int(settings["factor"]) ** 2


def decode_tiles(columns: Columns, shape: Shape, settings: Settings, items: Items) -> Images:
    """Item k of a row is its tile (k // f, k % f), enlarged bilinearly (align_corners=False) and rounded half up."""
    factor: int = settings["factor"]
    images, (height, width, channels) = columns["images"], shape
    tiles = images.reshape(-1, factor, height // factor, factor, width // factor, channels)
    down, across = neighbours(height // factor, factor), neighbours(width // factor, factor)
    full = 4 * factor * factor

    def enlarge(chosen: Numbers) -> npt.NDArray[np.int32]:
        row, tile = np.divmod(chosen, factor * factor)
        small = tiles[row, tile // factor, :, tile % factor].astype(np.int32)
        large = blend(blend(small, down, 1, factor), across, 2, factor)
        large += full // 2
        large //= full
        return large

    return in_blocks(enlarge, shape, numbers(items, len(images) * factor * factor))


def neighbours(length: int, factor: int) -> tuple[npt.NDArray[np.int32], ...]:
    """For ``length * factor`` output pixels the two pixels they lie between, and the weight, of 2f, of the second."""
    output = np.arange(length * factor, dtype=np.int32)
    at = np.clip(2 * output + 1 - factor, 0, 2 * factor * (length - 1))  # in units of 1 / 2f of a pixel
    first, weight = np.divmod(at, 2 * factor)
    return first, np.minimum(first + 1, length - 1), weight


def blend(
    images: npt.NDArray[np.int32], between: tuple[npt.NDArray[np.int32], ...], axis: int, factor: int
) -> npt.NDArray[np.int32]:
    """2f times the enlargement along one axis of int32 (items, h, w, C). Two of them stay below 2^31."""
    first, second, weight = between
    weight = weight.reshape([-1 if index == axis else 1 for index in range(4)])
    mixed: npt.NDArray[np.int32] = images.take(first, axis) * (2 * factor - weight) + images.take(second, axis) * weight
    return mixed
