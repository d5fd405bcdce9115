"""Jobs and the store: ids, atomic publishing, resuming, damage."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engine_shop import Shop

from condense.checkpoint import FileCheckpoint
from condense.engine.events import costs
from condense.engine.job import Job, Task, in_order
from condense.engine.perform import Desk
from condense.engine.plan import missing
from condense.engine.run import run
from condense.engine.store import Store
from condense.errors import CondenseError, OutputError
from condense.files import disk_errors, publish_folder, write_atomic


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
    shop = Shop(store)
    (path,) = run(lambda: [d], shop)
    assert (path / "value").read_text() == "11"
    assert shop.ran() == ["a", "b", "c", "d"]
    run(lambda: [d], shop)
    assert len(shop.ran()) == 4
    assert costs(store.root / "runs")[d.id]["seconds"] >= 0


def test_inputs_of_finished_jobs_are_not_made_again(store: Store) -> None:
    a, *_, d = diamond()
    run(lambda: [d], Shop(store))
    store.discard(a.id)
    assert missing([d], store) == []
    assert [job.title for job in missing([a, d], store)] == ["a"]


@pytest.mark.parametrize("damage", ["altered", "truncated", "deleted", "no manifest", "torn manifest"])
def test_damage_is_found_and_mended(store: Store, damage: str) -> None:
    b = diamond()[1]
    run(lambda: [b], Shop(store))
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
    shop = Shop(Store(store.root))
    (path,) = run(lambda: [b], shop)
    assert shop.ran() == ["a", "b", "b"]
    assert (path / "value").read_text() == "3"


class Patched(Shop):
    """A shop whose work is something else for the jobs of one title."""

    def __init__(self, store: Store, title: str, instead: object) -> None:
        super().__init__(store)
        self.title, self.instead = title, instead

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        super().work(task, inputs, desk)
        if task.title == self.title:
            assert callable(self.instead)
            self.instead()


def test_a_failed_job_leaves_what_was_finished_and_no_trace(store: Store) -> None:
    a, b, *_ = diamond()

    def fail() -> None:
        raise CondenseError("diverged")

    with pytest.raises(CondenseError, match="diverged"):
        run(lambda: [b], Patched(store, "b", fail))
    assert store.has(a.id)
    assert not store.path(b.id).exists()
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_is_one_clear_line(store: Store) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full; finished work is kept"):
        run(lambda: [diamond()[0]], Patched(store, "a", full))
    with pytest.raises(OutputError, match="disk is full"), disk_errors("x.h5"):
        raise RuntimeError("Unable to write: error message = 'No space left on device'")
    with pytest.raises(ValueError), disk_errors("x"):
        raise ValueError("not about the disk")


def test_two_writers_of_one_artefact(store: Store) -> None:
    a = diamond()[0]

    def somebody_else() -> None:
        Store(store.root).make(a, lambda folder: (folder / "value").write_text("1"))

    (path,) = run(lambda: [a], Patched(store, "a", somebody_else))
    assert (path / "value").read_text() == "1"
    assert list((store.root / "tmp").iterdir()) == []


def test_artefacts_hold_no_time_and_are_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (path,) = run(lambda: [diamond()[3]], Shop(Store(tmp_path / name)))
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
