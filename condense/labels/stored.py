"""Logits as label files store them, each epoch by the views that its plan draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec
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
    """The datasets of all records, from the logits (``config.n_labelled``, N, K) of :func:`make_logits`."""
    name, settings = codec_of(config.codec)
    records = []
    for epoch in range(max(1, config.n_labelled)):
        drawn = plan(config.labelled_views, config.seed, epoch, len(classes), spec.height, spec.width)
        held = logits[epoch] if config.n_labelled else np.zeros((len(classes), spec.n_classes), dtype=np.float16)
        records.append(CODECS[name].encode(held, seen_by_item(drawn, classes), settings))
    return {column: np.stack([record[column] for record in records]) for column in records[0]}


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
