"""One HDF5 file as a checked table: attributes, and memory-mapped columns. Nothing is read before it is checked.

Only HDF5's low-level calls tell a link from what it points to, or storage from what it holds; the high-level ones
would follow a link, or read a file elsewhere, before anything could be refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

from condense.shards.errors import (
    BadStructure,
    ForbiddenFilter,
    ForbiddenLink,
    ForbiddenStorage,
    ForbiddenType,
    Incomplete,
    MissingFile,
    NotASet,
    TooBig,
    UnknownVersion,
)
from condense.shards.layout import MAX_DATASETS, MAX_ELEMENTS, MAX_TEXT, VERSION, Column, Columns, Kind

__all__ = ["Layout", "Table"]

SMALL = 2**20
SIGNATURE = b"\x89HDF\r\n\x1a\n"
TYPES = {
    "|u1": h5t.STD_U8LE,
    "|i1": h5t.STD_I8LE,
    "<u2": h5t.STD_U16LE,
    "<i2": h5t.STD_I16LE,
    "<u4": h5t.STD_U32LE,
    "<i8": h5t.STD_I64LE,
    "<f2": h5t.IEEE_F16LE,
}


@dataclass(frozen=True)
class Place:
    """Where a dataset's bytes are: `offset` in the file, and its full `shape`."""

    column: Column
    offset: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + self.shape[0] * self.column.record_bytes


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the datasets of a checked file of ``size`` bytes are, and every byte ``around`` them, if these are few.

    A file of the same size with the same bytes around has the same structure and attributes, so it need not be taken
    apart again: the files of a set differ in little but the numbers that their datasets hold.
    """

    size: int
    places: Mapping[str, Place]
    around: bytes | None

    @property
    def rules(self) -> dict[str, Column]:
        return {name: place.column for name, place in self.places.items()}

    def columns(self, path: Path) -> Columns | None:
        """The datasets of another file, read-only; nothing where it differs around them or cannot be read."""
        try:
            if self.around is None or path.stat().st_size != self.size:
                return None
            held = file_bytes(path, self.size)
        except OSError:
            return None
        return self.columns_of(held) if bytes_around(held, self.places) == self.around else None

    def columns_of(self, held: npt.NDArray[np.uint8]) -> Columns:
        """The datasets in the bytes of a file."""
        return {
            name: held[place.offset : place.end].view(place.column.dtype).reshape(place.shape)
            for name, place in self.places.items()
        }


class Table:
    """An open HDF5 file of `SPEC.md`, from :meth:`open`. Every method raises a child of ``ShardError``."""

    def __init__(self, path: Path, size: int, root: Any) -> None:
        self.path = path
        self.size = size
        self.root = root

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Table]:
        """Open for reading and close again. What HDF5 itself cannot make sense of becomes :class:`BadStructure`."""
        size = check_superblock(path)
        try:
            file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, unlocked())
            try:
                yield cls(path, size, h5g.open(file, b"/"))
            finally:
                file.close()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise BadStructure(f"{path}: HDF5 cannot read it ({first_line(error)}); get the file again") from error

    def attributes(self, rules: Mapping[str, Kind], file_format: str) -> dict[str, Any]:
        """The attributes of ``rules``, once format, version and completeness are right."""
        for name in ("format", "version", "complete"):
            if not h5a.exists(self.root, name.encode()):
                fault = Incomplete if name == "complete" else NotASet if name == "format" else BadStructure
                raise fault(f'{self.path} has no attribute "{name}"; expected {", ".join(rules)}')
        if (found := self.attribute("format", "text")) != file_format:
            raise NotASet(f'{self.path} is "{found}"; expected "{file_format}"')
        if (version := self.attribute("version", "int")) != VERSION:
            raise UnknownVersion(
                f"{self.path} has format version {version}; this condense reads version {VERSION}, upgrade it"
            )
        if (complete := self.attribute("complete", "int")) != 1:
            raise Incomplete(f"{self.path} was not written to its end; write or get it again")
        known = {"format": found, "version": version, "complete": complete}
        return {**known, **{name: self.attribute(name, kind) for name, kind in rules.items() if name not in known}}

    def attribute(self, name: str, kind: Kind) -> Any:
        """One attribute as str, int or tuple of int, its type and size checked before it is read."""
        if not h5a.exists(self.root, name.encode()):
            raise BadStructure(f'{self.path} has no attribute "{name}"')
        found = h5a.open(self.root, name.encode())
        where = f'{self.path}: attribute "{name}"'
        stored, space = found.get_type(), found.get_space()
        shape = check_attribute_type(stored, space, kind, where)
        if (size := found.get_storage_size()) > MAX_TEXT:
            raise TooBig(f"{where} takes {size} bytes; the limit is {MAX_TEXT}")
        value = np.empty(shape, dtype=f"S{stored.get_size()}" if kind == "text" else "<i8")
        found.read(value, mtype=stored)
        if kind == "int":
            return int(value)
        if kind == "ints":
            return tuple(int(number) for number in value)
        try:
            return bytes(value[()]).decode("utf-8")
        except UnicodeDecodeError:
            raise BadStructure(f"{where} is not UTF-8 text") from None

    def read(self, rules: Mapping[str, Column]) -> tuple[Layout, Columns]:
        """The datasets of ``rules``, read-only, after all of them have been checked, and where they are."""
        places = self.places(rules)
        shared = {place.shape[0] for place in places.values() if place.column.shared}
        counts = {place.shape[0] for place in places.values() if not place.column.shared}
        for kind, found in (("datasets", counts), ("shared datasets", shared)):
            if len(found) > 1:
                raise BadStructure(f"{self.path}: {kind} have {sorted(found)} records; expected one first dimension")
        self._check_overlap(places)
        held = file_bytes(self.path, self.size)
        layout = Layout(self.size, places, bytes_around(held, places))
        return layout, layout.columns_of(held)

    def places(self, rules: Mapping[str, Column]) -> dict[str, Place]:
        """Where each dataset lies. Refuses unknown names, links, types, layouts, filters and sizes."""
        if len(self.root) > MAX_DATASETS:
            raise TooBig(f"{self.path} has {len(self.root)} datasets; the limit is {MAX_DATASETS}")
        found = [bytes(name).decode("utf-8", "replace") for name in self.root]
        for name in found:
            self._check_link(name)
        if set(found) != set(rules):
            odd = ", ".join(sorted(set(found) ^ set(rules)))
            raise BadStructure(f"{self.path} has or lacks {odd}; expected exactly {', '.join(sorted(rules))}")
        return {name: self._place(name, rules[name]) for name in sorted(rules)}

    def _check_link(self, name: str) -> None:
        where = f'{self.path}: "{name}"'
        if self.root.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise ForbiddenLink(f"{where} is a soft or external link; only datasets in the file itself are allowed")
        info = h5o.get_info(self.root, name.encode())
        if info.type != h5o.TYPE_DATASET:
            raise BadStructure(f"{where} is no dataset; the root may hold nothing else")
        if info.rc != 1:
            raise ForbiddenLink(f"{where} is reached by {info.rc} links; expected one")

    def _place(self, name: str, rule: Column) -> Place:
        where = f'{self.path}: dataset "{name}"'
        dataset = h5d.open(self.root, name.encode())
        kind = dataset.get_type()
        if kind.committed() or not kind.equal(TYPES[rule.dtype]):
            raise ForbiddenType(f"{where} has type {type_name(kind)}; expected {np.dtype(rule.dtype)} little-endian")
        check_storage(dataset.get_create_plist(), where)
        space = dataset.get_space()
        simple = space.get_simple_extent_type() == h5s.SIMPLE
        shape = tuple(int(length) for length in space.get_simple_extent_dims() or ()) if simple else ()
        if len(shape) != 1 + len(rule.shape) or shape[1:] != rule.shape or shape[0] < 1:
            raise BadStructure(f"{where} has shape {shape}; expected ({', '.join(['records', *map(str, rule.shape)])})")
        if (elements := shape[0] * rule.record_bytes // np.dtype(rule.dtype).itemsize) > MAX_ELEMENTS:
            raise TooBig(f"{where} declares {elements} elements; the limit is {MAX_ELEMENTS}")
        offset = dataset.get_offset()
        place = Place(rule, offset if offset is not None else self.size + 1, shape)
        if place.end > self.size:
            raise ForbiddenStorage(f"{where} declares bytes up to {place.end} in a file of {self.size} bytes")
        return place

    def _check_overlap(self, places: Mapping[str, Place]) -> None:
        end, before = 0, "the file's header"
        for name, place in sorted(places.items(), key=lambda item: item[1].offset):
            if place.offset < max(end, len(SIGNATURE)):
                raise ForbiddenStorage(f'{self.path}: the bytes of "{name}" overlap those of {before}')
            end, before = place.end, f'"{name}"'


def file_bytes(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """A file, as a memory map; a small one is read, since a map keeps its file open, and files may be many."""
    if size <= SMALL:
        held = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    else:
        held = np.memmap(path, np.uint8, "r").view(np.ndarray)  # a memmap object is ten times slower
    if len(held) < size:
        raise Incomplete(f"{path} has {len(held)} bytes of {size}; get it again")
    return held


def bytes_around(held: npt.NDArray[np.uint8], places: Mapping[str, Place]) -> bytes | None:
    """Those bytes of a file that are in none of its datasets; nothing if they are more than ``SMALL``."""
    inside = sorted((place.offset, place.end) for place in places.values())
    edges = [0, *chain.from_iterable(inside), len(held)]
    gaps = [held[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    return b"".join(gap.tobytes() for gap in gaps) if sum(map(len, gaps)) <= SMALL else None


def check_superblock(path: Path) -> int:
    """The file's size, once the first bytes say that it is HDF5, whole, and not being written."""
    try:
        with open(path, "rb") as file:
            head = file.read(48)
            size = file.seek(0, 2)
    except OSError as error:
        raise MissingFile(f"{path} cannot be opened: {error.strerror}") from None
    if head[:8] != SIGNATURE:
        raise NotASet(f"{path} is not an HDF5 file")
    if len(head) < 48:
        raise Incomplete(f"{path} ends after {size} bytes; get it again")
    version, offsets, flags = head[8], head[9], head[11]
    if version not in (2, 3) or offsets != 8:
        raise BadStructure(f"{path} has HDF5 superblock version {version}; expected 2 or 3 with offsets of 8 bytes")
    if flags:
        raise Incomplete(f"{path} is marked as open for writing; its writer was cut short, write or get it again")
    base, end = (int.from_bytes(head[at : at + 8], "little") for at in (12, 28))
    if base != 0:
        raise BadStructure(f"{path} has an HDF5 base address of {base}; expected 0")
    if size < end:
        raise Incomplete(f"{path} has {size} bytes of {end}; get it again")
    if size > end:
        raise BadStructure(f"{path} has {size - end} bytes behind its end; get it again")
    return size


@cache
def unlocked() -> Any:
    """How files are opened: without a lock, which read-only file systems refuse."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_file_locking(False, True)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    return access


def check_attribute_type(stored: Any, space: Any, kind: Kind, where: str) -> tuple[int, ...]:
    """Whether an attribute has the type and rank of ``kind``; its shape."""
    if kind == "text":
        right = isinstance(stored, h5t.TypeStringID) and not stored.is_variable_str()
        expected = "fixed-length UTF-8 text"
    else:
        right = stored.equal(h5t.STD_I64LE)
        expected = "int64"
    if not right or stored.committed():
        raise ForbiddenType(f"{where} has type {type_name(stored)}; expected {expected}")
    shape = tuple(space.get_simple_extent_dims() or ())  # a damaged space has none
    if len(shape) != (1 if kind == "ints" else 0) or space.get_simple_extent_type() == h5s.NULL:
        raise BadStructure(f"{where} has shape {shape}; expected {'one dimension' if kind == 'ints' else 'a scalar'}")
    return shape


def check_storage(plist: Any, where: str) -> None:
    """Whether a dataset is stored plainly inside its file."""
    if plist.get_nfilters():
        name = plist.get_filter(0)[3].decode("utf-8", "replace")
        raise ForbiddenFilter(f'{where} goes through the filter "{name}"; expected none')
    if plist.get_external_count():
        raise ForbiddenStorage(f"{where} keeps its bytes in another file; expected this one")
    if (layout := plist.get_layout()) != h5d.CONTIGUOUS:
        names = {h5d.COMPACT: "compact", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "virtual"}
        raise ForbiddenStorage(f"{where} is {names.get(layout, 'unknown')}; expected contiguous")


def type_name(stored: Any) -> str:
    """A type as NumPy would call it, or HDF5's class where NumPy has none."""
    try:
        return str(stored.dtype)
    except TypeError:
        return f"of HDF5 class {stored.get_class()}"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
