"""What is said of logits beyond their accuracy, the scores of DD-Ranking, and the transfer to other networks.

Logits are float (n, K), labels int (n,) from 0 to K - 1; sums are in float64. Accuracies are fractions in [0, 1], here
as everywhere: percent is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.errors import ConfigError

__all__ = [
    "Calibration",
    "Transfer",
    "accuracy_per_class",
    "augmentation_robust_score",
    "calibration",
    "confusion",
    "hard_label_recovery",
    "improvement_over_random",
    "label_robust_score",
    "log_probabilities",
    "negative_log_likelihood",
    "transfer",
]

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidence is from accuracy, fractions in [0, 1]: the mean over images, and of the worst bin."""

    expected: float
    maximum: float


def confusion(logits: Logits, labels: Labels) -> Labels:
    """Images of class i that were taken for class j: int64 (K, K). Of equal logits the first counts.

    The trace over the number of images is the accuracy.
    """
    n_classes = logits.shape[1]
    cells = np.bincount(_checked(logits, labels) * n_classes + logits.argmax(1), minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def accuracy_per_class(counts: Labels) -> Floats:
    """Of a :func:`confusion` matrix, the share of each class that was recognised: (K,), NaN where it has no images."""
    sizes = counts.sum(1)
    return np.asarray(np.divide(np.diag(counts), sizes, out=np.full(len(counts), np.nan), where=sizes > 0))


def calibration(logits: Logits, labels: Labels, bins: int = 15) -> Calibration:
    """Calibration errors over equal-width bins of confidence (Guo et al. 2017, arXiv 1706.04599, section 2).

    The confidence of an image is its largest softmax probability. Bin m of M holds those in ((m-1)/M, m/M]; its error
    is |accuracy - mean confidence|. Expected: the errors' mean, weighted by the images of a bin; maximum: the largest
    of a bin that has images.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    hit = logits.argmax(1) == _checked(logits, labels)
    confidence = np.exp(log_probabilities(logits).max(1))
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    # Per bin: images times |accuracy - confidence|.
    gaps = np.abs(np.bincount(place, hit - confidence, minlength=bins))
    sizes = np.bincount(place, minlength=bins)
    return Calibration(expected=float(gaps.sum() / len(hit)), maximum=float((gaps / np.maximum(sizes, 1)).max()))


def negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    """Mean over the images of -log softmax(logits)[label], in nats."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), _checked(logits, labels)].mean())


def log_probabilities(logits: Logits) -> Floats:
    """log softmax(logits), float64 (n, K)."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def hard_label_recovery(real: float, synthetic: float) -> float:
    """HLR of DD-Ranking (arXiv 2505.13300): what is lost under plain labels; lower is better, in [-1, 1].

    ``real``: accuracy of training on all real images, ``synthetic``: on the set, both with classes as targets,
    cross-entropy, and no augmentation that mixes images.
    """
    return _fraction("the accuracy on real images", real) - _fraction("the accuracy on the set", synthetic)


def improvement_over_random(synthetic: float, random: float) -> float:
    """IOR of DD-Ranking: what the set is worth beyond as many random real images; higher is better, in [-1, 1].

    Both are accuracies with the method's own labels, loss and augmentation.
    """
    return _fraction("the accuracy on the set", synthetic) - _fraction("the accuracy on random images", random)


def label_robust_score(recovery: float, improvement: float, weight: float = 0.5) -> float:
    """LRS of DD-Ranking, a fraction in [0, 1] (published as percent): of alpha = w IOR - (1 - w) HLR,
    (e^alpha - e^-1) / (e - e^-1).

    No difference to random real images and nothing lost give 0.269; useful values lie close together, so print HLR and
    IOR beside it. Departs from version 0.2.0 of the published code, which puts percent into the exponentials, where
    the score explodes for positive alpha and saturates for negative.
    """
    weight = _fraction("the weight w", weight)
    gain = _difference("IOR", improvement)
    return _normalised(weight * gain - (1 - weight) * _difference("HLR", recovery))


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """ARS of DD-Ranking, a fraction in [0, 1]: of beta = g (gain with augmentation) + (1 - g) (gain without), as LRS.

    ``augmented`` and ``plain`` are accuracies on the set minus those on random real images, in [-1, 1]. Without
    augmentation means without any: the published code keeps crops and flips.
    """
    weight = _fraction("the weight g", weight)
    parts = (_difference("the gain with augmentation", augmented), _difference("the gain without", plain))
    return _normalised(weight * parts[0] + (1 - weight) * parts[1])


def _normalised(alpha: float) -> float:
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a set is worth to networks that did not make it."""

    makers: tuple[str, ...]
    own: float
    """Mean over the networks that made the set."""
    others: float
    """Mean over the other networks."""
    mean_drop: float
    """``own`` minus ``others``; negative where the others do better."""
    worst_drop: float
    worst: str
    """The network with the largest drop."""


def transfer(values: Mapping[str, float], makers: Sequence[str]) -> Transfer:
    """Mean and worst drop from the networks that made a set to the others.

    ``values``: by network, accuracies, or gains over random real images, which are fairer: an accuracy also falls
    where the other network is the weaker one. ``makers`` must be among them, and at least one other network.
    """
    missing = [name for name in makers if name not in values]
    if missing or not makers:
        raise ConfigError(f"no value of {missing[0] if missing else 'a network that made the set'}; measure it too")
    drops = {name: float(np.mean([values[one] for one in makers])) - values[name] for name in values}
    for name in makers:
        drops.pop(name, None)
    if not drops:
        raise ConfigError(f"only networks that made the set were measured ({', '.join(makers)}); measure another")
    worst = max(drops, key=lambda name: drops[name])
    own, mean_drop = drops[worst] + values[worst], float(np.mean(list(drops.values())))
    return Transfer(
        makers=tuple(makers),
        own=own,
        others=own - mean_drop,
        mean_drop=mean_drop,
        worst_drop=drops[worst],
        worst=worst,
    )


def _checked(logits: Logits, labels: Labels) -> Labels:
    """The labels. Raises ValueError unless shapes and range are those of the module, and the logits finite."""
    if logits.ndim != 2 or labels.shape != (len(logits),) or not len(labels):
        raise ValueError(f"logits {logits.shape} and labels {labels.shape}; expected (n, K) and (n,), n at least 1")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {logits.shape[1] - 1}")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite: a failed run is not measured")
    return labels


def _fraction(what: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"{what} is {value}; expected a fraction in [0, 1], not percent")
    return value


def _difference(what: str, value: float) -> float:
    if not -1 <= value <= 1:
        raise ConfigError(f"{what} is {value}; expected a difference of fractions in [-1, 1], not percent")
    return value
