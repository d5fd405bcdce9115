"""Jobs done by processes of this machine, each started afresh and fed one job at a time.

A process is a new interpreter (never a fork: threads and CUDA do not survive one) that runs :mod:`child`; the two talk
JSON lines over a pair of pipes. When this process dies the children see the end of their pipe and end too.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from condense.engine.events import EventLog
from condense.engine.executors.base import Progress
from condense.engine.executors.wire import outcome_from
from condense.engine.job import Task
from condense.engine.perform import Outcome, Settings, Workshop, log_outcome

__all__ = ["Local"]

HURRY_S = 1.0

OVER_BUDGET = 86
"""Exit status of a child that went over its memory budget."""


def memory_kills() -> int:
    """How many processes this system has killed for memory since it started; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class Child:
    """One process and the job it has, if any."""

    def __init__(self, number: int, hello: Mapping[str, Any], environment: Mapping[str, str], inbox: Inbox) -> None:
        self.number = number
        self.task: Task | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "condense.engine.executors.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.say(hello)
        self.listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True, name=f"child {number}")
        self.listener.start()

    def say(self, message: Mapping[str, Any]) -> None:
        """Send one line; a child that is gone is noticed by its listener."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _listen(self, inbox: Inbox) -> None:
        stream: IO[bytes] | None = self.process.stdout
        assert stream is not None
        with stream:
            for line in stream:
                with suppress(ValueError):
                    inbox.put((self, json.loads(line)))
        code = self.process.wait()
        self.hang_up()
        inbox.put((self, {"exit": code}))

    def hang_up(self) -> None:
        """Close the way to the child, which tells it that no more will come."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


Inbox = queue.Queue[tuple[Child, dict[str, Any]]]


class Local:
    """``workers`` processes; ``environments[k]`` is laid over the environment of the k-th (a GPU of its own, say)."""

    def __init__(self, workers: int, environments: Sequence[Mapping[str, str]] = ()) -> None:
        self.slots = workers
        self.environments = list(environments)
        self._inbox: Inbox = queue.Queue()
        self._children: dict[int, Child] = {}
        self._hello: dict[str, Any] = {}

    def start(self, shop: Workshop, events: Path, settings: Settings, progress: Progress) -> None:
        self.events = str(events)
        self.log, self.progress, self._kills = EventLog(events), progress, memory_kills()
        hello = {"shop": shop.recipe(), "settings": settings.to_dict()}
        if self._children and hello != self._hello:
            self.stop(HURRY_S)
        self._hello = hello

    def submit(self, task: Task) -> None:
        child = next((one for one in self._children.values() if one.task is None), None) or self._begin()
        child.task = task
        child.say({"task": task.to_dict(), "events": self.events})

    def wait(self, timeout: float) -> Sequence[Outcome]:
        end, found = time.monotonic() + timeout, list[Outcome]()
        while not found:
            try:
                child, message = self._inbox.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            found += self._heard(child, message)
        return found

    def _heard(self, child: Child, message: Mapping[str, Any]) -> list[Outcome]:
        task = child.task
        if "exit" in message:
            if self._children.get(child.number) is child:
                del self._children[child.number]
            return [] if task is None else [self._gone(task, message["exit"])]
        if task is None:
            return []
        if "progress" in message:
            stage, done, total, figures = message["progress"]
            self.progress(task, stage, done, total, figures)
            return []
        child.task = None
        return [outcome_from(task, message["outcome"])]

    def _gone(self, task: Task, code: int) -> Outcome:
        kills = memory_kills()
        if code == OVER_BUDGET:
            outcome = Outcome(task, "memory", why="its process held more than the memory budget")
        elif code == -signal.SIGKILL and kills > self._kills:
            self._kills = kills
            outcome = Outcome(task, "memory", why="the system killed its process for want of memory")
        else:
            why = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
            outcome = Outcome(task, "lost", why=f"its process {why}")
        log_outcome(self.log, outcome)
        return outcome

    def _begin(self) -> Child:
        number = next(number for number in range(self.slots) if number not in self._children)
        environment = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        if number < len(self.environments):
            environment.update(self.environments[number])
        self._children[number] = Child(number, self._hello, environment, self._inbox)
        return self._children[number]

    def stop(self, patience: float) -> None:
        children = list(self._children.values())
        for child in children:
            child.say({"stop": True})
            child.hang_up()
        end = time.monotonic() + patience
        for child in children:
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
            child.listener.join()
        self._children.clear()
        self._inbox = queue.Queue()  # what they still had to say is for nobody
