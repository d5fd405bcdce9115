"""`verify`: every sentence of `SPEC.md`, or the name of the first that is broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from condense.shards.errors import NotASet
from condense.shards.read import LabelFile, LabelKind, Level, SetFiles, kind_of, read_images, read_labels, read_set

__all__ = ["Report", "SetBytes", "set_bytes", "verify"]


@dataclass(frozen=True)
class SetBytes:
    """Bytes on disk: image files, label files, and whatever else is needed to use them.

    ``records``: those of ``labels`` that are labels; the others say of what views they are, whatever the labels hold.
    """

    images: int
    labels: int
    other: int
    records: int = 0

    @property
    def total(self) -> int:
        return self.images + self.labels + self.other


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was checked. ``rows``, ``items`` and ``epochs`` are 0 where there is nothing to count.

    ``epochs`` of the views, which have soft labels unless ``label_kind`` is ``classes``.
    """

    files: tuple[str, ...]
    level: Level
    rows: int
    items: int
    epochs: int
    bytes: SetBytes
    label_kind: LabelKind = "classes"


def record_bytes(held: LabelFile) -> int:
    """Bytes of a label file that grow with the labels."""
    return sum(array.nbytes for array in held.columns.values())


def set_bytes(files: SetFiles) -> SetBytes:
    """Bytes of a set; the card is for people and is not counted."""
    sizes = {name: entry.bytes for name, entry in files.info.files.items()}
    return SetBytes(
        images=sum(sizes[name] for name in files.info.image_files),
        labels=sum(sizes[name] for name in files.info.label_files),
        other=(files.path / "set.json").stat().st_size,
        records=sum(map(record_bytes, files.labels)),
    )


def verify(path: Path | str, level: Level = "hashes") -> Report:
    """Check a set, or one of its HDF5 files.

    ``structure``: structure, sizes, ranges, and that the files belong together. ``hashes``: also that every file is the
    one that ``set.json`` describes (a file by itself has no hash to be checked). ``deep``: also the checksum of every
    record, and that every number means something: what somebody who means harm would not get wrong by accident.
    Raises the child of :class:`ShardError` that names the first fault. See also
    :func:`condense.shards.isolated.verify_isolated`.
    """
    path = Path(path)
    if path.is_file():
        return verify_file(path, level == "deep")
    files = read_set(path, level)
    return Report(
        files=("set.json", *files.info.image_files, *files.info.label_files),
        level=level,
        rows=files.n_rows,
        items=files.n_items,
        epochs=files.labels[0].epochs if files.labels else 0,
        bytes=set_bytes(files),
        label_kind=files.label_kind,
    )


def verify_file(path: Path, deep: bool) -> Report:
    """Check one image or label file by itself; its format attribute, not its name, says which it is."""
    size = path.stat().st_size
    level: Level = "deep" if deep else "structure"
    try:
        images = read_images(path, deep=deep)
    except NotASet:
        held = read_labels(path, deep=deep)
        return Report(files=(path.name,), level=level, rows=0, items=held.n_items, epochs=len(held.held),
                      bytes=SetBytes(0, size, 0, record_bytes(held)), label_kind=kind_of(held))  # fmt: skip
    return Report(files=(path.name,), level=level, rows=images.n_rows, items=images.n_items, epochs=0,
                  bytes=SetBytes(size, 0, 0))  # fmt: skip
