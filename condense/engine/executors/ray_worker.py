"""The side of the Ray executor that runs in the cluster: one job, in a store that is shared or the machine's own."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from condense.engine.events import EventLog
from condense.engine.executors.child import Opened
from condense.engine.executors.wire import outcome_to
from condense.engine.job import Task
from condense.engine.parcel import pack, receive
from condense.engine.perform import Outcome, Settings, perform
from condense.engine.store import Store
from condense.errors import CondenseError, StoreError
from condense.memory import resident_memory
from condense.progress import silent

__all__ = ["carry_out"]

WATCH_EVERY_S = 0.02


def carry_out(order: bytes, parcels: Sequence[Any]) -> tuple[bytes, bytes]:
    """Do one job in a worker of Ray. ``parcels``: references to its inputs; none, to find out whether it needs them.

    Returns JSON ``{"lacks", "apart", "outcome"}``, and the artefact's parcel if the store is not shared.
    """
    values = json.loads(order)
    task = Task.from_dict(values["task"])
    try:
        return _carried_out(task, values, parcels)
    except CondenseError as error:
        return _reply(outcome=outcome_to(Outcome(task, "failed", error, why=str(error)))), b""


def _carried_out(task: Task, values: Mapping[str, Any], parcels: Sequence[Any]) -> tuple[bytes, bytes]:
    events, recipe = Path(values["events"]), values["recipe"]
    seen = (events / "run.json").exists()
    apart = values["shared"] is False or not seen
    if values["shared"] is True and not seen:
        raise StoreError(f"{socket.gethostname()} does not see {events.parent.parent}, where the store is said to be")
    if apart:
        store = Store(own_store())
        lacking = [number for number, below in enumerate(task.inputs) if not store.has(below)]
        if lacking and not parcels:
            return _reply(lacks=True), b""
        for number in lacking:
            receive(store, task.inputs[number], importlib.import_module("ray").get(parcels[number]))
        recipe = {**recipe, "values": {**recipe["values"], "store": str(store.root)}}
        events = store.root / "runs" / events.name
    shop = opened(json.dumps(recipe))
    log = EventLog(events, f"{socket.gethostname()}-{os.getpid()}")
    settings = Settings(**values["settings"])
    with asked_to_end() as stopping, within(settings.memory):
        outcome = perform(task, shop, report=silent, log=log, settings=settings, stopping=stopping)
    made = pack(shop.store.path(task.id)) if apart and outcome.status == "done" else b""
    return _reply(apart=apart, outcome=outcome_to(outcome)), made


def _reply(*, lacks: bool = False, apart: bool = False, outcome: Mapping[str, Any] | None = None) -> bytes:
    return json.dumps({"lacks": lacks, "apart": apart, "outcome": outcome}).encode()


@lru_cache(1)
def opened(recipe: str) -> Opened:
    """The workshop of a recipe, which the next job of this process uses too."""
    return Opened(json.loads(recipe))


@contextlib.contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """Inside, the interrupt that ``ray.cancel`` sends only sets a flag, so that the job can leave a checkpoint."""
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def within(budget: int | None) -> Iterator[None]:
    """Inside, holding more than ``budget`` bytes raises MemoryError in the main thread, at its next instruction."""
    if budget is None:
        yield
        return
    ended, told, main = threading.Event(), threading.Event(), threading.get_ident()

    def watch() -> None:
        while not ended.wait(WATCH_EVERY_S):
            if resident_memory() > budget:
                signal.pthread_kill(main, signal.SIGUSR1)

    def refuse(*_: object) -> None:
        if not told.is_set():
            told.set()
            raise MemoryError("its process held more than the memory budget")

    before = signal.signal(signal.SIGUSR1, refuse)
    watcher = threading.Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def own_store() -> Path:
    """Where a worker that does not see the driver's store keeps what it makes: ``$CONDENSE_STORE``, or a folder among
    the machine's temporary files that belongs to this user alone. It may be removed whenever no job runs."""
    if named := os.environ.get("CONDENSE_STORE"):
        return Path(named)
    path = Path(tempfile.gettempdir()) / f"condense-store-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StoreError(f"{path} belongs to somebody else; set CONDENSE_STORE on {socket.gethostname()}")
    return path
