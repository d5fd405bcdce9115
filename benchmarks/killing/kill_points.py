"""Kills processes at named moments from inside them; the package itself knows nothing of it.

`sitecustomize.py` calls :func:`install` in every Python process that has this folder on its path and ``CONDENSE_KILL``
in its environment: what :func:`as_environment` makes of orders; or ``{"survey": file}``, to kill nothing and write down
every moment that an order could name. A moment is a *point* (a step of a loop; a file about to be opened, for writing
or if it is a picture; just before or after ``os.fsync`` or a rename) in a *phase*, which is told from the functions
that are under way. Only the standard library is imported, so that it comes before everything else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

__all__ = ["Order", "Place", "Victim", "as_environment", "install"]

Victim = Literal["driver", "worker", "group"]

WORK = {
    "teacher": "teacher epoch",
    "rows": "recover step",
    "images": "set assembly",
    "labels": "relabel",
    "set": "set assembly",
}
"""The phase in which a worker does what makes a job of this kind."""

ID_LENGTH = 64
PERFORM = "condense.engine.perform.perform"
WRITING = {
    "condense.checkpoint.FileCheckpoint.save": "checkpoint write",
    "condense.files.publish_folder": "artefact write",
    "condense.engine.events.EventLog.write": "event log",
}
"""Functions of a process at a job that keep what it made, and the phase it is in meanwhile."""

DRIVER = {
    "condense.data.seen.inspect": ("import", "reading"),
    "condense.data.seen.write_index": ("import", "index"),
    "condense.data.folders._decode": ("import", "decoding"),
    "condense.data.cache._build": ("import", "cache"),
    "condense.engine.presence.Run.__enter__": ("taking up work", "record"),
    "condense.engine.presence.Claims.take": ("taking up work", "claim"),
    "condense.pipeline.publish.publish": ("set assembly", "out"),
}
"""Functions of the process that drives the run, in any of its threads; the phase and part it is in meanwhile."""


@dataclass(frozen=True)
class Place:
    """What a process is doing: the phase, and which part of it, for a process at a job the kind of the job."""

    phase: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """Kill ``victim`` at a moment, after ``countdown`` moments of the same description have passed in that process.

    point: ``step``, ``open``, ``before fsync``, ``after fsync``, ``before rename`` or ``after rename``.
    victim: ``worker``, the very process, which does a job for the driver; ``driver``; ``group``, all of them.
    delay_s: seconds to let pass then, so that the process is killed amid whatever it does by that time.
    """

    phase: str
    part: str
    point: str
    victim: Victim
    countdown: int = 0
    delay_s: float = 0.0


def as_environment(marks: Path, store: Path, orders: Sequence[Order]) -> str:
    """The value of ``CONDENSE_KILL``: each order counts from when the one before it was carried out.

    Just before an order is carried out, the file ``marks/N`` (from 0) says so: the place, whether it is that of a
    worker, the time (seconds since 1970), and the ids of the artefacts that are in ``store`` at that moment.
    """
    return json.dumps({"marks": str(marks), "store": str(store), "orders": [asdict(order) for order in orders]})


def install(text: str) -> None:
    """Watch this process as the text says."""
    said = json.loads(text)
    if "survey" in said:
        tell = survey(Path(said["survey"]))
    else:
        orders = [Order(**order) for order in said["orders"]]
        tell = Watch(Path(said["marks"]), Path(said["store"]), orders).reached
    os.fsync = around(os.fsync, "fsync", tell)
    os.rename = around(os.rename, "rename", tell)
    os.replace = around(os.replace, "rename", tell)
    sys.addaudithook(openings(tell))
    sys.meta_path.insert(0, Steps(tell))


Tell = Callable[[str, FrameType], None]


def around(function: Callable[..., Any], name: str, tell: Tell) -> Callable[..., Any]:
    """``function``, which tells before it begins and when it has come back."""

    @wraps(function)
    def told(*arguments: Any, **options: Any) -> Any:
        tell(f"before {name}", sys._getframe(1))
        result = function(*arguments, **options)
        tell(f"after {name}", sys._getframe(1))
        return result

    return told


def openings(tell: Tell) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that tells of files about to be opened for writing, and of pictures."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & os.O_ACCMODE != os.O_RDONLY or str(path).endswith(".png"):
                tell("open", sys._getframe(1))

    return hear


class Steps(MetaPathFinder):
    """Tells of each step of a long loop: it is when the loop asks whether a checkpoint is due."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "condense.checkpoint":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            due = module.FileCheckpoint.due

            def told(checkpoint: Any) -> Any:
                self.tell("step", sys._getframe(1))
                return due(checkpoint)

            module.FileCheckpoint.due = told

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def survey(file: Path) -> Tell:
    """Write each moment down: phase, part and point, with tabs between."""
    handle = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)

    def tell(point: str, frame: FrameType) -> None:
        place = place_of(frame)
        if place is not None:
            os.write(handle, f"{place.phase}\t{place.part}\t{point}\n".encode())

    return tell


def place_of(frame: FrameType | None) -> Place | None:
    """Where the functions that led to ``frame`` are; None for nowhere of interest."""
    names, kind = set[str](), ""
    while frame is not None:
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        names.add(name)
        if name == PERFORM:
            kind = frame.f_locals["task"].kind
        frame = frame.f_back
    if kind:
        phase = next((phase for name, phase in WRITING.items() if name in names), WORK.get(kind))
        return Place(phase, kind) if phase else None
    return next((Place(*place) for name, place in DRIVER.items() if name in names), None)


class Watch:
    """Carries out orders, one after the other, in whichever process of the group comes first."""

    def __init__(self, marks: Path, store: Path, orders: Sequence[Order]) -> None:
        self.marks, self.store, self.orders = marks, store, orders
        self.number, self.count = 0, 0
        self.is_worker = "condense.engine.executors.child" in sys.orig_argv
        self.parent = os.getppid()
        self.under_way = False

    def reached(self, point: str, frame: FrameType) -> None:
        """The process is at a point; ``frame`` has come there."""
        if self.under_way:
            return
        while self.number < len(self.orders) and (self.marks / str(self.number)).exists():
            self.number, self.count = self.number + 1, 0
        if self.number == len(self.orders):
            return
        order = self.orders[self.number]
        if point != order.point or place_of(frame) != Place(order.phase, order.part):
            return
        self.count += 1
        if self.count <= order.countdown:
            return
        self.under_way = True
        if order.delay_s:
            threading.Thread(target=self._later, args=(order,), daemon=True, name="kill").start()
        else:
            self._strike(order, Place(order.phase, order.part))

    def _later(self, order: Order) -> None:
        time.sleep(order.delay_s)
        main = threading.main_thread().ident
        assert main is not None
        self._strike(order, place_of(sys._current_frames().get(main)))

    def _strike(self, order: Order, place: Place | None) -> None:
        """Leave the mark, then kill; a mark that is there means that another process was first."""
        try:
            mark = os.open(self.marks / str(self.number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            self.under_way = False
            return
        finished = [path.name for path in self.store.glob("??/*") if len(path.name) == ID_LENGTH]
        facts = {"place": asdict(place) if place else None, "in_worker": self.is_worker, "time": time.time()}
        os.write(mark, json.dumps({**facts, "finished": finished}).encode())
        os.close(mark)
        if order.victim == "group":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        elif order.victim == "driver" and self.is_worker:
            if os.getppid() == self.parent:
                os.kill(self.parent, signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
        self.under_way = False
