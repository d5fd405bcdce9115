"""From the store to where the user wants it: whole, or not at all, and never over something else."""

from __future__ import annotations

import shutil
from pathlib import Path

from condense.engine.job import Job
from condense.engine.store import MANIFEST
from condense.errors import OutputError
from condense.files import beside, disk_errors, publish_folder, sweep
from condense.shards.setfile import read_set_json

__all__ = ["publish", "refuse_other_files", "refuse_other_set"]


def refuse_other_files(folder: Path, mark: str = "set.json") -> None:
    """Raises :class:`OutputError` for a path that is a file, or a folder with something else in it."""
    if folder.is_file():
        raise OutputError(f"{folder} is a file; expected a folder to write, choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise OutputError(f"{folder} holds other files; choose an empty or new folder with --out")


def refuse_other_set(folder: Path, job: Job) -> None:
    """Raises :class:`OutputError` for a folder with a set that is not what ``job`` makes."""
    if not (folder / "set.json").is_file():
        return
    info, wanted = read_set_json(folder), job.config["info"]
    same = info.config.get("inputs") == [below.id for below in job.inputs]
    if not same or info.name != wanted["name"]:
        raise OutputError(
            f'{folder} holds a different set ("{info.name}", or other settings); choose another --out or remove it'
        )


def publish(made: Path, folder: Path) -> Path:
    """Copy an artefact to where the user wants it, in one rename. What is there already stays."""
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    temporary = beside(folder)
    with disk_errors(folder):
        sweep(folder.parent, folder.name)
        try:
            shutil.copytree(made, temporary, ignore=shutil.ignore_patterns(MANIFEST))
            if folder.is_dir():
                folder.rmdir()
            publish_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
