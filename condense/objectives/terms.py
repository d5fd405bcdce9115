"""The terms of the decoupled methods' losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense.objectives.base import Objective, Seen

__all__ = ["BatchNormDistance", "CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Mean over a group's images of the cross-entropy with their hard labels."""

    def __call__(self, seen: Seen) -> Tensor:
        groups, images, classes = seen.logits.shape
        losses = F.cross_entropy(seen.logits.reshape(-1, classes), seen.targets.flatten(), reduction="none")
        return losses.view(groups, images).mean(1)

    def __str__(self) -> str:
        return "cross-entropy"


@dataclass(frozen=True)
class BatchNormDistance(Objective):
    """Distance of the batch's statistics from the running ones (SRe2L, arXiv 2306.13092, eq. 6 and 7).

    Sum over layers of ``||var_l - var||_2 + ||mean_l - mean||_2``: norms over channels, not squared, not averaged. The
    first registered layer counts ``first`` times.
    """

    first: float = 10.0

    def __call__(self, seen: Seen) -> Tensor:
        statistics, targets = seen.statistics, seen.statistics.targets
        differences = torch.stack((statistics.mean - targets.mean, statistics.var - targets.var))
        norms = root(differences.square() @ targets.membership).sum(0)
        if targets.layers[0] == 0:
            return norms.sum(1) + (self.first - 1) * norms[:, 0]
        return norms.sum(1)

    def __str__(self) -> str:
        return f"batch-norm distance (first layer x{self.first:g})"


def root(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 (a norm's subgradient) and not infinite."""
    positive = squares > 0
    return torch.where(positive, squares, 1.0).sqrt() * positive
