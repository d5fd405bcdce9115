"""An artefact as bytes, for the way between stores that do not see each other: an uncompressed tar of plain files.

What arrives is checked file by file against its manifest, and the manifest against the job, before it is published.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from condense.engine.job import Task
from condense.engine.store import MANIFEST, SHORT, Store
from condense.errors import StoreError
from condense.files import canonical_json

__all__ = ["pack", "receive"]

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""What taking apart a parcel that nobody has packed properly can raise, besides tarfile's own errors."""


def pack(folder: Path) -> bytes:
    """The files of an artefact as one uncompressed tar, its manifest first."""
    out = io.BytesIO()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(names, key=lambda name: name != MANIFEST):
            entry = tarfile.TarInfo(name)
            entry.size = (folder / name).stat().st_size
            with open(folder / name, "rb") as file:
                tar.addfile(entry, file)
    return out.getvalue()


def receive(store: Store, job_id: str, parcel: bytes) -> None:
    """Publish the artefact of a parcel, if every file is what its manifest says and the manifest is the job's own.

    Raises :class:`StoreError` otherwise, and :class:`OutputError` as the store does; nothing is published then.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(parcel), mode="r:") as tar:
            manifest = _manifest(tar, job_id)
            task = Task(job_id, manifest["job"], {}, job_id)
            store.make(task, lambda folder: _unpack(tar, manifest["files"], folder))
    except (*DAMAGE, tarfile.TarError) as error:
        raise StoreError(f"the parcel of {job_id[:SHORT]} is damaged: {error}") from None


def _manifest(tar: tarfile.TarFile, job_id: str) -> dict[str, Any]:
    """The parcel's manifest. Raises ValueError unless it describes the job."""
    entry = tar.next()
    if entry is None or entry.name != MANIFEST:
        raise ValueError(f"it does not begin with {MANIFEST}")
    manifest: dict[str, Any] = json.loads(_content(tar, entry))
    if sha256(canonical_json(manifest["job"]).encode()).hexdigest() != job_id:
        raise ValueError("it holds another job")
    return manifest


def _unpack(tar: tarfile.TarFile, expected: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the rest of the parcel. Raises ValueError for a file that the manifest does not have, or has otherwise."""
    left = dict(expected)
    while (entry := tar.next()) is not None:
        name = PurePosixPath(entry.name)
        if name.is_absolute() or ".." in name.parts or not name.parts or entry.name not in left:
            raise ValueError(f'"{entry.name}" has no place in it')
        wanted = left.pop(entry.name)
        if entry.size != wanted["bytes"]:
            raise ValueError(f'"{entry.name}" has {entry.size} bytes, its manifest says {wanted["bytes"]}')
        content = _content(tar, entry)
        if sha256(content).hexdigest() != wanted["sha256"]:
            raise ValueError(f'"{entry.name}" does not have the SHA-256 of its manifest')
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if left:
        raise ValueError(f'"{min(left)}" is not in it')


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """The bytes of a plain file. Raises ValueError for anything else."""
    file = tar.extractfile(entry) if entry.isreg() and not entry.issparse() else None
    if file is None:
        raise ValueError(f'"{entry.name}" is not a plain file')
    return file.read()
