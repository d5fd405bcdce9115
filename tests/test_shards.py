"""Files of a set: what is written is read back, and every way of being wrong has its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from condense.errors import ShardError
from condense.shards import (
    ImageFile,
    SetInfo,
    image_name,
    label_name,
    read_image_files,
    read_images,
    read_labels,
    read_set,
    set_bytes,
    shard_slices,
    verify,
    write_images,
    write_labels,
    write_set,
)
from condense.shards.card import card
from condense.shards.codecs import CODECS, Seen
from condense.shards.errors import (
    BadChecksum,
    BadHash,
    BadStructure,
    ForbiddenFilter,
    ForbiddenLink,
    ForbiddenStorage,
    ForbiddenType,
    ForeignLabels,
    Hostile,
    Incomplete,
    MissingFile,
    NotASet,
    NotFinite,
    OutOfRange,
    TooBig,
    UnknownVersion,
)
from condense.shards.isolated import verify_isolated
from condense.shards.layout import images_id, record_checksums, sha256_of
from condense.shards.read import Level

GOLDEN = Path(__file__).parent / "golden" / "set-v1"
GOLDEN_HDF5 = "2.0.0"
TEACHER = {"network": "convnet3-bn", "sha256": "ab" * 32}


def spec(n_classes: int = 3, shape: tuple[int, int, int] = (4, 5, 1)) -> dict[str, Any]:
    return {
        "name": "tiny",
        "classes": [f"class {number}" for number in range(n_classes)],
        "height": shape[0],
        "width": shape[1],
        "channels": shape[2],
        "mean": [0.5] * shape[2],
        "std": [0.25] * shape[2],
        "train_sizes": [7] * n_classes,
        "test_sizes": [2] * n_classes,
        "fingerprint": "00",
    }


def info(values: dict[str, Any] | None = None) -> SetInfo:
    return SetInfo(
        name="tiny-ipc2-random",
        spec=values or spec(),
        method={"name": "random", "revision": 1},
        config={"start": "real"},
        seeds={"root": 5},
        teachers=[TEACHER],
        contains_real_images=True,
        licence="MIT",
    )


def counting(*shape: int) -> np.ndarray[Any, Any]:
    """uint8 images that differ at every place."""
    return (np.arange(np.prod(shape)) * 7 % 256).astype(np.uint8).reshape(shape)


def put_images(path: Path, slots: range = range(2), values: dict[str, Any] | None = None) -> Path:
    values = values or spec()
    n_classes = len(values["classes"])
    shape = (len(slots) * n_classes, values["height"], values["width"], values["channels"])
    write_images(
        path,
        columns={"images": counting(*shape) + np.uint8(slots.start)},
        labels=np.tile(np.arange(n_classes), len(slots)),
        slots=np.repeat(np.asarray(slots), n_classes),
        spec=values,
    )
    return path


def put_labels(path: Path, images: list[Path], epochs: int = 2, **changes: Any) -> Path:
    held = changes.pop("held", epochs)
    owners = [read_images(image) for image in images]
    shape = (held, sum(owner.n_items for owner in owners), owners[0].n_classes)
    logits = np.linspace(-4, 4, num=int(np.prod(shape)), dtype=np.float32).astype(np.float16).reshape(shape)
    arguments: dict[str, Any] = {
        "views": {"crop": "none", "batch_size": 4},
        "view_version": 1,
        "seed": 5,
        "teachers": [TEACHER],
        "teacher_bn": "eval",
    }
    write_labels(path, columns={"logits": logits}, images=images, epochs=epochs, **{**arguments, **changes})
    return path


def put_set(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = [put_images(folder / image_name(number), range(number, number + 1)) for number in range(2)]
    put_labels(folder / label_name(0), images)
    write_set(folder, info())
    return folder


def rewrite(path: Path, *, attributes: dict[str, Any] | None = None, datasets: dict[str, Any] | None = None) -> None:
    """The same file once more with some attributes or datasets replaced (arrays, or functions that make them; None
    leaves one out), and with checksums that fit, as somebody who knows the format would do it."""
    with h5py.File(path, "r") as file:
        texts = {name: file.attrs.get_id(name).dtype for name in file.attrs}
        kept = {name: (value, texts[name]) for name, value in file.attrs.items()}
        arrays: dict[str, Any] = {name: file[name][...] for name in file}
    arrays.update(datasets or {})
    plain = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and name != "checksums"}
    if "checksums" not in (datasets or {}) and len({array.shape[:1] for array in plain.values()}) == 1:
        arrays["checksums"] = record_checksums(plain)
    path.unlink()
    with h5py.File(path, "w", libver="v110") as file:
        for name, (value, dtype) in kept.items():
            file.attrs.create(name, value, dtype=dtype)
        for name, value in (attributes or {}).items():
            file.attrs.pop(name, None)
            if value is not None:
                new = text(value) if isinstance(value, str) else np.asarray(value)
                file.attrs.create(name, new)
        for name, array in arrays.items():
            if callable(array):
                array(file)
            elif array is not None:
                file.create_dataset(name, data=array)


def text(value: str) -> np.ndarray[Any, Any]:
    return np.array(value.encode(), dtype=h5py.string_dtype("utf-8", len(value.encode())))


def reseal(folder: Path) -> None:
    """Bring sizes and hashes in ``set.json`` up to date with changed files."""
    values = json.loads((folder / "set.json").read_text())
    for name, entry in values["files"].items():
        entry.update(bytes=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
    (folder / "set.json").write_text(json.dumps(values))


# What is written is read back


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_of_any_shape_come_back(tmp_path: Path, data: st.DataObject) -> None:
    side = st.integers(1, 6)
    values = spec(data.draw(st.integers(1, 5)), (data.draw(side), data.draw(side), data.draw(side)))
    n_classes, path = len(values["classes"]), tmp_path / "images.h5"
    chosen = data.draw(st.sets(st.tuples(st.integers(0, 9), st.integers(0, n_classes - 1)), min_size=1))
    slots, labels = np.array(sorted(chosen)).T
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = (len(labels), values["height"], values["width"], values["channels"])
    images = random.integers(0, 256, shape, dtype=np.uint8)
    path.unlink(missing_ok=True)
    write_images(path, columns={"images": images}, labels=labels, slots=slots, spec=values)
    found = read_images(path, deep=True)
    np.testing.assert_array_equal(found.decode(), images)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.columns["slots"], slots)
    assert (found.n_rows, found.n_classes, found.item_shape) == (len(labels), n_classes, shape[1:])


def test_labels_come_back(tmp_path: Path) -> None:
    images = [put_images(tmp_path / image_name(0))]
    logits = np.random.default_rng(0).normal(size=(3, 6, 3)).astype(np.float16)
    write_labels(
        tmp_path / label_name(0), columns={"logits": logits}, images=images, views={"flip": 0.5}, view_version=4,
        seed=-3, epochs=9, first_record=6, teachers=[TEACHER, TEACHER], teacher_bn="batch",
    )  # fmt: skip
    found = read_labels(tmp_path / label_name(0), deep=True)
    np.testing.assert_array_equal(found.columns["logits"], logits)
    assert found.images == images_id([sha256_of(images[0])])
    assert (found.n_items, found.n_classes, found.held) == (6, 3, range(6, 9))
    assert (found.views, found.view_version, found.seed, found.epochs) == ({"flip": 0.5}, 4, -3, 9)
    assert (found.teachers, found.teacher_bn, found.codec) == ([TEACHER, TEACHER], "batch", "full")


def test_a_set_comes_back_through_several_files(tmp_path: Path) -> None:
    files = read_set(put_set(tmp_path / "set"), "deep")
    assert files.info == replace(info(), files=files.info.files)
    np.testing.assert_array_equal(files.labels_of_items(), [0, 1, 2, 0, 1, 2])
    whole = np.concatenate([file.decode() for file in files.images])
    np.testing.assert_array_equal(files.take(np.array([5, 0, 3, 3])), whole[[5, 0, 3, 3]])
    for index in range(6):
        np.testing.assert_array_equal(files.item(index), whole[index])


def test_files_like_each_other_are_taken_apart_once(tmp_path: Path) -> None:
    paths = [put_images(tmp_path / image_name(number), range(number, number + 1)) for number in range(3)]
    paths.append(put_images(tmp_path / image_name(3), range(3, 5)))
    files = read_image_files(paths, deep=True)
    assert [file.layout is files[0].layout for file in files] == [True, True, True, False]
    for path, file in zip(paths, files, strict=True):
        alone = read_images(path)
        assert (file.path, file.n_rows) == (path, alone.n_rows)
        for name, column in alone.columns.items():
            np.testing.assert_array_equal(file.columns[name], column)


def test_what_is_damaged_is_found_behind_a_whole_file_as_well(tmp_path: Path) -> None:
    first, second = (put_images(tmp_path / image_name(number), range(number, number + 1)) for number in range(2))
    data, places = second.read_bytes(), read_images(second).layout.places
    inside = np.zeros(len(data), dtype=bool)
    for place in places.values():
        inside[place.offset : place.end] = True
    for at in [*np.flatnonzero(~inside)[::9], *(place.offset for place in places.values())]:
        second.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert fault_of(lambda: read_image_files([first, second], deep=True)[1]) == fault_of(
            lambda: read_images(second, deep=True)
        )
    second.unlink()
    with pytest.raises(MissingFile):
        read_image_files([first, second])


def fault_of(read: Callable[[], ImageFile]) -> str | bytes:
    """The name of the error, or the images."""
    try:
        return read().decode().tobytes()
    except ShardError as error:
        return type(error).__name__


def test_values_of_files_like_each_other_are_checked(tmp_path: Path) -> None:
    first, second = (put_images(tmp_path / image_name(number), range(number, number + 1)) for number in range(2))
    labels = read_images(second).layout.places["labels"]
    data = bytearray(second.read_bytes())
    data[labels.offset] = 77
    second.write_bytes(data)
    with pytest.raises(OutOfRange, match="label 77"):
        read_image_files([first, second])


def test_arrays_are_read_only_maps_of_the_file(tmp_path: Path) -> None:
    """Small files are read instead: a map keeps its file open, and sets may have many."""
    small = put_images(tmp_path / "small.h5", range(1))
    large = put_images(tmp_path / "large.h5", range(1), {**spec(), "height": 700, "width": 700})
    for path, mapped in ((small, False), (large, True)):
        held = read_images(path)
        for array in held.columns.values():
            assert not array.flags.writeable
        base: Any = held.columns["images"]
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap) == mapped
        np.testing.assert_array_equal(held.columns["slots"], [0, 0, 0])


def test_same_arrays_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = put_set(tmp_path / "a"), tmp_path / "b"
    monkeypatch.setattr("time.time", lambda: 1e9)
    put_set(second)
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_golden_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    files = read_set(GOLDEN, "deep")
    np.testing.assert_array_equal(files.images[0].decode(), counting(3, 4, 5, 1))
    np.testing.assert_array_equal(files.images[1].decode(), counting(3, 4, 5, 1) + np.uint8(1))
    logits = files.labels[0].columns["logits"]
    np.testing.assert_allclose(logits.ravel().astype(float), np.linspace(-4, 4, 36), atol=2e-3)
    assert files.info == replace(info(), files=files.info.files)
    with h5py.File(GOLDEN / image_name(0)) as file:
        assert {name: (str(file[name].dtype), file[name].shape, file[name].id.get_offset()) for name in file} == {
            "checksums": ("uint32", (3,), 2156),
            "images": ("uint8", (3, 4, 5, 1), 2048),
            "labels": ("int64", (3,), 2108),
            "slots": ("int64", (3,), 2132),
        }
    if h5py.version.hdf5_version == GOLDEN_HDF5:
        for path in put_set(tmp_path / "set").iterdir():
            assert path.read_bytes() == (GOLDEN / path.name).read_bytes(), path.name


def test_checksum_is_the_crc_of_the_record() -> None:
    """CRC-32 of "123456789" is cbf43926: here split over two columns, in order of their names."""
    columns = {"b": np.frombuffer(b"56789", np.uint8)[None], "a": np.frombuffer(b"1234", np.uint8)[None]}
    assert record_checksums(columns).tolist() == [0xCBF43926]


def test_report_counts_bytes_and_rows(tmp_path: Path) -> None:
    folder = put_set(tmp_path / "set")
    report = verify(folder, "deep")
    assert report.files == ("set.json", image_name(0), image_name(1), label_name(0))
    assert (report.rows, report.items, report.epochs) == (6, 6, 2)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert report.bytes.images == sizes[image_name(0)] + sizes[image_name(1)]
    assert report.bytes.labels == sizes[label_name(0)]
    assert report.bytes.total == sum(sizes.values()) - sizes["README.md"]
    assert set_bytes(read_set(folder)) == report.bytes
    assert verify(folder / image_name(1)).rows == 3
    assert verify(folder / label_name(0), "deep").epochs == 2


def test_card_says_what_matters(tmp_path: Path) -> None:
    text = (put_set(tmp_path / "set") / "README.md").read_text()
    for words in ("tiny-ipc2-random", "**random** (revision 1)", "class 0, class 1", "MIT", "yes", "images-*.h5"):
        assert words in text


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(name=NAMES, licence=NAMES, classes=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_front_matter_is_yaml_whatever_names_people_give(name: str, licence: str, classes: list[str]) -> None:
    values = {**spec(len(classes)), "classes": classes}
    about = {**replace(info(values), name=name, licence=licence).to_dict(), "files": {}}
    first, front, text = card(about, [read_images(GOLDEN / image_name(0))]).split("---\n", 2)
    found = yaml.safe_load(front)
    assert (first, found["pretty_name"]) == ("", name)
    features = {column["name"]: column["dtype"] for column in found["dataset_info"]["features"]}
    assert list(features["labels"]["class_label"]["names"].values()) == classes
    assert features["images"] == {"array3_d": {"shape": [4, 5, 1], "dtype": "uint8"}}
    assert found["size_categories"] == ["n<1K"]
    assert re.fullmatch(r"[a-z0-9.-]+", found.get("license_name", found["license"]))
    [row] = [line for line in text.splitlines() if line.startswith("| Classes |")]
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("MIT", "license: mit\ntask"),
        ("unknown", "license: unknown\ntask"),
        ("Custom, v2", 'license: other\nlicense_name: "custom-v2"\ntask'),
        ("?", 'license_name: "unknown"'),
    ],
)
def test_licences_have_the_identifiers_of_hubs(licence: str, said: str) -> None:
    assert said in card(replace(info(), licence=licence).to_dict(), [read_images(GOLDEN / image_name(0))])


def test_sizes_are_those_of_the_rows() -> None:
    file = read_images(GOLDEN / image_name(0))
    assert "- n<1K" in card(info().to_dict(), [file] * 333)
    assert "- 1K<n<10K" in card(info().to_dict(), [file] * 334)


def test_shards_are_filled_from_the_front() -> None:
    assert shard_slices(5, 10, 25) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert shard_slices(2, 100, 25) == [slice(0, 1), slice(1, 2)]


def test_label_files_may_share_the_epochs(tmp_path: Path) -> None:
    images = [put_images(tmp_path / image_name(0))]
    put_labels(tmp_path / label_name(0), images, epochs=5, held=2)
    put_labels(tmp_path / label_name(1), images, epochs=5, held=3, first_record=2)
    write_set(tmp_path, info())
    assert [held.held for held in read_set(tmp_path, "deep").labels] == [range(2), range(2, 5)]


# Every way of being wrong has its name: image files


def link_soft(file: h5py.File) -> None:
    file["slots"] = h5py.SoftLink("/labels")


def link_external(file: h5py.File) -> None:
    file["slots"] = h5py.ExternalLink("other.h5", "/labels")


def link_twice(file: h5py.File) -> None:
    file["slots"] = file["labels"]


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((6,), "<i8")
    layout[:] = h5py.VirtualSource(file["labels"])
    file.create_virtual_dataset("slots", layout)


def stored(**options: Any) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        file.create_dataset("slots", data=np.repeat([0, 1], 3), **options)

    return make


def external_storage(file: h5py.File) -> None:
    file.create_dataset("slots", (6,), "<i8", external=[("/etc/hostname", 0, 48)])


def not_allocated(file: h5py.File) -> None:
    file.create_dataset("slots", (6,), "<i8")


def compact(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    file.create_dataset("slots", (6,), "<i8", dcpl=plist)[...] = np.repeat([0, 1], 3)


def named_type(file: h5py.File) -> None:
    file["t"] = np.dtype("<i8")
    file.create_dataset("slots", (6,), dtype=file["t"], data=np.repeat([0, 1], 3))
    del file["t"]


def references(file: h5py.File) -> None:
    file.create_dataset("slots", (6,), h5py.ref_dtype)[...] = [file.ref] * 6


def strings(file: h5py.File) -> None:
    file.create_dataset("slots", data=["a"] * 6, dtype=h5py.string_dtype())


BROKEN_DATASETS: dict[str, tuple[type[ShardError], dict[str, Any]]] = {
    "soft link": (ForbiddenLink, {"slots": link_soft}),
    "external link": (ForbiddenLink, {"slots": link_external}),
    "second hard link": (ForbiddenLink, {"slots": link_twice}),
    "virtual": (ForbiddenStorage, {"slots": virtual}),
    "external storage": (ForbiddenStorage, {"slots": external_storage}),
    "chunks": (ForbiddenStorage, {"slots": stored(chunks=(2,))}),
    "compact": (ForbiddenStorage, {"slots": compact}),
    "not allocated": (ForbiddenStorage, {"slots": not_allocated}),
    "gzip": (ForbiddenFilter, {"slots": stored(compression="gzip")}),
    "fletcher": (ForbiddenFilter, {"slots": stored(fletcher32=True)}),
    "variable-length strings": (ForbiddenType, {"slots": strings}),
    "references": (ForbiddenType, {"slots": references}),
    "named type": (ForbiddenType, {"slots": named_type}),
    "big-endian": (ForbiddenType, {"slots": np.repeat([0, 1], 3).astype(">i8")}),
    "int32": (ForbiddenType, {"slots": np.repeat([0, 1], 3).astype("<i4")}),
    "float images": (ForbiddenType, {"images": np.zeros((6, 4, 5, 1), "<f4")}),
    "group": (BadStructure, {"slots": lambda file: file.create_group("slots")}),
    "missing": (BadStructure, {"slots": None}),
    "superfluous": (BadStructure, {"more": np.zeros(6)}),
    "other shape": (BadStructure, {"images": np.zeros((6, 5, 4, 1), np.uint8)}),
    "other rank": (BadStructure, {"labels": np.zeros((6, 1), "<i8")}),
    "null": (BadStructure, {"labels": lambda file: file.create_dataset("labels", data=h5py.Empty("<i8"))}),
    "scalar": (BadStructure, {"labels": np.array(0, "<i8")}),
    "other first dimension": (BadStructure, {"labels": np.arange(3)}),
    "no checksums": (BadStructure, {"checksums": None}),
    "seventeen datasets": (TooBig, {f"x{number}": np.zeros(6) for number in range(13)}),
    "label out of range": (OutOfRange, {"labels": np.array([0, 1, 3, 0, 1, 2])}),
    "negative label": (OutOfRange, {"labels": np.array([-1, 1, 2, 0, 1, 2])}),
    "negative slot": (OutOfRange, {"slots": np.array([-1, 0, 0, 1, 1, 1])}),
    "same slot and label": (OutOfRange, {"labels": np.array([0, 1, 2, 0, 1, 1])}),
    "slots out of order": (OutOfRange, {"slots": np.array([1, 1, 1, 0, 0, 0])}),
}

WORDS = {"virtual": "is virtual", "external storage": "another file", "chunks": "is chunked", "compact": "is compact"}

BROKEN_ATTRIBUTES: dict[str, tuple[type[ShardError], dict[str, Any]]] = {
    "other format": (NotASet, {"format": "netcdf"}),
    "no format": (NotASet, {"format": None}),
    "later version": (UnknownVersion, {"version": 2}),
    "no mark": (Incomplete, {"complete": None}),
    "mark not set": (Incomplete, {"complete": 0}),
    "missing": (BadStructure, {"canvas": None}),
    "unknown canvas": (BadStructure, {"canvas": "pixel"}),
    "unknown setting": (BadStructure, {"canvas_settings": '{"factor":2}'}),
    "no object": (BadStructure, {"canvas_settings": "[]"}),
    "no JSON": (BadStructure, {"canvas_settings": "{"}),
    "deep JSON": (BadStructure, {"canvas_settings": "[" * 20_000}),
    "text for a number": (ForbiddenType, {"n_classes": "3"}),
    "float": (ForbiddenType, {"n_classes": 3.0}),
    "number for a text": (ForbiddenType, {"dataset": 3}),
    "vector for a scalar": (BadStructure, {"n_classes": [3]}),
    "no classes": (OutOfRange, {"n_classes": 0}),
    "classes without end": (TooBig, {"n_classes": 2**20 + 1}),
    "two sides": (OutOfRange, {"item_shape": [4, 5]}),
    "no channels": (OutOfRange, {"item_shape": [4, 5, 0]}),
    "huge sides": (OutOfRange, {"item_shape": [2**62, 2**62, 1]}),
    "long text": (TooBig, {"dataset": "x" * 33_000}),
}


@pytest.mark.parametrize("fault", sorted(BROKEN_DATASETS))
def test_broken_datasets_are_named(tmp_path: Path, fault: str) -> None:
    path = put_images(tmp_path / "images.h5")
    expected, datasets = BROKEN_DATASETS[fault]
    rewrite(path, datasets=datasets)
    with pytest.raises(ShardError, match=r"images\.h5") as raised:
        read_images(path)
    assert type(raised.value) is expected
    assert WORDS.get(fault, "") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", sorted(BROKEN_ATTRIBUTES))
def test_broken_attributes_are_named(tmp_path: Path, fault: str) -> None:
    path = put_images(tmp_path / "images.h5")
    expected, attributes = BROKEN_ATTRIBUTES[fault]
    rewrite(path, attributes=attributes)
    with pytest.raises(ShardError, match=r"images\.h5") as raised:
        read_images(path)
    assert type(raised.value) is expected


@pytest.mark.parametrize(("name", "kind"), [("format", "S15"), ("n_classes", "<i8"), ("item_shape", "<i8")])
def test_attributes_without_a_value_are_named(tmp_path: Path, name: str, kind: str) -> None:
    """HDF5 knows spaces that hold nothing, of which it says no dimensions at all."""
    path = put_images(tmp_path / "images.h5")
    dtype = h5py.string_dtype("utf-8", 15) if kind == "S15" else np.dtype(kind)
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        file.attrs.create(name, h5py.Empty(dtype))
    with pytest.raises(BadStructure, match=f'attribute "{name}" has shape'):
        read_images(path)


def test_the_rewriting_of_these_tests_breaks_nothing_itself(tmp_path: Path) -> None:
    path = put_images(tmp_path / "images.h5")
    rewrite(path, attributes={"later_addition": "ignored"})
    assert read_images(path, deep=True).n_rows == 6


@pytest.mark.parametrize("value", ["variable", b"\xff\xfe"])
def test_text_is_fixed_length_utf8(tmp_path: Path, value: str | bytes) -> None:
    path = put_images(tmp_path / "images.h5")
    with h5py.File(path, "r+", libver="v110") as file:
        del file.attrs["dataset"]
        file.attrs["dataset"] = value
    with pytest.raises(BadStructure, match="dataset"):
        read_images(path)


@pytest.mark.parametrize("rows", [7, 2**40, 2**63 - 1])
def test_declared_sizes_are_checked_before_anything_is_mapped(tmp_path: Path, rows: int) -> None:
    path = put_images(tmp_path / "images.h5")
    patch_header(path, "labels", (6).to_bytes(8, "little"), rows.to_bytes(8, "little"))
    with pytest.raises(BadStructure, match=r"images\.h5"):
        read_images(path)


@pytest.mark.parametrize("place", [0, 2048 - 1, 2048, 2**62])
def test_datasets_lie_in_the_file_and_share_no_bytes(tmp_path: Path, place: int) -> None:
    path = put_images(tmp_path / "images.h5")
    with h5py.File(path) as file:
        offset = file["slots"].id.get_offset()
    patch_header(path, "slots", offset.to_bytes(8, "little"), place.to_bytes(8, "little"))
    with pytest.raises(BadStructure, match=r"images\.h5"):
        read_images(path)


def patch_header(path: Path, dataset: str, old: bytes, new: bytes) -> None:
    """Replace bytes in a dataset's object header and mend the header's checksum: HDF5 itself sees nothing wrong."""
    with h5py.File(path) as file:
        start = h5py.h5o.get_info(file[dataset].id).addr
    data = bytearray(path.read_bytes())
    width = 1 << (data[start + 5] & 3)
    end = start + 6 + width + int.from_bytes(data[start + 6 : start + 6 + width], "little")
    at = data.index(old, start, end)
    data[at : at + len(new)] = new
    data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")
    path.write_bytes(bytes(data))


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash of 2006, with which HDF5 guards its headers."""
    mask = 0xFFFFFFFF

    def rotate(value: int, by: int) -> int:
        return (value << by | value >> (32 - by)) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    blocks = [data[at : at + 12].ljust(12, b"\0") for at in range(0, len(data), 12)]
    for number, block in enumerate(blocks):
        words = (int.from_bytes(block[at : at + 4], "little") for at in (0, 4, 8))
        a, b, c = (value + word & mask for value, word in zip((a, b, c), words, strict=True))
        if number < len(blocks) - 1:
            for by in (4, 6, 8, 16, 19, 4):
                a, b, c = b, c + b & mask, (a - c & mask) ^ rotate(c, by)
    for by in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, (c ^ b) - rotate(b, by) & mask, a
    return b


# Every way of being wrong has its name: label files, and sets

BROKEN_LABELS: dict[str, tuple[type[ShardError], dict[str, Any]]] = {
    "image file": (NotASet, {"format": "condense-images"}),
    "no hash": (BadStructure, {"images": "x"}),
    "no epochs": (OutOfRange, {"epochs": 0}),
    "negative record": (OutOfRange, {"first_record": -1}),
    "no pool": (OutOfRange, {"pool": 0}),
    "pool above the epochs": (OutOfRange, {"pool": 3, "draw": "with"}),
    "a part drawn as all": (OutOfRange, {"epochs": 3}),
    "unknown draw": (BadStructure, {"draw": "some"}),
    "classes without end": (TooBig, {"n_classes": 2**32 - 1}),
    "epochs without end": (TooBig, {"epochs": 10**15, "draw": "with"}),
    "settings of another codec": (BadStructure, {"codec_settings": '{"k":1}'}),
    "no setting for a codec that needs one": (BadStructure, {"codec": "topk"}),
    "all classes as the greatest": (BadStructure, {"codec": "topk", "codec_settings": '{"k":3}'}),
    "datasets of another codec": (BadStructure, {"codec": "topk", "codec_settings": '{"k":2}'}),
    "one record for a codec that has one": (BadStructure, {"codec": "none"}),
    "other classes": (BadStructure, {"n_classes": 4}),
    "other items": (BadStructure, {"n_items": 5}),
    "overflowing items": (BadStructure, {"n_items": 2**62}),
    "unknown codec": (BadStructure, {"codec": "ful"}),
    "unknown batch norm": (BadStructure, {"teacher_bn": "train"}),
    "teachers no list": (BadStructure, {"teachers": "{}"}),
    "teacher without hash": (BadStructure, {"teachers": '[{"network":"a"}]'}),
    "teacher with a short hash": (BadStructure, {"teachers": '[{"network":"a","sha256":"b"}]'}),
    "key twice": (BadStructure, {"views": '{"flip":0,"flip":1}'}),
    "NaN in JSON": (BadStructure, {"views": '{"flip":NaN}'}),
}


@pytest.mark.parametrize("fault", sorted(BROKEN_LABELS))
def test_broken_label_files_are_named(tmp_path: Path, fault: str) -> None:
    path = put_labels(tmp_path / "labels.h5", [put_images(tmp_path / "images.h5")])
    expected, attributes = BROKEN_LABELS[fault]
    rewrite(path, attributes=attributes)
    with pytest.raises(ShardError, match=r"labels\.h5") as raised:
        read_labels(path)
    assert type(raised.value) is expected


WRONG_LABELS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[float, str]]]] = {
    "int8": ("int8", {}, {"levels": (-128, "a level of -128"), "scale": (-1, "a scale below 0")}),
    "topk": ("topk", {"k": 2}, {"indices": (3, "class 3 of 3")}),
    "topk order": ("topk", {"k": 2}, {"indices": (1, "do not increase")}),
    "distances": ("distances", {}, {"distances": (-0.5, "a distance below 0")}),
    "none": ("none", {}, {"online": (0, "no 1")}),
}


@pytest.mark.parametrize("fault", WRONG_LABELS)
def test_numbers_of_labels_must_mean_something_even_with_fitting_checksums(tmp_path: Path, fault: str) -> None:
    codec, settings, wrong = WRONG_LABELS[fault]
    seen = Seen(classes=np.arange(6) % 3, partner=np.arange(6), lam=np.ones(6))
    images = [put_images(tmp_path / image_name(0))]
    arrays = CODECS[codec].encode(np.zeros((6, 3), np.float16), seen, settings)
    columns = {name: array[None] for name, array in arrays.items()}
    common: dict[str, Any] = {
        "images": images, "views": {}, "view_version": 1, "seed": 0, "epochs": 1, "teachers": [],
        "teacher_bn": "eval", "codec": codec, "settings": settings,
    }  # fmt: skip
    for number, (name, (value, message)) in enumerate(wrong.items()):
        path = tmp_path / label_name(number)
        write_labels(path, columns=columns, **common)
        read_labels(path, deep=True)
        broken = columns[name].copy()
        broken[...] = value
        rewrite(path, datasets={name: broken})
        with pytest.raises(OutOfRange, match=f"record 0 holds {message}|record 0 holds classes"):
            read_labels(path, deep=True)
        with pytest.raises(OutOfRange, match="record 0 holds"):
            write_labels(tmp_path / "new.h5", columns={**columns, name: broken}, **common)
        assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_must_be_finite_even_with_fitting_checksums(tmp_path: Path, bad: float) -> None:
    folder = put_set(tmp_path / "set")
    logits = np.zeros((2, 6, 3), np.float16)
    logits[1, 4, 2] = bad
    rewrite(folder / label_name(0), datasets={"logits": logits})
    reseal(folder)
    read_set(folder, "hashes")
    with pytest.raises(NotFinite, match="record 1"):
        verify(folder, "deep")
    images = [folder / image_name(0), folder / image_name(1)]
    with pytest.raises(NotFinite):
        write_labels(
            tmp_path / "new.h5", columns={"logits": logits}, images=images, views={}, view_version=1, seed=0,
            epochs=2, teachers=[], teacher_bn="eval",
        )  # fmt: skip


@pytest.mark.parametrize("name", ["images-00001.h5", "labels-00000.h5"])
def test_a_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    folder = put_set(tmp_path / "set")
    data = bytearray((folder / name).read_bytes())
    data[2050] ^= 1
    (folder / name).write_bytes(bytes(data))
    read_set(folder)
    with pytest.raises(BadHash, match=name):
        read_set(folder, "hashes")
    for _ in range(2):
        with pytest.raises(BadChecksum, match=f"{name}: record 0"):
            verify(folder, "deep")
        reseal(folder)


def test_files_of_other_sizes_or_missing_are_named(tmp_path: Path) -> None:
    folder = put_set(tmp_path / "set")
    put_images(tmp_path / "longer.h5").rename(folder / image_name(0))
    with pytest.raises(BadHash, match="bytes"):
        read_set(folder)
    (folder / image_name(0)).unlink()
    with pytest.raises(MissingFile, match=image_name(0)):
        read_set(folder)


def test_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    folder, other = put_set(tmp_path / "set"), put_set(tmp_path / "other")
    rewrite(other / image_name(0), datasets={"images": counting(3, 4, 5, 1)[::-1].copy()})
    (other / label_name(0)).unlink()
    images = [other / image_name(number) for number in range(2)]
    (folder / label_name(0)).write_bytes(put_labels(other / label_name(0), images).read_bytes())
    reseal(folder)
    with pytest.raises(ForeignLabels, match="other images"):
        read_set(folder)


@pytest.mark.parametrize(
    "second",
    [
        {"first_record": 3, "held": 2},
        {"first_record": 1, "held": 4},
        {"first_record": 2, "seed": 6},
        {"first_record": 2, "held": 2},
    ],
)
def test_label_files_must_hold_every_epoch_of_one_plan_once(tmp_path: Path, second: dict[str, Any]) -> None:
    images = [put_images(tmp_path / image_name(0))]
    put_labels(tmp_path / label_name(0), images, epochs=5, held=2)
    put_labels(tmp_path / label_name(1), images, epochs=5, **{"held": 3, **second})
    write_set(tmp_path, info())
    with pytest.raises(ForeignLabels):
        read_set(tmp_path)


def test_image_files_must_agree(tmp_path: Path) -> None:
    put_images(tmp_path / image_name(0), range(1, 2))
    put_images(tmp_path / image_name(1), range(1))
    write_set(tmp_path, info())
    with pytest.raises(OutOfRange, match="does not come after"):
        read_set(tmp_path)
    (tmp_path / image_name(1)).unlink()
    put_images(tmp_path / image_name(1), range(2, 3), {**spec(), "name": "other"})
    write_set(tmp_path, info())
    with pytest.raises(BadStructure, match="other"):
        read_set(tmp_path)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


HASH = "ab" * 32
BROKEN_SETS: dict[str, tuple[type[ShardError], Callable[[dict[str, Any]], Any]]] = {
    "other format": (NotASet, lambda v: v.update(format="x")),
    "later version": (UnknownVersion, lambda v: v.update(version=2)),
    "no spec": (BadStructure, lambda v: v.pop("spec")),
    "class that is no text": (BadStructure, lambda v: v["spec"]["classes"].__setitem__(0, 3)),
    "class twice": (BadStructure, lambda v: v["spec"]["classes"].__setitem__(0, "class 1")),
    "class of half a character": (BadStructure, lambda v: v["spec"]["classes"].__setitem__(0, "\ud800")),
    "sizes of other classes": (OutOfRange, lambda v: v["spec"].update(test_sizes=[1])),
    "one class less": (OutOfRange, lambda v: v["spec"]["classes"].pop()),
    "no width": (BadStructure, lambda v: v["spec"].pop("width")),
    "width 0": (OutOfRange, lambda v: v["spec"].update(width=0)),
    "other width": (BadStructure, lambda v: v["spec"].update(width=6)),
    "two means": (OutOfRange, lambda v: v["spec"].update(mean=[0.5, 0.5])),
    "std 0": (OutOfRange, lambda v: v["spec"].update(std=[0])),
    "infinite std": (BadStructure, lambda v: v["spec"].update(std=[float("inf")])),
    "overflowing std": (OutOfRange, lambda v: v["spec"].update(std=[10**400])),
    "seed no int": (BadStructure, lambda v: v["seeds"].update(root="5")),
    "teacher": (BadStructure, lambda v: v["teachers"].append(3)),
    "method without revision": (BadStructure, lambda v: v["method"].pop("revision")),
    "path in a file name": (
        BadStructure,
        lambda v: v["files"].update({"../images-00000.h5": {"bytes": 3, "sha256": HASH}}),
    ),
    "file no object": (BadStructure, lambda v: v["files"].update({image_name(2): 3})),
    "file without hash": (BadStructure, lambda v: v["files"].update({image_name(2): {"bytes": 3, "sha256": ""}})),
    "missing file": (MissingFile, lambda v: v["files"].update({image_name(2): {"bytes": 3, "sha256": HASH}})),
    "other hash": (ForeignLabels, lambda v: v["files"][image_name(0)].update(sha256=HASH)),
    "no image file": (ShardError, lambda v: v["files"].clear()),
    "boolean revision": (BadStructure, lambda v: v["method"].update(revision=True)),
    "real images unknown": (BadStructure, lambda v: v.update(contains_real_images="no")),
}


@pytest.mark.parametrize("fault", sorted(BROKEN_SETS))
def test_broken_set_files_are_named(tmp_path: Path, fault: str) -> None:
    folder = put_set(tmp_path / "set")
    expected, change = BROKEN_SETS[fault]
    edit(folder / "set.json", change)
    with pytest.raises(ShardError) as raised:
        read_set(folder)
    assert type(raised.value) is expected
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", Incomplete), (b"{", BadStructure), (b"\xff", BadStructure), (b"[]", NotASet), (b"3", NotASet)],
)
def test_set_json_that_is_no_such_thing(tmp_path: Path, content: bytes, expected: type[ShardError]) -> None:
    (tmp_path / "set.json").write_bytes(content)
    with pytest.raises(expected, match=r"set\.json"):
        read_set(tmp_path)


def test_no_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotASet, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(NotASet, match=r"no set\.json"):
        verify(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(100))
    with pytest.raises(NotASet, match="not an HDF5 file"):
        verify(tmp_path / "picture.png")
    with pytest.raises(MissingFile):
        read_images(tmp_path / "images.h5")
    with pytest.raises(ShardError, match='did you mean "hashes"'):
        read_set(put_set(tmp_path / "set"), "hash")  # type: ignore[arg-type]


def test_huge_set_json_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "set.json", "wb") as file:
        file.truncate(2**34)
    with pytest.raises(TooBig):
        read_set(tmp_path)


def test_old_superblocks_and_open_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w", libver="earliest"):
        pass
    with pytest.raises(BadStructure, match="superblock version 0"):
        read_images(tmp_path / "old.h5")
    path = put_images(tmp_path / "images.h5")
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data) + b"more")
    with pytest.raises(BadStructure, match="4 bytes behind its end"):
        read_images(path)
    data[11] = 1
    path.write_bytes(bytes(data))
    with pytest.raises(Incomplete, match="open for writing"):
        read_images(path)


# Damage anywhere is seen


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = put_images(tmp_path / "images.h5")
    data = path.read_bytes()
    for length in range(0, len(data), 29):
        path.write_bytes(data[:length])
        with pytest.raises((Incomplete, NotASet)):
            read_images(path)


def test_no_flipped_bit_gives_a_wrong_value(tmp_path: Path) -> None:
    path = put_labels(tmp_path / "labels.h5", [put_images(tmp_path / "images.h5")])
    data, true = path.read_bytes(), read_labels(path)
    expected = {name: array.copy() for name, array in true.columns.items()}
    random = np.random.default_rng(1)
    refused = 0
    for bit in random.integers(0, 8 * len(data), 400):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            found = read_labels(path, deep=True)
        except ShardError:
            refused += 1
            continue
        assert replace(found, columns={}) == replace(true, columns={})
        for name, array in expected.items():
            np.testing.assert_array_equal(found.columns[name], array)
    assert refused > 200


# Writing refuses what reading would refuse


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": [0, 1, 3]}, OutOfRange),
        ({"labels": [0, 1]}, BadStructure),
        ({"slots": [1, 0, 0]}, OutOfRange),
        ({"columns": {}}, BadStructure),
        ({"columns": {"images": np.zeros((3, 4, 5, 1))}}, BadStructure),
        ({"columns": {"images": np.zeros((3, 5, 4, 1), np.uint8)}}, BadStructure),
        ({"columns": {"images": np.zeros((0, 4, 5, 1), np.uint8)}, "labels": [], "slots": []}, BadStructure),
        ({"canvas": "tile"}, BadStructure),
        ({"settings": {"factor": 2}}, BadStructure),
        ({"spec": {**spec(), "name": "x" * 40_000}}, TooBig),
    ],
)
def test_bad_rows_are_not_written(tmp_path: Path, change: dict[str, Any], expected: type[ShardError]) -> None:
    good = {"columns": {"images": counting(3, 4, 5, 1)}, "labels": [0, 1, 2], "slots": [0, 0, 0], "spec": spec()}
    with pytest.raises(expected):
        write_images(tmp_path / "images.h5", **{**good, **change})


def test_a_writer_cut_short_leaves_an_incomplete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("condense.shards.write.sync", full)
    with pytest.raises(OSError, match="no space"):
        put_images(tmp_path / "images.h5")
    with pytest.raises(Incomplete):
        read_images(tmp_path / "images.h5")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = put_images(tmp_path / "images.h5")
    with pytest.raises(FileExistsError):
        put_images(path)


def test_a_set_needs_images_and_valid_words(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no image file"):
        write_set(tmp_path, info())
    put_images(tmp_path / image_name(0))
    with pytest.raises(BadStructure, match="classes"):
        write_set(tmp_path, info({**spec(), "classes": ["a", "a", "b"]}))
    assert not (tmp_path / "set.json").exists()


# In a process of its own


@pytest.mark.parametrize("level", ["structure", "hashes", "deep"])
def test_isolated_checking_says_the_same(tmp_path: Path, level: Level) -> None:
    folder = put_set(tmp_path / "set")
    for path in (folder, folder / image_name(1), folder / label_name(0)):
        assert verify_isolated(path, level) == verify(path, level)
    rewrite(folder / label_name(0), attributes={"codec": "ful"})
    reseal(folder)
    with pytest.raises(BadStructure) as here:
        verify(folder, level)
    with pytest.raises(BadStructure) as apart:
        verify_isolated(folder, level)
    assert str(apart.value) == str(here.value)
    with pytest.raises(NotASet, match="there is no such folder"):
        verify_isolated(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed the reader \(SIGSEGV\)"),
        ("held = bytearray(2 * 10**9)", "takes more than 1000000000 bytes of memory"),
        ("import time; time.sleep(60)", "did not end in 5 s"),
        ("import os; os._exit(3)", r"ended the reader \(status 3\)"),
    ],
)
def test_a_reader_that_fails_does_not_take_the_caller_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, message: str
) -> None:
    """The child runs a `verify` that misbehaves as a hostile file might make it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, condense.shards\n"
        f"def verify(*_):\n    {act}\n"
        "sys.modules['condense.shards.verify'].verify = verify\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("condense.shards.isolated.PATIENCE_S", 5.0)
    with pytest.raises(Hostile, match=message):
        verify_isolated(put_set(tmp_path / "set"))
