"""Writing files so that a crash, a kill or a full disk leaves either the old state or the new one."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from condense.errors import OutputError

__all__ = [
    "beside",
    "bytes_in_words",
    "canonical_json",
    "disk_errors",
    "fsync_folder",
    "publish_folder",
    "sha256_file",
    "sweep",
    "write_atomic",
]

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns "disk full", "read-only" and "denied" into an :class:`OutputError` that says what to do.

    HDF5 reports a full disk as an ``OSError`` or ``RuntimeError`` without a usable errno; the text is searched then.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        why = DISK_ERRORS.get(code) if code is not None else None
        if why is None:
            text = str(error)
            why = next((words for number, words in DISK_ERRORS.items() if os.strerror(number) in text), None)
        if why is None:
            raise
        raise OutputError(
            f"cannot write {path}: {why}; finished work is kept, so make room or choose another place "
            "and run the same command again"
        ) from error


def fsync_folder(path: Path) -> None:
    """Make the folder's entries durable (renames and new names inside it)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def beside(path: Path) -> Path:
    """A name in the same folder for what will become ``path``: hidden, and nobody else's."""
    return path.with_name(f".{path.name[:64]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what processes left under names of :func:`beside` that were killed a day ago or more.

    name: only what was to become this.
    """
    for path in folder.glob(f".{'*' if name is None else glob.escape(name[:64])}.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_ctime > STALE_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


STALE_S = 24 * 3600.0


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name, fsync, rename onto ``path``, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def publish_folder(temporary: Path, final: Path) -> bool:
    """Fsync every file below ``temporary``, rename it to ``final``, fsync the parent.

    Returns False, and removes nothing, when ``final`` already exists and is not empty: somebody was first.
    """
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(temporary)
    if not final.parent.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(final.parent.parent)
    try:
        os.rename(temporary, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    fsync_folder(final.parent)
    return True


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN. Hashes and ids are taken of this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def bytes_in_words(count: int) -> str:
    """With a decimal unit and three figures: ``1.23 MB``."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
