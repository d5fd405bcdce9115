"""What several canvases use: numbers of items, blocks of them, checks of settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.shards.layout import Settings, no_settings

__all__ = ["Images", "Items", "Numbers", "Shape", "in_blocks", "numbers", "other_names", "shown", "whole"]

Images = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Items = slice | Numbers
Shape = tuple[int, int, int]

BLOCK = 64


def other_names(settings: Settings, *names: str) -> str:
    """What is wrong with the names of the settings where exactly ``names`` are expected, or nothing."""
    if missing := [name for name in names if name not in settings]:
        return f'no setting "{missing[0]}"'
    return no_settings({name: value for name, value in settings.items() if name not in names})


def whole(value: Any, least: int, greatest: int | None = None) -> bool:
    """Whether this is an integer (no boolean) from ``least`` to ``greatest``."""
    return type(value) is int and value >= least and (greatest is None or value <= greatest)


def shown(value: Any) -> str:
    """A value of a file for a message: one short line."""
    return f"{value!r:.60}"


def numbers(items: Items, n_items: int) -> Numbers:
    """The numbers of a slice of ``n_items`` items, or those given. int64 (items,)."""
    return np.arange(*items.indices(n_items), dtype=np.int64) if isinstance(items, slice) else items


def in_blocks(decode: Callable[[Numbers], npt.NDArray[np.int32]], shape: Shape, items: Numbers) -> Images:
    """Decode some items at a time, so that the wide integers of the arithmetic never exist for all of them."""
    decoded = np.empty((len(items), *shape), dtype=np.uint8)
    for start in range(0, len(items), BLOCK):
        decoded[start : start + BLOCK] = decode(items[start : start + BLOCK])
    return decoded
