"""Generators keyed by what they are for.

Every draw in the package comes from a generator keyed by ``(root seed, purpose, numbers...)``. Nothing reads or
re-seeds a global generator, so results never depend on what ran before, on how many workers ran, or on the order.

The key is the first 16 bytes of the SHA-256 of the text ``"<root>/<purpose>/<n1>/<n2>/..."``, read as a
little-endian integer, and seeds NumPy's counter-based Philox (4x64, 10 rounds).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["generator", "integers", "key", "raw", "torch_generator", "uniform"]

Words = npt.NDArray[np.uint64]


def key(root: int, purpose: str, *numbers: int) -> int:
    """The 128-bit key of one stream."""
    text = "/".join([str(int(root)), purpose, *(str(int(n)) for n in numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(root: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A NumPy generator, for draws that need not be rebuilt by other programs (splits, picks of real images)."""
    return np.random.Generator(np.random.Philox(key=key(root, purpose, *numbers)))


def torch_generator(root: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU torch generator, for starting noise and initial weights."""
    import torch

    made = torch.Generator()
    made.manual_seed(key(root, purpose, *numbers) & (2**63 - 1))
    return made


def raw(count: int, root: int, purpose: str, *numbers: int) -> Words:
    """``count`` raw 64-bit outputs of the stream: the only thing stored view plans depend on.

    The functions below turn them into numbers by formulas that any program can repeat exactly.
    """
    return np.asarray(np.random.Philox(key=key(root, purpose, *numbers)).random_raw(count), dtype=np.uint64)


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Uniform on [0, 1): ``(word >> 11) * 2**-53``."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(words: Words, below: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Integers in [0, below), below < 2**31: ``((word >> 32) * below) >> 32``."""
    high = words >> np.uint64(32)
    return ((high * np.asarray(below, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)
