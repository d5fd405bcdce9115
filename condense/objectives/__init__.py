"""Losses of images under teachers: small terms, addable and scalable."""

from condense.objectives.base import Objective, Seen
from condense.objectives.moving import MovingStatistics
from condense.objectives.terms import BatchNormDistance, ClassStatisticsDistance, CrossEntropy

__all__ = ["BatchNormDistance", "ClassStatisticsDistance", "CrossEntropy", "MovingStatistics", "Objective", "Seen"]
