"""The artefact store: one folder per finished job, published whole or not at all.

    store/ab/abcd.../            files and manifest.json (the job's description, size and SHA-256 of every file)
    store/tmp/...                folders being written; left behind only by a crash
    store/checkpoints/ID         the state of an unfinished job
    store/halved/ID              this job did not fit into memory: its parts are to be done apart
    store/runs/, store/claims/   who is at work; see :mod:`condense.engine.presence`

An artefact is done when its folder is there and its manifest holds. There is no other record, so several processes
can share a store: the second to finish the same job finds the folder there and drops its copy.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from condense.engine.job import Job, Task
from condense.errors import StoreError
from condense.files import canonical_json, disk_errors, publish_folder, sha256_file, write_atomic

__all__ = ["Store", "default_store"]

MANIFEST = "manifest.json"
SHORT = 12
"""Characters of an id that people are shown, and that folders being written begin with."""


def default_store() -> Path:
    """``$CONDENSE_STORE``, or ``store`` in the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONDENSE_STORE")
    return Path(named) if named else user_cache_path("condense") / "store"


class Store:
    """Artefacts below ``root``, found by the ids of jobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: set[str] = set()

    def path(self, job_id: str) -> Path:
        """Where the artefact is, or would be."""
        return self.root / job_id[:2] / job_id

    def has(self, job_id: str) -> bool:
        """Whether the artefact is there and every file has the size and hash its manifest says.

        Hashes are read once per process. A damaged artefact is moved out of the way, so that it is made again.
        """
        folder = self.path(job_id)
        if job_id in self._checked and (folder / MANIFEST).exists():
            return True
        if not folder.exists():
            return False
        fault = self.fault(job_id)
        if fault is not None:
            self.discard(job_id)
            return False
        self._checked.add(job_id)
        with suppress(OSError):  # left by a process that was killed just after it published the artefact
            self.checkpoint_path(job_id).unlink()
        return True

    def fault(self, job_id: str) -> str | None:
        """What is wrong with an artefact's files, or None."""
        folder = self.path(job_id)
        try:
            files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{MANIFEST} is missing or unreadable"
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, its manifest says {expected['bytes']}"
            if sha256_file(path) != expected["sha256"]:
                return f"{name} does not have the SHA-256 of its manifest"
        return None

    def discard(self, job_id: str) -> None:
        """Remove an artefact; its name is free at once, even if deleting is interrupted."""
        self._checked.discard(job_id)
        grave = self._temporary(f"{job_id[:SHORT]}-discarded")
        grave.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.rename(self.path(job_id), grave)
            shutil.rmtree(grave, ignore_errors=True)

    def make(self, job: Job | Task, write: Callable[[Path], object]) -> Path:
        """Let ``write(folder)`` fill a temporary folder, then publish it as the job's artefact.

        Raises :class:`OutputError` when the disk is full or read-only; nothing is left half-written then.
        """
        with disk_errors(self.root):
            folder = self._temporary(job.id[:SHORT])
            folder.mkdir(parents=True)
        try:
            with disk_errors(self.root):
                write(folder)
                manifest = {"job": dict(job.description), "files": dict(_describe(folder))}
                (folder / MANIFEST).write_text(canonical_json(manifest) + "\n")
                published = publish_folder(folder, self.path(job.id))
            if not published and not self.has(job.id):
                raise StoreError(f"store {self.root}: {job.id} could not be published; run the same command again")
            self._checked.add(job.id)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            self.checkpoint_path(job.id).unlink()
        return self.path(job.id)

    def checkpoint_path(self, job_id: str) -> Path:
        """Where the job keeps its state while it runs."""
        return self.root / "checkpoints" / job_id

    def halve(self, job_id: str) -> None:
        """Remember that the job does not fit into memory whole."""
        write_atomic(self.root / "halved" / job_id, b"")

    def is_halved(self, job_id: str) -> bool:
        """Whether plans are to do the job's parts apart."""
        return (self.root / "halved" / job_id).exists()

    def description(self, job_id: str) -> dict[str, Any]:
        """What a finished job was, from its manifest."""
        return dict(json.loads((self.path(job_id) / MANIFEST).read_text())["job"])

    def ids(self) -> Iterator[str]:
        """Every artefact's id."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]/*")):
            if len(folder.name) == 64:
                yield folder.name

    def _temporary(self, stem: str) -> Path:
        return self.root / "tmp" / f"{stem}-{uuid.uuid4().hex[:8]}"


def _describe(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield str(path.relative_to(folder)), {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
