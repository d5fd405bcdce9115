"""How soft labels are stored: a table of codecs between logits and named arrays. NumPy only.

A student is always trained from decoded labels, so what a codec costs in accuracy is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from condense.errors import ShardError

__all__ = ["CODECS", "Codec"]

Logits = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Arrays = Mapping[str, Any]
"""Name -> array, in memory or a data set of an open HDF5 file; the first two axes are epochs and items."""


class Codec(Protocol):
    """One way of storing the logits of E epochs, N items and K classes."""

    def encode(self, logits: Logits) -> dict[str, npt.NDArray[Any]]:
        """Logits (E, N, K) to the arrays that are stored."""

    def decode(self, arrays: Arrays, epoch: int) -> npt.NDArray[np.float32]:
        """The logits (N, K) of one epoch, counted from the first that ``arrays`` hold; reads that epoch only."""

    def bytes_per_item(self, n_classes: int, epochs: int) -> int:
        """Bytes stored for one item over all ``epochs``."""

    def check(self, arrays: Arrays, epochs: int, n_items: int, n_classes: int) -> None:
        """Raises :class:`ShardError` when names, types, shapes or values are not what :meth:`encode` makes."""


class Full:
    """Every logit as float16 under ``logits`` (E, N, K), as in the relabelling of SRe2L (arXiv 2306.13092)."""

    def encode(self, logits: Logits) -> dict[str, npt.NDArray[Any]]:
        return {"logits": logits.astype(np.float16)}

    def decode(self, arrays: Arrays, epoch: int) -> npt.NDArray[np.float32]:
        return np.asarray(arrays["logits"][epoch], dtype=np.float32)

    def bytes_per_item(self, n_classes: int, epochs: int) -> int:
        return 2 * n_classes * epochs

    def check(self, arrays: Arrays, epochs: int, n_items: int, n_classes: int) -> None:
        expect_arrays(arrays, {"logits": (np.dtype("<f2"), (epochs, n_items, n_classes))})
        for epoch in range(epochs):
            if not np.isfinite(arrays["logits"][epoch]).all():
                raise ShardError(f"labels: logits of epoch {epoch} are not all finite; make the labels again")


def expect_arrays(arrays: Arrays, expected: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    """Refuse other names, types or shapes than ``expected``."""
    if set(arrays) != set(expected):
        raise ShardError(f"labels hold the arrays {sorted(arrays)}; expected {sorted(expected)}")
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise ShardError(f"labels: {name} is {found.dtype} {found.shape}; expected {dtype} {shape}")


CODECS: dict[str, Codec] = {"full": Full()}
