"""Executors carry jobs to where they are done. Any of them may die at any moment; the store knows what is finished."""

from condense.engine.executors.base import Executor, Progress, ignore
from condense.engine.executors.here import Here
from condense.engine.executors.local import Local

__all__ = ["Executor", "Here", "Local", "Progress", "ignore"]
