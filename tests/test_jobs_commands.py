"""`condense plan`, `status` and `store`: what they say, and what they leave alone."""

from __future__ import annotations

import json
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from engine_shop import Shop, job
from test_cli import run as condense

from condense.engine.housekeeping import artefacts, collect, faults, garbage
from condense.engine.presence import Run
from condense.engine.run import Limits, run
from condense.engine.status import status_of
from condense.engine.store import Store
from condense.errors import MethodError, UnfinishedError

SMALL = ("--data", "fashion-mini", "--method", "cda", "--ipc", 2, "--threads", 1)
SMALL += ("--set", "steps=40", "--set", "teacher.network=convnet2-w8-bn", "--set", "teacher.epochs=1")
SMALL += ("--set", "labels.epochs=3", "--quiet")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_plan_says_what_distill_would_do_and_writes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    planned = json.loads(condense("plan", *SMALL, "--json", "--store", store).stdout)
    assert not store.exists()
    kinds = {one["kind"]: one for one in planned["kinds"]}
    assert {kind: one["jobs"] for kind, one in kinds.items()} == {
        "teacher": 1,
        "rows": 2,
        "images": 1,
        "labels": 1,
        "set": 1,
    }
    assert planned["images"] == 20
    assert planned["steps"] == 2 * 40 + kinds["teacher"]["steps"]
    assert all(one["done"] == 0 and one["seconds"] is not None for one in planned["kinds"])
    assert planned["seconds"] > 0
    assert 10**8 < planned["peak_memory"] < 4 * 10**9
    began = time.monotonic()
    condense("distill", *SMALL, "--store", store, "--out", "set")
    taken = time.monotonic() - began
    assert planned["seconds"] < 20 * taken
    again = json.loads(condense("plan", *SMALL, "--json", "--store", store).stdout)
    assert again["steps"] == 0
    assert again["store_bytes"] == 0
    assert all(one["done"] == one["jobs"] for one in again["kinds"])
    table = condense("plan", *SMALL, "--no-probe", "--store", tmp_path / "other").stdout
    assert "optimisation steps" in table
    assert "not known with 1 worker: nothing was measured; leave out --no-probe" in table


def test_plan_refuses_what_distill_refuses(tmp_path: Path) -> None:
    line = condense("plan", "--data", "fashion-mini", "--method", "cda", "--ipc", 0, "--quiet", code=2).stderr
    assert line == "error: ipc must be at least 1, got 0\n"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(Store(tmp_path / "store"))


def test_status_of_a_run_that_stopped_and_of_one_that_ended(shop: Shop, tmp_path: Path) -> None:
    about = {"out": [str(tmp_path / "out")]}
    jobs = [job(1, title="quick"), job(2, seconds=5, steps=100, title="slow")]
    assert status_of(shop.store).state == "none"
    limits = Limits(deadline=time.monotonic() + 1.5)
    with pytest.raises(UnfinishedError):
        run(lambda: jobs, shop, limits=limits, about=about)
    stopped = status_of(shop.store, tmp_path / "out")
    assert (stopped.state, stopped.done, stopped.total) in (("stopped", 1, 2), ("stopped", 0, 2))
    run(lambda: [job(4)], shop, about=about)
    with pytest.raises(MethodError):
        run(lambda: [job(3, raises="MethodError", title="bad")], shop, about=about)
    assert status_of(shop.store, tmp_path / "out").failed == [("bad", "MethodError: the message of 3")]
    assert status_of(shop.store, tmp_path / "elsewhere").state == "none"
    said = condense("status", tmp_path / "store").stdout
    assert "bad: MethodError: the message of 3" in said
    assert "counted  the latest of 3 runs; what 2 others did is not counted\njobs     0 of 1 done" in said


def test_status_of_a_living_run_shows_rates_and_what_is_left(shop: Shop) -> None:
    jobs = [job(number, title=f"job {number}") for number in range(3)]
    run(lambda: jobs[:1], shop)
    with Run(shop.store.root, jobs, {}) as record:
        base = {"job": jobs[1].id, "kind": "sum", "title": "job 1"}
        lines: list[dict[str, Any]] = [
            {"event": "done", "job": jobs[0].id, "kind": "sum", "title": "job 0", "time": 99, "seconds": 30.0},
            {"event": "started", **base, "time": 100},
            {"event": "progress", **base, "time": 102, "stage": "steps", "done": 10, "total": 110, "figures": {}},
            {"event": "progress", **base, "time": 104, "stage": "steps", "done": 30, "total": 110, "figures": {"a": 1}},
        ]
        text = "\n".join(json.dumps(line) for line in lines) + '\n{"event": "progr'  # torn by a crash
        (record.folder / f"{os.getpid()}.jsonl").write_text(text)
        found = status_of(shop.store)
        assert (found.state, found.processes, found.done, found.total) == ("running", 1, 1, 3)
        (running,) = found.running
        assert (running.title, running.done, running.rate, running.seconds_left) == ("job 1", 30, 10.0, 8.0)
        assert found.seconds_left == 60.0
        shown = condense("status", shop.store.root).stdout
    assert "running, 1 process" in shown
    assert "counted  the one at work of 2 runs; what 1 other did is not counted\njobs     1 of 3 done" in shown
    assert "30/110, a 1" in shown
    shop.store.discard(jobs[0].id)


def test_status_of_the_only_run_counts_everything(shop: Shop) -> None:
    run(lambda: [job(1)], shop)
    assert "counted  1 run, all that are known\njobs     1 of 1 done" in condense("status", shop.store.root).stdout


def test_status_without_any_run_is_one_line(tmp_path: Path) -> None:
    line = condense("status", "--store", tmp_path / "nothing", code=2).stderr
    assert line.startswith(f"error: store {tmp_path / 'nothing'} knows of no run")


def test_gc_keeps_what_results_are_made_of_and_what_runs_need(shop: Shop) -> None:
    below = job(1, title="below")
    result = job(2, below, title="result")
    loose = job(3, title="loose")
    needed = job(4, title="needed")
    planned = job(5, needed, title="planned")
    run(lambda: [result, loose, needed], shop)
    store = shop.store
    assert {one.id for one in artefacts(store)} == {one.id for one in (below, result, loose, needed)}

    def going(older: float = 0.0, keep: tuple[str, ...] = ()) -> set[Path]:
        return {one.path for one in garbage(store, keep, older_than_s=older)}

    everything = {store.path(one.id) for one in (below, result, loose, needed)}
    assert going() == everything
    assert going(keep=("sum",)) == set()
    assert going(older=60.0) == set()
    with Run(store.root, [planned], {}) as record:
        assert going() == everything - {store.path(needed.id)}
        record.claims.take(planned.id)
        (store.root / "tmp" / f"{planned.id[:12]}-being-written").mkdir(parents=True)
        (store.root / "tmp" / f"{loose.id[:12]}-left").mkdir()
        (store.root / "claims" / loose.id).write_text("a run that is gone")
        store.checkpoint_path(planned.id).parent.mkdir(exist_ok=True)
        for one in (planned, loose):
            store.checkpoint_path(one.id).write_bytes(b"state")
        left = {
            store.root / "tmp" / f"{loose.id[:12]}-left",
            store.root / "claims" / loose.id,
            store.checkpoint_path(loose.id),
        }
        assert going(older=60.0) == left
        found = garbage(store, (), older_than_s=60.0)
        assert collect(store, found) == sum(one.bytes for one in found) == len(b"state")
        assert going(older=60.0) == set()
    collect(store, garbage(store, (), older_than_s=0.0))
    assert list(store.ids()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_the_store_commands(shop: Shop) -> None:
    one = job(1)
    run(lambda: [one], shop)
    root = shop.store.root
    assert condense("store", "list", "--store", root).stdout.splitlines()[2].split()[:2] == ["sum", "1"]
    assert one.id[:12] in condense("store", "list", "--all", "--store", root).stdout
    assert condense("store", "verify", "--store", root).stdout == f"{root}: 1 artefacts, all valid\n"
    (shop.store.path(one.id) / "value").write_text("7")
    assert [fault for _, fault in faults(shop.store)] == ["value does not have the SHA-256 of its manifest"]
    line = condense("store", "verify", "--store", root, code=2).stderr
    assert line.startswith(f"error: store {root}: 1 of 1 artefacts are damaged")
    shown = condense("store", "gc", "--older-than", "0s", "--dry-run", "--store", root).stdout
    assert f"would remove sum {one.id[:12]}" in shown
    assert shop.store.path(one.id).exists()
    condense("store", "gc", "--older-than", "0s", "--store", root)
    assert not shop.store.path(one.id).exists()


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is played by a worker that fails for more than six classes; the search runs in this process."""
    from condense.engine.executors import Here
    from condense.pipeline import workers

    real = workers.WORKERS["rows"]

    def small(task: Any, *rest: Any) -> None:
        if len(task.config["classes"]) > 6:
            raise MemoryError(f"{len(task.config['classes'])} classes")
        real(task, *rest)

    monkeypatch.setitem(workers.WORKERS, "rows", small)
    monkeypatch.setattr("condense.pipeline.execution.Local", lambda *_: Here())
    line = condense("distill", *SMALL, "--store", tmp_path / "store", "--out", "set", code=2).stderr
    assert line == (
        "error: cda, set 0, slots 0 to 0: a batch of 10 classes does not fit into memory, the largest that was seen to "
        "fit has 6; say --set batch_classes=6, or give more --memory\n"
    )
    condense("distill", *SMALL, "--set", "batch_classes=6", "--store", tmp_path / "store", "--out", "set")


def planned(tmp_path: Path, *words: object) -> str:
    """The line of ``plan`` that says how long it takes."""
    lines = condense("plan", *SMALL, *words, "--store", tmp_path / "new").stdout.splitlines()
    [line] = [line for line in lines if line.startswith("time ")]
    return line.removeprefix("time").strip()


def test_plan_says_why_a_time_is_not_known_and_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels make no progress that could be measured; the others are played by an executor that knows."""
    estimate = import_module("condense.pipeline.estimate")

    known = {"teacher": 100.0, "rows": 20.0}

    def measured(prober: Any, patience_s: float, one: Any) -> tuple[float | None, int | None]:
        prober.seen_s = max(prober.seen_s, 7.0)
        return known.get(one.kind), 10**9

    monkeypatch.setattr(estimate._Prober, "_run_for", measured)
    monkeypatch.setattr(estimate.os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(estimate, "available_cpus", lambda: 2)
    assert planned(tmp_path) == (  # 100 of the teacher, 20 and 20 + 3 x 2 of the rows, 7 seen of the labels
        "at least 3 min with 1 worker: labels got too little done in 32 s to be measured; the machine is busy (load "
        "9.0 on 2 cores), try again later"
    )
    monkeypatch.setattr(estimate.os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    assert planned(tmp_path).endswith("labels got too little done in 32 s to be measured")
    assert planned(tmp_path, "--no-probe") == "not known with 1 worker: nothing was measured; leave out --no-probe"
    known["labels"] = 10.0
    assert planned(tmp_path) == "3 min with 1 worker"


def test_the_seconds_of_a_job_that_did_not_end_are_what_was_seen_of_it() -> None:
    from condense.pipeline.estimate import time_seen

    assert time_seen([]) == 0.0
    assert time_seen([{"time": 10.0}, {"time": 12.5}, {"time": 13.0}]) == 3.0


def test_plan_says_that_a_set_would_be_no_smaller_than_the_data(tmp_path: Path) -> None:
    large = ("--ipc", 500, "--no-probe", "--store", tmp_path / "new")
    assert "note: ipc is 500, but class " in condense("plan", *SMALL, *large).stdout
    assert "note:" not in condense("plan", *SMALL, "--ipc", 499, *large[2:]).stdout
