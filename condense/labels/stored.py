"""Logits as label files store them, each epoch by the views that its plan draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec
from condense.labels.calibrate import Calibration, confidences, find_thresholds, recalibrated
from condense.labels.relabel import LabelConfig
from condense.shards import label_name, read_image_files, shard_slices, write_labels
from condense.shards.codecs import CODECS, Seen, codec_of
from condense.views.config import VIEW_VERSION
from condense.views.plan import EpochPlan, plan

__all__ = ["encode_labels", "seen_by_item", "store_labels"]


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
    """The datasets of all records, from the logits (``config.n_labelled``, N, K) of :func:`make_logits`.

    Calibrated, if the config says so.
    """
    name, settings = codec_of(config.codec)

    def seen_in(epoch: int) -> Seen:
        drawn = plan(config.labelled_views, config.seed, epoch, len(classes), spec.height, spec.width)
        return seen_by_item(drawn, classes)

    change = calibration_of(logits, seen_in, config.calibration) if config.calibration else None
    records = []
    for epoch in range(max(1, config.n_labelled)):
        seen = seen_in(epoch)
        held = logits[epoch] if config.n_labelled else np.zeros((len(classes), spec.n_classes), dtype=np.float16)
        records.append(CODECS[name].encode(held if change is None else change(held, seen), seen, settings))
    return {column: np.stack([record[column] for record in records]) for column in records[0]}


def calibration_of(
    logits: npt.NDArray[np.float16], seen_in: Callable[[int], Seen], config: Calibration
) -> Callable[[npt.NDArray[np.float16], Seen], npt.NDArray[np.float16]]:
    """What makes the labels of an epoch trustworthy, by thresholds over all of ``logits`` (epochs, N, K)."""
    values = (confidences(held, seen_in(epoch), config.confidence) for epoch, held in enumerate(logits))
    bounds = find_thresholds(config, values, logits.shape[2])
    return partial(recalibrated, config=config, bounds=bounds)


def store_labels(
    folder: Path,
    logits: npt.NDArray[np.float16],
    config: LabelConfig,
    spec: DatasetSpec,
    *,
    images: Sequence[Path],
    teachers: Sequence[Mapping[str, Any]],
) -> None:
    """Write the label files of a set into ``folder``, from the logits of :func:`make_logits`.

    ``images`` are the set's image files, in order; ``teachers`` have ``network`` and ``sha256``.
    """
    classes = np.concatenate([file.labels for file in read_image_files(images)])
    columns = encode_labels(logits, classes, config, spec)
    codec, settings = codec_of(config.codec)
    record_bytes = sum(column[0].nbytes for column in columns.values())
    for index, part in enumerate(shard_slices(len(next(iter(columns.values()))), record_bytes)):
        write_labels(
            folder / label_name(index),
            columns={name: column[part] for name, column in columns.items()},
            images=images,
            views=config.views.to_dict(),
            view_version=VIEW_VERSION,
            seed=config.seed,
            epochs=config.epochs,
            pool=-(-config.epochs // config.pool),
            draw="all" if config.pool == 1 else config.draw,
            first_record=part.start,
            teachers=teachers,
            teacher_bn=config.teacher_bn,
            codec=codec,
            settings=settings,
        )
