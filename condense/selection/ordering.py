"""Picking by one score an image: from an end, from a window, or from all strata."""

from __future__ import annotations

import numpy as np

from condense.selection.picking import Indices, refuse_too_few
from condense.selection.scores import Scores

__all__ = ["ccs", "largest", "smallest", "window"]


def smallest(scores: Scores, members: Indices, count: int) -> Indices:
    """The members of the least scores, ascending; ``scores`` (n,) are those of ``members``. Nested in ``count``."""
    refuse_too_few(members, count)
    return members[np.argsort(scores, kind="stable")[:count]]


def largest(scores: Scores, members: Indices, count: int) -> Indices:
    """The members of the greatest scores, descending. Nested in ``count``."""
    return smallest(-scores, members, count)


def window(scores: Scores, members: Indices, count: int, offset: float) -> Indices:
    """Consecutive members of the descending order, from ``offset`` percent of the way on: 0 is `largest`.

    The first has rank ``floor(offset / 100 * (n - count))``. Not nested.
    """
    refuse_too_few(members, count)
    first = int(offset * (len(members) - count) / 100)
    return largest(scores, members, len(members))[first : first + count]


def ccs(
    scores: Scores, members: Indices, count: int, random: np.random.Generator, *, beta: float, strata: int
) -> Indices:
    """Coverage-centric selection: drop the hardest, then draw evenly from strata of the rest. Small scores are hard.

    The ``floor(beta * n)`` members of the least scores are dropped, but never so many that fewer than ``count`` are
    left. ``strata`` intervals of equal width divide the range of the others. From the stratum of fewest members to that
    of most (of equal ones the harder first), each gives ``min(its size, floor(budget left / strata left))``, drawn
    uniformly. Picks go from hard strata to easy ones. Not nested.

    Source: arXiv 2210.15809, section 4, which does this once over all classes and leaves out of its last stratum
    nothing by widening the range to 1.0001 times its end; here the last interval is closed, which also serves ends
    below 0.
    """
    refuse_too_few(members, count)
    dropped = min(int(beta * len(members)), len(members) - count)
    kept = np.sort(np.argsort(scores, kind="stable")[dropped:])
    low, high = scores[kept].min(), scores[kept].max()
    place = ((scores[kept] - low) / ((high - low) or 1.0) * strata).astype(np.int64).clip(max=strata - 1)
    sizes = np.bincount(place, minlength=strata)
    budgets = _budgets(sizes, count)
    picks = [random.permutation(kept[place == stratum])[:budget] for stratum, budget in enumerate(budgets)]
    chosen: Indices = members[np.concatenate(picks)]
    return chosen


def _budgets(sizes: Indices, count: int) -> Indices:
    """How many each stratum gives; together ``count``, which is at most the sum of ``sizes``."""
    budgets, left = np.zeros_like(sizes), count
    for done, stratum in enumerate(np.argsort(sizes, kind="stable")):
        budgets[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(budgets[stratum])
    return budgets
