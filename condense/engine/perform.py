"""Doing one job in this process: what every executor does in the end, wherever it runs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from condense.checkpoint import Checkpoint, FileCheckpoint, Paused, never
from condense.engine.events import EventLog
from condense.engine.job import Task
from condense.engine.store import Store
from condense.memory import peak_memory
from condense.progress import Report

__all__ = ["Desk", "Outcome", "Settings", "Workshop", "out_of_memory", "perform"]


@dataclass(frozen=True)
class Desk:
    """What a worker is given for one job besides its inputs: a folder to fill, a report, and a checkpoint."""

    folder: Path
    report: Report
    checkpoint: Checkpoint


class Workshop(Protocol):
    """What a process needs to do jobs. ``recipe`` is JSON from which another process builds the same workshop."""

    @property
    def store(self) -> Store: ...

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        """Do the job: read ``inputs``, the folders of its inputs' artefacts, and fill ``desk.folder``."""

    def recipe(self) -> dict[str, Any]:
        """``{"entry": "module:function", "values": ...}``; the function makes a workshop of the values.

        ``values["store"]`` is the path of the store, which an executor may replace by that of another machine.
        """


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How jobs are done, besides what they are: nothing here changes a byte of a result.

    checkpoint_every_s: seconds between two checkpoints of a job.
    log_every_s: seconds between two of its ``progress`` events.
    memory: bytes that a process of an executor may hold; None for no limit.
    """

    checkpoint_every_s: float = 20.0
    log_every_s: float = 2.0
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    ``done``; ``failed`` with the error; ``memory``: it needed more memory than there is; ``lost``: its process or
    machine went away; ``paused``: it was asked to stop and left a checkpoint.
    """

    task: Task
    status: Literal["done", "failed", "memory", "lost", "paused"]
    error: BaseException | None = None
    trace: str = ""
    why: str = ""
    seconds: float = 0.0
    peak_memory: int = 0


def perform(
    task: Task,
    shop: Workshop,
    *,
    report: Report,
    log: EventLog,
    settings: Settings,
    stopping: Callable[[], bool] = never,
) -> Outcome:
    """Do the job and publish its artefact. What the worker raises becomes the outcome; only an end of the process
    (KeyboardInterrupt and the like) passes through."""
    started, told = time.perf_counter(), _throttled(report, log, task, settings.log_every_s)
    log.write("started", task)
    try:
        store = shop.store
        checkpoint = FileCheckpoint(store.checkpoint_path(task.id), settings.checkpoint_every_s, stopping)
        inputs = [store.path(below) for below in task.inputs]
        store.make(task, lambda folder: shop.work(task, inputs, Desk(folder, told, checkpoint)))
        outcome = Outcome(task, "done")
    except Paused:
        outcome = Outcome(task, "paused")
    except Exception as error:
        status: Literal["memory", "failed"] = "memory" if out_of_memory(error) else "failed"
        outcome = Outcome(task, status, error, trace=traceback.format_exc(), why=str(error))
    outcome = replace(outcome, seconds=time.perf_counter() - started, peak_memory=peak_memory())
    log_outcome(log, outcome)
    return outcome


def log_outcome(log: EventLog, outcome: Outcome) -> None:
    facts: dict[str, Any] = {"seconds": round(outcome.seconds, 3), "peak_memory_bytes": outcome.peak_memory}
    if outcome.status == "failed":
        facts["error"] = f"{type(outcome.error).__name__}: {outcome.error}"
    elif outcome.why:
        facts["why"] = outcome.why
    log.write(outcome.status, outcome.task, **facts)


def _throttled(report: Report, log: EventLog, task: Task, every_s: float) -> Report:
    """Hands on every report, and logs one every so often and the last of each stage, with the memory held so far."""
    last = [0.0]

    def told(stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        report(stage, done, total, figures)
        now = time.monotonic()
        if now - last[0] >= every_s or done >= total:
            last[0] = now
            facts = {"stage": stage, "done": done, "total": total, "figures": dict(figures)}
            log.write("progress", task, **facts, peak_memory_bytes=peak_memory())

    return told


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the processor or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ in ("OutOfMemoryError", "_ArrayMemoryError"):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )
