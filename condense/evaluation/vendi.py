"""How different vectors are from each other: cosine similarity, Vendi score, and the latter of gradients.

Features are float32 or float64, (n, D), one row per image; sums and eigenvalues are in float64. Scores of different n
are not comparable: all of these depend on it, but for the cosine similarity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.errors import DataError
from condense.evaluation.metrics import log_probabilities

__all__ = ["g_vendi", "mean_cosine", "unit", "vendi", "vendi_of_kernel"]

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

BLOCK = 256
"""Gradients that are written out at a time."""


def unit(features: Features, what: str = "features") -> Floats:
    """Rows scaled to length one. Raises :class:`DataError` for a row of zeros, which has no direction."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > 0).all():
        lacking = int((~(lengths > 0)).sum())
        raise DataError(f"the network gives {lacking} of {len(rows)} images no {what}; use another network")
    return np.asarray(rows / lengths)


def mean_cosine(features: Features, centre: Features | None = None) -> float | None:
    """Mean cosine similarity over all pairs of different rows, in [-1, 1]; lower is more diverse. None for n < 2.

    centre: (D,), subtracted first. Without it features after a ReLU are all alike (0.4 to 0.9 for anything), so only
    the difference to real images means something. By the identity mean_ij f_i . f_j = |mean f|^2, at O(n D).
    """
    n = len(features)
    if n < 2:
        return None
    rows = unit(features if centre is None else features.astype(np.float64) - centre)
    return float((n * (rows.mean(0) ** 2).sum() - 1) / (n - 1))


def vendi(features: Features, order: float = 1.0) -> float:
    """Vendi score: the effective number of different rows, from 1 (all point the same way) to n (all orthogonal).

    Of the eigenvalues of K/n, K the cosine similarities: exp of their Shannon entropy at ``order`` 1 (Friedman & Dieng,
    arXiv 2210.02410), of their Renyi entropy at other orders above 0 (arXiv 2310.12952): small ones see rare modes,
    large ones duplicates. Order 2 is n^2 / |K|_F^2, without eigenvalues; ``math.inf`` is 1 / the largest. K (n, n) and
    F'F (D, D) have the same eigenvalues but for zeros; the smaller is taken.
    """
    rows = unit(features)
    return vendi_of_kernel(rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows, order)


def vendi_of_kernel(kernel: Floats, order: float = 1.0) -> float:
    """The same of any symmetric positive semidefinite kernel (n, n); it is scaled to trace 1."""
    if not order > 0:
        raise ValueError(f"order is {order}; expected a number above 0, or inf")
    scaled = kernel / np.trace(kernel)
    if order == 2:
        return float(1 / (scaled**2).sum())
    values = np.linalg.eigvalsh(scaled)
    values = values[values > 0]  # rounding leaves some a little below zero
    values /= values.sum()
    if order == math.inf:
        return float(1 / values.max())
    if order == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    return float(np.exp(np.log((values**order).sum()) / (1 - order)))


def g_vendi(logits: Features, features: Features, targets: npt.NDArray[Any], order: float = 1.0) -> float:
    """Vendi score of the directions of the loss's gradients by the last layer (G-Vendi, arXiv 2505.20161, for images).

    The gradient of cross-entropy by weights and bias of the last layer is u [e, 1]', with u = softmax(logits) - target
    (K,) and e the features (D,) that the layer sees: the similarity of two is (u . u')(1 + e . e') over their lengths,
    so no gradient is projected (the paper projects whole gradients to 1024 numbers at random). ``targets``: classes,
    int (n,), or soft labels, (n, K). As with :func:`vendi` the smaller form is taken: (n, n), or K(D + 1) squared.

    The network should be trained a little on real data, not to convergence, where gradients of easy images are noise.
    """
    residuals = unit(_residuals(log_probabilities(logits), targets), "gradient")
    seen = unit(np.column_stack([features.astype(np.float64), np.ones(len(features))]))
    length = residuals.shape[1] * seen.shape[1]
    if len(seen) <= length:
        return vendi_of_kernel((residuals @ residuals.T) * (seen @ seen.T), order)
    total = np.zeros((length, length))
    for start in range(0, len(seen), BLOCK):
        some = slice(start, start + BLOCK)
        gradients = (residuals[some, :, None] * seen[some, None, :]).reshape(-1, length)
        total += gradients.T @ gradients
    return vendi_of_kernel(total, order)


def _residuals(logs: Floats, targets: npt.NDArray[Any]) -> Floats:
    """softmax - target, (n, K), exact also where a network is all but sure of the class."""
    probabilities = np.exp(logs)
    if targets.ndim == 2:
        return np.asarray(probabilities - targets)
    own = (np.arange(len(targets)), targets)
    probabilities[own] = 0
    probabilities[own] = -probabilities.sum(1)
    return np.asarray(probabilities)
