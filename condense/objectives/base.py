"""What is minimised, as small terms that are added and scaled.

A term maps what was seen in a step to one loss per group, so that independent problems in one forward stay
independent: their losses are summed for the gradient and reported one by one.

>>> str(CrossEntropy() + 0.01 * BatchNormDistance())
'cross-entropy + 0.01 * batch-norm distance (first layer x10)'
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from condense.teachers.taps import Statistics

__all__ = ["Objective", "Seen"]


@dataclass(frozen=True, eq=False)
class Seen:
    """One step, through one teacher.

    ``images``: the views shown, normalised, (G, B, C, H, W). ``logits``: float32 or wider, (G, B, K). ``statistics``:
    of the G groups. ``targets``: class of each image, int64 (G, B).
    """

    images: Tensor
    logits: Tensor
    statistics: Statistics
    targets: Tensor


class Objective(ABC):
    """``objective(seen)`` -> losses (G,). ``str(objective)`` says what it is made of."""

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor: ...

    @abstractmethod
    def __str__(self) -> str: ...

    def __add__(self, other: Objective) -> Objective:
        return Sum(self, other)

    def __mul__(self, factor: float) -> Objective:
        return Scaled(self, factor)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Sum(Objective):
    one: Objective
    other: Objective

    def __call__(self, seen: Seen) -> Tensor:
        return self.one(seen) + self.other(seen)

    def __str__(self) -> str:
        return f"{self.one} + {self.other}"


@dataclass(frozen=True)
class Scaled(Objective):
    term: Objective
    factor: float

    def __call__(self, seen: Seen) -> Tensor:
        return self.term(seen) * self.factor

    def __str__(self) -> str:
        term = f"({self.term})" if isinstance(self.term, Sum) else str(self.term)
        return f"{self.factor:g} * {term}"
