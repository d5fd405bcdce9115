"""Augmented views: what they are (:mod:`~condense.views.config`), their parameters (:mod:`~condense.views.plan`) and
how they are drawn on images (:mod:`~condense.views.render`, :mod:`~condense.views.recovery`).

The names below need NumPy only; ``render`` and ``recovery`` need torch and are imported from their modules.
"""

from condense.views.config import VIEW_VERSION, ViewConfig
from condense.views.plan import EpochPlan, plan

__all__ = ["VIEW_VERSION", "EpochPlan", "ViewConfig", "plan"]
