"""The baseline that every method must beat: random real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from condense.checkpoint import Checkpoint
from condense.config import LATER
from condense.data.spec import Split
from condense.data.split import holdout
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob
from condense.progress import Report
from condense.selection import pick_random
from condense.teachers import Teacher

__all__ = ["RandomReal", "RandomRealConfig"]


@dataclass(frozen=True, kw_only=True)
class RandomRealConfig:
    """What may be drawn. Raises `ConfigError` for a value out of range."""

    holdout: float = field(
        default=0.0, metadata={"help": "share of the training images, class by class, that is never drawn", **LATER}
    )
    holdout_seed: int = field(default=0, metadata={"help": "which images these are; teachers have one, too", **LATER})

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"holdout must be at least 0 and below 1, got {self.holdout}")


class RandomReal(Method):
    """For each class and slot a random training image, drawn without replacement; other sets draw anew."""

    name = "random"
    summary = "random real images: the baseline"
    source = "none"
    revision = 1
    Config = RandomRealConfig

    needs = Needs(teachers="none", real_images=True)
    sizes = JobSizes(classes=1000, images=10_000)
    contains_real_images = True

    def synthesise(
        self,
        job: SynthesisJob,
        *,
        teachers: Sequence[Teacher],
        train: Split | None,
        precomputed: Precomputed,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Rows:
        if train is None:
            raise MethodError("random needs the training images")
        kept = np.arange(len(train.labels))
        if self.config.holdout:
            kept, _ = holdout(train.labels, self.config.holdout, self.config.holdout_seed)
        picks = pick_random(train.labels[kept], job.classes, job.slots, seed=job.seed, set_index=job.set_index)
        return Rows.of(job, np.ascontiguousarray(train.images[kept[picks.ravel()]]))
