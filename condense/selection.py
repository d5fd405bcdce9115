"""Choosing real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from condense import seeding

__all__ = ["pick_random"]


def pick_random(
    labels: npt.NDArray[np.int64], classes: Sequence[int], slots: Sequence[int], *, seed: int, set_index: int
) -> npt.NDArray[np.int64]:
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
