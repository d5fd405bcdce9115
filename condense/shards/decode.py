"""From stored rows to the items that train. NumPy, uint8 in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from condense.shards.layout import Column, Columns, Settings, no_settings

__all__ = ["CANVASES", "Canvas", "Items"]

Images = npt.NDArray[np.uint8]
Items = slice | npt.NDArray[np.int64]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Canvas:
    """A way of storing items in rows.

    ``columns(item_shape, settings)`` are the datasets besides labels and slots; ``items_per_row(settings)`` is n, item
    i coming from row ``i // n``; ``decode(columns, settings, items)`` gives uint8 (items, H, W, C) for a slice or an
    array of item numbers. ``settings`` are a JSON object; ``check`` says what is wrong with them, or nothing.
    """

    columns: Callable[[Shape, Settings], dict[str, Column]]
    items_per_row: Callable[[Settings], int]
    decode: Callable[[Columns, Settings, Items], Images]
    check: Callable[[Settings], str]


def decode_pixels(columns: Columns, _: Settings, items: Items) -> Images:
    """The rows themselves: a slice gives a view of the memory map, an array of numbers a copy."""
    images: Images = columns["images"][items]
    return images


CANVASES: dict[str, Canvas] = {
    "pixels": Canvas(
        columns=lambda shape, _: {"images": Column("|u1", shape)},
        items_per_row=lambda _: 1,
        decode=decode_pixels,
        check=no_settings,
    ),
}
