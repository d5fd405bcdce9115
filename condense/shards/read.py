"""Reading a set: every file checked against `SPEC.md`, its arrays memory-mapped, no HDF5 handle left open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from condense.errors import ShardError, suggest
from condense.shards.codecs import CODECS
from condense.shards.decode import CANVASES, Items
from condense.shards.errors import BadHash, BadStructure, ForeignLabels, MissingFile
from condense.shards.hdf5 import Layout, Table
from condense.shards.layout import (
    IMAGE_ATTRIBUTES,
    IMAGES_FORMAT,
    LABEL_ATTRIBUTES,
    LABELS_FORMAT,
    Columns,
    Settings,
    from_json,
    images_id,
    sha256_of,
)
from condense.shards.rules import (
    check_canvas,
    check_checksums,
    check_labels_of,
    check_rows,
    image_columns,
    json_object,
    label_columns,
    shared_names,
)
from condense.shards.setfile import SetInfo, read_set_json

__all__ = [
    "ImageFile",
    "LabelFile",
    "Level",
    "SetFiles",
    "read_image_files",
    "read_images",
    "read_labels",
    "read_set",
    "sets_in",
]

Level = Literal["structure", "hashes", "deep"]


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One image file. ``columns`` are read-only memory maps; ``item_shape`` is (height, width, channels)."""

    path: Path
    dataset: str
    n_classes: int
    item_shape: tuple[int, int, int]
    canvas: str
    settings: Settings
    columns: Columns
    layout: Layout = field(repr=False)

    @property
    def n_rows(self) -> int:
        return len(self.columns["labels"])

    @property
    def n_items(self) -> int:
        return self.n_rows * self.items_per_row

    @property
    def items_per_row(self) -> int:
        return CANVASES[self.canvas].items_per_row(self.settings)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (items,)."""
        return np.repeat(self.columns["labels"], self.items_per_row)

    def decode(self, items: Items = slice(None)) -> npt.NDArray[np.uint8]:
        """uint8 (items, H, W, C) of a slice or an array of item numbers of this file."""
        return CANVASES[self.canvas].decode(self.columns, self.item_shape, self.settings, items)


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One label file. ``columns`` are read-only memory maps of the codec's datasets, ``checksums`` beside them."""

    path: Path
    images: str
    n_items: int
    n_classes: int
    views: Mapping[str, Any]
    view_version: int
    seed: int
    epochs: int
    pool: int
    draw: str
    first_record: int
    teachers: Sequence[Mapping[str, Any]]
    teacher_bn: str
    codec: str
    settings: Settings
    columns: Columns

    @property
    def held(self) -> range:
        """The numbers of the records that are in this file."""
        return range(self.first_record, self.first_record + len(self.columns["checksums"]))

    @property
    def n_records(self) -> int:
        """Of all label files of the set together."""
        return self.pool if CODECS[self.codec].per_epoch else 1

    @property
    def plan(self) -> tuple[Any, ...]:
        """What all label files of a set have in common."""
        return (self.images, self.n_items, self.n_classes, self.views, self.view_version, self.seed, self.epochs,
                self.pool, self.draw, self.teachers, self.teacher_bn, self.codec, self.settings)  # fmt: skip


LabelKind = Literal["stored", "asked", "classes"]
"""Soft labels that are stored, soft labels that the teachers which the set names are asked for, or classes alone."""


def kind_of(labels: LabelFile) -> LabelKind:
    """What a label file is for: views alone, with or without teachers who are to be asked, or labels."""
    if not CODECS[labels.codec].online:
        return "stored"
    return "asked" if labels.teachers else "classes"


@dataclass(frozen=True)
class SetFiles:
    """A checked set: ``images`` has at least one file; ``labels`` are in order of their records, or empty."""

    path: Path
    info: SetInfo
    images: tuple[ImageFile, ...]
    labels: tuple[LabelFile, ...]

    @property
    def n_items(self) -> int:
        return sum(file.n_items for file in self.images)

    @property
    def label_kind(self) -> LabelKind:
        """What trains beside the images: see `LabelKind`."""
        return kind_of(self.labels[0]) if self.labels else "classes"

    @property
    def n_rows(self) -> int:
        return sum(file.n_rows for file in self.images)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 (image files + 1,): the first item of each file, then the number of items."""
        return np.cumsum([0, *(file.n_items for file in self.images)])

    def labels_of_items(self) -> npt.NDArray[np.int64]:
        """The class of every item, int64 (items,)."""
        return np.concatenate([file.labels for file in self.images])

    def item(self, index: int) -> npt.NDArray[np.uint8]:
        """One item, uint8 (H, W, C): for ``pixels`` a view of the memory map. ``index`` is from 0 to items - 1."""
        number = 0
        if len(self.images) > 1:
            number = int(self.offsets.searchsorted(index, "right")) - 1
            index -= int(self.offsets[number])
        decoded: npt.NDArray[np.uint8] = self.images[number].decode(slice(index, index + 1))[0]
        return decoded

    def take(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The items with these numbers, in this order: uint8 (len(items), H, W, C), a copy."""
        if len(self.images) == 1:
            return self.images[0].decode(items)
        taken = np.empty((len(items), *self.images[0].item_shape), dtype=np.uint8)
        number = self.offsets.searchsorted(items, "right") - 1
        for wanted in np.unique(number):
            chosen = number == wanted
            taken[chosen] = self.images[wanted].decode(items[chosen] - self.offsets[wanted])
        return taken


def read_image_files(paths: Iterable[Path], *, deep: bool = False) -> tuple[ImageFile, ...]:
    """The image files of a set, as :func:`read_images` gives them one by one."""
    files: list[ImageFile] = []
    for path in paths:
        files.append(checked_images(path, deep, like=files[-1] if files else None))
    return tuple(files)


def read_images(path: Path | str, *, deep: bool = False) -> ImageFile:
    """Check and map one image file; ``deep`` checks every byte. Raises a child of :class:`ShardError`."""
    return checked_images(Path(path), deep)


def checked_images(path: Path, deep: bool, like: ImageFile | None = None) -> ImageFile:
    """An image file; faster where its structure is that of the file that it is ``like``."""
    columns = like.layout.columns(path) if like else None
    file = replace(like, path=path, columns=columns) if like and columns else parsed_images(path)
    check_rows(file.columns["labels"], file.columns["slots"], file.n_classes, path)
    check_canvas(file.columns, file.canvas, file.item_shape, file.settings, path)
    if deep:
        check_checksums(file.columns, path, shared_names(file.layout.rules))
    return file


def parsed_images(path: Path) -> ImageFile:
    """An image file whose structure has been checked, not yet its numbers."""
    with Table.open(path) as table:
        found = table.attributes(IMAGE_ATTRIBUTES, IMAGES_FORMAT)
        layout, columns = table.read(image_columns(found, path))
    return ImageFile(
        path=path,
        columns=columns,
        layout=layout,
        settings=json_object(found, "canvas_settings", path),
        **{name: found[name] for name in ("dataset", "n_classes", "item_shape", "canvas")},
    )


def read_labels(path: Path | str, *, deep: bool = False) -> LabelFile:
    """Check and map one label file; ``deep`` checks every byte and number. Raises a child of :class:`ShardError`."""
    path = Path(path)
    with Table.open(path) as table:
        found = table.attributes(LABEL_ATTRIBUTES, LABELS_FORMAT)
        _, columns = table.read(label_columns(found, path))
    if deep:
        check_checksums(columns, path)
        check_labels_of(columns, found, path)
    plain = ("images", "n_items", "n_classes", "view_version", "seed", "epochs", "pool", "draw", "first_record",
             "teacher_bn", "codec")  # fmt: skip
    return LabelFile(
        path=path,
        columns=columns,
        views=json_object(found, "views", path),
        settings=json_object(found, "codec_settings", path),
        teachers=from_json(found["teachers"], f"{path}: teachers"),
        **{name: found[name] for name in plain},
    )


def read_set(path: Path | str, verify: Level = "structure") -> SetFiles:
    """Open a set.

    ``verify``: ``structure`` checks everything that can be checked without reading the images and the soft labels;
    ``hashes`` adds the SHA-256 of every file; ``deep`` adds the checksum of every record and that logits are finite.
    Raises a child of :class:`ShardError`.
    """
    if verify not in get_args(Level):
        raise ShardError(f'verify is "{verify}"; {suggest(verify, get_args(Level))}')
    folder, deep = Path(path), verify == "deep"
    info = read_set_json(folder)
    for name, entry in info.files.items():
        check_size(folder / name, entry.bytes)
    files = SetFiles(
        path=folder,
        info=info,
        images=read_image_files((folder / name for name in info.image_files), deep=deep),
        labels=tuple(read_labels(folder / name, deep=deep) for name in info.label_files),
    )
    check_images(files)
    check_labels(files)
    if verify != "structure":
        check_hashes(folder, info)
    return files


def check_size(path: Path, expected: int) -> None:
    """Whether the file is there and as long as ``set.json`` says."""
    if not path.is_file():
        raise MissingFile(f"{path} is missing although set.json names it; get the set again")
    if (size := path.stat().st_size) != expected:
        raise BadHash(f"{path} has {size} bytes, set.json says {expected}; get the set again")


def check_hashes(folder: Path, info: SetInfo) -> None:
    """SHA-256 of every file against ``set.json``."""
    for name, entry in info.files.items():
        if sha256_of(folder / name) != entry.sha256:
            raise BadHash(f"{folder / name} is not the file that set.json describes; get the set again")


def check_images(files: SetFiles) -> None:
    """Image files that agree with ``set.json`` and with each other, their rows in one order through all files."""
    spec, first = files.info.spec, files.images[0]
    expected = (spec["name"], len(spec["classes"]), (spec["height"], spec["width"], spec["channels"]))
    for file in files.images:
        if (found := (file.dataset, file.n_classes, file.item_shape)) != expected:
            raise BadStructure(f"{file.path} is for {found}; set.json says {expected} (name, classes, item shape)")
        if (file.canvas, file.settings) != (first.canvas, first.settings):
            raise BadStructure(f'{file.path} has another canvas than {first.path}; expected "{first.canvas}"')
    for before, after in zip(files.images, files.images[1:], strict=False):
        edge = {name: np.array([before.columns[name][-1], after.columns[name][0]]) for name in ("labels", "slots")}
        check_rows(edge["labels"], edge["slots"], after.n_classes, after.path)


def check_labels(files: SetFiles) -> None:
    """Label files that belong to these images and together hold every record of one plan once, in order."""
    owner = images_id(files.info.files[name].sha256 for name in files.info.image_files)
    record = 0
    for file in files.labels:
        if (file.images, file.n_items, file.n_classes) != (owner, files.n_items, files.images[0].n_classes):
            raise ForeignLabels(f"{file.path} was made for other images than those of {files.path}; label them again")
        if file.plan != files.labels[0].plan or file.first_record != record:
            raise ForeignLabels(f"{file.path} does not continue {files.labels[0].path}; label the images again")
        record = file.held.stop
    if files.labels and record != files.labels[0].n_records:
        raise ForeignLabels(f"{files.path} has {record} of {files.labels[0].n_records} label records; label again")


def sets_in(path: Path | str) -> list[Path]:
    """The set in the folder ``path``, or those in its ``set-0``, ``set-1``, ..., in order.

    Without either the folder itself, which is then refused by name when it is read.
    """
    path = Path(path)
    if (path / "set.json").is_file():
        return [path]
    inside = [folder for folder in path.glob("set-*") if (folder / "set.json").is_file()]
    return sorted(inside, key=lambda folder: (len(folder.name), folder.name)) or [path]
