"""How far runs are, read from what they leave in the store; nothing is asked of the processes themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.engine.events import read_events
from condense.engine.presence import Neighbours
from condense.engine.store import Store

__all__ = ["KindStatus", "RunningJob", "Status", "status_of"]


@dataclass
class KindStatus:
    """Jobs of one kind: how many there are and are done; mean seconds of a finished one, if any is known."""

    total: int = 0
    done: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class RunningJob:
    """A job under way. ``rate``: units of ``stage`` per second; ``seconds_left`` of that stage at this rate."""

    title: str
    stage: str
    done: int
    total: int
    figures: dict[str, float]
    rate: float | None
    seconds_left: float | None


@dataclass
class Status:
    """How far everything is.

    ``state``: running; ended, with nothing left to do; stopped, with something left; none, if nothing is known.
    """

    state: str
    processes: int = 0
    kinds: dict[str, KindStatus] = field(default_factory=dict)
    running: list[RunningJob] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds_left: float | None = None
    counted: int = 0
    """Runs whose jobs these are, of `known` ones."""
    known: int = 0

    @property
    def done(self) -> int:
        return sum(kind.done for kind in self.kinds.values())

    @property
    def total(self) -> int:
        return sum(kind.total for kind in self.kinds.values())


def status_of(store: Store, out: Path | None = None) -> Status:
    """The status of what is going on in the store: all living runs, or else the last one.

    out: only runs whose result goes there, or below.
    """
    neighbours = Neighbours(store.root)
    names = [name for name in neighbours.runs() if _goes_to(neighbours.about(name), out)]
    alive = [name for name in names if neighbours.alive(name)]
    chosen = alive or names[-1:]
    if not chosen:
        return Status("none")
    jobs = {job[0]: job for name in chosen for job in neighbours.about(name).get("jobs", [])}
    finished = {job_id for job_id in jobs if store.path(job_id).exists()}
    state = "running" if alive else "ended" if len(finished) == len(jobs) else "stopped"
    status = Status(state, len(alive), counted=len(chosen), known=len(names))
    events = [event for name in chosen for event in read_events(store.root / "runs" / name)]
    events.sort(key=lambda event: float(event["time"]))
    for job_id, kind, _ in jobs.values():
        one = status.kinds.setdefault(kind, KindStatus())
        one.total += 1
        one.done += job_id in finished
    for kind, one in status.kinds.items():
        taken = [event["seconds"] for event in events if event["event"] == "done" and event["kind"] == kind]
        one.seconds = sum(taken) / len(taken) if taken else None
    last = {event["job"]: event for event in events if event["event"] != "progress"}
    status.failed = [
        (event["title"], event.get("error") or event.get("why", ""))
        for event in last.values()
        if event["event"] in ("failed", "memory", "lost") and event["job"] not in finished
    ]
    if alive:
        started = [event["job"] for event in last.values() if event["event"] == "started"]
        status.running = [_running(job_id, events) for job_id in started if job_id not in finished]
        status.seconds_left = _seconds_left(status)
    return status


def _goes_to(about: dict[str, Any], out: Path | None) -> bool:
    if out is None:
        return True
    wanted = out.absolute()
    return any(wanted == Path(path) or wanted in Path(path).parents for path in about.get("out", []))


def _running(job_id: str, events: list[dict[str, Any]]) -> RunningJob:
    """From the job's last two ``progress`` events of the same stage."""
    mine = [event for event in events if event["job"] == job_id]
    progress = [event for event in mine if event["event"] == "progress"]
    if not progress:
        return RunningJob(mine[-1]["title"], "starting", 0, 0, {}, None, None)
    last = progress[-1]
    before = next((event for event in reversed(progress[:-1]) if event["stage"] == last["stage"]), None)
    rate = None
    if before is not None and last["time"] > before["time"] and last["done"] > before["done"]:
        rate = (last["done"] - before["done"]) / (last["time"] - before["time"])
    left = None if rate is None else (last["total"] - last["done"]) / rate
    return RunningJob(last["title"], last["stage"], last["done"], last["total"], last["figures"], rate, left)


def _seconds_left(status: Status) -> float | None:
    """Of everything: what runs, and what waits at the mean of its kind, by as many as run now. None if not known."""
    waiting = 0.0
    for kind in status.kinds.values():
        left = kind.total - kind.done
        if left and kind.seconds is not None:
            waiting += left * kind.seconds
        elif left > len(status.running):
            return None
    side_by_side = max(1, len(status.running))
    known = [job.seconds_left for job in status.running if job.seconds_left is not None]
    if not waiting and not known:
        return None
    return max(waiting / side_by_side, max(known, default=0.0))
