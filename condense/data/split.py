"""Holding out a part of a data set, class by class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from condense import seeding
from condense.errors import ConfigError

__all__ = ["holdout"]

Indices = npt.NDArray[np.int64]


def holdout(labels: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split positions into kept and held out, stratified: ``(kept, held)``, both sorted, together ``arange(N)``.

    From a class of n images, ``round(fraction * n)`` are held out, but at least one and at most n - 1; a class of one
    image keeps it. The draw for a class depends on the seed, the class and n only.

    Raises :class:`ConfigError` unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the held-out fraction is {fraction}; expected a number between 0 and 1, such as 0.1")
    labels = np.asarray(labels)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = seeding.generator(seed, "holdout", int(label)).permutation(len(members))
        held[members[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
