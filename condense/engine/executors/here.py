"""Jobs done in this very process, one after the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from condense.checkpoint import never
from condense.engine.events import EventLog
from condense.engine.executors.base import Progress
from condense.engine.job import Task
from condense.engine.perform import Outcome, Settings, Workshop, perform

__all__ = ["Here", "asked_first"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 0.7
"""From a signal to what it does by itself: the time for one more step and a checkpoint."""


class Here:
    """``deadline``: by ``time.monotonic``, when to ask the running job to leave a checkpoint and end.

    SIGINT and SIGTERM ask it, too, before they do what they do otherwise.
    """

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

        with asked_first() as asked:

            def stopping() -> bool:
                return asked() or (self.deadline is not None and time.monotonic() >= self.deadline)

            return [perform(task, self.shop, report=report, log=self.log, settings=self.settings, stopping=stopping)]

    def stop(self, patience: float) -> None:
        self._waiting.clear()


@contextmanager
def asked_first(grace_s: float = GRACE_S) -> Iterator[Callable[[], bool]]:
    """Inside, a first SIGINT or SIGTERM makes the function true; what it does otherwise follows after ``grace_s``.

    It follows earlier when the block ends, or with a second signal. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked: list[int] = []
    again = threading.Event()

    def later() -> None:
        if not again.wait(grace_s):
            os.kill(os.getpid(), asked[0])

    def first(number: int, frame: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            threading.Thread(target=later, daemon=True, name="grace").start()
            return
        again.set()
        usual = before[signal.Signals(number)]
        if callable(usual):
            usual(number, frame)
        else:
            signal.signal(number, usual)
            os.kill(os.getpid(), number)

    taken = [number for number, usual in before.items() if usual not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, first)
    try:
        yield lambda: bool(asked)
    finally:
        for number in taken:
            signal.signal(number, before[number])
        if asked and not again.is_set():
            again.set()
            os.kill(os.getpid(), asked[0])
