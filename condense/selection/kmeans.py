"""The images nearest to the centres of k-means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from condense.selection.picking import Indices
from condense.selection.table import ELEMENTS, FAR, Matrix, Table

__all__ = ["k_means", "lloyd", "nearest_unused", "plus_plus"]


def k_means(
    features: Matrix,
    members: Indices,
    count: int,
    random: np.random.Generator,
    *,
    iterations: int = 100,
    block: int | None = None,
) -> Indices:
    """Cluster a class into ``count``; for each centre, in the order they were begun, the nearest unused image.

    Begun by k-means++ (Arthur and Vassilvitskii 2007) and moved by at most ``iterations`` rounds of Lloyd. Not nested:
    other counts have other clusters.
    """
    table = Table(features, members, count, block)
    centres = torch.stack([table.row(place) for place in plus_plus(table, count, random)])
    return members[nearest_unused(table, lloyd(table, centres, iterations))]


def plus_plus(table: Table, count: int, random: np.random.Generator) -> Indices:
    """Places of rows to begin with: the first uniform, each further one with probability as its squared distance to
    the nearest before; the first unused once all others coincide with one of those."""
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = random.integers(len(table))
    nearest = np.full(len(table), FAR)
    unused = np.ones(len(table), dtype=bool)
    for slot in range(1, count):
        unused[chosen[slot - 1]] = False
        nearest = np.minimum(nearest, table.distances(table.row(chosen[slot - 1])))
        reached = np.cumsum(nearest)  # whole numbers: the same draw whatever the rounding
        if reached[-1]:
            chosen[slot] = np.searchsorted(reached, random.integers(reached[-1]), side="right")
        else:
            chosen[slot] = unused.argmax()
    return chosen


def lloyd(table: Table, centres: Tensor, iterations: int) -> Tensor:
    """``centres`` (k, d) moved to the means of the rows nearest to them, until nothing changes; one without rows stays.

    A row equally near to several centres belongs to the first.
    """
    before = np.empty(0)
    for _ in range(iterations):
        sums, sizes = torch.zeros_like(centres), torch.zeros(len(centres), dtype=torch.float64)
        nearest = []
        for rows, distances in _distances(table, centres):
            nearest.append(distances.argmin(1))
            own = torch.from_numpy(nearest[-1])
            sums.index_add_(0, own, rows)
            sizes.index_add_(0, own, torch.ones(len(rows), dtype=torch.float64))
        now = np.concatenate(nearest)
        if np.array_equal(now, before):
            break
        before = now
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp(min=1), centres)
    return centres


def nearest_unused(table: Table, centres: Tensor) -> Indices:
    """For each centre in turn the place of the nearest row that none before it took: int64 (k,)."""
    chosen = np.empty(len(centres), dtype=np.int64)
    at_once = max(1, ELEMENTS // len(table))
    for first in range(0, len(centres), at_once):
        some = centres[first : first + at_once]
        costs = np.concatenate([distances for _, distances in _distances(table, some)]).T
        for place, cost in enumerate(costs, start=first):
            cost[chosen[:place]] = FAR
            chosen[place] = cost.argmin()
    return chosen


def _distances(table: Table, centres: Tensor) -> Iterator[tuple[Tensor, Indices]]:
    """Rows, and their squared distances to all centres in ticks, int64 (rows, k), so many rows at a time."""
    at_once, squared = max(1, ELEMENTS // len(centres)), centres.square().sum(1)
    for part, rows in table.blocks():
        own = table.squared[part]
        for some, norms in zip(rows.split(at_once), own.split(at_once), strict=True):
            yield some, table.ticks(torch.addmm(norms[:, None] + squared, some, centres.T, alpha=-2))
