"""The ways in which a set can be wrong. One class per kind of fault, each a child of :class:`ShardError`."""

from __future__ import annotations

from condense.errors import ShardError

__all__ = [
    "BadChecksum",
    "BadHash",
    "BadStructure",
    "ForbiddenFilter",
    "ForbiddenLink",
    "ForbiddenStorage",
    "ForbiddenType",
    "ForeignLabels",
    "Hostile",
    "Incomplete",
    "MissingFile",
    "NoLabels",
    "NotASet",
    "NotFinite",
    "OutOfRange",
    "TooBig",
    "UnknownVersion",
]


class NotASet(ShardError):
    """The path is no folder with a ``set.json``, or the file is of another format."""


class MissingFile(ShardError):
    """A file that ``set.json`` names is not there."""


class Incomplete(ShardError):
    """Writing or copying was cut short: no completeness mark, or fewer bytes than the file declares."""


class UnknownVersion(ShardError):
    """Written by a later version of the format."""


class BadStructure(ShardError):
    """Something is missing, superfluous, or has the wrong type or shape."""


class ForbiddenLink(BadStructure):
    """A soft, external or second hard link."""


class ForbiddenStorage(BadStructure):
    """External storage, a virtual data set, chunks, or bytes that are not allocated, not in the file, or shared."""


class ForbiddenType(BadStructure):
    """A number type other than the specified one; object, reference, compound or variable-length types."""


class ForbiddenFilter(BadStructure):
    """A compressed or otherwise filtered data set."""


class TooBig(BadStructure):
    """A declared size over the limits of the format."""


class OutOfRange(ShardError):
    """A number outside its range, or rows out of order."""


class NotFinite(ShardError):
    """A stored logit that is infinite or not a number."""


class BadChecksum(ShardError):
    """The bytes of a record are not those that were written."""


class BadHash(ShardError):
    """A file is not the one that ``set.json`` describes."""


class ForeignLabels(ShardError):
    """Labels that were made for other images, or that do not fit together."""


class Hostile(ShardError):
    """Checking the file crashed, or took more memory or time than any file needs."""


class NoLabels(ShardError):
    """Soft labels were asked of a set that has none."""
