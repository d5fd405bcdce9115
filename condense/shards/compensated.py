"""Canvas `compensated`: rows are images; sums with compensators, which many rows share, are items too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from condense.shards.items import Images, Items, Numbers, Shape, in_blocks, numbers, other_names, shown, whole
from condense.shards.layout import Column, Columns, Settings

__all__ = ["check_compensated", "compensated_columns", "compensated_fault", "compensated_items", "decode_compensated"]


def check_compensated(settings: Settings) -> str:
    """``compensators`` of a row at least 1, ``with_original`` true or false."""
    if fault := other_names(settings, "compensators", "with_original"):
        return fault
    if not whole(settings["compensators"], 1):
        return f"compensators {shown(settings['compensators'])}; expected how many a row has, at least 1"
    if not isinstance(settings["with_original"], bool):
        return f"with_original {shown(settings['with_original'])}; expected true or false"
    return ""


def compensated_columns(shape: Shape, settings: Settings) -> dict[str, Column]:
    return {
        "images": Column("|u1", shape),
        "uses": Column("<u4", (settings["compensators"],)),
        "compensators": Column("<i2", shape, shared=True),
    }


def compensated_fault(columns: Columns) -> str:
    """``uses`` names every compensator and no other."""
    uses, held = columns["uses"], len(columns["compensators"])
    if (greatest := int(uses.max())) >= held:
        return f"a row uses compensator {greatest}; expected 0 to {held - 1}"
    if not (used := np.bincount(uses.ravel(), minlength=held)).all():
        return f"no row uses compensator {int(np.argmin(used))}"
    return ""


def compensated_items(settings: Settings) -> int:
    return int(settings["compensators"]) + int(settings["with_original"])


def decode_compensated(columns: Columns, shape: Shape, settings: Settings, items: Items) -> Images:
    """Items of a row: itself if ``with_original``, then clip(row + compensator) for each that it uses, in order."""
    images, n = columns["images"], compensated_items(settings)

    def add(chosen: Numbers) -> npt.NDArray[np.int32]:
        row, which = np.divmod(chosen, n)
        sums = images[row].astype(np.int32)
        which -= int(settings["with_original"])
        changed = which >= 0
        sums[changed] += columns["compensators"][columns["uses"][row[changed], which[changed]]]
        return sums.clip(0, 255)

    return in_blocks(add, shape, numbers(items, len(images) * n))
