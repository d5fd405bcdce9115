"""Reading recipes: what a file holds, and what it says for an IPC.

A recipe is what :func:`condense.pipeline.resolve` takes, written down, and three things more. ``ipc`` may be a mapping:
the IPCs that the recipe is for, each with what it changes of the rest. ``student`` are settings of the published
student, for ``condense evaluate --config``; ``expected`` what was published as the result, see :class:`Expected`.
A distillation takes no notice of these two. What cannot be said in settings stands in the file as a comment.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from condense.config import from_mapping, merge
from condense.errors import ConfigError

__all__ = ["Expected", "Recipe", "at_ipc", "load", "names"]

FOLDER = "imagefolder:"

Table = Mapping[str, Mapping[int, float]]
"""Network of the student -> IPC -> a number."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A published table: ``accuracy`` on the test images in percent, with its standard deviation ``sd`` if known.

    ``source``: where it was read. ``status``: ``verified`` where the method's authors print it, ``secondary`` where
    only others do. ``protocol``: which epoch it is of. ``epochs``: of the student, where the source says so.
    Raises :class:`ConfigError` for an accuracy that is no percentage, and for a deviation of nothing.
    """

    source: str
    status: Literal["verified", "secondary"]
    protocol: Literal["last epoch", "best on test", "not stated"]
    epochs: int | None = None
    accuracy: Table
    sd: Table = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("source is empty; say where the numbers were read")
        for network, row in self.accuracy.items():
            for ipc, value in row.items():
                if not 0 < value <= 100:
                    raise ConfigError(f"accuracy of {network} at an ipc of {ipc} is {value}; expected percent")
        for network, row in self.sd.items():
            if extra := row.keys() - self.accuracy.get(network, {}).keys():
                raise ConfigError(f"sd has {network} at an ipc of {min(extra)}, of which no accuracy is given")


@dataclass(frozen=True)
class Recipe:
    """A recipe of the package. ``text``: the file as it is; ``values``: what it holds."""

    name: str
    text: str
    values: Mapping[str, Any]
    expected: tuple[Expected, ...]

    @property
    def data(self) -> str:
        """The data set that it is for; of one that has no name of its own, what its folder is called."""
        return str(self.values["data"]).removeprefix(FOLDER)

    @property
    def ipcs(self) -> tuple[int, ...]:
        return tuple(self.values["ipc"])

    def at(self, ipc: object) -> dict[str, Any]:
        """What it says for an IPC, see :func:`at_ipc`."""
        return at_ipc(self.values, ipc, f"recipe {self.name}")

    def check_folder(self) -> None:
        """Raises :class:`ConfigError` if the images are to be in a folder that is not there."""
        if str(self.values["data"]).startswith(FOLDER) and not Path(self.data).is_dir():
            raise ConfigError(
                f'recipe {self.name} is for {self.data}, and there is no folder "{self.data}" here; say where its '
                f"images are with --data {FOLDER}PATH"
            )


def at_ipc(values: Mapping[str, Any], ipc: object, what: str = "the recipe") -> dict[str, Any]:
    """``values`` whose ``ipc`` is one number, with the changes for it; for an IPC that is not named without any.

    Values whose ``ipc`` is no mapping stay as they are. Raises :class:`ConfigError` where ``ipc`` is needed and
    no number.
    """
    known = values.get("ipc")
    if not isinstance(known, Mapping):
        return dict(values)
    if type(ipc) is not int:
        raise ConfigError(f"{what} is for an ipc of {', '.join(map(str, known))}; say which with --ipc")
    changes = known.get(ipc) or {}
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{what} says {changes!r} for an ipc of {ipc}; expected settings, such as {{steps: 500}}")
    return {**merge(values, changes), "ipc": ipc}


def names() -> list[str]:
    """Of all recipes of the package, sorted."""
    return sorted(one.name.removesuffix(".yaml") for one in files(__package__).iterdir() if one.name.endswith(".yaml"))


def load(name: str) -> Recipe:
    """The recipe called ``name``, its form checked. Raises :class:`ConfigError` with the nearest name if there is none.

    Whether its settings exist, :func:`condense.pipeline.resolve` checks.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise ConfigError(f'there is no recipe "{name}"; {hint}`condense recipes` lists all')
    return parse(name, files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Recipe:
    """Raises :class:`ConfigError` for a text that is not the form of a recipe."""
    from condense.evaluation.student import StudentRecipe

    values = yaml.safe_load(text)
    if not isinstance(values, Mapping):
        raise ConfigError(f"recipe {name} holds {type(values).__name__}; expected a mapping of settings")
    for needed in ("data", "method", "ipc", "student"):
        if needed not in values:
            raise ConfigError(f"recipe {name} says no {needed}")
    known = values["ipc"]
    if not isinstance(known, Mapping) or not known or not all(type(ipc) is int and ipc >= 1 for ipc in known):
        raise ConfigError(f"ipc of recipe {name} is {known!r}; expected IPCs with their changes, such as {{10: {{}}}}")
    for ipc in known:
        from_mapping(StudentRecipe, at_ipc(values, ipc)["student"], "student")
    expected = tuple(from_mapping(Expected, one, "expected") for one in values.get("expected", ()))
    for one in expected:
        if extra := {ipc for row in one.accuracy.values() for ipc in row} - known.keys():
            raise ConfigError(f"recipe {name} expects something of an ipc of {min(extra)}, which it is not for")
    return Recipe(name, text, values, expected)
