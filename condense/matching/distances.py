"""How far the gradients on synthetic images are from those on real ones.

Each takes the gradients of one layer for K classes, synthetic and real, (K, rows, columns) with a row for each output
of the layer, and gives the distance of each class (K,) and its derivative in the synthetic gradients, which is known in
closed form: so no graph of a gradient is ever needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["DISTANCES", "Distance", "DistanceName", "row_cosine"]

Distance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
DistanceName = Literal["row-cosine", "mse", "l1"]

EPS = 1e-6


def row_cosine(synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of 1 - <a, b> / (|a| |b| + 1e-6): DC, arXiv 2006.05929, equation 10.

    The derivative of a row of zeros is that of the limit without the term in its direction.
    """
    product = (synthetic * real).sum(2, keepdim=True)
    mine, others = (torch.linalg.vector_norm(each, dim=2, keepdim=True) for each in (synthetic, real))
    norms = mine * others + EPS
    along = torch.where(mine > 0, product * others / (mine * norms.square()), 0)
    return (1 - product / norms).sum((1, 2)), along * synthetic - real / norms


def squared_error(synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of (a - b)^2: IDC, arXiv 2205.14959, on natural images."""
    difference = synthetic - real
    return difference.square().sum((1, 2)), 2 * difference


def absolute_error(synthetic: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of |a - b|: IDC on grey images and ImageNet."""
    difference = synthetic - real
    return difference.abs().sum((1, 2)), difference.sign()


DISTANCES: dict[str, Distance] = dict(
    zip(get_args(DistanceName), (row_cosine, squared_error, absolute_error), strict=True)
)
