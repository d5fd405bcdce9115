"""Executors, slices, claims, budgets: the same bytes whoever does the work, and whatever happens to it."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_shop import Shop, job, tree

from condense.device import Compute, environments
from condense.engine.events import finished_jobs, read_events
from condense.engine.executors import Executor, Here, Local
from condense.engine.executors.wire import RemoteFault
from condense.engine.job import Job
from condense.engine.perform import Settings
from condense.engine.plan import share_of, widest
from condense.engine.presence import PATIENCE_S, Claims, Neighbours, Run, process_identity
from condense.engine.run import MOST_LOSSES, Limits, run
from condense.engine.store import Store
from condense.errors import (
    ConfigError,
    MemoryShortError,
    MethodError,
    OutputError,
    UnfinishedError,
    WorkerLostError,
)
from condense.report.board import figures_to

HERE = Path(__file__).parent


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(Store(tmp_path / "store"))


@pytest.fixture
def local() -> Iterator[Local]:
    executor = Local(2)
    yield executor
    executor.stop(1.0)


def content(store: Store) -> dict[str, bytes]:
    """Every byte of every artefact."""
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for job_id in store.ids()
        for path in sorted(store.path(job_id).iterdir())
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = Store(tmp_path_factory.mktemp("expected") / "store")
    run(tree, Shop(store))
    return content(store)


def executors() -> list[Callable[[], Executor]]:
    return [Here, lambda: Local(1), lambda: Local(2)]


@pytest.mark.parametrize("make", executors())
def test_every_executor_makes_the_same_bytes_once(
    make: Callable[[], Executor], shop: Shop, expected: dict[str, bytes]
) -> None:
    executor = make()
    run(tree, shop, executor=executor)
    executor.stop(1.0)
    assert content(shop.store) == expected
    assert len(shop.ran()) == len(set(shop.ran())) == 10
    assert list((shop.store.root / "claims").iterdir()) == []


def test_jobs_run_side_by_side_and_processes_serve_one_plan_after_the_other(shop: Shop, local: Local) -> None:
    leaves = [job(number, seconds=0.4) for number in range(4)]
    run(lambda: leaves[:1], shop, executor=local)
    began = time.monotonic()
    run(lambda: leaves, shop, executor=local)
    assert time.monotonic() - began < 3 * 0.4 + 3.0
    assert len(shop.processes()) == 2
    assert os.getpid() not in shop.processes()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[:4])
def test_slices_in_any_order_make_the_same_bytes(
    order: tuple[int, ...], tmp_path: Path, expected: dict[str, bytes]
) -> None:
    for number, index in enumerate(order):
        shop = Shop(Store(tmp_path / "store"))
        if number < 2:
            with pytest.raises(UnfinishedError, match=rf"slice {index} of 3 has done its share") as caught:
                run(tree, shop, limits=Limits(share=(index, 3)))
            assert caught.value.status == 0
            assert sum("leaf" in title for title in shop.ran()) == 2 * (number + 1)
        else:
            run(tree, shop, limits=Limits(share=(index, 3)))
    assert content(shop.store) == expected
    assert len(shop.ran()) == len(set(shop.ran())) == 10


SLICE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from engine_shop import Shop, job, tree
from condense.engine.executors import Here, Local
from condense.engine.run import Limits, run
from condense.engine.store import Store
from condense.errors import UnfinishedError
share = (int(sys.argv[3]), 3) if sys.argv[3].isdigit() else None
executor, seconds = (Local(2), 30) if sys.argv[3] == "long" else (Here(), 0.2)
try:
    run(lambda: tree(seconds=seconds), Shop(Store(Path(sys.argv[2]))), executor=executor, limits=Limits(share=share))
except UnfinishedError:
    pass
"""


def begin(store: Path, share: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", SLICE, str(HERE), str(store), share], env=environment)


@pytest.mark.parametrize("shares", [("0", "1", "2"), ("all", "all")])
def test_processes_at_the_same_time_share_the_work_and_tear_nothing(shares: tuple[str, ...], tmp_path: Path) -> None:
    processes = [begin(tmp_path / "store", share) for share in shares]
    assert [process.wait(60) for process in processes] == [0] * len(shares)
    shop = Shop(Store(tmp_path / "store"))
    assert len(shop.ran()) == len(set(shop.ran())) == 10
    assert len(shop.processes()) == len(shares)
    reference = Shop(Store(tmp_path / "reference"))
    run(lambda: tree(seconds=0.2), reference)
    assert content(shop.store) == content(reference.store)


def test_the_widest_level_is_shared_out() -> None:
    assert [one.title for one in widest(tree(6))] == [f"leaf {number}" for number in range(6)]
    assert [one.title for one in widest(tree(2))] == ["top 0", "top 1"]
    assert widest([]) == []
    shares = [share_of(tree(7), (index, 3)) for index in range(3)]
    assert sorted(one.title for share in shares for one in share) == [f"leaf {number}" for number in range(7)]
    with pytest.raises(ConfigError, match="slice 3/3 does not exist"):
        share_of(tree(), (3, 3))


def test_one_executor_serves_one_store_after_the_other(tmp_path: Path, local: Local) -> None:
    for name in ("one", "two"):
        shop = Shop(Store(tmp_path / name))
        (path,) = run(lambda: [job(1)], shop, executor=local)
        assert path.is_relative_to(tmp_path / name)


def test_a_killed_worker_is_replaced_and_its_job_done_again(shop: Shop, local: Local, tmp_path: Path) -> None:
    top = job(1, *(job(number, kill="SIGKILL", once=str(tmp_path / f"{number}")) for number in (2, 3)), title="top")
    (path,) = run(lambda: [top], shop, executor=local)
    assert (path / "value").read_text() == "6"
    assert sorted(shop.ran()) == ["add 2", "add 2", "add 3", "add 3", "top"]
    lost = [event for folder in (shop.store.root / "runs").iterdir() for event in read_events(folder)]
    assert [event["why"] for event in lost if event["event"] == "lost"] == ["its process was killed by signal 9"] * 2


def test_a_job_whose_workers_always_die_is_given_up(shop: Shop, local: Local) -> None:
    jobs = [job(1, exit=3, title="deadly"), job(2, title="harmless")]
    with pytest.raises(WorkerLostError, match=rf"deadly: its process ended with exit status 3, {MOST_LOSSES} times"):
        run(lambda: jobs, shop, executor=local)
    assert shop.ran().count("deadly") == MOST_LOSSES
    assert shop.store.has(jobs[1].id)


@pytest.mark.parametrize("make", executors()[:2])
def test_an_error_ends_in_itself_after_what_does_not_need_the_job(make: Callable[[], Executor], shop: Shop) -> None:
    bad = job(1, raises="MethodError", title="bad")
    needs = job(2, bad, title="needs bad")
    good = job(3, job(4, title="below good"), title="good")
    executor = make()
    with pytest.raises(MethodError, match="the message of 1"):
        run(lambda: [needs, good], shop, executor=executor)
    executor.stop(1.0)
    assert shop.ran().count("bad") == 1
    assert shop.store.has(good.id)
    assert "needs bad" not in shop.ran()


def test_after_three_failures_nothing_more_is_started(shop: Shop) -> None:
    jobs = [job(number, raises="MethodError") for number in range(6)]
    with pytest.raises(MethodError, match="the message of 0"):
        run(lambda: jobs, shop)
    assert len(shop.ran()) == 3
    for path in (shop.store.root / "claims").iterdir():
        pytest.fail(f"{path} is left")


def test_a_disk_that_cannot_be_written_ends_the_run_at_once(shop: Shop) -> None:
    with pytest.raises(OutputError, match="the message of 0"):
        run(lambda: [job(number, raises="OutputError") for number in range(6)], shop)
    assert len(shop.ran()) == 1


def test_a_fault_in_another_process_keeps_its_traceback(shop: Shop, local: Local) -> None:
    with pytest.raises(RemoteFault, match=r"ZeroDivisionError: the message of 1(.|\n)*_misbehave"):
        run(lambda: [job(1, raises="ZeroDivisionError")], shop, executor=local)


def halving(shop: Shop, **does: Any) -> Callable[[], list[Job]]:
    """A plan with one job of 4 groups, done in halves if the store says so."""

    def parts(value: int, groups: int) -> list[Job]:
        whole = job(value, groups=groups, title=f"{groups} from {value}", **(does if groups > 2 else {}))
        if groups == 1 or not shop.store.is_halved(whole.id):
            return [whole]
        return parts(value, groups // 2) + parts(value + groups // 2, groups // 2)

    return lambda: [job(0, *parts(0, 4), title="top")]


@pytest.mark.parametrize(
    ("does", "make"),
    [
        ({"raises": "MemoryError"}, Here),
        ({"raises": "MemoryError"}, lambda: Local(1)),
        ({"hog": 10**9}, lambda: Local(1)),
        ({"kill": "SIGKILL"}, lambda: Local(1)),
    ],
)
def test_a_job_that_does_not_fit_is_done_in_halves(
    does: dict[str, Any], make: Callable[[], Executor], shop: Shop
) -> None:
    executor = make()
    settings = Settings(memory=5 * 10**8)
    (path,) = run(halving(shop, **does), shop, executor=executor, settings=settings)
    executor.stop(1.0)
    assert (path / "value").read_text() == "2"
    begun = 2 if "kill" in does else 1
    assert shop.ran() == ["4 from 0"] * begun + ["2 from 0", "2 from 2", "top"]
    run(halving(shop, **does), shop)
    assert len(shop.ran()) == begun + 3


def test_a_job_that_does_not_fit_and_cannot_be_halved_is_refused(shop: Shop) -> None:
    with pytest.raises(MemoryShortError, match="big does not fit into memory"):
        run(lambda: [job(1, raises="MemoryError", title="big")], shop)


@pytest.mark.parametrize("make", [lambda end: Here(end), lambda _: Local(1)])
def test_the_time_limit_leaves_a_checkpoint_from_which_the_next_run_goes_on(
    make: Callable[[float], Executor], shop: Shop
) -> None:
    run(lambda: [job(1, steps=2)], shop)  # what has to be imported is imported
    long = job(2, seconds=4, steps=80, title="long")
    deadline = time.monotonic() + 2.5
    with pytest.raises(UnfinishedError, match="0 jobs done, 1 left") as caught:
        run(lambda: [long], shop, executor=make(deadline), limits=Limits(deadline=deadline))
    assert caught.value.status == 75
    assert time.monotonic() - deadline < 5
    assert shop.store.checkpoint_path(long.id).exists()
    steps: list[int] = []
    run(lambda: [long], shop, watch=lambda task, stage, done, total, figures: steps.append(done))
    assert 1 < steps[0] <= 52
    assert not shop.store.checkpoint_path(long.id).exists()


def test_workers_end_when_the_process_that_wants_their_work_is_killed(tmp_path: Path) -> None:
    process = begin(tmp_path / "s", "long")
    shop = Shop(Store(tmp_path / "s"))
    wait_for(lambda: sum("leaf" in title for title in shop.ran()) == 2)
    process.kill()
    process.wait()
    workers = [process for process in shop.processes() if process != os.getpid()]
    wait_for(lambda: all(process_identity(worker) is None for worker in workers), 2)
    run(tree, shop)


def wait_for(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_an_input_lost_in_the_middle_of_a_run_is_made_again(shop: Shop) -> None:
    below = job(1, title="below")
    middle = job(2, below, title="middle")
    top = job(3, middle, title="top")

    class Vandal(Shop):
        def work(self, task: Any, inputs: Any, desk: Any) -> None:
            if task.title == "top" and self.ran().count("middle") == 1:
                (self.store.path(middle.id) / "value").unlink()
            super().work(task, inputs, desk)

    (path,) = run(lambda: [top], Vandal(shop.store))
    assert (path / "value").read_text() == "6"
    assert shop.ran() == ["below", "middle", "top", "middle", "top"]


def test_each_worker_has_the_environment_it_was_given(shop: Shop) -> None:
    executor = Local(2, [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}])
    run(lambda: [job(number, seconds=0.5) for number in range(4)], shop, executor=executor)
    executor.stop(1.0)
    assert {line.split("\t")[2] for line in shop.record.read_text().splitlines()} == {"3", "5"}


def test_progress_of_workers_reaches_the_driver_and_the_log(shop: Shop, local: Local) -> None:
    told: list[tuple[str, int, int]] = []
    run(
        lambda: [job(1, steps=3, seconds=1.0, title="one")],
        shop,
        executor=local,
        watch=lambda task, stage, done, total, figures: told.append((f"{task}: {stage}", done, total)),
    )
    assert told[-1] == ("one: steps", 3, 3)
    (folder,) = (shop.store.root / "runs").iterdir()
    events = [event["event"] for event in read_events(folder)]
    assert events[0] == "started"
    assert "progress" in events
    assert events[-1] == "done"


def test_a_worker_does_not_grow_over_500_jobs(shop: Shop) -> None:
    """Each is allowed far less than what it writes."""
    executor = Local(1)
    run(lambda: [job(number, bytes=400_000) for number in range(500)], shop, executor=executor)
    executor.stop(1.0)
    assert len(shop.processes()) == 1
    peaks = [event["peak_memory_bytes"] for event in finished_jobs(shop.store.root / "runs")]
    assert len(peaks) == 500
    assert peaks[-1] - peaks[50] < 450 * 10_000


@pytest.mark.parametrize("left", [None, "a dead run", ""])
def test_of_many_runs_one_gets_the_claim(left: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbours = Neighbours(tmp_path)
    monkeypatch.setattr(neighbours, "alive", lambda name: name.startswith("run"))
    claims = [Claims(tmp_path, f"run {number}", neighbours) for number in range(4)]
    start = threading.Barrier(len(claims))

    def take(one: Claims, job_id: str) -> bool:
        start.wait()
        return one.take(job_id)

    (tmp_path / "claims").mkdir()
    with ThreadPoolExecutor(len(claims)) as pool:
        for number in range(100):
            if left is not None:
                (tmp_path / "claims" / f"job {number}").write_text(left)
            won = list(pool.map(take, claims, [f"job {number}"] * len(claims)))
            assert sum(won) == 1
            assert won[int(claims[0].holder(f"job {number}")[4:])]
    assert len(list((tmp_path / "claims").glob("job *"))) == 100


def test_claims_work_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    neighbours = Neighbours(tmp_path)
    monkeypatch.setattr(neighbours, "alive", lambda name: name == "one")
    one, two = Claims(tmp_path, "one", neighbours), Claims(tmp_path, "two", neighbours)
    assert one.take("job")
    assert not two.take("job")
    one.release("job")
    assert two.take("job")
    assert one.take("job")  # the second is dead


def test_the_claim_of_a_dead_run_is_taken_over(shop: Shop) -> None:
    one = job(1)
    root = shop.store.root
    with Run(root, [one], {}) as record:
        assert record.claims.take(one.id)
        assert Neighbours(root).alive(record.name)
        assert not Claims(root, "other", Neighbours(root)).take(one.id)
        about = record.folder / "run.json"
        about.write_text(about.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
        assert not Neighbours(root).alive(record.name)
        assert Claims(root, "other", Neighbours(root)).take(one.id)
    assert Claims(root, "third", Neighbours(root)).holder(one.id) == "other"  # not ours any more: left alone


def test_a_run_of_another_machine_is_alive_while_its_counter_moves(shop: Shop) -> None:
    now = [1000.0]
    with Run(shop.store.root, [], {}) as record:
        about = record.folder / "run.json"
        about.write_text(about.read_text().replace('"machine": "', '"machine": "other '))
        neighbours = Neighbours(shop.store.root, clock=lambda: now[0])
        assert neighbours.alive(record.name)
        now[0] += PATIENCE_S - 1
        assert neighbours.alive(record.name)
        (record.folder / "beat").write_text("17")
        now[0] += 2
        assert neighbours.alive(record.name)
        now[0] += PATIENCE_S + 1
        assert not neighbours.alive(record.name)


def test_a_clock_that_goes_backwards_changes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(2_000_000_000, -1000)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    run(tree, shop)
    assert len(shop.ran()) == 10
    assert len(finished_jobs(shop.store.root / "runs")) == 10


STOPPED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from engine_shop import Shop, job
from condense.cli.stopping import stoppable
from condense.engine.executors import Here, Local
from condense.engine.run import run
from condense.engine.store import Store
executor = Local(1) if sys.argv[3] == "local" else Here()
plan = lambda: [job(1, seconds=30, steps=600, title="long")]
with stoppable():
    run(plan, Shop(Store(Path(sys.argv[2]))), executor=executor)
"""


@pytest.mark.parametrize("where", ["here", "local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_ends_within_two_seconds(
    where: str, number: signal.Signals, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STOPPED, str(HERE), str(tmp_path / "store"), where]
    shop = Shop(Store(tmp_path / "store"))
    long = job(1, seconds=30, steps=600, title="long")
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: any("progress" in path.read_text() for path in shop.store.root.glob("runs/*/*.jsonl")))
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + number
    assert said == "stopped; finished work is kept, run the same command again to go on\n"
    assert shop.store.checkpoint_path(long.id).exists()
    assert all(process_identity(worker) is None for worker in shop.processes())
    assert list((shop.store.root / "claims").iterdir()) == []


def test_figures_go_to_tensorboard(shop: Shop, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with figures_to(tmp_path / "board") as watch:
        run(lambda: [job(1, steps=3, title="one")], shop, watch=watch)
    board = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [(scalar.step, scalar.value) for scalar in board.Scalars("one: steps/loss")] == [(1, 1), (2, 1), (3, 1)]


def test_tensorboard_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="tensorboard is not installed; pip install"), figures_to(tmp_path):
        pass


def test_each_worker_sees_one_gpu_and_waits_without_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Compute(device="cuda:0", precision="float32", threads=1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments(cuda, (0, 1), 3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments(cuda, (0, 1), 2)] == ["4", "6"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments(cuda, (1,), 2)] == ["6", "6"]
    monkeypatch.setattr("condense.device.available_cpus", lambda: 2)
    assert environments(Compute(threads=1), (), 2) == [{}, {}]
    assert environments(Compute(threads=2), (), 2)[1]["OMP_WAIT_POLICY"] == "passive"
