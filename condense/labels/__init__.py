"""Soft labels: making them (:mod:`~condense.labels.relabel`) and storing them (:mod:`~condense.labels.codecs`)."""

from condense.labels.codecs import CODECS, Codec
from condense.labels.relabel import LabelConfig, make_logits

__all__ = ["CODECS", "Codec", "LabelConfig", "make_logits"]
