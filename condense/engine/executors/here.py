"""Jobs done in this very process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from condense.engine.events import EventLog
from condense.engine.executors.base import Progress
from condense.engine.job import Task
from condense.engine.perform import Outcome, Settings, Workshop, perform

__all__ = ["Here"]


class Here:
    """``deadline``: by ``time.monotonic``, when to ask the running job to leave a checkpoint and end."""

    slots = 1

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._waiting: list[Task] = []

    def start(self, shop: Workshop, events: Path, settings: Settings, progress: Progress) -> None:
        self.shop, self.log, self.settings, self.progress = shop, EventLog(events), settings, progress

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def wait(self, timeout: float) -> Sequence[Outcome]:
        if not self._waiting:
            time.sleep(timeout)
            return []
        task = self._waiting.pop(0)

        def report(stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
            self.progress(task, stage, done, total, figures)

        outcome = perform(task, self.shop, report=report, log=self.log, settings=self.settings, stopping=self._is_over)
        return [outcome]

    def stop(self, patience: float) -> None:
        self._waiting.clear()

    def _is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline
