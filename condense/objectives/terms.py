"""The terms of the decoupled methods' losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense.objectives.base import Objective, Seen
from condense.teachers.taps import Statistics

__all__ = ["BatchNormDistance", "ClassStatisticsDistance", "CrossEntropy"]


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

    Sum over layers of ``variance * ||var_l - var||_2 + ||mean_l - mean||_2``: norms over channels, not squared, not
    averaged. The first registered layer counts ``first`` times. ``variance`` other than 1 is DWA's (arXiv 2409.17612).
    """

    first: float = 10.0
    variance: float = 1.0

    def __call__(self, seen: Seen) -> Tensor:
        targets = seen.statistics.targets
        return distance(seen.statistics, targets.mean, targets.var, self.first, self.variance)

    def __str__(self) -> str:
        return f"batch-norm distance ({weights(self.first, self.variance)})"


@dataclass(frozen=True)
class ClassStatisticsDistance(Objective):
    """The same distance, from the mean over a group's images of the statistics of their classes.

    Those are `Targets.classes`: the network must have been tapped with them. Of a group of many classes that is the
    category-aware matching of EDC (arXiv 2404.13733; its mixture is ``0.5 * BatchNormDistance() + 0.5 *
    ClassStatisticsDistance()``); of a group of one class, whose own statistics are then the target, the class-wise
    matching of LPLD ("Are Large-scale Soft Labels Necessary for Large-scale Dataset Distillation?", NeurIPS 2024).

    The mean of the classes' variances lacks how far their means are apart, as in EDC.
    """

    first: float = 10.0
    variance: float = 1.0

    def __call__(self, seen: Seen) -> Tensor:
        classes = seen.statistics.targets.classes
        if classes is None:
            raise ValueError("the network was tapped without class statistics")
        numbers = torch.arange(len(classes.mean), device=seen.targets.device)
        shares = (seen.targets.unsqueeze(-1) == numbers).to(classes.mean.dtype).mean(-2)
        return distance(seen.statistics, shares @ classes.mean, shares @ classes.var, self.first, self.variance)

    def __str__(self) -> str:
        return f"class-statistics distance ({weights(self.first, self.variance)})"


def distance(statistics: Statistics, mean: Tensor, var: Tensor, first: float, variance: float) -> Tensor:
    """Weighted norms of the differences from ``mean`` and ``var``, (D,) or (G, D), summed over layers: (G,)."""
    differences = torch.stack((statistics.mean - mean, statistics.var - var))
    of_means, of_variances = root(differences.square() @ statistics.targets.membership)
    norms: Tensor = of_means + variance * of_variances
    if statistics.targets.layers[0] == 0:
        return norms.sum(1) + (first - 1) * norms[:, 0]
    return norms.sum(1)


def weights(first: float, variance: float) -> str:
    """In words."""
    return f"first layer x{first:g}" + ("" if variance == 1 else f", variances x{variance:g}")


def root(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 (a norm's subgradient) and not infinite."""
    positive = squares > 0
    return torch.where(positive, squares, 1.0).sqrt() * positive
