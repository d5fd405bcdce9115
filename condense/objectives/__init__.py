"""Losses of images under teachers: small terms, addable and scalable."""

from condense.objectives.base import Objective, Seen
from condense.objectives.terms import BatchNormDistance, CrossEntropy

__all__ = ["BatchNormDistance", "CrossEntropy", "Objective", "Seen"]
