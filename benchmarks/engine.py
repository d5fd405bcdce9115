"""What the engine itself costs: overhead of a job, gain of a second worker, planning and resuming, growth of a worker.

    python benchmarks/engine.py [--part overhead|workers|plan|growth] [--results benchmarks/results/engine.json]

Each part is kept in the results file as soon as it is measured. Jobs are empty, or busy on one thread for a fixed
piece of arithmetic; the growth of a worker is measured on real distillations of a tiny data set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from condense.engine.events import finished_jobs
from condense.engine.executors import Executor, Here, Local
from condense.engine.job import Job, Task
from condense.engine.perform import Desk
from condense.engine.plan import missing
from condense.engine.run import run
from condense.engine.store import Store
from condense.files import canonical_json, sha256_file
from condense.memory import peak_memory

RESULTS = Path(__file__).parent / "results" / "engine.json"


class Shop:
    """Jobs that write a number, after ``busy`` rounds of arithmetic."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def recipe(self) -> dict[str, Any]:
        return {"entry": "engine:open_shop", "values": {"store": str(self.store.root)}}

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        value = np.arange(4096, dtype=np.float64)
        for _ in range(task.config.get("busy", 0)):
            value = np.sqrt(value * value + 1.0)
        (desk.folder / "value").write_text(str(task.config["number"]))


def open_shop(values: Mapping[str, Any]) -> Shop:
    return Shop(Store(Path(values["store"])))


def jobs_of(count: int, **config: Any) -> list[Job]:
    return [Job("empty", {"number": number, **config}) for number in range(count)]


def timed(jobs: Sequence[Job], executor: Executor) -> float:
    """Seconds of a run in a fresh store; the executor's processes are started before."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(Store(Path(folder) / "store"))
        run(
            lambda: [Job("empty", {"number": -1 - n, "busy": 20_000}) for n in range(executor.slots)],
            shop,
            executor=executor,
        )
        began = time.perf_counter()
        run(lambda: jobs, shop, executor=executor)
        return time.perf_counter() - began


def overhead() -> dict[str, Any]:
    """Milliseconds of the engine for each of 10,000 empty jobs."""
    made: dict[str, Callable[[], Executor]] = {
        "this process": Here,
        "1 worker": lambda: Local(1),
        "2 workers": lambda: Local(2),
    }
    found = {}
    for name, make in made.items():
        executor = make()
        found[name] = round(1000 * timed(jobs_of(10_000), executor) / 10_000, 3)
        executor.stop(1.0)
        print(f"overhead, {name}: {found[name]} ms a job")
    return {"jobs": 10_000, "ms_per_job": found}


def workers(rounds: int = 5) -> dict[str, Any]:
    """How many times faster two workers are than one, on 150 jobs of about 0.1 s."""
    ratios, seconds = [], []
    jobs = jobs_of(150, busy=12_000)
    one, two = Local(1), Local(2)
    for number in range(rounds):
        pair = [timed(jobs, executor) for executor in (one, two)]
        ratios.append(pair[0] / pair[1])
        seconds.append(pair)
        print(f"workers, round {number}: {pair[0]:.2f} s, {pair[1]:.2f} s, ratio {ratios[-1]:.3f}")
    one.stop(1.0)
    two.stop(1.0)
    return {
        "jobs": len(jobs),
        "seconds": [[round(value, 3) for value in pair] for pair in seconds],
        "ratio_mean": round(statistics.mean(ratios), 3),
        "ratio_sd": round(statistics.stdev(ratios), 3),
    }


def tree(count: int) -> list[Job]:
    """``count`` jobs over one that all need, in batches of 100 that are joined, under one result."""
    root = Job("empty", {"number": -1})
    leaves = [Job("empty", {"number": number}, inputs=(root,)) for number in range(count)]
    joins = [Job("empty", {"join": start}, inputs=tuple(leaves[start : start + 100])) for start in range(0, count, 100)]
    return [Job("empty", {"top": count}, inputs=tuple(joins))]


def fill(store: Store, job: Job) -> None:
    """An artefact as the store would write it, without waiting for the disk."""
    folder = store.path(job.id)
    folder.mkdir(parents=True)
    (folder / "value").write_text("0")
    files = {"value": {"bytes": 1, "sha256": sha256_file(folder / "value")}}
    (folder / "manifest.json").write_text(canonical_json({"job": job.description, "files": files}) + "\n")


def plan_once(count: int, folder: Path) -> dict[str, Any]:
    """Seconds and memory to plan, and to resume where all but the result is done. In a process of its own."""
    base = peak_memory()
    store, began = Store(folder), time.perf_counter()
    fresh = len(missing(tree(count), store))
    planned = time.perf_counter() - began
    leaves = [job for join in tree(count)[0].inputs for job in join.inputs]
    for job in leaves:
        fill(store, job)
    began = time.perf_counter()
    left = missing(tree(count), Store(folder))
    resumed = time.perf_counter() - began
    assert len(left) == 1 + -(-count // 100), len(left)
    return {
        "jobs": fresh,
        "plan_s": round(planned, 3),
        "resume_s": round(resumed, 3),
        "peak_memory_bytes": peak_memory(),
        "of_which_before_bytes": base,
    }


def plan() -> dict[str, Any]:
    curve = []
    for count in (1_000, 3_000, 10_000, 30_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            line = subprocess.run(
                [sys.executable, __file__, "--plan-once", str(count), "--folder", folder],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        curve.append(json.loads(line))
        print(f"plan: {curve[-1]}")
    return {"curve": curve}


def growth() -> dict[str, Any]:
    """Memory of one worker over the jobs of 500 tiny distilled sets."""
    from condense.device import Compute
    from condense.pipeline import Context, distill, resolve
    from condense.pipeline.execution import Execution

    values = {
        "data": "fashion-mini",
        "method": "sre2l",
        "ipc": 1,
        "sets": 500,
        "steps": 2,
        "teacher": {"network": "convnet2-w8-bn", "epochs": 1},
        "labels": {"epochs": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        context = Context(store=store, compute=Compute(), execution=Execution(workers=1))
        distill(resolve(values, quick=True), context, out=Path(folder) / "sets")
        context.close()
        events = [event for event in finished_jobs(store.root / "runs") if event["kind"] != "teacher"]
    peaks = [event["peak_memory_bytes"] for event in events]
    at = {number: peaks[number] for number in (20, 100, 500, 1000, len(peaks) - 1)}
    print(f"growth: {at}")
    return {"jobs": len(peaks), "peak_memory_bytes_after": at}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "overhead": overhead,
    "workers": workers,
    "plan": plan,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plan-once", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan_once:
        print(json.dumps(plan_once(options.plan_once, options.folder)))
        return
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    for name in [options.part] if options.part else PARTS:
        measured = PARTS[name]()
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        known[name] = {**measured, **machine}
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
