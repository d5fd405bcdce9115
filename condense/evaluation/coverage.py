"""How much of real images a few images stand for, in a space of features.

``real`` (R, D) and ``synthetic`` (S, D) are the features of one class, float32 or float64, distances Euclidean in
float64. Nothing of size R x R is ever held: distances are made in blocks of some thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from condense import seeding
from condense.evaluation.vendi import unit
from condense.selection.kmeans import lloyd, plus_plus
from condense.selection.table import Table

__all__ = [
    "cells_hit",
    "cells_of",
    "coverage",
    "covering_radius",
    "density",
    "facility_location",
    "neighbour_radii",
]

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

BLOCK = 2_000_000
"""Distances held at a time."""
SLACK = 1e-12
"""Squared distances that differ by less, as a share of the largest squared length, are equal: a synthetic image may be
a copy of the very neighbour that bounds a ball."""
MOST_ROUNDS = 50


def neighbour_radii(real: Features, k: int) -> Floats:
    """Of each real image the distance to its ``k``-th nearest other real image: (R,). Expects 1 <= k < R."""
    if not 1 <= k < len(real):
        raise ValueError(f"k is {k} of {len(real)} images; expected 1 to {len(real) - 1}")
    radii = np.empty(len(real))
    for part, squares in _squares(real, real):
        squares[np.arange(len(squares)), np.arange(part.start, part.stop)] = np.inf
        radii[part] = np.sqrt(np.partition(squares, k - 1, axis=1)[:, k - 1])
    return radii


def coverage(real: Features, synthetic: Features, radii: Floats) -> float:
    """Share of the real images whose ball of :func:`neighbour_radii` holds a synthetic one (Naeem et al. 2020,
    arXiv 2002.09797).

    A realistic image lies in k balls on average, so few of them cover no more than k S / R: raise k with R / S, and
    compare only at equal S and k.
    """
    held = [within.any(1) for _, within in _within(real, synthetic, radii)]
    return float(np.concatenate(held).mean())


def density(real: Features, synthetic: Features, radii: Floats, k: int) -> float:
    """Real balls that a synthetic image lies in, as a share of k, on average (the same paper): about 1 for real
    images, near 0 for noise."""
    return float(sum(within.sum() for _, within in _within(real, synthetic, radii)) / (k * len(synthetic)))


def covering_radius(real: Features, synthetic: Features) -> float:
    """The largest distance from a real image to its nearest synthetic one."""
    return float(np.sqrt(max(squares.min(1).max() for _, squares in _squares(real, synthetic))))


def facility_location(real: Features, synthetic: Features) -> float:
    """Mean over the real images of the cosine similarity to the most similar synthetic one, in [-1, 1]."""
    theirs = unit(synthetic).T
    ours = unit(real)
    return float(np.mean(np.concatenate([(ours[part] @ theirs).max(1) for part in _parts(len(real), len(synthetic))])))


def cells_of(real: Features, count: int, seed: int) -> Floats:
    """Centres (``count``, D) of cells of the real images, by k-means (:mod:`condense.selection.kmeans`), at most 50
    rounds; a cell that loses all its images keeps its centre. Depends on ``seed`` alone."""
    if not 1 <= count <= len(real):
        raise ValueError(f"{count} cells of {len(real)} images; expected 1 to {len(real)}")
    table = Table(real, np.arange(len(real)), count)
    started = plus_plus(table, count, seeding.generator(seed, "cells"))
    centres = lloyd(table, torch.stack([table.row(place) for place in started]), MOST_ROUNDS)
    return np.asarray((centres + table.mean).numpy())


def cells_hit(centres: Floats, synthetic: Features) -> float:
    """Share of the cells of :func:`cells_of` that hold a synthetic image."""
    return len(np.unique(_nearest(synthetic, centres))) / len(centres)


def _nearest(rows: Features, centres: Floats) -> npt.NDArray[np.int64]:
    return np.concatenate([squares.argmin(1) for _, squares in _squares(rows, centres)])


def _within(real: Features, synthetic: Features, radii: Floats) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
    """Whether each synthetic image lies in the ball of each real one, (some of R, S)."""
    largest = max((rows.astype(np.float64) ** 2).sum(1).max() for rows in (real, synthetic))
    for part, squares in _squares(real, synthetic):
        yield part, squares <= radii[part, None] ** 2 + SLACK * largest


def _squares(ours: Features, theirs: Features) -> Iterator[tuple[slice, Floats]]:
    """Squared distances, (some of ours, theirs), block by block."""
    others = theirs.astype(np.float64)
    lengths = (others**2).sum(1)
    for part in _parts(len(ours), len(theirs)):
        rows = ours[part].astype(np.float64)
        yield part, np.maximum((rows**2).sum(1)[:, None] + lengths - 2 * rows @ others.T, 0)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, BLOCK // columns)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
