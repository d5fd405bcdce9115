"""Looking after a store: what is in it, whether it is sound, and what nobody needs any more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from condense.engine.presence import Neighbours
from condense.engine.store import SHORT, Store
from condense.progress import Report, silent

__all__ = ["Artefact", "Garbage", "artefacts", "collect", "faults", "garbage"]


@dataclass(frozen=True)
class Artefact:
    """A finished job in the store. ``inputs`` are ids; ``age_s`` is the time since it was published."""

    id: str
    kind: str
    bytes: int
    inputs: tuple[str, ...]
    age_s: float


@dataclass(frozen=True)
class Garbage:
    """Something that can go: ``what`` it is, where, and how many bytes that frees."""

    what: str
    path: Path
    bytes: int


def artefacts(store: Store, now: Callable[[], float] = time.time) -> Iterator[Artefact]:
    """Every artefact whose manifest can be read; damaged ones are for :func:`faults`."""
    for job_id in store.ids():
        folder = store.path(job_id)
        with suppress(OSError, ValueError, KeyError, TypeError):
            described = store.description(job_id)
            age = now() - folder.stat().st_mtime
            yield Artefact(job_id, described["kind"], size(folder), tuple(described["inputs"]), max(0.0, age))


def faults(store: Store, report: Report = silent) -> Iterator[tuple[str, str | None]]:
    """Every id with what is wrong with its artefact, or None. Reads every byte."""
    ids = list(store.ids())
    for number, job_id in enumerate(ids, start=1):
        yield job_id, store.fault(job_id)
        report("artefacts", number, len(ids))


def garbage(
    store: Store,
    keep: Collection[str],
    *,
    older_than_s: float,
    now: Callable[[], float] = time.time,
) -> list[Garbage]:
    """What can be removed without a loss: nothing that a kept artefact was made of, nor that a living run needs.

    keep: the kinds of artefacts that are somebody's result. Others that no result is made of go when they are older
        than ``older_than_s`` seconds; so do states of unfinished jobs. What dead processes left behind goes at once.
    """
    neighbours = Neighbours(store.root)
    alive = [name for name in neighbours.runs() if neighbours.alive(name)]
    known = {one.id: one for one in artefacts(store, now)}
    reached = set[str]()
    waiting = [one.id for one in known.values() if one.kind in keep]
    for name in alive:
        about = neighbours.about(name)
        waiting += [job[0] for job in about.get("jobs", [])] + list(about.get("needs", []))
    wanted = set(waiting)
    while waiting:
        job_id = waiting.pop()
        if job_id not in reached:
            reached.add(job_id)
            waiting += known[job_id].inputs if job_id in known else ()
    found = [
        Garbage(f"{one.kind} {one.id[:SHORT]}", store.path(one.id), one.bytes)
        for one in known.values()
        if one.id not in reached and one.age_s >= older_than_s
    ]
    held = {path.name: path.read_text() for path in _files(store.root / "claims")}
    busy = {job_id for job_id, name in held.items() if name in alive}
    found += [Garbage("claim of a dead run", store.root / "claims" / job_id, 0) for job_id in held.keys() - busy]
    starts = {job_id[:SHORT] for job_id in busy}
    left = [path for path in _entries(store.root / "tmp") if path.name[:SHORT] not in starts]
    found += [Garbage("left by a dead process", path, size(path)) for path in left]
    for path in _files(store.root / "checkpoints"):
        if path.name.startswith("."):
            if path.name[1:].partition(".")[0] not in busy:
                found.append(Garbage("left by a dead process", path, path.stat().st_size))
        elif path.name in known:
            found.append(Garbage("state of a finished job", path, path.stat().st_size))
        elif path.name not in wanted and now() - path.stat().st_mtime >= older_than_s:
            found.append(Garbage("state of an unfinished job", path, path.stat().st_size))
    return found


def collect(store: Store, found: Collection[Garbage]) -> int:
    """Remove it; returns the bytes freed. An artefact's name is free at once, even if this is interrupted."""
    freed = 0
    for one in found:
        if one.path.parent.parent == store.root and len(one.path.name) == 64 and one.path.is_dir():
            store.discard(one.path.name)
        elif one.path.is_dir():
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            one.path.unlink(missing_ok=True)
        freed += one.bytes
    return freed


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for below in path.rglob("*"):
        with suppress(OSError):
            total += below.stat().st_size if below.is_file() else 0
    return total


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file()]
