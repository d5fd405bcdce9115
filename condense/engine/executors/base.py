"""What an executor promises the loop that feeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from condense.engine.job import Task
from condense.engine.perform import Outcome, Settings, Workshop

__all__ = ["Executor", "Progress", "ignore"]


class Progress(Protocol):
    """Told how far a job is, possibly from another thread."""

    def __call__(self, task: Task, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None: ...


def ignore(task: Task, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
    """Takes no notice."""


class Executor(Protocol):
    """Carries at most ``slots`` jobs at a time. Used inside ``with``; leaving stops what still runs."""

    @property
    def slots(self) -> int: ...

    def start(self, shop: Workshop, events: Path, settings: Settings, progress: Progress) -> None:
        """Get ready. ``events`` is the folder for this run's event logs."""

    def submit(self, task: Task) -> None:
        """Take a job; it ends in one outcome of `wait`."""

    def wait(self, timeout: float) -> Sequence[Outcome]:
        """Outcomes, at the latest after ``timeout`` seconds (then possibly none)."""

    def stop(self, patience: float) -> None:
        """Ask running jobs to leave a checkpoint and end; whatever has not after ``patience`` seconds is ended."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
