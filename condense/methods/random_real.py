"""The baseline that every method must beat: random real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from condense.checkpoint import Checkpoint
from condense.data.spec import Split
from condense.device import Compute
from condense.errors import MethodError
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob
from condense.progress import Report
from condense.selection import pick_random
from condense.teachers import Teacher

__all__ = ["RandomReal", "RandomRealConfig"]


@dataclass(frozen=True, kw_only=True)
class RandomRealConfig:
    """Nothing to set."""


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
        picks = pick_random(train.labels, job.classes, job.slots, seed=job.seed, set_index=job.set_index)
        return Rows.of(job, np.ascontiguousarray(train.images[picks.ravel()]))
