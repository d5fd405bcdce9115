"""What repeated runs say: spread, intervals, paired differences, and the sentence that follows from them.

A condition is measured on several *sets* (independent syntheses) by several *students* (initial weights). Students
of one set share its images, so they are not independent measurements of a method: the set is the unit of every
interval. Only when there is a single set is the student the unit, and the result says so, because it then speaks of
that set and not of the method that made it.

How many sets a claim takes is planned by the noncentral t distribution (Cohen, Statistical Power Analysis for the
Behavioral Sciences, 1988, chapter 2): the mean difference of n sets, over its standard error, has n - 1 degrees of
freedom and noncentrality effect * sqrt(n) / sd, sd being that between the sets' paired differences.

All numbers here are fractions in [0, 1]; sentences speak of percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "Difference",
    "Runs",
    "Summary",
    "Unit",
    "paired_difference",
    "power_of",
    "sets_needed",
    "summarise",
    "t_interval",
]

USUAL_POWER = 0.8
ROUNDING = 1e-9
"""Accuracies, and their differences, that are no further apart are equal."""

MOST_SETS = 10_000

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
    sd: float | None = None
    """Between the sets' differences; None for one set."""

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
            pairs = "a single pair" if self.n_pairs == 1 else f"{self.n_pairs} pairs that agree exactly"
            return f"undecided against {baseline}: {100 * self.mean:+.1f} points from {pairs}, no interval"
        low, high = (100 * bound for bound in self.interval)
        if self.verdict == "better":
            words = f"better than {baseline} by {low:.1f} to {high:.1f} points"
        elif self.verdict == "worse":
            words = f"worse than {baseline} by {-high:.1f} to {-low:.1f} points"
        else:
            words = f"undecided against {baseline}: {low:.1f} to {high:.1f} points"
        return words + (" (1 set: holds for this set only)" if self.unit == "student" else "")

    def more_sets(self, effect: float | None = None, power: float = USUAL_POWER) -> int | None:
        """Sets beyond these that it takes for the 95 % interval to leave zero with probability ``power``.

        effect: the difference that should be seen; by default the one observed, for an undecided comparison: then it
        says how much is missing if what was seen is true, which is a rough guess from few sets. The spread between
        sets is the observed one. None if that is not known, or no number of sets up to 10,000 is enough.
        """
        if self.sd is None or self.sd < ROUNDING:
            return None
        if effect is None and self.verdict != "undecided":
            return 0
        needed = sets_needed(self.mean if effect is None else effect, self.sd, power)
        return None if needed is None else max(0, needed - self.n_sets)

    def outlook(self, effect: float | None = None, power: float = USUAL_POWER) -> str:
        """The same in words: "about 7 more sets would show a difference of 0.4 points (80 % power)"."""
        if self.sd is None:
            return "how many sets it takes cannot be said of one; make at least 2"
        if self.sd < ROUNDING:
            return "how many sets it takes cannot be said of sets that agree exactly; make more"
        more, size = self.more_sets(effect, power), abs(self.mean if effect is None else effect)
        points, sure = f"a difference of {100 * size:.1f} points", f"({100 * power:.0f} % power)"
        if more is None:
            return f"not even {MOST_SETS} sets would show {points} {sure}"
        if more == 0:
            return f"{self.n_sets} sets are enough to show {points} {sure if effect is not None else ''}".rstrip()
        return f"about {more} more set{'s' if more > 1 else ''} would show {points} {sure}"


def power_of(effect: float, sd: float, n_sets: int, level: float = 0.95) -> float:
    """The probability that the interval of ``n_sets`` paired sets lies on the right side of zero.

    effect: the true difference; sd: between the sets' true differences, students' noise included. Both in one unit.
    """
    from scipy import stats

    if n_sets < 2 or sd < 0 or not 0 < level < 1:
        raise ValueError(
            f"{n_sets} sets, sd {sd}, level {level}; expected at least 2 sets, sd not below 0, 0 < level < 1"
        )
    if sd == 0:
        return 1.0 if effect else 0.0
    beyond = stats.t.ppf(0.5 + level / 2, n_sets - 1)
    return float(stats.nct.sf(beyond, n_sets - 1, abs(effect) * math.sqrt(n_sets) / sd))


def sets_needed(effect: float, sd: float, power: float = USUAL_POWER, level: float = 0.95) -> int | None:
    """The fewest sets, at least 2, with :func:`power_of` at least ``power``; None if that is more than 10,000."""
    if not 0 < power < 1:
        raise ValueError(f"power is {power}; expected a number between 0 and 1")
    low, high = 1, 2  # power grows with the sets: `low` do not suffice
    while power_of(effect, sd, high, level) < power:
        if high == MOST_SETS:
            return None
        low, high = high, min(2 * high, MOST_SETS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, sd, middle, level) >= power else (middle, high)
    return high


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval for the mean of independent ``values``; None for fewer than two, and for equal ones.

    Equal values say nothing of how far others would lie: accuracies are counted in whole images, so two of them may
    well agree, and an interval without width would pass that for certainty.
    """
    from scipy import stats  # half a second, and few need it

    if len(values) < 2 or np.ptp(values) < ROUNDING:
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

    Each call is one comparison; comparing with several baselines is the caller's. One that was *chosen* as the best of
    several on the same test numbers is flattered: of m equally good ones, each known with standard error s, the best
    seems better than it is by 0.56 s (m = 2), 0.85 s (3) or 1.16 s (5), and the interval knows nothing of that choice.
    So a set that beats such a baseline does so all the more, while "undecided" or "worse" may be the choice's doing.
    To compare without that bias, choose the baseline on other numbers (other seeds, images held out of training) and
    pair with its remaining runs.
    """
    pairs = {key: runs[key] - baseline[key] for key in sorted(runs.keys() & baseline.keys())}
    if not pairs:
        return None
    sets = _by_set(pairs)
    interval, unit = _interval(sets)
    means = [float(np.mean(values)) for values in sets]
    return Difference(
        n_sets=len(sets),
        n_pairs=len(pairs),
        mean=float(np.mean(means)),
        interval=interval,
        unit=unit,
        sd=_sd(means),
    )


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
