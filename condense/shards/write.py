"""Writing image and label files: the same arrays give the same bytes, and completeness is marked last.

Each function writes one file at once; callers write into a folder that is published afterwards, so that a file cut
short is never seen under its final name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5d, h5f, h5p

from condense.shards.card import card
from condense.shards.errors import TooBig
from condense.shards.layout import (
    FILE_NAME,
    IMAGES_FORMAT,
    LABELS_FORMAT,
    MAX_TEXT,
    VERSION,
    Columns,
    Settings,
    all_checksums,
    images_id,
    sha256_of,
    to_json,
)
from condense.shards.read import read_image_files
from condense.shards.rules import (
    check_canvas,
    check_columns,
    check_labels_of,
    check_rows,
    image_columns,
    label_columns,
    shared_names,
)
from condense.shards.setfile import FileEntry, SetInfo, check_info

__all__ = ["shard_slices", "write_images", "write_labels", "write_set"]

SHARD_BYTES = 256 * 1024 * 1024


def shard_slices(n_rows: int, row_bytes: int, shard_bytes: int = SHARD_BYTES) -> list[slice]:
    """Cut ``n_rows`` into as few files as hold at most ``shard_bytes`` each (one row at least).

    Files are filled from the front, so adding rows changes the last file only and adds new ones.
    """
    step = max(1, shard_bytes // row_bytes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def write_images(
    path: Path,
    *,
    columns: Columns,
    labels: npt.ArrayLike,
    slots: npt.ArrayLike,
    spec: Mapping[str, Any],
    canvas: str = "pixels",
    settings: Settings | None = None,
) -> None:
    """Write rows, in increasing (slot, label), to a new image file.

    ``columns`` are the datasets of the canvas with these ``settings``, for ``pixels`` ``{"images": uint8 (rows, H, W,
    C)}``; ``labels`` and ``slots`` are integers (rows,); ``spec`` is the source's ``DatasetSpec.to_dict()``, of which
    name, classes, height, width and channels are used. Raises a child of :class:`ShardError` for what the specification
    does not allow.
    """
    settings, shape = dict(settings or {}), (spec["height"], spec["width"], spec["channels"])
    attributes = {
        "format": IMAGES_FORMAT,
        "version": VERSION,
        "dataset": spec["name"],
        "n_classes": len(spec["classes"]),
        "canvas": canvas,
        "canvas_settings": to_json(settings),
        "item_shape": shape,
    }
    arrays = {**columns, "labels": np.asarray(labels, dtype="<i8"), "slots": np.asarray(slots, dtype="<i8")}
    rules = image_columns(attributes, path)
    check_columns(arrays, rules, path)
    check_rows(arrays["labels"], arrays["slots"], attributes["n_classes"], path)
    check_canvas(arrays, canvas, shape, settings, path)
    write_table(path, attributes, arrays, shared_names(rules))


def write_labels(
    path: Path,
    *,
    columns: Columns,
    images: Sequence[Path],
    views: Mapping[str, Any],
    view_version: int,
    seed: int,
    epochs: int,
    pool: int | None = None,
    draw: str = "all",
    first_record: int = 0,
    teachers: Sequence[Mapping[str, Any]],
    teacher_bn: str,
    codec: str = "full",
    settings: Settings | None = None,
) -> None:
    """Write the soft labels of every item to a new label file.

    ``columns`` are the codec's datasets, for ``full`` ``{"logits": float16 (records, items, classes)}``; ``images``
    are all image files of the set, in order of their names; ``views`` the plan's settings as a JSON object;
    ``teachers`` dictionaries of ``network`` and ``sha256``.
    """
    owners = read_image_files(images)
    attributes = {
        "format": LABELS_FORMAT,
        "version": VERSION,
        "images": images_id(sha256_of(image) for image in images),
        "n_items": sum(owner.n_items for owner in owners),
        "n_classes": owners[0].n_classes,
        "views": to_json(dict(views)),
        "view_version": view_version,
        "seed": seed,
        "epochs": epochs,
        "pool": epochs if pool is None else pool,
        "draw": draw,
        "first_record": first_record,
        "teachers": to_json([dict(teacher) for teacher in teachers]),
        "teacher_bn": teacher_bn,
        "codec": codec,
        "codec_settings": to_json(dict(settings or {})),
    }
    check_columns(columns, label_columns(attributes, path), path)
    check_labels_of(columns, attributes, path)
    write_table(path, attributes, columns)


def write_set(folder: Path | str, info: SetInfo) -> SetInfo:
    """Finish a folder that holds image files and perhaps label files: write its card and, last, ``set.json``.

    Returns ``info`` with the files' sizes and hashes. What it writes depends on the folder's content and ``info`` only.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if FILE_NAME.fullmatch(path.name))
    files = {name: FileEntry((folder / name).stat().st_size, sha256_of(folder / name)) for name in names}
    complete = replace(info, files=files)
    values = json.loads(json.dumps(complete.to_dict(), allow_nan=False))
    check_info(values, str(folder / "set.json"))
    text = "{\n" + ",\n".join(f"{to_json(key)}: {to_json(values[key])}" for key in sorted(values)) + "\n}\n"
    images = read_image_files(folder / name for name in complete.image_files)
    (folder / "README.md").write_text(card(values, images), encoding="utf-8")
    (folder / "set.json").write_text(text, encoding="utf-8")
    return complete


def write_table(path: Path, attributes: Mapping[str, Any], columns: Columns, shared: Collection[str] = ()) -> None:
    """One HDF5 file as specified: attributes, columns, their checksums, then the completeness mark."""
    with new_file(path) as file:
        for name, value in attributes.items():
            write_attribute(file, name, value)
        write_attribute(file, "complete", 0)
        for name, array in {**columns, **all_checksums(columns, shared)}.items():
            write_column(file, name, array)
        file.flush()
        sync(path)
        file.attrs.modify("complete", np.int64(1))
    sync(path)


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """A new file with checksummed metadata and without times, so that its bytes depend on its contents only."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    with h5py.File(h5f.create(os.fsencode(path), h5f.ACC_EXCL, creation, access)) as file:
        yield file


def write_attribute(file: h5py.File, name: str, value: Any) -> None:
    """int64 scalar or vector, or fixed-length UTF-8 text."""
    if not isinstance(value, str):
        file.attrs.create(name, np.asarray(value, dtype="<i8"))
        return
    text = value.encode()
    if len(text) > MAX_TEXT:
        raise TooBig(f'{file.filename}: attribute "{name}" would take {len(text)} bytes; the limit is {MAX_TEXT}')
    file.attrs.create(name, np.array(text, dtype=h5py.string_dtype("utf-8", max(1, len(text)))))


def write_column(file: h5py.File, name: str, array: npt.NDArray[Any]) -> None:
    """A contiguous dataset, allocated at once and never filled, so that it can be memory-mapped."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(h5d.CONTIGUOUS)
    plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    file.create_dataset(name, shape=array.shape, dtype=array.dtype, dcpl=plist)[...] = array


def sync(path: Path) -> None:
    """Make the file's bytes durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
