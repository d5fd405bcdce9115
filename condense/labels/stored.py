"""Logits as label files store them, each epoch by the views that its plan draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec
from condense.labels.relabel import LabelConfig
from condense.shards.codecs import CODECS, Seen, codec_of
from condense.views.plan import EpochPlan, plan

__all__ = ["encode_labels", "seen_by_item"]


def seen_by_item(drawn: EpochPlan, classes: npt.NDArray[np.int64]) -> Seen:
    """What the views of one epoch show; ``classes`` int64 (N,) by item."""
    partner = np.empty_like(drawn.order)
    partner[drawn.order] = drawn.order[drawn.partner]
    lam = np.empty_like(drawn.lam)
    lam[drawn.order] = drawn.lam
    return Seen(classes=classes, partner=partner, lam=lam)


def encode_labels(
    logits: npt.NDArray[np.float16], classes: npt.NDArray[np.int64], config: LabelConfig, spec: DatasetSpec
) -> dict[str, npt.NDArray[Any]]:
    """The datasets of all records, from the logits (``config.n_labelled``, N, K) of :func:`make_logits`."""
    name, settings = codec_of(config.codec)
    records = []
    for epoch in range(max(1, config.n_labelled)):
        drawn = plan(config.labelled_views, config.seed, epoch, len(classes), spec.height, spec.width)
        held = logits[epoch] if config.n_labelled else np.zeros((len(classes), spec.n_classes), dtype=np.float16)
        records.append(CODECS[name].encode(held, seen_by_item(drawn, classes), settings))
    return {column: np.stack([record[column] for record in records]) for column in records[0]}
