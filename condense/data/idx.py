"""The idx files of MNIST and its relatives, plain or gzipped.

An idx file is big-endian: two zero bytes, the element type (8 = unsigned byte), the number of dimensions, one 32-bit
size per dimension, then the elements.
"""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from condense.errors import DataError

__all__ = ["PARTS", "find_idx", "read_idx"]

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def find_idx(folder: Path) -> tuple[Path, ...] | None:
    """The four files of :data:`PARTS` in a folder, in that order, plain before gzipped; None unless all are there."""
    found = (next((p for p in (folder / part, folder / f"{part}.gz") if p.is_file()), None) for part in PARTS)
    paths = tuple(path for path in found if path is not None)
    return paths if len(paths) == len(PARTS) else None


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes with that many dimensions.

    Raises :class:`DataError` naming the file when it is damaged, of another kind, truncated, or too long.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an idx file of unsigned bytes with {dimensions} dimensions; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    if len(data) - start != prod(shape):
        raise DataError(
            f"{path} holds {len(data) - start} bytes of elements, but its header says {prod(shape)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
