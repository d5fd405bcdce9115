"""Everything that can go wrong in a way the user can mend.

A :class:`CondenseError` ends a command in one line and exit status 2; any other exception is a fault of ours and
keeps its traceback. Each message names the thing, the value it had, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CondenseError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "MemoryShortError",
    "MethodError",
    "NetworkError",
    "OutputError",
    "ShardError",
    "StoreError",
    "TeacherError",
    "UnfinishedError",
    "WorkerLostError",
    "suggest",
]


class CondenseError(Exception):
    """A mistake in what was asked for, or in what was given. Exit status 2."""


class ConfigError(CondenseError):
    """A setting that does not exist, has the wrong type, or lies outside its range."""


class DataError(CondenseError):
    """Source data that is missing, empty, or cannot be read."""


class NetworkError(CondenseError):
    """A network that does not exist or does not fit the images."""


class TeacherError(CondenseError):
    """A teacher that does not fit the data set or the method."""


class MethodError(CondenseError):
    """A request that a method cannot serve (IPC too large, no real images, diverged)."""


class DeviceError(CondenseError):
    """A device or precision that this machine does not have."""


class ShardError(CondenseError):
    """A set, or one of its files, that does not follow the specification. Children name the fault."""


class StoreError(CondenseError):
    """The artefact store cannot be written or holds something damaged."""


class OutputError(CondenseError):
    """An output path that holds something else or cannot be written."""


class MemoryShortError(CondenseError):
    """A job that does not fit into memory, even in its smallest parts. ``job_id`` says which."""

    job_id: str = ""


class WorkerLostError(CondenseError):
    """A job whose process or machine went away again and again."""


class UnfinishedError(Exception):
    """Not everything is done, and nothing is wrong: the time is up, or the rest is the share of other processes.

    ``status``: what a command ends with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def suggest(name: str, choices: Iterable[str]) -> str:
    """The words that end a "no such thing" message: the nearest name if there is one, then all of them.

    >>> suggest("srel2", ["sre2l", "cda"])
    'did you mean "sre2l"? Known: cda, sre2l'
    """
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return f"{hint}{'Known' if hint else 'known'}: {', '.join(known)}"
