"""What the numbers of a file must satisfy. Writing refuses what reading would refuse, by the same functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.errors import suggest
from condense.shards.codecs import CODECS
from condense.shards.decode import CANVASES
from condense.shards.errors import BadChecksum, BadStructure, NotFinite, OutOfRange, TooBig
from condense.shards.layout import (
    CHECKSUMS,
    DRAWS,
    MAX_CLASSES,
    MAX_EPOCHS,
    MAX_SIDE,
    ROW_COLUMNS,
    SHA256,
    SHARED_CHECKSUMS,
    TEACHER_BN,
    Column,
    Columns,
    Settings,
    all_checksums,
    from_json,
)

__all__ = [
    "check_canvas",
    "check_checksums",
    "check_columns",
    "check_finite",
    "check_labels_of",
    "check_rows",
    "check_teachers",
    "image_columns",
    "json_object",
    "label_columns",
    "shared_names",
]


def image_columns(attributes: Mapping[str, Any], path: Path) -> dict[str, Column]:
    """The datasets that an image file with these attributes has, once the attributes are right."""
    check_classes(attributes, path)
    shape = attributes["item_shape"]
    if len(shape) != 3 or not all(1 <= side <= MAX_SIDE for side in shape):
        raise OutOfRange(f"{path}: item_shape is {tuple(shape)}; expected height, width, channels of 1 to {MAX_SIDE}")
    height, width, channels = shape
    canvas = CANVASES[known(attributes, "canvas", CANVASES, path)]
    settings = json_object(attributes, "canvas_settings", path)
    if fault := canvas.check((height, width, channels), settings):
        raise BadStructure(f"{path}: canvas_settings has {fault}")
    columns = {**canvas.columns((height, width, channels), settings), **ROW_COLUMNS}
    return {**columns, **SHARED_CHECKSUMS} if shared_names(columns) else columns


def shared_names(rules: Mapping[str, Column]) -> set[str]:
    """The datasets whose records are shared by many rows, checksums apart."""
    return {name for name, rule in rules.items() if rule.shared and name not in SHARED_CHECKSUMS}


def label_columns(attributes: Mapping[str, Any], path: Path) -> dict[str, Column]:
    """The datasets that a label file with these attributes has, once the attributes are right."""
    check_classes(attributes, path)
    least = {"n_items": 1, "view_version": 1, "epochs": 1, "pool": 1, "first_record": 0}
    for name, bound in least.items():
        at_least(attributes, name, bound, path)
    known(attributes, "draw", DRAWS, path)
    epochs, pool = attributes["epochs"], attributes["pool"]
    if epochs > MAX_EPOCHS:
        raise TooBig(f"{path} is for {epochs} epochs; the limit is {MAX_EPOCHS}")
    if pool > epochs or (attributes["draw"] == "all" and pool != epochs):
        raise OutOfRange(
            f'{path}: pool is {pool} of {epochs} epochs; expected at most {epochs}, and all for draw "all"'
        )
    if not SHA256.fullmatch(attributes["images"]):
        raise BadStructure(f"{path}: images is no SHA-256 in lowercase hex")
    known(attributes, "teacher_bn", TEACHER_BN, path)
    json_object(attributes, "views", path)
    check_teachers(from_json(attributes["teachers"], f"{path}: teachers"), f"{path}: teachers")
    codec = CODECS[known(attributes, "codec", CODECS, path)]
    settings = json_object(attributes, "codec_settings", path)
    if fault := codec.check(settings, attributes["n_classes"]):
        raise BadStructure(f"{path}: codec_settings has {fault}")
    return {**codec.columns(attributes["n_items"], attributes["n_classes"], settings), **CHECKSUMS}


def check_classes(attributes: Mapping[str, Any], path: Path) -> None:
    """Labels of some codecs take few bytes for any number of classes, and are decoded into one number for each."""
    at_least(attributes, "n_classes", 1, path)
    if attributes["n_classes"] > MAX_CLASSES:
        raise TooBig(f"{path} is for {attributes['n_classes']} classes; the limit is {MAX_CLASSES}")


def at_least(attributes: Mapping[str, Any], name: str, least: int, path: Path) -> None:
    if attributes[name] < least:
        raise OutOfRange(f"{path}: {name} is {attributes[name]}; expected at least {least}")


def known(attributes: Mapping[str, Any], name: str, choices: Mapping[str, Any] | tuple[str, ...], path: Path) -> str:
    value = str(attributes[name])
    if value not in choices:
        raise BadStructure(f'{path}: {name} is "{value}"; {suggest(value, choices)}')
    return value


def json_object(attributes: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The JSON object in an attribute."""
    value = from_json(attributes[name], f"{path}: {name}")
    if not isinstance(value, dict):
        raise BadStructure(f"{path}: {name} is no JSON object")
    return value


def check_teachers(teachers: Any, where: str) -> None:
    """A list of objects with the texts ``network`` and ``sha256`` and, in all or in none, a ``weight`` above 0."""
    if not isinstance(teachers, list):
        raise BadStructure(f"{where} is no JSON list")
    for teacher in teachers:
        right = isinstance(teacher, dict) and set(teacher) in ({"network", "sha256"}, {"network", "sha256", "weight"})
        if (
            not right
            or not all(isinstance(teacher[name], str) for name in ("network", "sha256"))
            or not SHA256.fullmatch(teacher["sha256"])
        ):
            raise BadStructure(f"{where} holds {teacher}; expected a network and a SHA-256 in lowercase hex")
        if "weight" in teacher and not (type(teacher["weight"]) is float and 0 < teacher["weight"] < math.inf):
            raise BadStructure(f"{where} has weight {teacher['weight']!r:.60}; expected a decimal number above 0")
    if len({"weight" in teacher for teacher in teachers}) > 1:
        raise BadStructure(f"{where} gives a weight to some and not to others; expected one for all or for none")


def check_columns(columns: Columns, rules: Mapping[str, Column], path: Path) -> None:
    """Whether arrays about to be written are those of ``rules``, checksums apart."""
    expected = {name: rule for name, rule in rules.items() if name not in {**CHECKSUMS, **SHARED_CHECKSUMS}}
    if set(columns) != set(expected):
        raise BadStructure(f"{path} would hold {', '.join(sorted(columns))}; expected {', '.join(sorted(expected))}")
    for name, rule in expected.items():
        array = columns[name]
        if array.dtype != np.dtype(rule.dtype) or array.ndim < 1 or array.shape[1:] != rule.shape:
            raise BadStructure(
                f'"{name}" for {path} is {array.dtype} {array.shape}; expected {np.dtype(rule.dtype)} '
                f"({', '.join(['records', *map(str, rule.shape)])})"
            )
    for shared in (False, True):
        lengths = {len(columns[name]) for name, rule in expected.items() if rule.shared == shared}
        if len(lengths) > 1 or 0 in lengths:
            kind = "shared arrays" if shared else "arrays"
            raise BadStructure(f"the {kind} for {path} have {sorted(lengths)} records; expected one length, at least 1")


def check_canvas(columns: Columns, canvas: str, shape: tuple[int, int, int], settings: Settings, path: Path) -> None:
    """Whether every number by which rows point at something, be it a place or a shared record, leads there."""
    if fault := CANVASES[canvas].fault(columns, shape, settings):
        raise OutOfRange(f"{path}: {fault}")


def check_rows(labels: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], n_classes: int, path: Path) -> None:
    """Labels within the classes, slots not negative, (slot, label) strictly increasing."""
    if labels.min() < 0 or labels.max() >= n_classes:
        bad = labels[(labels < 0) | (labels >= n_classes)][0]
        raise OutOfRange(f"{path} has label {bad}; expected 0 to {n_classes - 1}")
    if slots.min() < 0:
        raise OutOfRange(f"{path} has slot {slots.min()}; expected 0 or more")
    after = (slots[1:] > slots[:-1]) | ((slots[1:] == slots[:-1]) & (labels[1:] > labels[:-1]))
    if not after.all():
        row = int(np.argmin(after)) + 1
        raise OutOfRange(
            f"{path}: row {row} (slot {slots[row]}, label {labels[row]}) does not come after the row before it; "
            "expected increasing slots, and increasing labels within a slot"
        )


def check_finite(columns: Columns, path: Path) -> None:
    """No infinity and no NaN in the floating-point columns; one record in memory at a time."""
    for name, array in columns.items():
        if array.dtype.kind != "f":
            continue
        for record, values in enumerate(array):
            if not np.isfinite(values).all():
                raise NotFinite(f'{path}: "{name}" of record {record} holds a number that is not finite')


def check_labels_of(columns: Columns, attributes: Mapping[str, Any], path: Path) -> None:
    """The numbers of every record of a label file, one in memory at a time."""
    check_finite(columns, path)
    codec, settings = CODECS[attributes["codec"]], json_object(attributes, "codec_settings", path)
    for record in range(len(next(iter(columns.values())))):
        held = {name: array[record] for name, array in columns.items() if name not in CHECKSUMS}
        if fault := codec.fault(held, settings, attributes["n_classes"]):
            raise OutOfRange(f"{path}: record {record} holds {fault}; get the file again")


def check_checksums(columns: Columns, path: Path, shared: Collection[str] = ()) -> None:
    """The stored checksum of every record against its bytes; those of the columns in ``shared`` have their own."""
    plain = {name: array for name, array in columns.items() if name not in {**CHECKSUMS, **SHARED_CHECKSUMS}}
    for name, sums in all_checksums(plain, shared).items():
        if (wrong := sums != columns[name]).any():
            kind = "record" if name in CHECKSUMS else "shared record"
            raise BadChecksum(
                f"{path}: {kind} {int(np.argmax(wrong))} is damaged (its checksum differs); get the file again"
            )
