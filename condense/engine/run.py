"""Run what is missing, in order, in this process."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from condense.engine.job import Job, in_order
from condense.engine.store import Store
from condense.errors import StoreError
from condense.files import write_atomic
from condense.progress import Report, silent

__all__ = ["Worker", "measured", "missing", "peak_memory", "run"]

C = TypeVar("C")

Worker = Callable[[Job, Sequence[Path], Path, C], None]
"""``worker(job, paths of the inputs' artefacts, folder to fill, context)``"""


def missing(jobs: Sequence[Job], store: Store) -> list[Job]:
    """The jobs that have to run, inputs first. What only a finished job needed is not looked at."""
    needed: dict[str, bool] = {}
    ordered = in_order(jobs)
    wanted: set[str] = {job.id for job in jobs}
    for job in reversed(ordered):
        needed[job.id] = job.id in wanted and not store.has(job.id)
        if needed[job.id]:
            wanted.update(below.id for below in job.inputs)
    return [job for job in ordered if needed[job.id]]


def run(
    jobs: Sequence[Job], store: Store, workers: Mapping[str, Worker[C]], context: C, report: Report = silent
) -> list[Path]:
    """Make every missing artefact and return the paths of ``jobs``'s, in their order.

    An exception in one job ends the run; what was finished before stays, and the job's checkpoint with it.
    """
    todo = missing(jobs, store)
    for done, job in enumerate(todo):
        report("jobs", done, len(todo))
        _run_one(job, store, workers[job.kind], context)
    if todo:
        report("jobs", len(todo), len(todo))
    for job in jobs:
        if not store.has(job.id):
            raise StoreError(f"store {store.root}: {job} was removed while the run went on; run the same command again")
    return [store.path(job.id) for job in jobs]


def _run_one(job: Job, store: Store, worker: Worker[C], context: C) -> None:
    paths = [store.path(below.id) for below in job.inputs]
    started = time.perf_counter()
    store.make(job, lambda folder: worker(job, paths, folder, context))
    _log(store, job, time.perf_counter() - started)


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(store: Store, job: Job) -> dict[str, float]:
    """Seconds and peak memory in bytes of a finished job, as far as this store knows them."""
    try:
        values = json.loads((store.root / "measured" / f"{job.id}.json").read_text())
    except (OSError, ValueError):
        return {}
    return {"seconds": values["seconds"], "peak_memory_bytes": values["peak_memory_bytes"]}


def _log(store: Store, job: Job, seconds: float) -> None:
    """Keep what was measured beside the artefacts and in this process's event log, never in them."""
    event = {
        "event": "done",
        "job": job.id,
        "kind": job.kind,
        "title": str(job),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
        "time": time.time(),
    }
    write_atomic(store.root / "measured" / f"{job.id}.json", json.dumps(event).encode())
    folder = store.root / "events"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{os.getpid()}.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")
