"""Herding and k-center: one image after the other, each the best given those before. Both are nested in ``count``."""

from __future__ import annotations

import numpy as np
import torch

from condense.selection.picking import Indices
from condense.selection.table import FAR, Matrix, Table

__all__ = ["herding", "k_center"]


def herding(features: Matrix, members: Indices, count: int, *, block: int | None = None) -> Indices:
    """Keep the mean of what is picked near the mean of the class.

    With mean mu and t images picked, the next is the unused i of least ``||(t + 1) mu - sum of picked - f_i||``
    (Welling 2009; iCaRL, arXiv 1611.07725). Of features less mu that is the least ``||g_i||^2 + 2 g_i . sum of g``:
    one product per pick. Public "herding" baselines that take the greatest instead pick the farthest images.
    """
    table = Table(features, members, count, block)
    total = torch.zeros_like(table.mean)
    chosen = np.empty(count, dtype=np.int64)
    for slot in range(count):
        cost = table.ticks(table.squared + 2 * table.dot(total))
        cost[chosen[:slot]] = FAR
        chosen[slot] = cost.argmin()
        total += table.row(chosen[slot])
    return members[chosen]


def k_center(
    features: Matrix, members: Indices, count: int, *, start: int | None = None, block: int | None = None
) -> Indices:
    """Farthest first: each pick is the image farthest from the nearest of those picked (Sener and Savarese 2018).

    The first is ``members[start]``, by default the image nearest the class mean.
    """
    table = Table(features, members, count, block)
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = table.ticks(table.squared).argmin() if start is None else start
    nearest = np.full(len(table), FAR)
    for slot in range(1, count):
        nearest = np.minimum(nearest, table.distances(table.row(chosen[slot - 1])))
        nearest[chosen[:slot]] = -1
        chosen[slot] = nearest.argmax()
    return members[chosen]
