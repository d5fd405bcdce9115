"""What repeated runs say: spread, intervals, paired differences, and the sentence that follows from them.

A condition is measured on several *sets* (independent syntheses) by several *students* (initial weights). Students
of one set share its images, so they are not independent measurements of a method: the set is the unit of every
interval. Only when there is a single set is the student the unit, and the result says so, because it then speaks of
that set and not of the method that made it.

All numbers here are fractions in [0, 1]; sentences speak of percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Difference", "Runs", "Summary", "Unit", "paired_difference", "summarise", "t_interval"]

Runs = Mapping[tuple[int, int], float]
"""Accuracy by (set index, student seed)."""

Unit = Literal["set", "student"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One condition. A spread or interval that the number of runs cannot give is None."""

    n_sets: int
    n_students: int
    """Students per set; the smallest number where sets differ."""
    n_runs: int
    mean: float
    """Mean of the sets' means."""
    sd: float | None
    """Over all runs."""
    sd_sets: float | None
    """Between the sets' means."""
    sd_students: float | None
    """Between students, pooled within sets."""
    interval: tuple[float, float] | None
    """95 % for the mean, by Student's t over `unit`."""
    unit: Unit


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A condition minus its baseline: sets paired by index, students by seed."""

    n_sets: int
    n_pairs: int
    mean: float
    interval: tuple[float, float] | None
    unit: Unit

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Whether the interval lies above zero, below it, or neither."""
        if self.interval is not None and self.interval[0] > 0:
            return "better"
        if self.interval is not None and self.interval[1] < 0:
            return "worse"
        return "undecided"

    def statement(self, baseline: str) -> str:
        """In words, in percentage points: "better than random by 1.2 to 2.0 points"."""
        if self.interval is None:
            return f"undecided against {baseline}: {100 * self.mean:+.1f} points from a single pair, no interval"
        low, high = (100 * bound for bound in self.interval)
        if self.verdict == "better":
            words = f"better than {baseline} by {low:.1f} to {high:.1f} points"
        elif self.verdict == "worse":
            words = f"worse than {baseline} by {-high:.1f} to {-low:.1f} points"
        else:
            words = f"undecided against {baseline}: {low:.1f} to {high:.1f} points"
        return words + (" (1 set: holds for this set only)" if self.unit == "student" else "")


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval for the mean of independent ``values``; None for fewer than two."""
    from scipy import stats  # half a second, and only this function needs it

    if len(values) < 2:
        return None
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def summarise(runs: Runs) -> Summary:
    """The summary of one condition; at least one run."""
    sets = _by_set(runs)
    means = [float(np.mean(values)) for values in sets]
    interval, unit = _interval(sets)
    return Summary(
        n_sets=len(sets),
        n_students=min(len(values) for values in sets),
        n_runs=len(runs),
        mean=float(np.mean(means)),
        sd=_sd(list(runs.values())),
        sd_sets=_sd(means),
        sd_students=_pooled_sd(sets),
        interval=interval,
        unit=unit,
    )


def paired_difference(runs: Runs, baseline: Runs) -> Difference | None:
    """``runs`` minus ``baseline`` over the (set, seed) pairs that both have; None when there is none.

    Each set's difference is the mean over its seeds, so what a seed does to both sides cancels; the interval is over
    the sets' differences (over the seeds' differences when there is one set).
    """
    pairs = {key: runs[key] - baseline[key] for key in sorted(runs.keys() & baseline.keys())}
    if not pairs:
        return None
    sets = _by_set(pairs)
    interval, unit = _interval(sets)
    mean = float(np.mean([np.mean(values) for values in sets]))
    return Difference(n_sets=len(sets), n_pairs=len(pairs), mean=mean, interval=interval, unit=unit)


def _by_set(runs: Runs) -> list[list[float]]:
    """The values of each set, sets and students in ascending order."""
    if not runs:
        raise ValueError("there are no runs to summarise")
    sets: dict[int, list[float]] = {}
    for (set_index, _), value in sorted(runs.items()):
        if not math.isfinite(value):
            raise ValueError(f"a run of set {set_index} has the value {value}: failed runs are never averaged")
        sets.setdefault(set_index, []).append(value)
    return list(sets.values())


def _interval(sets: list[list[float]]) -> tuple[tuple[float, float] | None, Unit]:
    if len(sets) == 1:
        return t_interval(sets[0]), "student"
    return t_interval([float(np.mean(values)) for values in sets]), "set"


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _pooled_sd(sets: list[list[float]]) -> float | None:
    freedom = sum(len(values) - 1 for values in sets)
    if freedom == 0:
        return None
    squares = sum(float(np.var(values)) * len(values) for values in sets)
    return math.sqrt(squares / freedom)
