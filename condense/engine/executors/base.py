"""What an executor promises the loop that feeds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
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
    """Carries at most ``slots`` jobs at a time, for one run after the other. `stop` before it is dropped."""

    @property
    def slots(self) -> int: ...

    def start(self, shop: Workshop, events: Path, settings: Settings, progress: Progress) -> None:
        """Get ready for a run. ``events`` is the folder for its event logs."""

    def submit(self, task: Task) -> None:
        """Take a job; it ends in one outcome of `wait`."""

    def wait(self, timeout: float) -> Sequence[Outcome]:
        """Outcomes, at the latest after ``timeout`` seconds (then possibly none)."""

    def stop(self, patience: float) -> None:
        """Ask running jobs to leave a checkpoint and end; whatever has not after ``patience`` seconds is ended."""
