"""`set.json`: what a set is, how it was made, and the hash of every file in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.errors import ShardError
from condense.shards.errors import BadStructure, Incomplete, NotASet, OutOfRange, TooBig, UnknownVersion
from condense.shards.layout import (
    FILE_NAME,
    MAX_FILES,
    MAX_JSON,
    SET_FORMAT,
    SHA256,
    VERSION,
    from_json,
)
from condense.shards.rules import check_teachers

__all__ = ["FileEntry", "SetInfo", "check_info", "read_set_json"]

MAX_PIXEL = 1e6
SPEC_FIELDS = {"name": str, "classes": list, "channels": int, "height": int, "width": int, "mean": list, "std": list,
               "train_sizes": list, "test_sizes": list, "fingerprint": str}  # fmt: skip
FIELDS = {"name": str, "spec": dict, "method": dict, "config": dict, "seeds": dict, "teachers": list,
          "contains_real_images": bool, "licence": str, "files": dict}  # fmt: skip


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 (lowercase hex) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SetInfo:
    """What a set says of itself. The mappings are JSON; their keys are in `SPEC.md`.

    ``spec`` is the source data set's ``DatasetSpec.to_dict()``, ``method`` has ``name`` and ``revision``, ``config`` is
    the method's, ``teachers`` have ``network`` and ``sha256``. :func:`condense.shards.write_set` fills ``files``.
    """

    name: str
    spec: Mapping[str, Any]
    method: Mapping[str, Any]
    config: Mapping[str, Any]
    seeds: Mapping[str, int]
    teachers: Sequence[Mapping[str, str]] = ()
    contains_real_images: bool
    licence: str = "unknown"
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.spec["classes"])

    @property
    def image_files(self) -> tuple[str, ...]:
        """Names in order; items are counted through them in that order."""
        return tuple(sorted(name for name in self.files if name.startswith("images-")))

    @property
    def label_files(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.files if name.startswith("labels-")))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``set.json``."""
        return {
            "format": SET_FORMAT,
            "version": VERSION,
            "name": self.name,
            "spec": dict(self.spec),
            "method": dict(self.method),
            "config": dict(self.config),
            "seeds": dict(self.seeds),
            "teachers": [dict(teacher) for teacher in self.teachers],
            "contains_real_images": self.contains_real_images,
            "licence": self.licence,
            "files": {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in self.files.items()},
        }


def read_set_json(folder: Path) -> SetInfo:
    """Read and check ``set.json``. Raises a child of :class:`ShardError`."""
    path = folder / "set.json"
    if not path.is_file():
        why = "there is no set.json in it" if folder.is_dir() else "there is no such folder"
        raise NotASet(f"{folder} is not a distilled set: {why}")
    if (size := path.stat().st_size) > MAX_JSON:
        raise TooBig(f"{path} has {size} bytes; the limit is {MAX_JSON}")
    if size == 0:
        raise Incomplete(f"{path} is empty; get the set again")
    values = from_json(path.read_bytes(), str(path))
    if not isinstance(values, dict) or values.get("format") != SET_FORMAT:
        raise NotASet(f'{path} does not say "format": "{SET_FORMAT}"')
    if values.get("version") != VERSION:
        raise UnknownVersion(f"{path} has version {values.get('version')}; this condense reads {VERSION}, upgrade it")
    check_info(values, str(path))
    files = {name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in values["files"].items()}
    return SetInfo(**{**{name: values[name] for name in FIELDS}, "files": files})


def check_info(values: Mapping[str, Any], where: str) -> None:
    """Every sentence of the specification about ``set.json``."""
    check_fields(values, FIELDS, where)
    check_fields(values["method"], {"name": str, "revision": int}, f"{where}: method")
    check_teachers(values["teachers"], f"{where}: teachers")
    check_spec(values["spec"], f"{where}: spec")
    for name, seed in values["seeds"].items():
        if not is_a(seed, int):
            raise BadStructure(f"{where}: seed {name} is {seed!r}; expected an integer")
    check_files(values["files"], f"{where}: files")


def is_a(value: Any, kind: type) -> bool:
    """isinstance, but true and false are not integers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_fields(values: Mapping[str, Any], fields: Mapping[str, type], where: str) -> None:
    for name, kind in fields.items():
        if name not in values or not is_a(values[name], kind):
            raise BadStructure(f"{where}: {name} is {values.get(name)!r:.60}; expected {kind.__name__}")


def check_spec(spec: Mapping[str, Any], where: str) -> None:
    """Names, sizes and normalisation of the source data set."""
    check_fields(spec, SPEC_FIELDS, where)
    classes = spec["classes"]
    if not classes or not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(classes):
        raise BadStructure(f"{where}: classes must be a list of different names")
    for name in ("channels", "height", "width"):
        if spec[name] < 1:
            raise OutOfRange(f"{where}: {name} is {spec[name]}; expected at least 1")
    for name in ("train_sizes", "test_sizes"):
        if len(spec[name]) != len(classes) or not all(is_a(n, int) and n >= 0 for n in spec[name]):
            raise OutOfRange(f"{where}: {name} is {spec[name]!r:.60}; expected a number of images per class")
    for name in ("mean", "std"):
        numbers = spec[name]
        right = len(numbers) == spec["channels"] and all(is_a(n, float) or is_a(n, int) for n in numbers)
        if not right or not all(abs(n) <= MAX_PIXEL for n in numbers) or (name == "std" and min(numbers) <= 0):
            raise OutOfRange(f"{where}: {name} is {numbers!r:.60}; expected a number per channel, std above 0")


def check_files(files: Mapping[str, Any], where: str) -> None:
    """File names that stay inside the folder, at least one image file, a size and a hash for each."""
    if len(files) > MAX_FILES:
        raise TooBig(f"{where} has {len(files)} entries; the limit is {MAX_FILES}")
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name):
            raise BadStructure(f'{where} names "{name:.60}"; expected images-NNNNN.h5 or labels-NNNNN.h5')
        if not isinstance(entry, dict):
            raise BadStructure(f"{where}: {name} is no object with bytes and sha256")
        check_fields(entry, {"bytes": int, "sha256": str}, f"{where}: {name}")
        if not SHA256.fullmatch(entry["sha256"]):
            raise BadStructure(f"{where}: {name} has no SHA-256 in lowercase hex")
    if not any(name.startswith("images-") for name in files):
        raise ShardError(f"{where} has no image file; expected images-00000.h5 at least")
