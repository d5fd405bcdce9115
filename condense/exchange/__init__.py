"""Sets to and from elsewhere: one file, formats of other programs, images of other projects."""

from condense.exchange.export import FORMATS, export_set
from condense.exchange.imports import Imported, import_set
from condense.exchange.packing import ForbiddenEntry, NotAPack, pack, unpack, unpacked

__all__ = [
    "FORMATS",
    "ForbiddenEntry",
    "Imported",
    "NotAPack",
    "export_set",
    "import_set",
    "pack",
    "unpack",
    "unpacked",
]
