"""Full and read-only disks, and a kernel that kills for memory. Real ones, where the machine lets a test make them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from engine_shop import Shop, job
from PIL import Image
from test_cli import run as condense
from test_executors import SLICE, content

from condense.engine.executors import Local
from condense.engine.job import Job
from condense.engine.run import run
from condense.engine.store import Store
from condense.errors import OutputError

MEGABYTE = 2**20


def mount(*words: object) -> bool:
    with suppress(OSError):
        return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder):
        pytest.skip("this machine lets nobody mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Take all space but ``free`` bytes."""
    filler = disk / "filler"
    taken = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - free
    filler.write_bytes(bytes(max(0, taken)))
    return filler


def plan(steps: int) -> list[Job]:
    first = job(1, bytes=20_000, title="first")
    return [job(2, first, bytes=30_000, steps=steps, title="second"), job(3, first, bytes=10_000, title="third")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_at_any_write_loses_nothing(small_disk: Path, tmp_path: Path, workers: int) -> None:
    reference = Store(tmp_path / "reference")

    def wanted() -> list[Job]:
        return plan(steps=1 if workers else 3)

    run(wanted, Shop(reference))
    refused = 0
    for number, free in enumerate(range(0, 130_000, 16_384 if workers else 4096)):
        shop = Shop(Store(small_disk / f"store {number}"))
        shop.record = tmp_path / f"record {number}"
        filler = fill(small_disk, free)
        executor = Local(workers) if workers else None
        try:
            run(wanted, shop, executor=executor)
        except OutputError as error:
            refused += 1
            assert "the disk is full; finished work is kept" in str(error)  # noqa: PT017
        finished = {job_id for job_id in shop.store.ids() if shop.store.fault(job_id) is None}
        begun = len(shop.ran())
        filler.unlink()
        run(wanted, shop, executor=executor)
        if executor is not None:
            executor.stop(1.0)
        assert content(shop.store) == content(reference)
        assert len(shop.ran()) - begun == 3 - len(finished)
        subprocess.run(["rm", "-r", str(shop.store.root)], check=True)
    assert refused >= (2 if workers else 8)


def test_a_distillation_on_a_disk_that_fills_up_is_finished_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of decoded images, the teacher, rows, images, labels, the set and the published folder in turn."""
    monkeypatch.chdir(small_disk)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 10, 10, 3), dtype=np.uint8)
    for label, images in enumerate(pixels):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "photos" / str(label) / f"{index}.png")
    words = ["distill", "--data", f"imagefolder:{tmp_path / 'photos'}", "--method", "random", "--ipc", 1, "--quick"]
    words += ["--threads", 1, "--quiet", "--set", "teacher.network=convnet2-w8-bn"]
    messages = set()
    for free in (0, 8192, 24_576, 40_960, 57_344, 73_728, 90_112, 106_496, 122_880, 139_264):
        monkeypatch.setenv("CONDENSE_CACHE", str(small_disk / "cache"))
        monkeypatch.setenv("CONDENSE_STORE", str(small_disk / "store"))
        filler = fill(small_disk, free)
        try:
            condense(*words, "--out", "set")
            break
        except AssertionError as failed:
            messages.add(str(failed).splitlines()[0])
        filler.unlink()
    filler.unlink(missing_ok=True)
    assert len(messages) >= 3
    assert all("the disk is full" in message for message in messages), messages
    condense(*words, "--out", "set")
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    condense(*words, "--out", tmp_path / "other")
    for path in sorted((tmp_path / "other").iterdir()):
        assert (small_disk / "set" / path.name).read_bytes() == path.read_bytes() or path.name in (
            "set.json",
            "README.md",
        )


def test_a_read_only_store_serves_what_it_has_and_refuses_more_in_one_line(small_disk: Path) -> None:
    shop = Shop(Store(small_disk / "store"))
    done = job(1)
    run(lambda: [done], shop)
    assert mount("-o", "remount,ro", small_disk)
    (path,) = run(lambda: [done], Shop(Store(small_disk / "store")))
    assert (path / "value").read_text() == "1"
    with pytest.raises(OutputError, match="the file system is read-only"):
        run(lambda: [job(2)], Shop(Store(small_disk / "store")))
    assert mount("-o", "remount,rw", small_disk)


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group whose processes may hold 300 MB; the kernel kills what takes more."""
    group = control_group()
    if group is None:
        pytest.skip("this machine lets nobody make a control group")
    yield group
    for _ in range(100):  # a process that has just ended may still be in it
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def control_group() -> Path | None:
    for base, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = base / f"condense-test-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            with suppress(OSError):
                (group / limit).write_text(str(300 * MEGABYTE))
                return group
            group.rmdir()
    return None


HOGS = SLICE.replace("tree(seconds=seconds)", "[job(0, *halves(), title='top')]").replace(
    "share =",
    """
def halves():
    whole = job(1, groups=2, title="whole", hog=10**9)
    if Store(Path(sys.argv[2])).is_halved(whole.id):
        return [job(2, title="half"), job(3, title="half")]
    return [whole]
share =""",
)


def test_a_worker_that_the_kernel_kills_for_memory_is_done_in_halves(little_memory: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOGS, str(Path(__file__).parent), str(tmp_path / "store"), "long"]
    within = f'echo $$ > {little_memory / "cgroup.procs"}; exec "$@"'
    done = subprocess.run(["sh", "-c", within, "sh", *command], env=environment, timeout=60, check=False)
    assert done.returncode == 0
    assert Shop(Store(tmp_path / "store")).ran() == ["whole", "half", "half", "top"]


def test_an_error_of_the_disk_without_a_known_number_keeps_its_traceback(tmp_path: Path) -> None:
    class Odd(Shop):
        def work(self, *_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        run(lambda: [job(1)], Odd(Store(tmp_path / "store")))
