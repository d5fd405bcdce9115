"""Jobs and the store: ids, atomic publishing, resuming, damage."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from condense.checkpoint import FileCheckpoint
from condense.engine.job import Job, in_order
from condense.engine.run import measured, missing, run
from condense.engine.store import Store
from condense.errors import CondenseError, OutputError
from condense.files import disk_errors, publish_folder, write_atomic


class Context:
    """Counts what was computed."""

    def __init__(self) -> None:
        self.ran: list[str] = []


def worker(job: Job, inputs: Sequence[Path], folder: Path, context: Context) -> None:
    context.ran.append(job.title)
    total = job.config["value"] + sum(int((path / "value").read_text()) for path in inputs)
    (folder / "value").write_text(str(total))


WORKERS = {"sum": worker}


def diamond() -> tuple[Job, Job, Job, Job]:
    a = Job("sum", {"value": 1}, title="a")
    b = Job("sum", {"value": 2}, inputs=(a,), title="b")
    c = Job("sum", {"value": 3}, inputs=(a,), title="c")
    return a, b, c, Job("sum", {"value": 4}, inputs=(b, c), title="d")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_the_id_depends_on_everything_but_where_and_title() -> None:
    base = Job("k", {"x": 1}, revision=1, sources=("s",))
    same = Job("k", {"x": 1}, revision=1, sources=("s",), where={"path": "elsewhere"}, title="t")
    others = [
        Job("l", {"x": 1}, sources=("s",)),
        Job("k", {"x": 2}, sources=("s",)),
        Job("k", {"x": 1}, revision=2, sources=("s",)),
        Job("k", {"x": 1}, sources=("t",)),
        Job("k", {"x": 1}, sources=("s",), inputs=(base,)),
    ]
    assert same.id == base.id
    assert len({base.id, *(other.id for other in others)}) == 6


def test_order_of_keys_does_not_change_the_id() -> None:
    assert Job("k", {"a": 1, "b": 2}).id == Job("k", {"b": 2, "a": 1}).id


def test_inputs_come_before_the_jobs_that_need_them_once_each() -> None:
    a, b, c, d = diamond()
    assert [job.title for job in in_order([d, a])] == ["a", "b", "c", "d"]
    assert in_order([b, c])[0].id == a.id


def test_run_computes_each_once_and_again_nothing(store: Store) -> None:
    *_, d = diamond()
    context = Context()
    (path,) = run([d], store, WORKERS, context)
    assert (path / "value").read_text() == "11"
    assert context.ran == ["a", "b", "c", "d"]
    run([d], store, WORKERS, context)
    assert len(context.ran) == 4
    assert measured(store, d)["seconds"] >= 0


def test_inputs_of_finished_jobs_are_not_made_again(store: Store) -> None:
    a, *_, d = diamond()
    run([d], store, WORKERS, Context())
    store.discard(a.id)
    assert missing([d], store) == []
    assert [job.title for job in missing([a, d], store)] == ["a"]


@pytest.mark.parametrize("damage", ["altered", "truncated", "deleted", "no manifest", "torn manifest"])
def test_damage_is_found_and_mended(store: Store, damage: str) -> None:
    b = diamond()[1]
    run([b], store, WORKERS, Context())
    folder = store.path(b.id)
    if damage == "altered":
        (folder / "value").write_text("9")
    elif damage == "truncated":
        (folder / "value").write_text("")
    elif damage == "deleted":
        (folder / "value").unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"files":')
    fresh, context = Store(store.root), Context()
    (path,) = run([b], fresh, WORKERS, context)
    assert context.ran == ["b"]
    assert (path / "value").read_text() == "3"


def test_a_failed_job_leaves_what_was_finished_and_no_trace(store: Store) -> None:
    a, b, *_ = diamond()

    def failing(job: Job, inputs: Sequence[Path], folder: Path, context: Context) -> None:
        worker(job, inputs, folder, context)
        if job.title == "b":
            raise CondenseError("diverged")

    with pytest.raises(CondenseError, match="diverged"):
        run([b], store, {"sum": failing}, Context())
    assert store.has(a.id)
    assert not store.path(b.id).exists()
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_is_one_clear_line(store: Store) -> None:
    def full(job: Job, inputs: Sequence[Path], folder: Path, context: Context) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full; finished work is kept"):
        run([diamond()[0]], store, {"sum": full}, Context())
    with pytest.raises(OutputError, match="disk is full"), disk_errors("x.h5"):
        raise RuntimeError("Unable to write: error message = 'No space left on device'")
    with pytest.raises(ValueError), disk_errors("x"):
        raise ValueError("not about the disk")


def test_two_writers_of_one_artefact(store: Store) -> None:
    a = diamond()[0]

    def slow(job: Job, inputs: Sequence[Path], folder: Path, context: Context) -> None:
        run([a], Store(store.root), WORKERS, Context())  # somebody else finishes first
        worker(job, inputs, folder, context)

    (path,) = run([a], store, {"sum": slow}, Context())
    assert (path / "value").read_text() == "1"
    assert list((store.root / "tmp").iterdir()) == []


def test_artefacts_hold_no_time_and_are_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (path,) = run([diamond()[3]], Store(tmp_path / name), WORKERS, Context())
        contents.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert contents[0] == contents[1]
    assert set(json.loads(contents[0]["manifest.json"])) == {"job", "files"}


def test_publish_refuses_to_replace(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    assert not publish_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "x").read_text() == "old"


def test_atomic_write_replaces_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "c.safetensors", every_s=0.0)
    assert checkpoint.load() is None
    assert checkpoint.due()
    state = {"step": torch.tensor(3), "x": torch.randn(2, 3)[:, ::2]}
    checkpoint.save(state)
    loaded = checkpoint.load()
    assert loaded is not None
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert not FileCheckpoint(tmp_path / "c.safetensors", every_s=60.0).due()
