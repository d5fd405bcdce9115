"""From stored rows to the items that train. NumPy, uint8 in and out, all arithmetic in exact integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from condense.shards.compensated import (
    check_compensated,
    compensated_columns,
    compensated_fault,
    compensated_items,
    decode_compensated,
)
from condense.shards.items import Images, Items, Shape
from condense.shards.layout import Column, Columns, Settings, no_settings
from condense.shards.patches import check_patches, decode_patches, patch_columns, patch_fault
from condense.shards.tiles import check_tiles, decode_tiles, tile_items

__all__ = ["CANVASES", "Canvas", "Items"]


@dataclass(frozen=True)
class Canvas:
    """A way of storing items in rows. ``shape`` is (height, width, channels) of an item, ``settings`` a JSON object.

    ``check(shape, settings)`` says what is wrong with the settings, or nothing; the others are only asked where it
    said nothing. ``columns(shape, settings)`` are the datasets besides labels and slots; ``fault(columns, shape,
    settings)`` says which of their numbers leads nowhere, or nothing. ``items_per_row(settings)`` is n, item i coming
    from row ``i // n``; ``decode(columns, shape, settings, items)`` gives uint8 (items, H, W, C) for a slice or an
    array of item numbers, and reads only their rows.
    """

    check: Callable[[Shape, Settings], str]
    columns: Callable[[Shape, Settings], dict[str, Column]]
    fault: Callable[[Columns, Shape, Settings], str]
    items_per_row: Callable[[Settings], int]
    decode: Callable[[Columns, Shape, Settings, Items], Images]


def decode_pixels(columns: Columns, items: Items) -> Images:
    """The rows themselves: a slice gives a view of the memory map, an array of numbers a copy."""
    images: Images = columns["images"][items]
    return images


CANVASES: dict[str, Canvas] = {
    "pixels": Canvas(
        check=lambda _, settings: no_settings(settings),
        columns=lambda shape, _: {"images": Column("|u1", shape)},
        fault=lambda *_: "",
        items_per_row=lambda _: 1,
        decode=lambda columns, _shape, _settings, items: decode_pixels(columns, items),
    ),
    "tiles": Canvas(
        check=check_tiles,
        columns=lambda shape, _: {"images": Column("|u1", shape)},
        fault=lambda *_: "",
        items_per_row=tile_items,
        decode=decode_tiles,
    ),
    "compensated": Canvas(
        check=lambda _, settings: check_compensated(settings),
        columns=compensated_columns,
        fault=lambda columns, *_: compensated_fault(columns),
        items_per_row=compensated_items,
        decode=decode_compensated,
    ),
    "patches": Canvas(
        check=check_patches,
        columns=patch_columns,
        fault=patch_fault,
        items_per_row=lambda _: 1,
        decode=decode_patches,
    ),
}
