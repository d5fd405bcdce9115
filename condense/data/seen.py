"""Image files seen before: their hash and size need not be taken again while length and modification time stay."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import UnidentifiedImageError

from condense.data.images import UNREADABLE, Look, look, open_image
from condense.errors import DataError
from condense.files import write_atomic

__all__ = ["Seen", "inspect", "read_index", "write_index"]

VERSION = 1


class Seen(NamedTuple):
    """A file's length and modification time, the SHA-256 of its bytes, and what its header says."""

    length: int
    mtime_ns: int
    sha256: str
    width: int
    height: int
    colour: bool

    @property
    def look(self) -> Look:
        return Look(self.width, self.height, self.colour)


def inspect(path: str, known: Seen | None = None) -> Seen:
    """Read a file and its header, or give back ``known`` if the file is unchanged.

    Raises :class:`DataError` naming a file that is no image.
    """
    try:
        stat = Path(path).stat()
        if known is not None and (known.length, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return known
        with open(path, "rb") as file:
            data = file.read()
        with open_image(io.BytesIO(data)) as image:
            seen = look(image)
    except UNREADABLE as error:
        # Pillow's own words name a buffer in memory, not the file.
        why = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path} cannot be read as an image ({why}); repair or remove it") from None
    return Seen(stat.st_size, stat.st_mtime_ns, hashlib.sha256(data).hexdigest(), seen.width, seen.height, seen.colour)


def read_index(path: Path) -> dict[str, Seen]:
    """The index at ``path``; empty if there is none or it is of no use, since it only saves time."""
    try:
        stored = json.loads(path.read_bytes())
        return {name: Seen(*row) for name, row in stored["files"].items()} if stored["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_index(path: Path, files: Mapping[str, Seen]) -> None:
    """Replace the index atomically: of two writers the later wins, and both are right."""
    write_atomic(path, json.dumps({"version": VERSION, "files": files}, separators=(",", ":")).encode())
