"""Canvases: rows decode to exactly the items of `SPEC.md`, from no more than their rows, and bad ones are named."""

from __future__ import annotations

import json
import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from golden_canvases import (
    GOLDEN,
    LABELS,
    SETTINGS,
    SHAPE,
    SLOTS,
    Array,
    Shape,
    columns_of,
    drawn,
    items_by_loops,
    put_canvas_set,
    spec,
)
from test_shards import GOLDEN_HDF5, patch_header, put_labels, reseal

import condense
from condense.errors import ShardError
from condense.shards import SetInfo, image_name, label_name, read_images, read_set, verify, write_images, write_set
from condense.shards.decode import CANVASES
from condense.shards.errors import BadChecksum, BadStructure, ForbiddenStorage, ForbiddenType, OutOfRange
from condense.shards.layout import IMAGES_FORMAT, VERSION, record_checksums, to_json
from condense.shards.write import write_table

CASES: dict[str, tuple[str, Shape, dict[str, Any]]] = {
    **{name: (name, SHAPE, settings) for name, settings in SETTINGS.items()},
    "tiles of factor 1": ("tiles", (3, 5, 2), {"factor": 1}),
    "tiles of factor 3": ("tiles", (9, 6, 1), {"factor": 3}),
    "tiles of one pixel": ("tiles", (4, 4, 3), {"factor": 4}),
    "tiles of one row": ("tiles", (5, 20, 1), {"factor": 5}),
    "sums only": ("compensated", (2, 3, 1), {"compensators": 3, "with_original": False}),
    "one patch kept": ("patches", (4, 6, 3), {"patch": 2, "kept": 1, "fill": "mean"}),
    "all patches kept": ("patches", (4, 6, 2), {"patch": 2, "kept": 6, "fill": "mean"}),
    "constant fill": ("patches", (6, 3, 3), {"patch": 3, "kept": 1, "fill": [0, 200, 255]}),
    "patches of one pixel": ("patches", (2, 5, 1), {"patch": 1, "kept": 7, "fill": [9]}),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> tuple[str, Shape, dict[str, Any]]:
    return CASES[request.param]


def decode(name: str, columns: Any, shape: Shape, settings: dict[str, Any], items: Any = slice(None)) -> Array:
    return CANVASES[name].decode(columns, shape, settings, items)


# Rows decode to the items of the specification


def test_every_canvas_is_tested() -> None:
    assert set(SETTINGS) == set(CANVASES) == {name for name, _, _ in CASES.values()}


def test_items_are_those_of_plain_loops(case: tuple[str, Shape, dict[str, Any]]) -> None:
    name, shape, settings = case
    columns = columns_of(name, shape, settings)
    found = decode(name, columns, shape, settings)
    assert found.dtype == np.uint8
    assert found.shape == (4 * CANVASES[name].items_per_row(settings), *shape)
    np.testing.assert_array_equal(found, items_by_loops(name, columns, shape, settings))


def test_columns_are_those_of_the_specification(case: tuple[str, Shape, dict[str, Any]]) -> None:
    name, shape, settings = case
    canvas = CANVASES[name]
    assert canvas.check(shape, settings) == ""
    columns = columns_of(name, shape, settings)
    assert {key: (np.dtype(rule.dtype), rule.shape) for key, rule in canvas.columns(shape, settings).items()} == {
        key: (array.dtype, array.shape[1:]) for key, array in columns.items()
    }
    assert canvas.fault(columns, shape, settings) == ""


def test_any_choice_of_items_is_that_of_all(case: tuple[str, Shape, dict[str, Any]]) -> None:
    name, shape, settings = case
    columns = columns_of(name, shape, settings)
    whole = decode(name, columns, shape, settings)
    n = len(whole)
    for part in (slice(1, n - 1), slice(None, None, -1), slice(0, n, 2), slice(n, None), slice(-3, None), slice(2, 99)):
        np.testing.assert_array_equal(decode(name, columns, shape, settings, part), whole[part])
    for chosen in ([n - 1, 0, 0, n // 2], [-1, -n], []):
        numbers = np.array(chosen, dtype=np.int64)
        np.testing.assert_array_equal(decode(name, columns, shape, settings, numbers), whole[numbers])
        assert numbers.tolist() == chosen
    for index in range(n):
        np.testing.assert_array_equal(decode(name, columns, shape, settings, slice(index, index + 1)), whole[[index]])
    for outside in (n, -n - 1):
        with pytest.raises(IndexError):
            decode(name, columns, shape, settings, np.array([outside]))


def test_many_items_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condense.shards.items.BLOCK", 3)
    for name, settings in SETTINGS.items():
        columns = columns_of(name)
        expected = items_by_loops(name, columns, SHAPE, settings)
        np.testing.assert_array_equal(decode(name, columns, SHAPE, settings), expected)


@pytest.mark.parametrize(
    ("factor", "shape"), [(2, (28, 28, 1)), (3, (15, 33, 3)), (4, (32, 64, 2)), (2, (2, 40_000, 1))]
)
def test_tiles_are_bilinear_to_half_a_grey_level(factor: int, shape: Shape) -> None:
    images, (height, width, _) = drawn(7, 3, *shape), shape
    found = decode("tiles", {"images": images}, shape, {"factor": factor}).astype(float)
    for item, image in enumerate(found):
        row, tile = divmod(item, factor * factor)
        top, left = tile // factor * (height // factor), tile % factor * (width // factor)
        small = images[row, top : top + height // factor, left : left + width // factor]
        chw = torch.from_numpy(small).permute(2, 0, 1)[None].double()
        large = torch.nn.functional.interpolate(chw, (height, width), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(image, large[0].permute(1, 2, 0).numpy(), atol=0.5 + 1e-9, rtol=0)


def test_halves_are_rounded_up() -> None:
    rows = np.array([0, 0, 2, 0], np.uint8).reshape(1, 2, 2, 1)  # tiles of one pixel: no interpolation, no rounding
    assert decode("tiles", {"images": rows}, (2, 2, 1), {"factor": 2})[:, 0, 0, 0].tolist() == [0, 0, 2, 0]
    row = np.array([0, 2, 0, 2] * 2, np.uint8).reshape(1, 2, 4, 1)  # at a quarter and three quarters: 0.5 and 1.5
    assert decode("tiles", {"images": row}, (2, 4, 1), {"factor": 2})[0, 0, :, 0].tolist() == [0, 1, 2, 2]
    half = {"patches": np.array([[0], [1]], np.uint8).reshape(1, 2, 1, 1, 1), "places": np.array([[0, 1]], np.uint16)}
    settings = {"patch": 1, "kept": 2, "fill": "mean"}
    assert decode("patches", half, (1, 3, 1), settings).ravel().tolist() == [0, 1, 1]


def test_extreme_numbers_do_not_overflow() -> None:
    shape, settings = (1024, 1024, 1), {"factor": 1024}
    columns = {"images": np.full((1, *shape), 255, np.uint8)}
    assert decode("tiles", columns, shape, settings, slice(0, 1)).min() == 255
    extreme = {
        "images": np.array([[0, 255]] * 2, np.uint8).reshape(2, 1, 2, 1),
        "uses": np.array([[0, 1]] * 2, np.uint32),
        "compensators": np.array([[-32768, -32768], [32767, 32767]], np.int16).reshape(2, 1, 2, 1),
    }
    sums = decode("compensated", extreme, (1, 2, 1), {"compensators": 2, "with_original": False})
    assert sums[..., 0].tolist() == [[[0, 0]], [[255, 255]]] * 2


def test_factor_one_is_pixels() -> None:
    rows = columns_of("pixels")
    np.testing.assert_array_equal(decode("tiles", rows, SHAPE, {"factor": 1}), rows["images"])


# Only the rows that are asked for are read


def huge(tmp_path: Path, name: str, dtype: Any, *shape: int) -> Array:
    """A memory map of a sparse file."""
    with open(tmp_path / name, "wb") as file:
        file.truncate(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    return np.memmap(tmp_path / name, dtype, "r", shape=shape).view(np.ndarray)


def resident() -> int:
    """Bytes of this process in memory, pages of memory maps that were read included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what is resident")
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_one_item_touches_only_its_rows(tmp_path: Path, name: str) -> None:
    """Of columns of gigabytes: neither are they copied nor their pages read."""
    shape, rows = (64, 64, 4), 2**18
    settings = {**SETTINGS[name], **({"kept": 512} if name == "patches" else {})}
    decode(name, columns_of(name, shape, settings), shape, settings)  # what the first use costs is paid here
    columns: dict[str, Array] = {}
    for key, rule in CANVASES[name].columns(shape, settings).items():
        columns[key] = huge(tmp_path, key, rule.dtype, rows, *rule.shape)
    row_bytes = sum(array[0].nbytes for array in columns.values())
    items = rows * CANVASES[name].items_per_row(settings)
    for chosen in (slice(items // 2, items // 2 + 1), np.array([items - 1])):
        before = resident()
        tracemalloc.start()
        assert decode(name, columns, shape, settings, chosen).shape == (1, *shape)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30 * row_bytes
        assert resident() - before < 2**23


def test_wide_integers_exist_for_some_items_only() -> None:
    columns = columns_of("tiles", (32, 32, 3), rows=512)
    tracemalloc.start()
    decoded = decode("tiles", columns, (32, 32, 3), {"factor": 2})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * decoded.nbytes


# Through files


def put(path: Path, name: str, settings: Any = None, **changes: Any) -> Path:
    """Four rows through the public writer, with some columns changed."""
    columns = {**columns_of(name), **changes}
    settings = SETTINGS[name] if settings is None else settings
    write_images(path, columns=columns, labels=LABELS, slots=SLOTS, spec=spec(), canvas=name, settings=settings)
    return path


def force(path: Path, name: str, settings: Any = None, **changes: Any) -> Path:
    """The same, as somebody who knows the format would write it: checksums fit, and nothing is checked."""
    columns = {**columns_of(name), "labels": np.array(LABELS), "slots": np.array(SLOTS), **changes}
    attributes = {
        "format": IMAGES_FORMAT, "version": VERSION, "dataset": "tiny", "n_classes": 2, "canvas": name,
        "canvas_settings": to_json(SETTINGS[name] if settings is None else settings), "item_shape": SHAPE,
    }  # fmt: skip
    shared = {key for key in ("compensators",) if columns.get(key) is not None and name == "compensated"}
    write_table(path, attributes, {key: array for key, array in columns.items() if array is not None}, shared)
    return path


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_golden_sets_decode_to_the_stored_items(tmp_path: Path, name: str) -> None:
    golden = GOLDEN / f"canvas-{name}-v1"
    files = read_set(golden, "deep")
    expected = np.load(GOLDEN / f"canvas-{name}-v1.npy")
    np.testing.assert_array_equal(files.images[0].decode(), expected)
    np.testing.assert_array_equal(files.take(np.arange(files.n_items)[::-1]), expected[::-1])
    np.testing.assert_array_equal(files.labels_of_items(), np.repeat(LABELS, len(expected) // 4))
    again = put_canvas_set(tmp_path / "set", name)
    np.testing.assert_array_equal(read_set(again, "deep").images[0].decode(), expected)
    if h5py.version.hdf5_version == GOLDEN_HDF5:
        assert {path.name for path in again.iterdir()} == {path.name for path in golden.iterdir()}
        for path in again.iterdir():
            assert path.read_bytes() == (golden / path.name).read_bytes(), path.name


def test_a_compensated_set_is_used_like_any_other(tmp_path: Path) -> None:
    """Two files of one slot each, each with the compensators of its slot, and soft labels of all items."""
    settings, columns = SETTINGS["compensated"], columns_of("compensated")
    images = [tmp_path / image_name(number) for number in range(2)]
    for slot, path in enumerate(images):
        part = slice(2 * slot, 2 * slot + 2)
        here = {key: array[part] for key, array in columns.items()}
        here["uses"] = here["uses"] - np.uint32(2 * slot)
        write_images(path, columns=here, labels=[0, 1], slots=[slot, slot], spec=spec(), canvas="compensated",
                     settings=settings)  # fmt: skip
    put_labels(tmp_path / label_name(0), images, views={"crop": "none", "flip": 0.0, "batch_size": 4})
    card = SetInfo(name="t", spec=spec(), method={"name": "none", "revision": 1}, config={}, seeds={},
                   teachers=[], contains_real_images=True, licence="MIT")  # fmt: skip
    write_set(tmp_path, card)
    report = verify(tmp_path, "deep")
    assert (report.rows, report.items) == (4, 12)
    distilled = condense.load(tmp_path)
    expected = items_by_loops("compensated", columns, SHAPE, settings)
    np.testing.assert_array_equal(distilled.images, expected)
    assert distilled.targets == [0, 0, 0, 1, 1, 1] * 2
    image, target = distilled[10]
    assert target == 1
    np.testing.assert_array_equal((image * 255).round().numpy().astype(np.uint8), expected[10].transpose(2, 0, 1))
    (step, *_) = distilled.epoch(0)
    np.testing.assert_array_equal(
        (step.images * 255).round().numpy().transpose(0, 2, 3, 1), expected[step.items.numpy()]
    )


def test_shared_compensators_save_bytes(tmp_path: Path) -> None:
    """Ten classes, four compensators: 50 items for little more than the bytes of 18."""
    shape, settings = (32, 32, 3), {"compensators": 4, "with_original": True}
    rows = {"images": drawn(8, 10, *shape), "uses": np.tile(np.arange(4, dtype=np.uint32), (10, 1)),
            "compensators": np.zeros((4, *shape), np.int16)}  # fmt: skip
    write_images(tmp_path / "i.h5", columns=rows, labels=range(10), slots=[0] * 10, canvas="compensated",
                 settings=settings, spec={**spec(shape), "classes": [str(number) for number in range(10)]})  # fmt: skip
    assert read_images(tmp_path / "i.h5", deep=True).n_items == 50
    assert (tmp_path / "i.h5").stat().st_size < 20 * 32 * 32 * 3


def test_shared_records_have_checksums_of_their_own(tmp_path: Path) -> None:
    found = read_images(put(tmp_path / "i.h5", "compensated"), deep=True)
    own = {key: found.columns[key] for key in ("images", "uses", "labels", "slots")}
    np.testing.assert_array_equal(found.columns["checksums"], record_checksums(own))
    shared = record_checksums({"compensators": found.columns["compensators"]})
    np.testing.assert_array_equal(found.columns["shared_checksums"], shared)
    assert set(read_images(put(tmp_path / "t.h5", "tiles")).columns) == {"images", "labels", "slots", "checksums"}


# Every way of being wrong has its name

REFUSED_SETTINGS: dict[str, list[tuple[Any, str]]] = {
    "tiles": [
        ({}, 'no setting "factor"'),
        ({"factor": 2, "size": 3}, 'unknown setting "size"'),
        ({"factor": 0}, "factor 0; expected an integer from 1 to 1024"),
        ({"factor": -2}, "factor -2"),
        ({"factor": 2.0}, r"factor 2\.0"),
        ({"factor": True}, "factor True"),
        ({"factor": "2"}, "factor '2'"),
        ({"factor": None}, "factor None"),
        ({"factor": 2048}, "factor 2048; expected"),
        ({"factor": 10**4000}, "factor 1000"),
        ({"factor": 4}, "factor 4, which does not divide items of 4 x 6 pixels"),
        ({"factor": 3}, "factor 3, which does not divide items of 4 x 6 pixels"),
    ],
    "compensated": [
        ({"compensators": 2}, 'no setting "with_original"'),
        ({"with_original": True}, 'no setting "compensators"'),
        ({"compensators": 2, "with_original": True, "x": 1}, 'unknown setting "x"'),
        ({"compensators": 0, "with_original": True}, "compensators 0; expected how many"),
        ({"compensators": 2.5, "with_original": True}, r"compensators 2\.5"),
        ({"compensators": True, "with_original": True}, "compensators True"),
        ({"compensators": 2, "with_original": 1}, "with_original 1; expected true or false"),
    ],
    "patches": [
        ({"patch": 2, "kept": 4}, 'no setting "fill"'),
        ({"patch": 2, "kept": 4, "fill": "mean", "x": 1}, 'unknown setting "x"'),
        ({"patch": 0, "kept": 4, "fill": "mean"}, "patch 0; expected the side"),
        ({"patch": 4, "kept": 1, "fill": "mean"}, "patch 4, which does not divide items of 4 x 6 pixels"),
        ({"patch": 3, "kept": 1, "fill": "mean"}, "patch 3, which does not divide items of 4 x 6 pixels"),
        ({"patch": 2, "kept": 0, "fill": "mean"}, "kept 0; expected an integer from 1 to 6"),
        ({"patch": 2, "kept": 7, "fill": "mean"}, "kept 7; expected an integer from 1 to 6"),
        ({"patch": 2, "kept": 4, "fill": "median"}, "fill 'median'; expected \"mean\" or 2 integers of 0 to 255"),
        ({"patch": 2, "kept": 4, "fill": [1]}, r"fill \[1\]; expected"),
        ({"patch": 2, "kept": 4, "fill": [1, 256]}, r"fill \[1, 256\]; expected"),
        ({"patch": 2, "kept": 4, "fill": [1, -1]}, r"fill \[1, -1\]; expected"),
        ({"patch": 2, "kept": 4, "fill": [1, 1.5]}, r"fill \[1, 1\.5\]; expected"),
        ({"patch": 2, "kept": 4, "fill": [1, True]}, r"fill \[1, True\]; expected"),
        ({"patch": 2, "kept": 4, "fill": 0}, "fill 0; expected"),
    ],
}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [(name, settings, words) for name, cases in REFUSED_SETTINGS.items() for settings, words in cases],
)
def test_refused_settings_are_named(tmp_path: Path, name: str, settings: Any, words: str) -> None:
    with pytest.raises(BadStructure, match=f"canvas_settings has {words}") as written:
        put(tmp_path / "i.h5", name, settings)
    assert not (tmp_path / "i.h5").exists()
    with pytest.raises(BadStructure) as found:
        read_images(force(tmp_path / "i.h5", name, settings))
    assert str(found.value) == str(written.value)
    assert len(str(found.value)) < 300 + len(str(tmp_path))


def test_more_patches_than_places_can_number_are_refused() -> None:
    check = CANVASES["patches"].check
    settings = {"patch": 1, "kept": 1, "fill": "mean"}
    assert check((256, 256, 1), settings) == ""
    assert "65792 patches; the limit is 65536" in check((256, 257, 1), settings)


def changed(name: str, column: str, *place: int, to: int) -> Array:
    array: Array = columns_of(name)[column].copy()
    array[place] = to
    return array


REFUSED_NUMBERS: dict[str, tuple[str, dict[str, Array], str]] = {
    "use of a compensator that is not there": (
        "compensated",
        {"uses": changed("compensated", "uses", 3, 1, to=4)},
        "a row uses compensator 4; expected 0 to 3",
    ),
    "use of a very high number": (
        "compensated",
        {"uses": changed("compensated", "uses", 0, 0, to=2**32 - 1)},
        "a row uses compensator 4294967295; expected 0 to 3",
    ),
    "compensator without use": (
        "compensated",
        {"compensators": np.zeros((5, *SHAPE), np.int16)},
        "no row uses compensator 4",
    ),
    "place outside the item": (
        "patches",
        {"places": changed("patches", "places", 2, 3, to=6)},
        "a patch has place 6; expected 0 to 5",
    ),
    "place twice": ("patches", {"places": np.array([[0, 1, 2, 3]] * 3 + [[0, 1, 1, 2]], np.uint16)}, "places of row 3"),
    "falling places": ("patches", {"places": np.array([[3, 2, 1, 0]] * 4, np.uint16)}, "places of row 0 do not incr"),
}


@pytest.mark.parametrize("fault", sorted(REFUSED_NUMBERS))
def test_numbers_that_lead_nowhere_are_named(tmp_path: Path, fault: str) -> None:
    name, changes, words = REFUSED_NUMBERS[fault]
    with pytest.raises(OutOfRange, match=words) as written:
        put(tmp_path / "i.h5", name, **changes)
    assert not (tmp_path / "i.h5").exists()
    with pytest.raises(OutOfRange) as found:
        read_images(force(tmp_path / "i.h5", name, **changes))
    assert str(found.value) == str(written.value)


COMPENSATORS = columns_of("compensated")["compensators"]
REFUSED_COLUMNS: dict[str, tuple[str, type[ShardError], dict[str, Any]]] = {
    "no compensators": ("compensated", BadStructure, {"compensators": None}),
    "wide compensators": ("compensated", ForbiddenType, {"compensators": COMPENSATORS.astype(np.int64)}),
    "compensators of another shape": ("compensated", BadStructure, {"compensators": COMPENSATORS[:, :3].copy()}),
    "signed uses": ("compensated", ForbiddenType, {"uses": np.zeros((4, 2), np.int64)}),
    "uses of fewer rows": ("compensated", BadStructure, {"uses": np.array([[0, 1], [2, 3]], np.uint32)}),
    "uses of one compensator": ("compensated", BadStructure, {"uses": np.array([[0], [1], [2], [3]], np.uint32)}),
    "compensators where the canvas has none": ("pixels", BadStructure, {"compensators": COMPENSATORS}),
    "wide places": ("patches", ForbiddenType, {"places": columns_of("patches")["places"].astype(np.uint32)}),
    "fewer patches": ("patches", BadStructure, {"patches": columns_of("patches")["patches"][:, :3].copy()}),
    "images beside patches": ("patches", BadStructure, {"images": columns_of("pixels")["images"]}),
}


@pytest.mark.parametrize("fault", sorted(REFUSED_COLUMNS))
def test_refused_columns_are_named(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, expected, changes = REFUSED_COLUMNS[fault]
    given = {key: array for key, array in {**columns_of(name), **changes}.items() if array is not None}
    with pytest.raises(BadStructure):
        write_images(tmp_path / "i.h5", columns=given, labels=LABELS, slots=SLOTS, spec=spec(), canvas=name,
                     settings=SETTINGS[name])  # fmt: skip
    assert not (tmp_path / "i.h5").exists()
    monkeypatch.setattr("condense.shards.layout.record_checksums", lambda columns: np.zeros(4, "<u4"))
    path = force(tmp_path / "i.h5", name, **changes)
    monkeypatch.undo()
    with pytest.raises(ShardError) as raised:
        read_images(path)
    assert type(raised.value) is expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: drop(file, "shared_checksums"), BadStructure),
        (lambda file: replace(file, "shared_checksums", np.zeros(3, "<u4")), BadStructure),
        (lambda file: replace(file, "shared_checksums", np.zeros(4, "<i8")), ForbiddenType),
        (lambda file: replace(file, "compensators", np.zeros((0, *SHAPE), "<i2")), BadStructure),
    ],
)
def test_shared_datasets_are_checked_like_others(
    tmp_path: Path, change: Callable[[h5py.File], None], expected: type[ShardError]
) -> None:
    path = put(tmp_path / "i.h5", "compensated")
    with h5py.File(path, "r+", libver="v110") as file:
        change(file)
    with pytest.raises(ShardError) as raised:
        read_images(path)
    assert type(raised.value) is expected


def drop(file: h5py.File, name: str) -> None:
    del file[name]


def replace(file: h5py.File, name: str, array: Array) -> None:
    del file[name]
    file.create_dataset(name, data=array)


def test_no_compensators_at_all_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadStructure, match=r"shared arrays .* have \[0\] records"):
        put(tmp_path / "i.h5", "compensated", compensators=COMPENSATORS[:0])


@pytest.mark.parametrize("other", ["images", "uses", "checksums"])
def test_shared_datasets_share_no_bytes_with_others(tmp_path: Path, other: str) -> None:
    path = put(tmp_path / "i.h5", "compensated")
    with h5py.File(path) as file:
        old, new = (file[name].id.get_offset().to_bytes(8, "little") for name in ("compensators", other))
    patch_header(path, "compensators", old, new)
    with pytest.raises(ForbiddenStorage, match="overlap"):
        read_images(path)


@pytest.mark.parametrize("records", [5, 2**20, 2**63 - 1])
def test_declared_sizes_of_shared_datasets_are_checked(tmp_path: Path, records: int) -> None:
    path = put(tmp_path / "i.h5", "compensated")
    patch_header(path, "shared_checksums", (4).to_bytes(8, "little"), records.to_bytes(8, "little"))
    with pytest.raises(BadStructure, match=r"i\.h5"):
        read_images(path)


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("compensated", "compensators", "shared record 0 is damaged"),
        ("compensated", "images", "record 0 is damaged"),
        ("patches", "patches", "record 0 is damaged"),
        ("tiles", "images", "record 0 is damaged"),
    ],
)
def test_a_changed_byte_is_found(tmp_path: Path, name: str, column: str, words: str) -> None:
    folder = put_canvas_set(tmp_path / "set", name)
    path = folder / image_name(0)
    with h5py.File(path) as file:
        offset = file[column].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 3] ^= 1
    path.write_bytes(bytes(data))
    reseal(folder)
    read_set(folder, "hashes")
    with pytest.raises(BadChecksum, match=f": {words}"):
        verify(folder, "deep")


def test_files_of_a_set_have_the_same_settings(tmp_path: Path) -> None:
    folder = put_canvas_set(tmp_path / "set", "tiles")
    write_images(folder / image_name(1), columns=columns_of("tiles"), labels=LABELS, slots=[2, 2, 3, 3], spec=spec(),
                 canvas="tiles", settings={"factor": 1})  # fmt: skip
    values = json.loads((folder / "set.json").read_text())
    values["files"][image_name(1)] = values["files"][image_name(0)]
    (folder / "set.json").write_text(json.dumps(values))
    reseal(folder)
    with pytest.raises(BadStructure, match="another canvas"):
        read_set(folder)
