"""Which images a class has, and picking them by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from condense import seeding
from condense.errors import MethodError

__all__ = ["Indices", "members_of", "pick_random", "refuse_too_few"]

Indices = npt.NDArray[np.int64]


def members_of(labels: Indices, label: int) -> Indices:
    """Positions of a class's images, ascending."""
    return np.flatnonzero(labels == label)


def refuse_too_few(members: Indices, count: int) -> None:
    """Raises `MethodError` unless ``count``, at least 1, different members can be picked."""
    if not 1 <= count <= len(members):
        raise MethodError(f"{count} different images were asked for of a class of {len(members)}")


def pick_random(labels: Indices, classes: Sequence[int], slots: Sequence[int], *, seed: int, set_index: int) -> Indices:
    """Indices into ``labels`` of a random image for each slot and class: int64 (slots, classes).

    A class's images are put in a random order, keyed by (set, class), and slot s takes place s: slots never share an
    image, and a pick does not depend on which other slots or classes are asked for. Slots beyond a class's size begin
    again at its first image.
    """
    by_class = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[by_class], np.stack([classes, np.add(classes, 1)]))
    picks = []
    for label, start, stop in zip(classes, *bounds, strict=True):
        order = seeding.generator(seed, "random real images", set_index, label).permutation(by_class[start:stop])
        picks.append(order[np.asarray(slots) % len(order)])
    return np.stack(picks, axis=1)
