"""The cache of decoded images: damage, races, a full disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from condense.data import cache, open_data
from condense.data.cache import open_cached
from condense.data.images import Geometry
from condense.data.source import ArrayImages, Contents, Survey
from condense.errors import OutputError
from condense.progress import Report, silent

GEOMETRY = Geometry(height=8, width=8, channels=3)


class Counted:
    """A source of 200 + 10 random images that counts how often it is decoded."""

    name = "counted"
    places = ()
    published = None

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (210, 8, 8, 3), dtype=np.uint8)
        self.labels = np.arange(210) % 5
        self.decoded = 0

    def survey(self, report: Report) -> Survey:
        return Survey("0" * 64, GEOMETRY)

    def contents(self) -> Contents:
        self.decoded += 1
        parts = (ArrayImages(self.images[part], self.labels[part]) for part in (slice(200), slice(200, None)))
        return Contents(tuple("abcde"), *parts)


@pytest.fixture
def source() -> Counted:
    return Counted()


def test_what_is_cached_is_what_was_decoded(tmp_path: Path, source: Counted) -> None:
    for _ in range(2):
        stored = open_cached(tmp_path / "c", source, GEOMETRY, silent)
        np.testing.assert_array_equal(stored.train.images, source.images[:200])
        np.testing.assert_array_equal(stored.test.images, source.images[200:])
        np.testing.assert_array_equal(stored.test.labels, source.labels[200:])
        assert stored.classes == ("a", "b", "c", "d", "e")
    assert source.decoded == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_mean_and_std_per_channel(tmp_path: Path, source: Counted) -> None:
    source.images[..., 1] //= 4
    source.images[..., 2] = 51
    found = open_cached(tmp_path / "c", source, GEOMETRY, silent).normalisation
    pixels = source.images[:200].reshape(-1, 3) / 255
    assert found.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert found.std[:2] == pytest.approx(pixels.std(axis=0)[:2], abs=1e-12)
    assert (found.mean[2], found.std[2]) == (0.2, 1.0)


def truncate(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-7])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "about.json"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, source: Counted, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    open_cached(tmp_path / "c", source, GEOMETRY, silent)
    damage(tmp_path / "c" / name)
    stored = open_cached(tmp_path / "c", source, GEOMETRY, silent)
    np.testing.assert_array_equal(stored.train.images, source.images[:200])
    np.testing.assert_array_equal(stored.test.labels, source.labels[200:])
    assert source.decoded == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_copied_cache_is_believed_after_hashing(tmp_path: Path, source: Counted) -> None:
    open_cached(tmp_path / "c", source, GEOMETRY, silent)
    os.utime(tmp_path / "c" / "train_images.npy")
    open_cached(tmp_path / "c", source, GEOMETRY, silent)
    assert source.decoded == 1


def test_the_slower_of_two_drops_its_copy(tmp_path: Path, source: Counted) -> None:
    class Overtaken(Counted):
        def contents(self) -> Contents:
            open_cached(tmp_path / "c", source, GEOMETRY, silent)
            return super().contents()

    open_cached(tmp_path / "c", Overtaken(), GEOMETRY, silent)
    assert source.decoded == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def _opens(folder: str, barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put(open_data("fashion-mini", cache=folder).train.images.sum())  # type: ignore[attr-defined]


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    pair = [context.Process(target=_opens, args=(str(tmp_path), barrier, queue)) for _ in range(2)]
    for process in pair:
        process.start()
    sums = [queue.get(timeout=60) for _ in pair]
    for process in pair:
        process.join(60)
    assert sums[0] == sums[1]
    assert [process.exitcode for process in pair] == [0, 0]
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, source: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.npy, "write_array_header_1_0", full)
    with pytest.raises(OutputError, match="the disk is full"):
        open_cached(tmp_path / "c", source, GEOMETRY, silent)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_after_a_while(
    tmp_path: Path, source: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.files.STALE_S", 0.5)
    (tmp_path / ".c.old.tmp").mkdir()
    time.sleep(0.6)
    (tmp_path / ".c.new.tmp").mkdir()
    open_cached(tmp_path / "c", source, GEOMETRY, silent)
    assert {path.name for path in tmp_path.iterdir()} == {".c.new.tmp", "c"}


def test_progress_reaches_the_total(tmp_path: Path, source: Counted) -> None:
    calls: list[tuple[str, int, int]] = []
    open_cached(tmp_path / "c", source, GEOMETRY, lambda stage, done, total, _=None: calls.append((stage, done, total)))
    assert calls[-2:] == [("decoding train images", 200, 200), ("decoding test images", 10, 10)]
