"""A class's features as pickers see them: centred, in float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.errors import MethodError
from condense.selection.picking import Indices, refuse_too_few

__all__ = ["ELEMENTS", "FAR", "Matrix", "Table", "ticks"]

Matrix = npt.NDArray[Any]
"""Of all images: float16, float32 or float64 (N, d), possibly a memory map."""

BLOCK_BYTES = 2**28
ELEMENTS = 2**22
"""Most entries of a matrix of distances that is held at a time."""

TICKS = 2**24
FAR = np.iinfo(np.int64).max


def ticks(values: Tensor, scale: float) -> Indices:
    """``values`` as whole multiples of ``scale`` / 2^24, which is about the precision of float32: int64.

    Sums in float64 come out a little different with the number of threads, the processor, the block size and even the
    place of a row in its block. Comparing whole numbers keeps these out of the picks: what is equal ties.
    """
    return (values * (TICKS / (scale or 1.0))).round().to(torch.int64).numpy()


class Table:
    """The rows ``features[members]`` less their mean, float64 (n, d).

    ``squared``: their squared norms (n,); ``scale``: the greatest of them. Blocks have ``block`` rows, by default what
    256 MiB hold; a class of one block is read once and kept, a larger one is read again in every pass. Raises
    `MethodError` for values that are not finite, and unless ``count`` members can be picked.
    """

    def __init__(self, features: Matrix, members: Indices, count: int, block: int | None = None) -> None:
        refuse_too_few(members, count)
        self.features, self.members = features, members
        self.block = block or max(1, BLOCK_BYTES // (8 * features.shape[1]))
        self._buffer = torch.empty(min(self.block, len(self)), features.shape[1], dtype=torch.float64)
        self._is_held = False
        self.mean = torch.zeros(features.shape[1], dtype=torch.float64)
        total = torch.zeros_like(self.mean)
        for _, rows in self.blocks():
            total += rows.sum(0)
        self.mean = total / len(self)
        if not bool(self.mean.isfinite().all()):
            raise MethodError("features are not all finite, so distances between images mean nothing")
        self.squared = torch.empty(len(self), dtype=torch.float64)
        for part, rows in self.blocks():
            torch.linalg.vector_norm(rows, dim=1, out=self.squared[part])
        self.squared.square_()
        self.scale = float(self.squared.max())
        self._is_held = len(self) <= self.block

    def __len__(self) -> int:
        return len(self.members)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows: where a block lies, and its rows, which the next block overwrites."""
        for start in range(0, len(self), self.block):
            part = slice(start, min(start + self.block, len(self)))
            rows = self._buffer[: part.stop - start]
            if not self._is_held:
                rows.numpy()[:] = self.features[self.members[part]]
                rows -= self.mean
            yield part, rows

    def row(self, place: int) -> Tensor:
        """One row (d,)."""
        if self._is_held:
            return self._buffer[place]
        row = np.asarray(self.features[self.members[place]], dtype=np.float64)
        return torch.from_numpy(row.copy()).sub_(self.mean)

    def dot(self, vector: Tensor) -> Tensor:
        """The product of every row with ``vector`` (d,): (n,)."""
        products = torch.empty_like(self.squared)
        for part, rows in self.blocks():
            torch.mv(rows, vector, out=products[part])
        return products

    def distances(self, point: Tensor) -> Indices:
        """Squared distances of all rows to ``point`` (d,), in ticks of ``scale``: int64 (n,), at least 0."""
        return self.ticks(self.squared - 2 * self.dot(point) + point.square().sum()).clip(min=0)

    def ticks(self, values: Tensor) -> Indices:
        return ticks(values, self.scale)
