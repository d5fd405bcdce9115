"""How far the teachers are trusted with each view: region calibration of FerKD.

Source: "FerKD: Surgical Label Adaptation for Efficient Distillation" (ICCV 2023), arXiv 2312.17473. By the teacher's
confidence a view is a hard negative (mostly background), a hard positive or easy; hard ones are context, whose label is
the softened ground truth. The authors have published no code and no thresholds: quantiles are a choice.

Differs in: (1) hard negatives are not cropped anew, since a view is a pure function of the seed, but labelled by what
``negatives`` says; (2) too easy views cannot be left out for the same reason: they are labelled like hard positives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from condense.errors import ConfigError
from condense.shards.codecs import Seen
from condense.views.config import check_choice, check_fraction

__all__ = ["Calibration", "Thresholds", "confidences", "find_thresholds", "recalibrated", "truth_logits"]

Confidence = Literal["true", "top"]
Negatives = Literal["truth", "uniform"]
Floats = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]

LEAST_PROBABILITY = 2.0**-24
"""What all wrong classes keep together, so that logarithms are finite."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which views get another label than the teacher's. Raises `ConfigError` for a value out of range.

    ``low``, ``middle`` and ``high`` are quantiles of the confidence over all labelled views of a set. With ``truth``
    None labels do not jump where trust begins; but the truth of a weak teacher, or of small crops, says little then.
    """

    confidence: Confidence = field(
        default="true", metadata={"help": "by the probability of the view's classes (true), or the greatest (top)"}
    )
    low: float = field(default=0.05, metadata={"help": "share of views, the least confident, that are hard negatives"})
    middle: float = field(default=0.15, metadata={"help": "share of views whose label is not trusted, negatives too"})
    high: float = field(default=1.0, metadata={"help": "share of views that are not too easy"})
    truth: float | None = field(
        default=0.9,
        metadata={"help": "probability of the class in softened ground truth; none: the confidence at middle"},
    )
    negatives: Negatives = field(
        default="truth",
        metadata={"help": "label of hard negatives: softened ground truth (truth) or all classes alike (uniform)"},
    )

    def __post_init__(self) -> None:
        check_choice("confidence", self.confidence, get_args(Confidence))
        check_choice("negatives", self.negatives, get_args(Negatives))
        for name in ("low", "middle", "high"):
            check_fraction(name, getattr(self, name))
        if not self.low <= self.middle <= self.high:
            raise ConfigError(
                f"low, middle and high are {self.low}, {self.middle} and {self.high}; expected shares that do not fall"
            )
        if self.truth is not None and not 0 < self.truth < 1:
            raise ConfigError(f"truth is {self.truth}; expected a probability above 0 and below 1")


@dataclass(frozen=True)
class Thresholds:
    """Confidences at ``low``, ``middle`` and ``high``, and the probability of the class in softened ground truth."""

    low: float
    middle: float
    high: float
    truth: float


def confidences(logits: Halves, seen: Seen, kind: Confidence) -> Floats:
    """How sure the teacher is of each view of an epoch, at temperature 1: float64 (N,) in [0, 1].

    ``logits`` float16 (N, K), by item. ``true`` is the probability of the item's class; of a mixed view the overlap
    of the teacher's probabilities p with the classes as they are mixed, q: the sum of min(p, q) over the classes, which
    is 1 where the teacher names both by their weights, and the probability of the class where there is but one.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    exact = np.exp(exact)
    exact /= exact.sum(1, keepdims=True)
    if kind == "top":
        return np.asarray(exact.max(1))
    return np.asarray(np.minimum(exact, mixed_classes(seen, logits.shape[1])).sum(1))


def mixed_classes(seen: Seen, n_classes: int) -> Floats:
    """One-hot classes mixed as the views are: float64 (N, K)."""
    mixed, items = np.zeros((len(seen.classes), n_classes)), np.arange(len(seen.classes))
    mixed[items, seen.classes] = seen.lam
    mixed[items, seen.classes[seen.partner]] += 1 - seen.lam
    return mixed


def find_thresholds(config: Calibration, values: Iterable[Floats], n_classes: int) -> Thresholds:
    """The quantiles of ``config`` over the confidences of all views (interpolated linearly between two of them).

    ``truth`` is never below that of a class drawn at random.
    """
    low, middle, high = np.quantile(np.concatenate(list(values)), (config.low, config.middle, config.high)).tolist()
    truth = middle if config.truth is None else config.truth
    return Thresholds(low, middle, high, max(truth, 1 / n_classes))


def recalibrated(logits: Halves, seen: Seen, config: Calibration, bounds: Thresholds) -> Halves:
    """The labels of an epoch, float16 (N, K), those of views that the teacher is not trusted with replaced."""
    sure = confidences(logits, seen, config.confidence)
    replaced = (sure < bounds.middle) | (sure > bounds.high)
    made = np.where(replaced[:, None], truth_logits(seen, bounds.truth, logits.shape[1]), logits)
    if config.negatives == "uniform":
        made[sure < bounds.low] = 0
    return made.astype(np.float16)


def truth_logits(seen: Seen, truth: float, n_classes: int) -> Floats:
    """Log-probabilities of the softened ground truth: float64 (N, K).

    The class has probability ``truth``, the others share the rest alike; of a mixed view, both items' mixed as it is.
    """
    rest = max(1 - truth, LEAST_PROBABILITY) / max(n_classes - 1, 1)
    return np.asarray(np.log(rest + (max(truth, rest) - rest) * mixed_classes(seen, n_classes)))
