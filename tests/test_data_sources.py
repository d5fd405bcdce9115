"""Named sets from files that are there, and data from a user's function."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from condense.data import Data, known, open_data
from condense.data.embedded import Embedded
from condense.data.idx import PARTS, find_idx, read_idx
from condense.data.known import CifarSet, IdxSet, Known, SvhnSet
from condense.errors import ConfigError, DataError

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_fashion_mini.py"


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_arrays(train: int = 40, test: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for count in (train, test):
        made += [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), (np.arange(count) % 10).astype(np.uint8)]
    return made


def write_idx(folder: Path, *, packed: bool = True, arrays: list[np.ndarray] | None = None) -> None:
    folder.mkdir(parents=True)
    for part, array in zip(PARTS, arrays or idx_arrays(), strict=True):
        data = idx_bytes(array)
        (folder / (f"{part}.gz" if packed else part)).write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Known, folder: Path) -> None:
        raise OSError("no network")

    for kind in (IdxSet, CifarSet, SvhnSet):
        monkeypatch.setattr(kind, "fetch", refuse)


def opened(name: str, root: Path, **settings: object) -> Data:
    return open_data(name, root=root, cache=root.parent / "cache", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", ""),
        ("mnist", "MNIST/raw"),
    ],
)
def test_idx_sets_are_found_in_every_layout(tmp_path: Path, name: str, below: str, packed: bool) -> None:
    write_idx(tmp_path / "root" / below, packed=packed)
    data = opened(name, tmp_path / "root")
    images, labels = idx_arrays()[:2]
    np.testing.assert_array_equal(data.train.images[..., 0], images)
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.spec.train_sizes == (4,) * 10
    assert data.spec.name == name


def test_the_root_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("CONDENSE_DATA", str(tmp_path))
    assert open_data("mnist", cache=tmp_path / "cache").spec.classes[3] == "3"


def test_the_folder_of_the_system_package_is_looked_in() -> None:
    fashion = known.KNOWN["fashion-mnist"]
    assert Path("/usr/share/datasets/fashion-mnist") in fashion.folders(Path("root"))
    assert Path("/usr/share/datasets/fashion-mnist") not in known.KNOWN["mnist"].folders(Path("root"))


def test_published_constants(tmp_path: Path) -> None:
    write_idx(tmp_path / "root")
    measured, published = (opened("mnist", tmp_path / "root", normalisation=kind) for kind in ("data", "published"))
    assert (published.spec.mean, published.spec.std) == ((0.1307,), (0.3081,))
    assert measured.spec.fingerprint != published.spec.fingerprint
    assert measured.cache == published.cache
    with pytest.raises(ConfigError, match="not for 3 channels"):
        opened("mnist", tmp_path / "root", normalisation="published", channels=3)


def test_one_set_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "root")
    owner = {hashlib.sha256(idx_arrays()[1].tobytes()).hexdigest(): "fashion-mnist"}
    monkeypatch.setattr(known, "LABEL_OWNERS", owner)
    assert opened("fashion-mnist", tmp_path / "root").spec.name == "fashion-mnist"
    with pytest.raises(DataError, match="holds fashion-mnist, not mnist"):
        opened("mnist", tmp_path / "root")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn"])
def test_missing_files_name_the_places_and_the_way_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is in none of .*--data-root") as caught:
        opened(name, tmp_path / "root")
    assert str(tmp_path / "root") in str(caught.value)
    assert "no network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "root").iterdir()) == []


def test_what_is_fetched_is_found_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def fetch(self: Known, folder: Path) -> None:
        fetched.append(folder)
        write_idx(folder / "MNIST" / "raw")

    monkeypatch.setattr(IdxSet, "fetch", fetch)
    first, second = opened("mnist", tmp_path / "root"), opened("mnist", tmp_path / "root")
    assert first.spec == second.spec
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["MNIST"]


def test_an_incomplete_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IdxSet, "fetch", lambda self, folder: (folder / "MNIST").mkdir())
    with pytest.raises(DataError, match="are incomplete"):
        opened("mnist", tmp_path / "root")


def test_cifar_files_are_checked_before_they_are_unpickled(tmp_path: Path) -> None:
    dataset = known.KNOWN["cifar10"].dataset
    folder = tmp_path / "root" / dataset.base_folder
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"the files of cifar10 in .* are damaged"):
        opened("cifar10", tmp_path / "root")


def test_svhn_is_read_with_digits_as_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = known.KNOWN["svhn"].dataset
    monkeypatch.setattr(dataset, "split_list", {k: [*v[:2], None] for k, v in dataset.split_list.items()})
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20) % 10
    (tmp_path / "root").mkdir()
    for part in ("train", "test"):
        stored = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        savemat(tmp_path / "root" / f"{part}_32x32.mat", stored)
    data = opened("svhn", tmp_path / "root")
    np.testing.assert_array_equal(data.test.images, images)
    np.testing.assert_array_equal(data.test.labels, labels)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "but its header says 3"),
        (lambda data: data + b"x", "but its header says 3"),
        (lambda data: data[:6], "is not an idx file"),
        (lambda data: b"", "is not an idx file"),
        (lambda data: b"\0\0\x0d\x01" + data[4:], "is not an idx file"),
        (lambda data: b"\0\0\x08\x02" + data[4:], "is not an idx file"),
        (lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "header says 4294967295"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "labels"
    path.write_bytes(damage(idx_bytes(np.arange(3, dtype=np.uint8))))
    with pytest.raises(DataError, match=words) as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"no gzip", gzip.compress(b"x" * 99)[:-9], gzip.compress(bytes(range(99)))[:40]])
def test_damaged_gzip(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "labels.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"labels\.gz cannot be read"):
        read_idx(tmp_path / "labels.gz", 1)


def test_images_and_labels_must_agree_in_number(tmp_path: Path) -> None:
    arrays = idx_arrays()
    write_idx(tmp_path / "root", arrays=[arrays[0], arrays[1][:-1], *arrays[2:]])
    with pytest.raises(DataError, match="40 images, but there are 39 labels"):
        opened("mnist", tmp_path / "root")


def test_a_folder_that_lacks_a_part_is_passed_over(tmp_path: Path) -> None:
    write_idx(tmp_path / "f")
    assert find_idx(tmp_path / "f") is not None
    (tmp_path / "f" / f"{PARTS[3]}.gz").unlink()
    assert find_idx(tmp_path / "f") is None


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fashion_mini", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_the_same_bytes_twice(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PER_CLASS", {"train": 3, "test": 2})
    write_idx(tmp_path / "in")
    for out in ("a", "b"):
        script.make(tmp_path / "in", tmp_path / out)
    for name in ("train.npy.xz", "test.npy.xz", "LICENSE"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    drawn = Embedded(folder=tmp_path / "a").contents()
    for part, images in zip((drawn.train, drawn.test), idx_arrays()[::2], strict=True):
        source = {image.tobytes(): i % 10 for i, image in enumerate(images)}
        assert [source[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_the_script_draws_each_image_once_from_its_class(script: ModuleType) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 2000).astype(np.uint8)
    chosen = script.draw(labels, 100, "train")
    assert chosen.shape == (10, 100)
    assert len(np.unique(chosen)) == 1000
    np.testing.assert_array_equal(labels[chosen], np.repeat(np.arange(10)[:, None], 100, axis=1))
    assert chosen.tolist() != script.draw(labels, 100, "test").tolist()


class Listed:
    """A torchvision-style dataset over a list."""

    def __init__(self, items: list[tuple[object, int]], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.items[index]


IMAGES = np.random.default_rng(1).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1])


def from_function(monkeypatch: pytest.MonkeyPatch, cache: Path, returned: object, **settings: object) -> Data:
    """Open ``custom_data:load``, a function that returns what is given."""
    module = ModuleType("custom_data")
    module.load = lambda: returned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "custom_data", module)
    return open_data("custom_data:load", cache=cache, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "form",
    [
        lambda image: image,
        Image.fromarray,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
    ],
    ids=["array", "PIL", "uint8 tensor", "float tensor"],
)
def test_datasets_of_every_form_of_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form) -> None:  # type: ignore[no-untyped-def]
    part = Listed([(form(image), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)], ["x", "y"])
    data = from_function(monkeypatch, tmp_path, (part, part))
    np.testing.assert_array_equal(data.train.images, IMAGES)
    np.testing.assert_array_equal(data.test.labels, LABELS)
    assert data.spec.classes == ("x", "y")
    assert data.spec.name == "custom_data:load"


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, channels: int | None) -> None:
    images = {None: IMAGES[..., 0], 1: IMAGES[..., :1], 3: IMAGES}[channels]
    part = (images, LABELS.tolist())
    data = from_function(monkeypatch, tmp_path, (part, part, ["x", "y"]))
    np.testing.assert_array_equal(data.train.images, images[..., None] if channels is None else images)
    assert data.spec.classes == ("x", "y")
    assert from_function(monkeypatch, tmp_path, (part, part)).spec.classes == ("0", "1")
    changed = (255 - images, LABELS)
    assert from_function(monkeypatch, tmp_path, (changed, part)).spec.fingerprint != data.spec.fingerprint


def test_images_of_different_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part = Listed([(Image.new("L", (20 + i, 16), i), i % 2) for i in range(6)])
    assert from_function(monkeypatch, tmp_path, (part, part)).spec.image_shape == (16, 16, 1)


def test_finished_data_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_data: Data) -> None:
    assert from_function(monkeypatch, tmp_path, tiny_data) is tiny_data
    with pytest.raises(ConfigError, match="returns finished Data"):
        from_function(monkeypatch, tmp_path, tiny_data, size=32)
    with pytest.raises(DataError, match="its spec says"):
        from_function(monkeypatch, tmp_path, Data(tiny_data.spec, tiny_data.test, tiny_data.train))


GOOD = (IMAGES, LABELS)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned NoneType; expected Data"),
        ((GOOD,), "returned tuple; expected Data"),
        ((GOOD, 3), r"\(test\) is int"),
        (((IMAGES.astype(float), LABELS), GOOD), "has images float64"),
        (((IMAGES[..., :2], LABELS), GOOD), "expected uint8"),
        (((IMAGES, LABELS[:-1]), GOOD), "expected 6 integers"),
        (((IMAGES, LABELS / 2), GOOD), "expected 6 integers"),
        (((IMAGES[:0], LABELS[:0]), GOOD), "is empty"),
        ((GOOD, (IMAGES, LABELS - 1)), "labels of the test split must be 0 to 1"),
        ((GOOD, GOOD, ["x"]), "has 1 classes; expected at least 2"),
        ((GOOD, GOOD, ["x", "x"]), "class names must differ"),
        ((GOOD, GOOD, ["x", "y", "z"]), 'class "z" has no images in the train split'),
        ((Listed([(IMAGES[0] / 10, 0)]), GOOD), r"item 0 of .* not in \[0, 1\]"),
        ((Listed([(IMAGES[0].astype(int), 0)]), GOOD), "int64 values, not uint8"),
        ((Listed([(IMAGES[0], "cat")]), GOOD), "item 0 of"),  # type: ignore[list-item]
    ],
)
def test_other_returns_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, returned: object, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        from_function(monkeypatch, tmp_path, returned)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module_here:load", 'cannot import "no_such_module_here"'),
        ("json:lods", 'module "json" has no callable "lods"; did you mean "loads"'),
        ("json:decoder", "has no callable"),
    ],
)
def test_names_that_lead_nowhere(name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_data(name)
