"""Where exported files go: whole or not at all, and never over something that exists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from condense.errors import ConfigError, OutputError
from condense.files import beside, disk_errors, fsync_folder, publish_folder, sweep
from condense.shards import sets_in

__all__ = ["new_file", "new_folder", "one_set", "refuse_existing", "refuse_other"]


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends well.

    Raises :class:`OutputError` for a path that exists, and where the disk is full or the folder cannot be written.
    """
    refuse_existing(path)
    temporary = beside(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            refuse_existing(path)
            os.rename(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: the block fills the one it is given. An empty folder may be at ``path`` already."""
    refuse_other(path)
    temporary = beside(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name)
        try:
            temporary.mkdir()
            yield temporary
            if not publish_folder(temporary, path):
                refuse_existing(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raises :class:`OutputError` for a path where there is something."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists; nothing is ever overwritten, choose another --out or remove it")


def refuse_other(path: Path) -> None:
    """Raises :class:`OutputError` unless a folder can be put there."""
    if not path.is_dir() or any(path.iterdir()):
        refuse_existing(path)


def one_set(path: Path) -> Path:
    """The folder of the set in ``path``. Raises :class:`ConfigError` where there are several."""
    found = sets_in(path)
    if len(found) > 1:
        raise ConfigError(f"{path} holds {len(found)} sets; give one of them, such as {found[0]}")
    return found[0]
