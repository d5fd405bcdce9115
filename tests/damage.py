"""Files cut short and files with a flipped bit: what may come of reading them. Shared with `benchmarks/fuzz.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from condense.errors import ShardError
from condense.shards import ImageFile, LabelFile, read_images, read_labels
from condense.shards.codecs import CODECS, Seen
from condense.shards.errors import NotASet

__all__ = ["content", "cut", "flipped", "outcome", "read_file"]


def read_file(path: Path) -> ImageFile | LabelFile:
    """Read an image or label file, every check on."""
    try:
        return read_images(path, deep=True)
    except NotASet:
        return read_labels(path, deep=True)


def content(held: ImageFile | LabelFile) -> dict[str, Any]:
    """All that a file says: its facts, its arrays, and what they decode to."""
    facts = {name: value for name, value in vars(held).items() if name not in ("path", "columns", "layout")}
    arrays = {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in held.columns.items()}
    return {**facts, **arrays, "decoded": decoded(held)}


def decoded(held: ImageFile | LabelFile) -> bytes:
    if isinstance(held, ImageFile):
        return held.decode().tobytes()
    codec = CODECS[held.codec]
    if codec.online:
        return b""
    items = np.arange(held.n_items)
    seen = Seen(classes=items % held.n_classes, partner=items[::-1].copy(), lam=np.full(len(items), 0.25))
    made = []
    for record in range(len(held.columns["checksums"])):
        stored = {name: array[record] for name, array in held.columns.items() if name != "checksums"}
        made.append(codec.decode(stored, seen, held.settings, held.n_classes))
    assert all(np.isfinite(one).all() for one in made)
    return np.stack(made).tobytes()


def outcome(path: Path, right: dict[str, Any]) -> str:
    """The name of the error, "the same" if the damage changed nothing that is read. Everything else is raised."""
    try:
        found = content(read_file(path))
    except ShardError as error:
        return type(error).__name__
    assert found == right, f"{path} is read as something else"
    return "the same"


def cut(data: bytes, count: int) -> Iterator[bytes]:
    """The file cut short at ``count`` places, spread evenly."""
    for length in np.unique(np.linspace(0, len(data) - 1, count).astype(int)).tolist():
        yield data[:length]


def flipped(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """The file with one bit flipped, at ``count`` places drawn without replacement."""
    for place in np.random.default_rng(seed).permutation(8 * len(data))[:count].tolist():
        changed = bytearray(data)
        changed[place // 8] ^= 1 << (place % 8)
        yield bytes(changed)
