"""Images from elsewhere as a set, which can be looked at, checked and measured like our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec
from condense.errors import DataError
from condense.exchange.convert import to_nhwc, to_uint8
from condense.exchange.foreign import Foreign, Labels, read_foreign
from condense.exchange.output import new_folder, refuse_other
from condense.labels import LabelConfig, store_labels
from condense.progress import Report, silent
from condense.shards import SetInfo, image_name, read_set, shard_slices, write_images, write_set

__all__ = ["METHOD", "Imported", "import_set", "slots_of"]

METHOD = {"name": "imported", "revision": 1}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Where the set is, how many pixel values were out of range and clamped, and classes without images."""

    path: Path
    clamped: int
    lacking: tuple[str, ...]


def import_set(
    source: Path,
    out: Path,
    *,
    name: str,
    spec: DatasetSpec,
    data: Mapping[str, Any],
    real: bool,
    licence: str,
    labels: Path | None = None,
    value_range: str | None = None,
    layout: str | None = None,
    report: Report = silent,
) -> Imported:
    """Write the images in ``source`` to the new set in the folder ``out``.

    source: a folder of images per class, or a file of arrays (:mod:`condense.exchange.foreign`); labels: the file
        that has the labels, if ``source`` has not.
    name: what the set is called. spec: the data set that it was made of; data: how that is opened, for ``set.json``.
    real: whether the images are real ones, unchanged or recognisable. licence: that of the images.
    value_range, layout: see :mod:`condense.exchange.convert`.

    The images of a class keep their order. Raises :class:`DataError` for what does not fit the data set,
    :class:`ConfigError` for what has to be said, :class:`OutputError` if ``out`` exists and is not empty.
    """
    refuse_other(out)
    found = read_foreign(source, labels, spec, report)
    check_classes(found, spec, source)
    images, clamped = to_uint8(to_nhwc(found.images, spec, layout), spec, value_range)
    classes = classes_of(found.labels, len(images), spec)
    slots = slots_of(classes)
    order = np.lexsort((classes, slots))
    sizes = np.bincount(classes, minlength=spec.n_classes)
    info = SetInfo(
        name=name,
        spec=spec.to_dict(),
        method=METHOD,
        config={
            "data": dict(data),
            "source": dict(found.sha256),
            "range": value_range,
            "layout": layout,
            "clamped": clamped,
            "images_per_class": sizes.tolist(),
        },
        seeds={},
        contains_real_images=real,
        licence=licence,
    )
    with new_folder(out) as folder:
        for number, part in enumerate(shard_slices(len(images), images[0].nbytes)):
            write_images(
                folder / image_name(number),
                columns={"images": images[order[part]]},
                labels=classes[order[part]],
                slots=slots[order[part]],
                spec=info.spec,
            )
        soft = found.labels.soft if found.labels is not None else None
        write_labels_of(folder, None if soft is None else soft[order], spec)
        write_set(folder, info)
        read_set(folder, "deep")
    return Imported(path=out, clamped=clamped, lacking=tuple(np.array(spec.classes)[sizes == 0].tolist()))


def check_classes(found: Foreign, spec: DatasetSpec, source: Path) -> None:
    """Whether the names of classes that the source carries are those of the data set, in its order."""
    if found.classes is None or found.classes == spec.classes:
        return
    if len(found.classes) != spec.n_classes:
        raise DataError(f"{source} is for {len(found.classes)} classes, {spec.name} has {spec.n_classes}")
    number, (theirs, ours) = next(
        (number, pair)
        for number, pair in enumerate(zip(found.classes, spec.classes, strict=True))
        if pair[0] != pair[1]
    )
    raise DataError(
        f'class {number} is "{theirs}" in {source} and "{ours}" in {spec.name}; give the data set it was made of'
    )


def classes_of(labels: Labels | None, n_images: int, spec: DatasetSpec) -> npt.NDArray[np.int64]:
    """The class of every image, int64 (N,): as given, or the likeliest of its soft label."""
    assert labels is not None
    hard, soft = labels.hard, labels.soft
    for what, array in (("labels", hard), ("soft labels", soft)):
        if array is not None and len(array) != n_images:
            raise DataError(f"there are {len(array)} {what} for {n_images} images; expected one for each")
    if soft is not None and soft.shape != (n_images, spec.n_classes):
        raise DataError(f"the soft labels have shape {soft.shape}; expected ({n_images}, {spec.n_classes})")
    if hard is None:
        assert soft is not None
        return np.asarray(soft.argmax(axis=1), dtype=np.int64)
    if hard.min() < 0 or hard.max() >= spec.n_classes:
        bad = hard[(hard < 0) | (hard >= spec.n_classes)][0]
        raise DataError(f"there is a label {bad}; {spec.name} has classes 0 to {spec.n_classes - 1}")
    return hard.astype(np.int64)


def slots_of(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many images of the same class come before each one: int64 (N,).

    >>> slots_of(np.array([1, 1, 0, 1])).tolist()
    [0, 1, 0, 2]
    """
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], classes[order])
    slots = np.empty(len(classes), dtype=np.int64)
    slots[order] = np.arange(len(classes)) - starts
    return slots


def write_labels_of(folder: Path, soft: npt.NDArray[np.float32] | None, spec: DatasetSpec) -> None:
    """The label files of the set in ``folder``: one vector an item, float32 (items, K) logits, or the classes alone.

    Views are those that labels are made for by default; `condense relabel` and the student's recipe choose others.
    """
    config = LabelConfig(codec="none" if soft is None else "static", teacher_bn="eval")
    shape = (0, 0, spec.n_classes) if soft is None else (1, *soft.shape)
    logits = np.zeros(shape, np.float16) if soft is None else soft[None].clip(-65504, 65504).astype(np.float16)
    store_labels(folder, logits, config, spec, images=sorted(folder.glob("images-*.h5")), teachers=[])
