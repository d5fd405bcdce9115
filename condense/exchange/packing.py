"""A set as one file: an uncompressed ZIP of the files that `SPEC.md` names.

The same set gives the same bytes. A pack may come from anybody: names, sizes and storage of all entries are checked
before anything is written, nothing is ever decompressed, and the set is checked to its last byte before it is there.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condense.errors import ShardError
from condense.exchange.output import new_file, new_folder, one_set
from condense.progress import Report, silent
from condense.shards import read_set
from condense.shards.errors import BadChecksum, BadStructure, Incomplete, MissingFile, NotASet, TooBig
from condense.shards.isolated import verify_isolated
from condense.shards.layout import FILE_NAME, MAX_FILES, MAX_JSON
from condense.shards.setfile import SetInfo, read_set_json

__all__ = ["ForbiddenEntry", "NotAPack", "pack", "unpack", "unpacked"]

TEXTS = ("set.json", "README.md")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
MAX_DIRECTORY = 16 * 1024 * 1024  # bytes that list the entries
CHUNK = 1024 * 1024
ENCRYPTED = 1
BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error, RuntimeError)
"""What the ZIP reader raises on damaged or unsuitable files."""


class NotAPack(ShardError):
    """The file is no ZIP archive, or its list of entries makes no sense."""


class ForbiddenEntry(BadStructure):
    """An entry with another name than the files of a set have, twice the same, compressed, or encrypted."""


def pack(path: Path | str, out: Path | str, report: Report = silent) -> Path:
    """Write the set in the folder ``path`` to the new file ``out``; returns it.

    Raises a child of :class:`ShardError` for a set that is damaged, :class:`OutputError` if ``out`` exists.
    """
    folder, out = one_set(Path(path)), Path(out)
    info = read_set(folder, "hashes").info
    names = sorted([*info.files, *(name for name in TEXTS if (folder / name).is_file())])
    with new_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, name in enumerate(names):
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            entry.file_size = (folder / name).stat().st_size
            with open(folder / name, "rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, CHUNK)
            report("packing", number + 1, len(names))
    return out


def unpack(path: Path | str, out: Path | str, report: Report = silent) -> Path:
    """Write the set in the file ``path`` to the new folder ``out``; returns it.

    Raises a child of :class:`ShardError` for a file that is no pack or holds no valid set, :class:`OutputError` if
    ``out`` exists and is not empty. Nothing of a refused pack stays behind.
    """
    path, out = Path(path), Path(out)
    with opened(path) as archive, new_folder(out) as folder, spoken_of_as(path, folder):
        entries = checked_entries(archive, path)
        extract(archive, entries["set.json"], folder, path)
        check_against(entries, read_set_json(folder), path)
        for number, name in enumerate(entries):
            if name != "set.json":
                extract(archive, entries[name], folder, path)
            report("unpacking", number + 1, len(entries))
        verify_isolated(folder, "deep")
    return out


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder of a set: ``path`` itself, or, if it is a pack, what it holds, for as long as this lasts.

    Raises what :func:`unpack` raises, which checks everything.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, spoken_of_as(path, Path(folder) / "set"):
        yield unpack(path, Path(folder) / "set")


class Bounded(io.FileIO):
    """A file that refuses to be read in larger pieces than any honest pack needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY:
            raise TooBig(f"{self.name}: the list of entries takes {wanted} bytes; the limit is {MAX_DIRECTORY}")
        return super().read(size)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, once its list of entries has been read. No entry has been touched then."""
    if not path.is_file():
        raise MissingFile(f"{path} is not a file; expected a pack, as `condense pack` writes it")
    with Bounded(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except BROKEN as error:
            raise NotAPack(f"{path} is no pack of a distilled set ({error}); get the file again") from None
        with archive:
            yield archive


def checked_entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, if every one may be written: name, storage and size."""
    listed = archive.infolist()
    if len(listed) > MAX_FILES + len(TEXTS):
        raise TooBig(f"{path} has {len(listed)} entries; the limit is {MAX_FILES + len(TEXTS)}")
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in listed:
        check_entry(entry, path)
        if entry.filename in entries:
            raise ForbiddenEntry(f"{path} has {entry.filename} twice; expected each file once")
        entries[entry.filename] = entry
    if (total := sum(entry.file_size for entry in listed)) > (size := path.stat().st_size):
        raise TooBig(f"{path} declares {total} bytes of content in a file of {size}; get the file again")
    if "set.json" not in entries:
        raise NotASet(f"{path} is not a pack of a distilled set: there is no set.json in it")
    return entries


def check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = entry.orig_filename  # the other one ends at a zero byte
    if name not in TEXTS and not FILE_NAME.fullmatch(name):
        raise ForbiddenEntry(f"{path} holds {name!r:.60}; expected only set.json, README.md and the files of a set")
    if entry.flag_bits & ENCRYPTED:
        raise ForbiddenEntry(f"{path}: {name} is encrypted; expected plain files")
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ForbiddenEntry(f"{path}: {name} is compressed; packs are stored, pack the set with `condense pack`")
    if name in TEXTS and entry.file_size > MAX_JSON:
        raise TooBig(f"{path}: {name} has {entry.file_size} bytes; the limit is {MAX_JSON}")


def check_against(entries: Mapping[str, zipfile.ZipInfo], info: SetInfo, path: Path) -> None:
    """Whether the entries are those of this ``set.json``, each with the size that it declares."""
    for name in info.files:
        if name not in entries:
            raise MissingFile(f"{path} lacks {name} although its set.json names it; get the file again")
        if (size := entries[name].file_size) != info.files[name].bytes:
            raise BadStructure(f"{path}: {name} has {size} bytes, set.json says {info.files[name].bytes}")
    for name in entries:
        if name not in info.files and name not in TEXTS:
            raise ForbiddenEntry(f"{path} holds {name}, which its set.json does not name")


def extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, path: Path) -> None:
    """Write one entry, of exactly the size it declares."""
    with open(folder / entry.filename, "xb") as target:
        for chunk in chunks_of(archive, entry, path):
            target.write(chunk)
        written = target.tell()
    if written != entry.file_size:
        raise Incomplete(f"{path}: {entry.filename} ends after {written} of {entry.file_size} bytes")


def chunks_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Iterator[bytes]:
    try:
        with archive.open(entry) as source:
            while chunk := source.read(CHUNK):
                yield chunk
    except EOFError:
        raise Incomplete(f"{path} ends within {entry.filename}; get the file again") from None
    except BROKEN as error:
        raise BadChecksum(f"{path}: {entry.filename} is damaged ({error}); get the file again") from None


@contextmanager
def spoken_of_as(path: Path, folder: Path) -> Iterator[None]:
    """Faults found in the temporary ``folder`` are told of the pack ``path``."""
    try:
        yield
    except ShardError as error:
        text = str(error).replace(f"{folder}{os.sep}", f"{path}: ").replace(str(folder), str(path))
        fault: Any = type(error)
        raise fault(text) from None
