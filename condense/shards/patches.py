"""Canvas `patches`: a row is the patches kept of an image, and their places."""

from __future__ import annotations

import numpy as np

from condense.shards.items import Images, Items, Shape, other_names, shown, whole
from condense.shards.layout import Column, Columns, Settings

__all__ = ["check_patches", "decode_patches", "patch_columns", "patch_fault"]

MAX_PATCHES = 2**16


def check_patches(shape: Shape, settings: Settings) -> str:
    """``patch`` divides height and width, ``kept`` is at most all of them, ``fill`` "mean" or a value per channel."""
    if fault := other_names(settings, "patch", "kept", "fill"):
        return fault
    side, kept, fill, (height, width, channels) = settings["patch"], settings["kept"], settings["fill"], shape
    if not whole(side, 1):
        return f"patch {shown(side)}; expected the side of a patch in pixels, at least 1"
    if height % side or width % side:
        return f"patch {side}, which does not divide items of {height} x {width} pixels"
    if (count := height // side * (width // side)) > MAX_PATCHES:
        return f"patch {side}, which cuts an item in {count} patches; the limit is {MAX_PATCHES}"
    if not whole(kept, 1, count):
        return f"kept {shown(kept)}; expected an integer from 1 to {count}"
    listed = isinstance(fill, list) and len(fill) == channels and all(whole(value, 0, 255) for value in fill)
    return "" if fill == "mean" or listed else f'fill {shown(fill)}; expected "mean" or {channels} integers of 0 to 255'


def patch_columns(shape: Shape, settings: Settings) -> dict[str, Column]:
    side, kept = settings["patch"], settings["kept"]
    return {"patches": Column("|u1", (kept, side, side, shape[2])), "places": Column("<u2", (kept,))}


def patch_fault(columns: Columns, shape: Shape, settings: Settings) -> str:
    """Places increase along a row and lie in the item."""
    places, count = columns["places"], shape[0] // settings["patch"] * (shape[1] // settings["patch"])
    if (greatest := int(places.max())) >= count:
        return f"a patch has place {greatest}; expected 0 to {count - 1}"
    rising = (places[:, 1:] > places[:, :-1]).all(axis=1)
    return "" if rising.all() else f"places of row {int(np.argmin(rising))} do not increase"


def decode_patches(columns: Columns, shape: Shape, settings: Settings, items: Items) -> Images:
    """Kept patches at their places, the rest filled with a constant or the kept pixels' mean, rounded half up."""
    side, fill, (height, width, channels) = settings["patch"], settings["fill"], shape
    patches, places = columns["patches"][items], columns["places"][items]
    grid = np.empty((len(patches), height // side, side, width // side, side, channels), dtype=np.uint8)
    if fill == "mean":
        pixels = settings["kept"] * side * side
        fill = (2 * patches.sum(axis=(1, 2, 3), dtype=np.int64) + pixels) // (2 * pixels)
    grid[...] = np.broadcast_to(fill, (len(patches), channels))[:, None, None, None, None]
    down, across = np.divmod(places.astype(np.int64), width // side)
    grid[np.arange(len(patches))[:, None], down, :, across] = patches
    return grid.reshape(-1, *shape)
