"""The names, types and shapes of `SPEC.md`, as tables that writing and reading share."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from condense.shards.errors import BadStructure

__all__ = [
    "Column",
    "Columns",
    "Settings",
    "all_checksums",
    "image_name",
    "images_id",
    "label_name",
    "record_checksums",
    "sha256_of",
]

Columns = Mapping[str, npt.NDArray[Any]]
Settings = Mapping[str, Any]

IMAGES_FORMAT = "condense-images"
LABELS_FORMAT = "condense-labels"
SET_FORMAT = "condense-set"
VERSION = 1

MAX_TEXT = 32 * 1024
MAX_DATASETS = 16
MAX_ELEMENTS = 2**40
MAX_FILES = 100_000
MAX_JSON = 16 * 1024 * 1024
MAX_SIDE = 65535
MAX_EPOCHS = 100_000
MAX_CLASSES = 2**20

FILE_NAME = re.compile(r"(images|labels)-[0-9]{5}\.h5")
SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["text", "int", "ints"]
COMMON: dict[str, Kind] = {"format": "text", "version": "int", "complete": "int", "n_classes": "int"}
IMAGE_ATTRIBUTES: dict[str, Kind] = {
    **COMMON,
    "dataset": "text",
    "canvas": "text",
    "canvas_settings": "text",
    "item_shape": "ints",
}
LABEL_ATTRIBUTES: dict[str, Kind] = {
    **COMMON,
    "images": "text",
    "n_items": "int",
    "views": "text",
    "view_version": "int",
    "seed": "int",
    "epochs": "int",
    "pool": "int",
    "draw": "text",
    "first_record": "int",
    "teachers": "text",
    "teacher_bn": "text",
    "codec": "text",
    "codec_settings": "text",
}
TEACHER_BN = ("eval", "batch")
DRAWS = ("all", "with", "without", "shuffled")


@dataclass(frozen=True)
class Column:
    """One dataset: its little-endian NumPy type, its shape without the first dimension, and whose records it holds.

    The first dimension of ``shared`` columns is their own: their records are used by many of the file's.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    shared: bool = False

    @property
    def record_bytes(self) -> int:
        """Bytes of one record, in integers that cannot overflow."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size


CHECKSUMS = {"checksums": Column("<u4")}
SHARED_CHECKSUMS = {"shared_checksums": Column("<u4", shared=True)}
ROW_COLUMNS = {"labels": Column("<i8"), "slots": Column("<i8"), **CHECKSUMS}


def no_settings(settings: Settings) -> str:
    """The check of a canvas or codec without settings: what is wrong with them, or nothing."""
    return f'unknown setting "{next(iter(settings))}"' if settings else ""


def image_name(index: int) -> str:
    """The name of the image file with this index: ``images-00000.h5``."""
    return f"images-{index:05d}.h5"


def label_name(index: int) -> str:
    """The name of the label file with this index: ``labels-00000.h5``."""
    return f"labels-{index:05d}.h5"


def images_id(sha256: Iterable[str]) -> str:
    """What a label file calls the images it belongs to: one hash over their files' hashes, in order of their names."""
    return hashlib.sha256("\n".join(sha256).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, lowercase hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_checksums(columns: Columns) -> npt.NDArray[np.uint32]:
    """CRC-32 of every record: its bytes in each column, in order of the columns' names. uint32 (records,)."""
    arrays = [np.ascontiguousarray(columns[name]) for name in sorted(columns)]
    sums = np.empty(len(arrays[0]), dtype="<u4")
    for record in range(len(sums)):
        crc = 0
        for array in arrays:
            crc = zlib.crc32(array[record : record + 1].data, crc)
        sums[record] = crc
    return sums


def all_checksums(columns: Columns, shared: Collection[str] = ()) -> dict[str, npt.NDArray[np.uint32]]:
    """The checksum columns that belong to ``columns``, of which those named in ``shared`` have their own."""
    own = {name: array for name, array in columns.items() if name not in shared}
    sums = {"checksums": record_checksums(own)}
    if shared:
        sums["shared_checksums"] = record_checksums({name: columns[name] for name in shared})
    return sums


def to_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes, what: str) -> Any:
    """Parse JSON strictly: UTF-8, no key twice, no NaN or infinity. Raises :class:`BadStructure` naming ``what``."""

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key appears twice")
        return made

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
        to_json(value).encode()  # half a surrogate pair is JSON but no text
    except (ValueError, RecursionError) as error:
        raise BadStructure(
            f"{what} is not valid JSON: {str(error) or 'nested too deeply'}; get the set again"
        ) from None
    return value
