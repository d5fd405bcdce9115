"""How diverse the images of a class are and how much of the real class they cover, by the features of a network.

Every number stands beside that of random real images, as many of each class, and where the size of the sample does not
matter beside that of the whole class. The network should be none that made the images.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.evaluation.coverage import (
    cells_hit,
    cells_of,
    coverage,
    covering_radius,
    density,
    facility_location,
    neighbour_radii,
)
from condense.evaluation.vendi import g_vendi, mean_cosine, unit, vendi

__all__ = ["SCORES", "Diversity", "RealClass", "Score", "SetDiversity", "neighbours", "scores_of"]

Features = npt.NDArray[np.floating[Any]]

SCORES = {
    "cosine": "cosine similarity",
    "cosine_centred": "cosine similarity, centred",
    "vendi": "Vendi score",
    "vendi_2": "Vendi score, order 2",
    "vendi_inf": "Vendi score, order inf",
    "g_vendi": "G-Vendi score",
    "facility_location": "facility location",
    "covering_radius": "covering radius",
    "coverage": "k-NN coverage",
    "density": "k-NN density",
    "cells_hit": "cells hit",
}
"""What is measured of a class, and what a table calls it."""

LEAST_NEIGHBOURS = 5


@dataclass(frozen=True)
class RealClass:
    """All real images of a class, to which S images are compared.

    features: (R, D), R above S. centre: (D,), the mean over the real images of *all* classes. radii: of the balls of
    ``k`` neighbours among the features scaled to length one; cells: centres of S cells there. See :meth:`of`.
    """

    features: Features
    centre: Features
    k: int
    radii: npt.NDArray[np.float64]
    cells: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Features, centre: Features, n_images: int, seed: int) -> RealClass:
        """For classes of ``n_images``; ``seed`` is that of the cells."""
        rows, k = unit(features), neighbours(len(features), n_images)
        return cls(rows, centre, k, neighbour_radii(rows, k), cells_of(rows, n_images, seed))


def neighbours(real: int, images: int) -> int:
    """The k of k-NN coverage for ``images`` among ``real``: 5, or as many as let realistic images cover all."""
    return min(max(LEAST_NEIGHBOURS, math.ceil(real / images)), real - 1)


def scores_of(
    features: Features, logits: Features, label: int, real: RealClass, drawn: npt.NDArray[np.int64] | None = None
) -> dict[str, float | None]:
    """The `SCORES` of one class: of ``features`` (S, D), the network's ``logits`` (S, K) of them, and the class.

    drawn: where the images *are* real ones, their places in the class: they are compared with the others, since each
    would cover itself. What takes two images is None of one.
    """
    several, n = len(features) > 1, len(features)
    rows = unit(features)
    others = np.ones(len(real.features), dtype=bool)
    others[[] if drawn is None else drawn] = False
    reference, radii = real.features[others], real.radii[others]
    hard = np.full(n, label)
    return {
        "cosine": mean_cosine(features),
        "cosine_centred": mean_cosine(features, real.centre),
        "vendi": vendi(rows) if several else None,
        "vendi_2": vendi(rows, 2) if several else None,
        "vendi_inf": vendi(rows, math.inf) if several else None,
        "g_vendi": g_vendi(logits, features, hard) if several else None,
        "facility_location": facility_location(reference, rows),
        "covering_radius": covering_radius(reference, rows),
        "coverage": coverage(reference, rows, radii),
        "density": density(reference, rows, radii, real.k),
        "cells_hit": cells_hit(real.cells, rows) if several else None,
    }


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of a set, a mean over its classes; None where it cannot be had or would say nothing."""

    of_set: float | None
    random: float | None
    """Mean over the draws of random real images, and their standard deviation: None of a single draw."""
    random_sd: float | None
    whole: float | None
    """Of the whole real classes, where the number of images does not matter."""
    per_class: tuple[float | None, ...]
    """Of the set, in the order of the classes; None of a class that the set lacks."""

    @classmethod
    def of(
        cls,
        per_class: Sequence[float | None],
        draws: Sequence[Sequence[float | None]],
        whole: Sequence[float | None],
    ) -> Score:
        """Of the set's classes, of those of each draw, and of the real classes."""
        random = [value for value in map(_mean, draws) if value is not None]
        return cls(
            of_set=_mean(per_class),
            random=_mean(random),
            random_sd=float(np.std(random, ddof=1)) if len(random) > 1 else None,
            whole=_mean(whole),
            per_class=tuple(per_class),
        )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True, kw_only=True)
class SetDiversity:
    """One set, measured."""

    path: str
    name: str
    method: str
    set_sha256: str
    """Of its ``set.json``."""
    images_per_class: tuple[int, ...]
    neighbours: tuple[int, ...]
    """The k of k-NN coverage and density, by class; 0 of a class that the set lacks."""
    scores: Mapping[str, Score]
    """By the names of `SCORES`."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Sets of one data set, seen by one network, beside random real images."""

    data: str
    network: str
    network_sha256: str
    network_accuracy: float | None
    """On the test images, in [0, 1]."""
    is_maker: bool
    """Whether the network is one of those that a set names as its teachers."""
    draws: int
    seed: int
    """Of the draws and of the cells."""
    sets: tuple[SetDiversity, ...]

    def to_json(self) -> str:
        """Readable JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
