"""A process of the local executor: reads jobs from standard input, does them, answers on standard output.

In:   {"shop", "settings"}, then {"task", "events"} one at a time, {"stop": true} at the end
Out:  {"progress": [stage, done, total, figures]} and, at the end of each job, {"outcome": ...}

Whatever the work itself prints goes to standard error. At a stop, or SIGTERM, the job under way leaves a checkpoint at
its next step, and the process ends. If the input ends without one, the process that wanted the work is gone: this one
ends at once, so that it is not still at work when the next run begins.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from condense.engine.events import EventLog
from condense.engine.executors.local import OVER_BUDGET
from condense.engine.executors.wire import outcome_to
from condense.engine.job import Task
from condense.engine.perform import Desk, Settings, Workshop, perform
from condense.engine.store import Store
from condense.memory import resident_memory

__all__ = ["main", "open_shop"]

REPORT_EVERY_S = 0.2
LOOK_EVERY_S = 0.02


def open_shop(recipe: Mapping[str, Any]) -> Workshop:
    """The workshop of a recipe; see :class:`condense.engine.perform.Workshop`."""
    module, _, name = recipe["entry"].partition(":")
    shop: Workshop = getattr(importlib.import_module(module), name)(recipe["values"])
    return shop


class Opened:
    """The workshop of a recipe, opened with the first job, so that a fault in opening it is that job's outcome."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.values = recipe

    @cached_property
    def shop(self) -> Workshop:
        return open_shop(self.values)

    @property
    def store(self) -> Store:
        return self.shop.store

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        self.shop.work(task, inputs, desk)

    def recipe(self) -> dict[str, Any]:
        return dict(self.values)


class Out:
    """The way back; lines of several threads do not mix. A parent that is gone is no fault."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.lock = threading.Lock()

    def say(self, message: Mapping[str, Any]) -> None:
        with self.lock:
            try:
                self.stream.write(json.dumps(message).encode() + b"\n")
                self.stream.flush()
            except BrokenPipeError:
                os._exit(1)


class Progress:
    """Sends a report at most every `REPORT_EVERY_S`, and the last of each stage."""

    def __init__(self, out: Out) -> None:
        self.out, self.last = out, 0.0

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        now = time.monotonic()
        if now - self.last >= REPORT_EVERY_S or done >= total:
            self.last = now
            self.out.say({"progress": [stage, done, total, dict(figures)]})


def watch_memory(budget: int) -> None:
    """End the process as soon as it holds more than ``budget`` bytes."""
    while resident_memory() <= budget:
        time.sleep(LOOK_EVERY_S)
    os._exit(OVER_BUDGET)


def main() -> None:
    """Serve until standard input ends."""
    out = Out(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    tasks: queue.SimpleQueue[tuple[Task, EventLog] | None] = queue.SimpleQueue()  # its put is safe in a signal handler
    hello = json.loads(sys.stdin.buffer.readline())

    def end(*_: object) -> None:
        stop.set()
        tasks.put(None)

    def listen() -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if "task" in message:
                tasks.put((Task.from_dict(message["task"]), EventLog(Path(message["events"]))))
            else:
                end()
                return
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=listen, daemon=True, name="listen").start()
    shop = Opened(hello["shop"])
    settings = Settings(**hello["settings"])
    if settings.memory is not None:
        threading.Thread(target=watch_memory, args=(settings.memory,), daemon=True, name="memory").start()
    while not stop.is_set() and (given := tasks.get()) is not None:
        task, log = given
        outcome = perform(task, shop, report=Progress(out), log=log, settings=settings, stopping=stop.is_set)
        out.say({"outcome": outcome_to(outcome)})
    os._exit(0)


if __name__ == "__main__":
    main()
