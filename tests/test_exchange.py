"""Sets to and from elsewhere: round trips, and what strangers may send."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_shards import info, put_images, put_set, spec
from typer.testing import CliRunner

import condense
from condense.api import Machine
from condense.cli import app
from condense.data import Data
from condense.dataset import load
from condense.errors import CondenseError, ConfigError, DataError, OutputError, ShardError, TeacherError
from condense.exchange import ForbiddenEntry, NotAPack, export_set, import_set, pack, unpack, unpacked
from condense.exchange.convert import to_nhwc, to_uint8
from condense.exchange.export import folder_names
from condense.exchange.imports import slots_of
from condense.exchange.output import new_file
from condense.files import sha256_file
from condense.shards import read_set, verify
from condense.shards.errors import BadChecksum, BadHash, BadStructure, MissingFile, NoLabels, NotASet, TooBig

FORMATS = ("imagefolder", "parquet", "safetensors", "npz")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def disk_full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A set of 6 items in two image files, with soft labels of two epochs."""
    return put_set(tmp_path / "set")


@pytest.fixture
def packed(made: Path, tmp_path: Path) -> Path:
    return pack(made, tmp_path / "set.zip")


# Packs


def test_a_set_is_packed_and_unpacked_to_the_same_bytes(made: Path, packed: Path, tmp_path: Path) -> None:
    assert unpack(packed, tmp_path / "again") == tmp_path / "again"
    assert files_of(tmp_path / "again") == files_of(made)
    assert pack(tmp_path / "again", tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_a_pack_is_looked_into_and_leaves_nothing(made: Path, packed: Path) -> None:
    with unpacked(packed) as folder:
        assert (folder / "set.json").read_bytes() == (made / "set.json").read_bytes()
    assert not folder.exists()
    with unpacked(made) as folder:
        assert folder == made
    result = CliRunner().invoke(app, ["verify", str(packed), "--deep"])
    assert result.exit_code == 0
    assert "valid" in result.output


def test_a_pack_holds_the_files_of_the_set_by_name_and_nothing_else(made: Path, tmp_path: Path) -> None:
    (made / "notes.txt").write_text("private")
    os.utime(made / "set.json", (10**9, 10**9))
    with zipfile.ZipFile(pack(made, tmp_path / "set.zip")) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == ["README.md", "images-00000.h5", "images-00001.h5", "labels-00000.h5", "set.json"]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_a_damaged_set_is_not_packed(made: Path, tmp_path: Path) -> None:
    damage(made / "images-00000.h5")
    with pytest.raises(BadHash):
        pack(made, tmp_path / "set.zip")
    assert not (tmp_path / "set.zip").exists()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(0, 70, 7)))] ^= 1  # a pixel
    path.write_bytes(content)


def repack(source: Path, change: Callable[[list[tuple[Any, bytes]]], list[tuple[Any, bytes]]]) -> Path:
    """The same pack with other entries: ``change`` gets and returns pairs of name (or ZipInfo) and content."""
    with zipfile.ZipFile(source) as archive:
        entries: list[tuple[Any, bytes]] = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(source, "w") as archive:
        for name, content in change(entries):
            archive.writestr(name, content)
    return source


def compressed(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def without(name: str, entries: list[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
    return [entry for entry in entries if entry[0] != name]


def replaced(name: str, content: bytes, entries: list[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
    return [(one, content if one == name else held) for one, held in entries]


HOSTILE: dict[str, tuple[Callable[[list[tuple[Any, bytes]]], list[tuple[Any, bytes]]], type[ShardError], str]] = {
    "path": (lambda e: [*e, ("../evil.h5", b"x")], ForbiddenEntry, "evil"),
    "absolute": (lambda e: [*e, ("/tmp/images-00009.h5", b"x")], ForbiddenEntry, "expected only"),
    "folder": (lambda e: [*e, ("sub/", b"")], ForbiddenEntry, "sub/"),
    "other name": (lambda e: [*e, ("run.py", b"x")], ForbiddenEntry, "run.py"),
    "backslash": (lambda e: [*e, ("..\\set.json", b"x")], ForbiddenEntry, "set.json"),
    "not named": (lambda e: [*e, ("images-00007.h5", b"x")], ForbiddenEntry, "does not name"),
    "compressed": (
        lambda e: [(compressed("README.md"), b"0" * 10**6), *without("README.md", e)], ForbiddenEntry, "compressed"),
    "no set.json": (lambda e: without("set.json", e), NotASet, "no set.json"),
    "file lacking": (lambda e: without("images-00001.h5", e), MissingFile, "lacks images-00001.h5"),
    "other size": (lambda e: replaced("images-00001.h5", b"short", e), BadStructure, "5 bytes"),
    "not a set": (lambda e: replaced("set.json", b"{}", e), NotASet, "condense-set"),
    "not JSON": (lambda e: replaced("set.json", b"\xff", e), BadStructure, "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_pack_is_refused_and_leaves_nothing(name: str, packed: Path, tmp_path: Path) -> None:
    change, fault, said = HOSTILE[name]
    repack(packed, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(fault, match=said) as caught:
        unpack(packed, tmp_path / "out")
    assert ".tmp" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_comes_twice_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        repack(packed, lambda entries: [*entries, ("set.json", b"{}")])
    with pytest.raises(ForbiddenEntry, match=r"set\.json twice"):
        unpack(packed, tmp_path / "out")


def test_another_set_inside_is_refused(packed: Path, tmp_path: Path) -> None:
    """Sizes are right, the content is not."""

    def change(entries: list[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
        held = dict(entries)
        return replaced("images-00000.h5", held["images-00001.h5"], entries)

    repack(packed, change)
    with pytest.raises(ShardError, match=r"set\.zip: images"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_flipped_bytes_are_noticed_by_the_archive(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[content.index(b"\x89HDF") + 100] ^= 1
    packed.write_bytes(content)
    with pytest.raises(BadChecksum, match=r"images-00000\.h5 is damaged"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 10, 3000, -1])
def test_a_pack_cut_short_is_refused(keep: int, packed: Path, tmp_path: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(NotAPack, match="get the file again"):
        unpack(packed, tmp_path / "out")


def directory_entry(content: bytes, name: bytes) -> int:
    """Where the entry of ``name`` begins in the list at the end of a pack."""
    return content.rindex(name) - 46


def test_declared_sizes_are_checked_before_anything_is_written(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    at = directory_entry(content, b"README.md")
    content[at + 20 : at + 28] = struct.pack("<II", 10**7, 10**7)
    packed.write_bytes(content)
    with pytest.raises(TooBig, match="declares"):
        unpack(packed, tmp_path / "out")
    content[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)
    packed.write_bytes(content)
    with pytest.raises(TooBig, match="the limit is"):
        unpack(packed, tmp_path / "out")


def test_a_long_list_of_entries_is_not_read(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condense.exchange.packing.MAX_DIRECTORY", 100)
    with pytest.raises(TooBig, match="list of entries"):
        unpack(packed, tmp_path / "out")


def test_many_entries_are_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condense.exchange.packing.MAX_FILES", 2)
    with pytest.raises(TooBig, match="5 entries"):
        unpack(packed, tmp_path / "out")


def test_encrypted_entries_are_refused(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[directory_entry(content, b"README.md") + 8] |= 1
    packed.write_bytes(content)
    with pytest.raises(ForbiddenEntry, match="encrypted"):
        unpack(packed, tmp_path / "out")


def test_a_name_with_a_zero_byte_is_seen_whole(packed: Path, tmp_path: Path) -> None:
    """The reader of the standard library ends names at a zero byte."""
    repack(packed, lambda e: [("README.md~.txt", held) if name == "README.md" else (name, held) for name, held in e])
    packed.write_bytes(packed.read_bytes().replace(b"README.md~.txt", b"README.md\0.txt"))
    with pytest.raises(ForbiddenEntry, match="README"):
        unpack(packed, tmp_path / "out")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="not a file"):
        unpack(tmp_path / "nothing.zip", tmp_path / "out")


# What exists stays, and a full disk leaves nothing


def test_nothing_is_overwritten(made: Path, packed: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    before = packed.read_bytes()
    for attempt in (
        lambda: pack(made, packed),
        lambda: unpack(packed, taken),
        *(lambda to=to: export_set(made, to, packed) for to in FORMATS),
        lambda: export_set(made, "imagefolder", taken),
    ):
        with pytest.raises(OutputError, match="exists"):
            attempt()
    assert packed.read_bytes() == before
    assert files_of(taken) == {"mine.txt": b"mine"}


def test_what_exists_is_refused_before_any_work(packed: Path) -> None:
    with pytest.raises(OutputError, match="exists"), new_file(packed):
        pytest.fail("begun")


def test_what_came_meanwhile_stays(tmp_path: Path) -> None:
    def write() -> None:
        with new_file(tmp_path / "out") as file:
            file.write(b"ours")
            (tmp_path / "out").write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists"):
        write()
    assert files_of(tmp_path) == {"out": b"theirs"}


def test_a_full_disk_leaves_nothing(made: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("os.fsync", disk_full)
    attempts = [lambda: pack(made, tmp_path / "out"), lambda: unpack(packed, tmp_path / "out")]
    for attempt in (*attempts, *(lambda to=to: export_set(made, to, tmp_path / "out") for to in FORMATS)):
        with pytest.raises(OutputError, match="the disk is full"):
            attempt()
    assert sorted(tmp_path.rglob("*")) == before


def test_of_several_sets_one_has_to_be_named(tmp_path: Path) -> None:
    for number in range(2):
        put_set(tmp_path / "sets" / f"set-{number}")
    for attempt in (
        lambda: pack(tmp_path / "sets", tmp_path / "out"),
        lambda: export_set(tmp_path / "sets", "npz", tmp_path / "out"),
    ):
        with pytest.raises(ConfigError, match="holds 2 sets; give one of them"):
            attempt()


# Exports


def test_arrays_are_the_items(made: Path, tmp_path: Path) -> None:
    dataset = load(made)
    export_set(made, "safetensors", tmp_path / "set.safetensors")
    export_set(made, "npz", tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays.pop("classes").tolist() == dataset.classes
    np.testing.assert_array_equal(arrays.pop("mean"), dataset.spec.mean)
    np.testing.assert_array_equal(arrays.pop("std"), dataset.spec.std)
    for found in (arrays, load_file(tmp_path / "set.safetensors")):
        assert sorted(found) == ["images", "labels"]
        np.testing.assert_array_equal(found["images"], dataset.images)
        assert found["images"].dtype == np.uint8
        np.testing.assert_array_equal(found["labels"], np.array(dataset.targets, dtype=np.int64))
        assert found["labels"].dtype == np.int64


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_set_gives_the_same_bytes(to: str, made: Path, tmp_path: Path) -> None:
    first, second = (export_set(made, to, tmp_path / name) for name in ("first", "second"))
    if to == "imagefolder":
        assert files_of(first) == files_of(second)
    else:
        assert first.read_bytes() == second.read_bytes()


def test_metadata_say_what_the_numbers_mean(made: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(export_set(made, "safetensors", tmp_path / "out.safetensors"), framework="numpy") as file:
        about = json.loads(file.metadata()["condense"])
    classes = ["class 0", "class 1", "class 2"]
    assert about == {"name": "tiny-ipc2-random", "classes": classes, "mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_soft_labels_are_the_mean_probabilities(to: str, made: Path, tmp_path: Path) -> None:
    out = export_set(made, to, tmp_path / f"out.{to}", soft=True)
    found = load_file(out) if to == "safetensors" else np.load(out)
    wanted = torch.stack([load(made).logits(epoch).softmax(1) for epoch in range(2)]).mean(0)
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-5)


def test_soft_labels_are_refused_where_there_are_none(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parquet holds classes only"):
        export_set(made, "parquet", tmp_path / "out", soft=True)
    plain = tmp_path / "plain"
    plain.mkdir()
    put_images(plain / "images-00000.h5")
    condense.shards.write_set(plain, info())
    with pytest.raises(NoLabels):
        export_set(plain, "npz", tmp_path / "out", soft=True)


def test_unknown_formats_and_other_channels_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "parquet"'):
        export_set(made, "parket", tmp_path / "out")
    folder = tmp_path / "two"
    folder.mkdir()
    values = spec(shape=(4, 5, 2))
    put_images(folder / "images-00000.h5", values=values)
    condense.shards.write_set(folder, info(values))
    for to in ("imagefolder", "parquet"):
        with pytest.raises(ConfigError, match="2 channels"):
            export_set(folder, to, tmp_path / "out")
    assert export_set(folder, "npz", tmp_path / "out").is_file()


def test_pictures_lie_in_a_folder_per_class(made: Path, tmp_path: Path) -> None:
    out = export_set(made, "imagefolder", tmp_path / "out")
    table = json.loads((out / "classes.json").read_text())
    assert table[1] == {"label": 1, "class": "class 1", "folder": "class_1"}
    dataset = load(made)
    for number, label in enumerate(dataset.targets):
        with Image.open(out / "train" / f"class_{label}" / f"{number}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), dataset.images[number, ..., 0])


def test_folder_names_are_safe_and_different() -> None:
    names = ["cat", "Cat", "T-shirt/top", "..", "", "CON", "a b", "a?b", "cat-1", "日本", "x" * 300, "x" * 301, "\0"]
    made = folder_names(names)
    assert len({name.casefold() for name in made}) == len(names)
    assert all(name.strip(" .") == name and not set(name) & set('/\\\0:*?"<>| ') for name in made)
    assert all(0 < len(name.encode()) < 255 for name in made)
    assert "con" not in {name.casefold() for name in made}
    assert made[:2] == ["cat", "Cat-1"]
    assert made[9] == "日本"


def test_parquet_has_the_features_of_the_hub(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = export_set(made, "parquet", tmp_path / "out.parquet")
    found = open_with_datasets("parquet", out, tmp_path)
    classes = ["class 0", "class 1", "class 2"]
    assert found.features == datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=classes))
    dataset = load(made)
    assert found["label"][:] == dataset.targets
    for number, row in enumerate(found):
        np.testing.assert_array_equal(np.asarray(row["image"]), dataset.images[number, ..., 0])


def test_parquet_without_pyarrow_says_what_to_install(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"condense-dd\[hub\]"):
        export_set(made, "parquet", tmp_path / "out.parquet")


# With the library of the Hub


def open_with_datasets(builder: str, path: Path, tmp_path: Path, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    cache = str(tmp_path / "cache")
    if builder:
        return datasets.load_dataset(builder, data_files=str(path), split="train", cache_dir=cache, **options)
    return datasets.load_dataset(str(path), split="train", cache_dir=cache, **options)


def test_plain_sets_open_with_datasets(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", minversion="4.5")
    dataset, slots = load(made), [0, 0, 0, 1, 1, 1]
    found = open_with_datasets("hdf5", made / "images-*.h5", tmp_path)
    assert len(found) == 6
    assert found["labels"][:] == dataset.targets
    assert found["slots"][:] == slots
    np.testing.assert_array_equal(np.array(found.with_format("numpy")["images"][:]), dataset.images)
    assert found.features["images"] == datasets.Array3D(shape=(4, 5, 1), dtype="uint8")


def test_the_card_of_a_set_is_understood(made: Path, tmp_path: Path) -> None:
    """A folder as it lies on the Hub: the card says which files, and what the labels mean."""
    datasets = pytest.importorskip("datasets", minversion="4.5")
    hub = pytest.importorskip("huggingface_hub")
    found = open_with_datasets("", made, tmp_path)
    assert found.features["labels"] == datasets.ClassLabel(names=["class 0", "class 1", "class 2"])
    assert found.features["images"] == datasets.Array3D(shape=(4, 5, 1), dtype="uint8")
    assert found["labels"][:] == load(made).targets
    about = hub.DatasetCard.load(made / "README.md").data
    assert (about.license, about.size_categories) == ("mit", ["n<1K"])


# Imports


@pytest.fixture
def own(tmp_path: Path, tiny_data: Data) -> Path:
    """Images and labels of the tiny data set as they may come, in arrays."""
    np.savez(tmp_path / "own.npz", images=tiny_data.train.images[::20], labels=tiny_data.train.labels[::20])
    return tmp_path / "own.npz"


def bring(source: Path, out: Path, data: Data, **changes: Any) -> Any:
    values = {"name": "theirs", "data": {"name": "tiny"}, "real": False, "licence": "MIT", **changes}
    return import_set(source, out, spec=values.pop("spec", data.spec), **values)


@pytest.mark.parametrize("to", ["imagefolder", "npz", "safetensors"])
def test_what_was_exported_comes_back(to: str, own: Path, tmp_path: Path, tiny_data: Data) -> None:
    first = bring(own, tmp_path / "first", tiny_data).path
    suffix = "" if to == "imagefolder" else f".{to}"
    exported = export_set(first, to, tmp_path / f"exported{suffix}")
    second = bring(exported, tmp_path / "second", tiny_data).path
    before, after = load(first), load(second)
    np.testing.assert_array_equal(after.images, before.images)
    assert after.targets == before.targets


def test_names_that_are_no_names_of_folders_come_back(own: Path, tmp_path: Path, tiny_data: Data) -> None:
    odd = type(tiny_data.spec)(**{**vars(tiny_data.spec), "classes": ("z/z", "Z_z", "..")})
    first = bring(own, tmp_path / "first", tiny_data, spec=odd).path
    exported = export_set(first, "imagefolder", tmp_path / "exported")
    second = bring(exported, tmp_path / "second", tiny_data, spec=odd).path
    assert load(second).targets == load(first).targets
    np.testing.assert_array_equal(load(second).images, load(first).images)


def test_an_imported_set_says_where_it_is_from(own: Path, tmp_path: Path, tiny_data: Data) -> None:
    made = bring(own, tmp_path / "out", tiny_data, real=True)
    assert verify(made.path, "deep").rows == 6
    about = read_set(made.path).info
    assert about.method == {"name": "imported", "revision": 1}
    assert about.contains_real_images is True
    assert about.config["source"] == {"images": sha256_file(own)}
    assert about.config["data"] == {"name": "tiny"}
    assert about.config["images_per_class"] == [2, 2, 2]
    assert (about.name, about.licence, about.spec) == ("theirs", "MIT", tiny_data.spec.to_dict())
    assert (made.clamped, made.lacking) == (0, ())


def test_images_of_a_class_keep_their_order(tmp_path: Path, tiny_data: Data) -> None:
    labels = np.array([2, 0, 2, 1, 0, 2])
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    found = load(bring(tmp_path / "x.npz", tmp_path / "out", tiny_data).path)
    assert found.targets == [0, 1, 2, 0, 2, 2]
    assert found.images[:, 0, 0, 0].tolist() == [1, 3, 0, 4, 2, 5]
    assert slots_of(labels).tolist() == [0, 0, 1, 0, 1, 2]


def test_classes_without_images_are_named(tmp_path: Path, tiny_data: Data) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 12, 12, 3), np.uint8), labels=np.array([2, 2]))
    assert bring(tmp_path / "x.npz", tmp_path / "out", tiny_data).lacking == ("rows", "columns")


RANGES: dict[str, Callable[[np.ndarray[Any, Any], Data], np.ndarray[Any, Any]]] = {
    "0-1": lambda pixels, data: pixels / 255,
    "0-255": lambda pixels, data: pixels,
    "normalised": lambda pixels, data: (pixels / 255 - np.array(data.spec.mean)) / np.array(data.spec.std),
}


@pytest.mark.parametrize("value_range", sorted(RANGES))
def test_tensors_come_in_any_convention(value_range: str, tmp_path: Path, tiny_data: Data) -> None:
    """In two files, channels first, as projects publish them."""
    pixels, labels = tiny_data.train.images[::20], tiny_data.train.labels[::20]
    values = RANGES[value_range](pixels.astype(np.float64), tiny_data).astype(np.float32)
    torch.save(torch.from_numpy(values).permute(0, 3, 1, 2).contiguous(), tmp_path / "images_best.pt")
    torch.save(torch.from_numpy(labels), tmp_path / "labels_best.pt")
    made = bring(
        tmp_path / "images_best.pt",
        tmp_path / "out",
        tiny_data,
        labels=tmp_path / "labels_best.pt",
        value_range=value_range,
    )
    found, order = load(made.path), np.lexsort((labels, slots_of(labels)))
    np.testing.assert_array_equal(found.images, pixels[order])
    assert found.targets == labels[order].tolist()
    assert made.clamped == 0
    assert found.info.config["source"]["labels"] == sha256_file(tmp_path / "labels_best.pt")


def test_values_out_of_range_are_clamped_and_counted(tiny_data: Data) -> None:
    images = np.full((300, 12, 12, 3), 0.5, dtype=np.float32)
    images[0, 0, 0] = (-0.1, 1.2, 1.0019)  # the last rounds to 255
    images[299, 0, 0, 0] = 7
    made, clamped = to_uint8(images, tiny_data.spec, "0-1")
    assert clamped == 3
    assert made[0, 0, 0].tolist() == [0, 255, 255]
    assert (made[299, 0, 0, 0], made[1, 0, 0, 0]) == (255, 128)


def test_ranges_are_never_guessed(tiny_data: Data) -> None:
    pixels = np.zeros((1, 12, 12, 3), np.float32)
    with pytest.raises(ConfigError, match="say what that means with --range"):
        to_uint8(pixels, tiny_data.spec, None)
    with pytest.raises(ConfigError, match='did you mean "normalised"'):
        to_uint8(pixels, tiny_data.spec, "normalized")
    with pytest.raises(ConfigError, match="the images are uint8"):
        to_uint8(pixels.astype(np.uint8), tiny_data.spec, "0-1")
    with pytest.raises(DataError, match="1 pixels that are not finite"):
        to_uint8(np.where(np.arange(3) == 1, np.nan, pixels[:, :1, :1]), tiny_data.spec, "0-1")
    with pytest.raises(DataError, match="complex"):
        to_uint8(pixels.astype(np.complex64), tiny_data.spec, "0-1")


def test_layouts_are_seen_in_the_shape_or_asked_for(tiny_data: Data) -> None:
    def like(height: int, width: int, channels: int) -> Any:
        return type(tiny_data.spec)(**{**vars(tiny_data.spec), "height": height, "width": width, "channels": channels})

    images = np.arange(2 * 3 * 12 * 12).reshape(2, 3, 12, 12)
    np.testing.assert_array_equal(to_nhwc(images, tiny_data.spec, None), images.transpose(0, 2, 3, 1))
    assert to_nhwc(images.transpose(0, 2, 3, 1), tiny_data.spec, None).shape == (2, 12, 12, 3)
    grey = np.zeros((2, 5, 4))
    for layout in (None, "nchw", "nhwc"):
        assert to_nhwc(grey, like(5, 4, 1), layout).shape == (2, 5, 4, 1)
    cube = np.arange(54).reshape(2, 3, 3, 3)
    with pytest.raises(ConfigError, match="may be NCHW or NHWC"):
        to_nhwc(cube, like(3, 3, 3), None)
    np.testing.assert_array_equal(to_nhwc(cube, like(3, 3, 3), "nhwc"), cube)
    np.testing.assert_array_equal(to_nhwc(cube, like(3, 3, 3), "nchw"), cube.transpose(0, 2, 3, 1))
    with pytest.raises(ConfigError, match='--layout is "hwc"'):
        to_nhwc(cube, like(3, 3, 3), "hwc")
    for wrong, layout in ((images, "nhwc"), (images[:, :1], None), (images[0], None), (images[:0], None)):
        with pytest.raises(DataError, match="the images have shape"):
            to_nhwc(wrong, tiny_data.spec, layout)


HELD: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "dict": lambda images, labels: {"images": images, "labels": labels},
    "pair": lambda images, labels: [images, labels],
    "experiments": lambda images, labels: {"data": [[images, labels]], "accs": [1.0]},
    "column of labels": lambda images, labels: (images, labels[:, None]),
}


@pytest.mark.parametrize("form", sorted(HELD))
def test_tensors_come_in_any_arrangement(form: str, tmp_path: Path, tiny_data: Data) -> None:
    images, labels = (torch.from_numpy(np.array(a[::20])) for a in (tiny_data.train.images, tiny_data.train.labels))
    torch.save(HELD[form](images, labels), tmp_path / "x.pth")
    found = load(bring(tmp_path / "x.pth", tmp_path / "out", tiny_data).path)
    assert sorted(found.targets) == [0, 0, 1, 1, 2, 2]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_a_pickled_object_is_refused_by_name(tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"images": torch.zeros(1), "more": Evil()}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r'it needs "\w+\.system", which could run code; save plain tensors'):
        bring(tmp_path / "x.pt", tmp_path / "out", tiny_data)
    np.savez(tmp_path / "x.npz", images=np.array([Evil()], dtype=object), labels=np.zeros(1, np.int64))
    with pytest.raises(DataError, match="Object arrays cannot be loaded"):
        bring(tmp_path / "x.npz", tmp_path / "out", tiny_data)
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="cannot be read"):
        bring(tmp_path / "x.npz", tmp_path / "out", tiny_data)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out").exists()


PIXELS = np.zeros((3, 12, 12, 3), np.uint8)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "labels out of range": ({"images": PIXELS, "labels": np.array([0, 1, 3])}, "label 3; tiny has classes 0 to 2"),
    "labels below zero": ({"images": PIXELS, "labels": np.array([0, 1, -1])}, "label -1"),
    "too few labels": ({"images": PIXELS, "labels": np.array([0, 1])}, "2 labels for 3 images"),
    "labels with fractions": ({"images": PIXELS, "labels": np.array([0.0, 1.5, 2])}, "expected whole numbers"),
    "no labels": ({"images": PIXELS}, "holds no labels"),
    "no images": ({"pictures": PIXELS, "labels": np.zeros(3, int)}, "holds no images: found pictures, labels"),
    "other size": ({"images": PIXELS[:, :8], "labels": np.zeros(3, int)}, "the images have shape"),
    "soft of other classes": ({"images": PIXELS, "logits": np.zeros((3, 4))}, r"expected \(3, 3\)"),
    "other classes": (
        {"images": PIXELS, "labels": np.zeros(3, int), "classes": np.array(["rows", "diagonals", "columns"])},
        'class 1 is "diagonals" in .* and "columns" in tiny',
    ),
    "fewer classes": ({"images": PIXELS, "labels": np.zeros(3, int), "classes": np.array(["rows"])}, "for 1 classes"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_does_not_fit_the_data_is_refused(name: str, tmp_path: Path, tiny_data: Data) -> None:
    arrays, said = WRONG[name]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=said):
        bring(tmp_path / "x.npz", tmp_path / "out", tiny_data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz"]


def test_other_files_are_refused(tmp_path: Path, tiny_data: Data) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    torch.save({"images": {"a": torch.zeros(1)}}, tmp_path / "x.pt")
    torch.save([torch.zeros(1), "text"], tmp_path / "y.pt")
    for name, said in {
        "x.pkl": 'ends in ".pkl"',
        "x.safetensors": "cannot be read",
        "x.pt": "holds no images",
        "y.pt": "holds list of 2",
        "z.pt": "does not exist",
        "nothing": "there is nothing",
    }.items():
        with pytest.raises(DataError, match=said):
            bring(tmp_path / name, tmp_path / "out", tiny_data)


def test_soft_labels_are_kept(tmp_path: Path, tiny_data: Data) -> None:
    """One vector an item, as float16; mixed where views are mixed."""
    soft = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0, 0, 1]])
    save_file({"images": PIXELS, "probabilities": soft}, tmp_path / "x.safetensors")
    made = load(bring(tmp_path / "x.safetensors", tmp_path / "out", tiny_data).path)
    assert made.targets == [0, 1, 2]
    (held,) = made.files.labels
    assert (held.codec, held.teachers) == ("static", [])
    np.testing.assert_allclose(np.exp(held.columns["logits"][0].astype(float)), soft[[1, 0, 2]], atol=2e-3)
    torch.save(torch.tensor([2, 1, 0]), tmp_path / "hard.pt")
    made = load(bring(tmp_path / "x.safetensors", tmp_path / "hard", tiny_data, labels=tmp_path / "hard.pt").path)
    assert made.targets == [0, 1, 2]
    assert made.only_hard


def test_imported_sets_are_measured_like_ours(tmp_path: Path, tiny_data: Data) -> None:
    soft = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0, 0, 1]])
    save_file({"images": PIXELS, "labels": np.array([1, 0, 2])}, tmp_path / "hard.safetensors")
    save_file({"images": PIXELS, "probabilities": soft}, tmp_path / "soft.safetensors")
    common: dict[str, Any] = {
        "students": ["convnet2-w8-bn"],
        "seeds": 1,
        "data": tiny_data,
        "settings": {"epochs": 2},
        "machine": Machine(store=tmp_path / "store"),
        "quiet": True,
    }
    hard = bring(tmp_path / "hard.safetensors", tmp_path / "hard", tiny_data).path
    ours, random = condense.evaluate([hard], **common)
    assert (ours.condition, ours.targets, random.condition) == ("theirs", "hard", "random")
    assert ours.config == random.config
    labelled = bring(tmp_path / "soft.safetensors", tmp_path / "soft", tiny_data).path
    results = condense.evaluate([labelled], against=[], **common)
    assert [result.targets for result in results] == ["soft", "hard"]
    with pytest.raises(TeacherError, match="does not say who labelled it"):
        condense.evaluate([labelled], **common)
    with pytest.raises(NoLabels, match="has classes and no soft labels"):
        condense.evaluate([hard], targets=["soft"], **common)
    settings = {"targets": "hard", "epochs": 1}
    out, machine = tmp_path / "net.safetensors", common["machine"]
    condense.train(hard, student="convnet2-w8-bn", out=out, settings=settings, machine=machine, quiet=True)


@pytest.fixture
def pictures(tmp_path: Path, tiny_data: Data) -> Path:
    for name, label in (("rows", 0), ("columns", 1), ("diagonals", 2)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(2):
            image = tiny_data.train.images[tiny_data.train.labels == label][number]
            Image.fromarray(image).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_folders_are_classes_by_name_not_by_order(pictures: Path, tmp_path: Path, tiny_data: Data) -> None:
    found = load(bring(pictures, tmp_path / "out", tiny_data).path)
    assert found.targets == [0, 1, 2, 0, 1, 2]
    for number, label in enumerate(found.targets):
        wanted = tiny_data.train.images[tiny_data.train.labels == label][number // 3]
        np.testing.assert_array_equal(found.images[number], wanted)


def test_pictures_that_do_not_fit_are_refused(pictures: Path, tmp_path: Path, tiny_data: Data) -> None:
    grey = type(tiny_data.spec)(**{**vars(tiny_data.spec), "channels": 1, "mean": (0.5,), "std": (0.2,)})
    with pytest.raises(DataError, match="has colour"):
        bring(pictures, tmp_path / "out", tiny_data, spec=grey)
    with pytest.raises(DataError, match="--labels goes with files"):
        bring(pictures, tmp_path / "out", tiny_data, labels=tmp_path / "x.pt")
    Image.new("RGB", (9, 12)).save(pictures / "rows" / "1.png")
    with pytest.raises(DataError, match="9 x 12 pixels, the images of tiny 12 x 12"):
        bring(pictures, tmp_path / "out", tiny_data)
    (pictures / "rows" / "1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as an image"):
        bring(pictures, tmp_path / "out", tiny_data)
    (pictures / "rows").rename(pictures / "row")
    with pytest.raises(DataError, match=r'class "row".*did you mean "rows"'):
        bring(pictures, tmp_path / "out", tiny_data)
    (pictures / "classes.json").write_text('[{"folder": "row"}]')
    with pytest.raises(DataError, match="does not say which class"):
        bring(pictures, tmp_path / "out", tiny_data)


def test_an_import_overwrites_nothing_and_a_full_disk_leaves_nothing(
    own: Path, tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        bring(tmp_path / "not even read", tmp_path / "out", tiny_data)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("condense.exchange.imports.write_set", disk_full)
    with pytest.raises(OutputError, match="the disk is full"):
        bring(own, tmp_path / "other", tiny_data)
    assert sorted(tmp_path.rglob("*")) == before


# From the command line


def test_the_way_through_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    data = condense.open_data("fashion-mini")
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:2] for label in range(10)])
    np.savez("x.npz", images=data.train.images[chosen] / 255, labels=data.train.labels[chosen])
    words = ("import", "x.npz", "--data", "fashion-mini", "--name", "theirs", "--real", "yes", "-o", "theirs")
    assert "--range" in run(*words, code=2)
    said = run(*words, "--range", "0-1", "--quiet")
    assert "images  20, " in said
    assert read_set("theirs").info.licence == "MIT"
    assert "valid" in run("verify", "theirs")
    run("grid", "theirs", "-o", "grid.png")
    assert "wrote theirs.zip" in run("pack", "theirs", "-o", "theirs.zip")
    assert "images  20, " in run("unpack", "theirs.zip", "-o", "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "theirs")
    assert "wrote out.npz" in run("export", "again", "--to", "npz", "-o", "out.npz")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "x", "--data", "fashion-mini"), "--real is missing"),
        (("--real", "no", "--data", "fashion-mini"), "--name is missing"),
        (("--real", "no", "--name", "x"), "--data is missing"),
        (("--real", "maybe", "--name", "x", "--data", "fashion-mini"), "expected yes or no"),
    ],
)
def test_what_only_a_person_knows_has_to_be_said(words: tuple[str, ...], said: str, own: Path, tmp_path: Path) -> None:
    line = run("import", own, "-o", tmp_path / "out", *words, code=2)
    assert said in line
    assert line.count("\n") == 1


def test_errors_are_errors_of_the_package() -> None:
    assert all(issubclass(fault, CondenseError) for fault in (NotAPack, ForbiddenEntry))
