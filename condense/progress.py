"""How long work says how far it is: one function, ``report(stage, done, total, figures)``.

Libraries call it, the command line draws it. ``figures`` are numbers worth showing (loss, accuracy); computing them
may need a transfer from the device, so callers report every so many steps, not every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

__all__ = ["Report", "end_lane", "lane", "note", "silent"]


class Report(Protocol):
    """Called with the stage's name, how many units are done, how many there are, and figures to show."""

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = ..., /) -> None: ...


def silent(stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
    """Says nothing."""


def lane(report: Report, name: str) -> Report:
    """A report of its own for one of several things done at the same time, where ``report`` can tell them apart."""
    make: Callable[[str], Report] | None = getattr(report, "lane", None)
    return report if make is None else make(name)


def note(report: Report, line: str) -> None:
    """Say something once that the person at work should know, where ``report`` can say it."""
    say: Callable[[str], None] | None = getattr(report, "note", None)
    if say is not None:
        say(line)


def end_lane(report: Report, name: str) -> None:
    """What `lane` was made for is over, however it ended."""
    end: Callable[[str], None] | None = getattr(report, "end_lane", None)
    if end is not None:
        end(name)
