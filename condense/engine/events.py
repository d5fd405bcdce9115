"""What happened in a run, as JSON lines: one file per process, appended to, never part of an artefact.

Events: ``started``; ``progress`` (stage, done, total, figures); and, with seconds and peak_memory_bytes, ``done``,
``failed`` (error), ``lost`` (why), ``memory`` (why), ``paused``. Every line has ``event``, ``job``, ``kind``, ``title``
and ``time`` (seconds since 1970 by this machine's clock, for people: nothing is decided by it).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from condense.engine.job import Task

__all__ = ["EventLog", "costs", "finished_jobs", "read_events"]


class EventLog:
    """Appends to ``folder/NAME.jsonl``. A log that cannot be written stops nobody's work."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.path = folder / f"{name or os.getpid()}.jsonl"

    def write(self, event: str, task: Task, **facts: Any) -> None:
        line = {"event": event, "job": task.id, "kind": task.kind, "title": task.title, "time": time.time(), **facts}
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of one run, process by process; a line that a crash tore is left out."""
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, "rb") as file:
            for line in file:
                with suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        yield event


def finished_jobs(runs: Path) -> list[dict[str, Any]]:
    """The ``done`` events of every run below ``runs``, in the order of their times."""
    events = [event for folder in runs.glob("*") for event in read_events(folder) if event["event"] == "done"]
    return sorted(events, key=lambda event: float(event["time"]))


def costs(runs: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak memory in bytes of the finished jobs of every run below ``runs``, by job id."""
    return {
        event["job"]: {key: event[key] for key in ("seconds", "peak_memory_bytes")} for event in finished_jobs(runs)
    }
