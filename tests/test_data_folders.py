"""``imagefolder:PATH``: layouts, splits, broken folders, the index of files seen."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condense.console import LineReport
from condense.data import Data, open_data, seen
from condense.errors import ConfigError, DataError


def write_classes(folder: Path, counts: dict[str, int], size: tuple[int, int] = (10, 10), kind: str = "png") -> None:
    """One plain grey image per file, each with a value of its own."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", size, 50 * number + i).save(folder / name / f"{i:03d}.{kind}")


def opened(folder: Path, **settings: object) -> Data:
    return open_data(f"imagefolder:{folder}", cache=folder.parent / "cache", **settings)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``pets``: train and test, two classes."""
    write_classes(tmp_path / "pets" / "train", {"dog": 3, "cat": 4})
    write_classes(tmp_path / "pets" / "test", {"dog": 2, "cat": 1})
    return tmp_path / "pets"


def test_train_and_test_folders(folder: Path) -> None:
    data = opened(folder)
    assert data.spec.classes == ("cat", "dog")
    assert (data.spec.train_sizes, data.spec.test_sizes) == ((4, 3), (1, 2))
    assert data.spec.image_shape == (10, 10, 1)
    assert data.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [50, 51, 52, 53, 0, 1, 2]
    assert data.spec.name == "imagefolder:pets"


def test_val_serves_where_there_is_no_test(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert opened(folder).spec.test_sizes == (1, 2)


@pytest.mark.parametrize("below", ["", "train"])
def test_a_part_is_held_out_where_there_is_no_test_folder(tmp_path: Path, below: str) -> None:
    write_classes(tmp_path / "f" / below, {"a": 10, "b": 20, "c": 2})
    data, again, other = (opened(tmp_path / "f", seed=seed) for seed in (0, 0, 1))
    assert data.spec.test_sizes == (2, 4, 1)
    assert data.spec.train_sizes == (8, 16, 1)
    values = np.concatenate([data.train.images[:, 0, 0, 0], data.test.images[:, 0, 0, 0]])
    assert sorted(values.tolist()) == [*range(10), *range(50, 70), 100, 101]
    assert data.spec == again.spec
    assert data.spec.fingerprint != other.spec.fingerprint
    assert opened(tmp_path / "f", test_fraction=0.5).spec.test_sizes == (5, 10, 1)


def test_published_constants_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no published normalisation is known for imagefolder:pets"):
        opened(folder, normalisation="published")


def test_sizes_and_modes_may_differ(tmp_path: Path) -> None:
    write_classes(tmp_path / "f", {"a": 3}, size=(20, 40))
    write_classes(tmp_path / "f", {"b": 3}, size=(30, 17), kind="jpg")
    Image.new("RGB", (90, 16), (255, 0, 0)).save(tmp_path / "f" / "b" / "red.png")
    data = opened(tmp_path / "f")
    assert data.spec.image_shape == (16, 16, 3)
    assert opened(tmp_path / "f", size=24, channels=1).spec.image_shape == (24, 24, 1)


def test_litter_and_notes_are_passed_over(folder: Path) -> None:
    before = opened(folder).spec
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
        (folder / "train" / "cat" / name).write_bytes(b"litter")
    (folder / "train" / "__MACOSX").mkdir()
    (folder / "train" / "README.txt").write_text("about these pictures")
    assert opened(folder).spec == before


class Notes(LineReport):
    """What is said once."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), every_s=1e9)

    @property
    def lines(self) -> list[str]:
        assert isinstance(self.stream, io.StringIO)
        return self.stream.getvalue().splitlines()


def test_files_that_are_no_images_are_passed_over_and_counted(folder: Path) -> None:
    before, notes = opened(folder, report=(clean := Notes())).spec, Notes()
    assert clean.lines == []
    (folder / "train" / "cat" / "README.txt").write_text("about these pictures")
    assert opened(folder, report=notes).spec == before
    assert notes.lines == [f"note: 1 file that is no image was passed over in {folder}: train/cat/README.txt"]
    (folder / "train" / "dog" / "below").mkdir()
    for place in ("train/dog/.DS_Store", "train/dog/below/Thumbs.db", "test/dog/labels.csv", "test/dog/no_suffix"):
        (folder / place).write_bytes(b"")
    again = Notes()
    assert opened(folder, report=again).spec == before
    assert again.lines == [
        f"note: 5 files that are no images were passed over in {folder}: train/cat/README.txt, train/dog/.DS_Store, "
        "train/dog/below/Thumbs.db, ..."
    ]


def test_images_are_found_at_any_depth(folder: Path) -> None:
    (folder / "train" / "cat" / "more").mkdir()
    Image.new("L", (10, 10), 9).save(folder / "train" / "cat" / "more" / "x.png")
    assert opened(folder).spec.train_sizes == (5, 3)


def test_a_copy_elsewhere_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    write_classes(tmp_path / "copy" / "train", {"dog": 3, "cat": 4})
    write_classes(tmp_path / "copy" / "test", {"dog": 2, "cat": 1})
    first, second = opened(folder), opened(tmp_path / "copy")
    assert first.spec.fingerprint == second.spec.fingerprint
    assert first.cache == second.cache


def break_missing(folder: Path) -> Path:
    os.rename(folder, folder.with_name("gone"))
    return folder


def break_file(folder: Path) -> Path:
    os.rename(folder, folder.with_name("gone"))
    folder.write_bytes(b"")
    return folder


def break_empty(folder: Path) -> Path:
    os.rename(folder, folder.with_name("gone"))
    folder.mkdir()
    return folder


def break_class(folder: Path) -> Path:
    (folder / "train" / "bird").mkdir()
    return folder / "train" / "bird"


def break_class_litter(folder: Path) -> Path:
    (folder / "train" / "bird").mkdir()
    (folder / "train" / "bird" / ".keep").write_bytes(b"")
    return folder / "train" / "bird"


def break_class_notes(folder: Path) -> Path:
    (folder / "train" / "bird").mkdir()
    (folder / "train" / "bird" / "001").write_bytes(b"")
    (folder / "train" / "bird" / "notes.txt").write_text("no image")
    return folder / "train" / "bird"


def break_text(folder: Path) -> Path:
    path = folder / "train" / "cat" / "notes.JPG"
    path.write_text("no image")
    return path


def break_photograph(folder: Path) -> Path:
    path = folder / "train" / "cat" / "holiday.HEIC"
    path.write_bytes(b"of a kind that is not read")
    return path


def break_truncated(folder: Path) -> Path:
    path = folder / "test" / "dog" / "cut.jpg"
    Image.effect_noise((10, 10), 80).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def break_header(folder: Path) -> Path:
    path = folder / "train" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:20])
    return path


def break_nothing_in_file(folder: Path) -> Path:
    path = folder / "train" / "dog" / "001.png"
    path.write_bytes(b"")
    return path


def break_float(folder: Path) -> Path:
    path = folder / "train" / "dog" / "float.tif"
    Image.new("F", (10, 10), 0.5).save(path)
    return path


def break_test_classes(folder: Path) -> Path:
    os.rename(folder / "test" / "dog", folder / "test" / "wolf")
    return folder / "test"


def break_stray(folder: Path) -> Path:
    path = folder / "train" / "stray.png"
    Image.new("L", (10, 10)).save(path)
    return path


def break_train(folder: Path) -> Path:
    os.rename(folder / "train", folder / "training")
    return folder


def break_classes(folder: Path) -> Path:
    for part in ("train", "test"):
        os.rename(folder / part / "dog", folder / part / ".dog")
    return folder / "train"


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (break_missing, "is not a folder"),
        (break_file, "is not a folder"),
        (break_empty, "has 0 class folders"),
        (break_class, "has no images"),
        (break_class_litter, "has no images"),
        (break_class_notes, "has no images \\(but 2 other files: 001, notes.txt; images are known by a suffix"),
        (break_text, "cannot be read as an image"),
        (break_photograph, "cannot be read as an image"),
        (break_truncated, "cannot be read as an image"),
        (break_header, "cannot be read as an image"),
        (break_nothing_in_file, "cannot be read as an image"),
        (break_float, "floating-point"),
        (break_test_classes, '"dog" is in only one'),
        (break_stray, "lies outside the class folders"),
        (break_train, "but no train/"),
        (break_classes, "has 1 class folders; expected at least 2"),
    ],
)
def test_broken_folders_are_refused_in_one_line_that_names_the_path(folder: Path, break_it, words: str) -> None:  # type: ignore[no-untyped-def]
    path = break_it(folder)
    with pytest.raises(DataError, match=words) as caught:
        opened(folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((folder.parent / "cache").glob("data/*"))
    assert not list((folder.parent / "cache").glob("data/.*"))


def test_a_class_of_one_cannot_be_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "f", {"a": 10, "b": 1})
    with pytest.raises(DataError, match=r'class "b" of .* has only one image'):
        opened(tmp_path / "f")


def test_only_files_that_changed_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(folder)
    read: list[int] = []
    monkeypatch.setattr(seen, "look", lambda image, original=seen.look: read.append(1) or original(image))
    assert opened(folder).spec == before.spec
    assert read == []
    Image.new("L", (10, 10), 200).save(folder / "train" / "cat" / "000.png")
    os.utime(folder / "train" / "cat" / "000.png", ns=(1, 1))
    after = opened(folder)
    assert len(read) == 1
    assert after.spec.fingerprint != before.spec.fingerprint
    assert after.train.images[0, 0, 0, 0] == 200


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"version":1,"files":{"a":[1]}}', b'{"version":0}'])
def test_a_damaged_index_only_costs_time(folder: Path, content: bytes) -> None:
    before = opened(folder).spec
    (index,) = (folder.parent / "cache" / "index").iterdir()
    index.write_bytes(content)
    assert opened(folder).spec == before
    assert len(seen.read_index(index)) == 10


def test_progress_is_reported(folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    opened(folder, report=lambda stage, done, total, figures={}: calls.append((stage, done, total)))
    assert calls == [("reading image files", 10, 10), ("decoding train images", 7, 7), ("decoding test images", 3, 3)]
