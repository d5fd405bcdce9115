"""Moderate coresets: neither the most usual images of a class nor the oddest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from condense.selection.picking import Indices
from condense.selection.table import ELEMENTS, Matrix, Table, ticks

__all__ = ["moderate"]


def moderate(features: Matrix, members: Indices, count: int, *, block: int | None = None) -> Indices:
    """The images whose distance to the class's median is nearest to the median of these distances, nearest first.

    The class's median is taken feature by feature; a median of an even number is the mean of the middle two. Nested in
    ``count``. Source: "Moderate Coreset" (ICLR 2023) and its code. A later re-use of that code keeps the two tails of
    the ranking instead of its middle.
    """
    table = Table(features, members, count, block)
    centre = torch.from_numpy(_medians(features, members)) - table.mean
    squared = table.squared - 2 * table.dot(centre) + centre.square().sum()
    distances = squared.clamp(min=0).sqrt()
    return members[np.argsort(_from_median(distances), kind="stable")[:count]]


def _from_median(distances: Tensor) -> Indices:
    """How far each is from their median, in ticks of the greatest."""
    median = float(np.median(distances.numpy()))
    return ticks((distances - median).abs(), float(distances.max()))


def _medians(features: Matrix, members: Indices) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of each column over the members, float64 (d,), a few columns at a time."""
    width = features.shape[1]
    at_once = max(1, ELEMENTS // len(members))
    parts = [
        np.median(features[np.ix_(members, np.arange(start, min(start + at_once, width)))].astype(np.float64), axis=0)
        for start in range(0, width, at_once)
    ]
    return np.concatenate(parts)
