"""Putting rows of several blocks together, and taking some of them, whatever their canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.shards.layout import Columns

__all__ = ["join_rows", "take_rows"]

USES, SHARED = "uses", "compensators"
"""The column that names records of the shared one, in canvas `compensated`."""


def join_rows(blocks: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
    """All rows of the blocks, one after the other; what they share is numbered anew."""
    joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    if USES in joined:
        before = np.cumsum([0, *(len(block[SHARED]) for block in blocks[:-1])])
        shifted = [block[USES] + np.uint32(start) for block, start in zip(blocks, before, strict=True)]
        joined[USES] = np.concatenate(shifted)
    return joined


def take_rows(columns: Columns, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """These rows, in this order, with only those of the shared records that they use, in order of their numbers."""
    taken = {name: array[rows] for name, array in columns.items() if name != SHARED}
    if USES in taken:
        used, numbers = np.unique(taken[USES], return_inverse=True)
        taken[USES] = numbers.reshape(taken[USES].shape).astype("<u4")
        taken[SHARED] = columns[SHARED][used]
    return taken
