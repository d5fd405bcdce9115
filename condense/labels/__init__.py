"""Soft labels: making them (:mod:`~condense.labels.relabel`) and storing them (:mod:`~condense.labels.stored`)."""

from condense.labels.calibrate import Calibration
from condense.labels.relabel import LabelConfig, make_logits
from condense.labels.stored import encode_labels, seen_by_item, store_labels

__all__ = ["Calibration", "LabelConfig", "encode_labels", "make_logits", "seen_by_item", "store_labels"]
