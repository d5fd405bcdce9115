"""What the methods that choose real images share: jobs of whole sets, and picking class by class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from condense import seeding
from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute, under_compute
from condense.errors import MethodError
from condense.methods.base import JobSizes, Method, Precomputed, Rows, SynthesisJob, chunks
from condense.progress import Report
from condense.selection.picking import Indices, members_of
from condense.teachers import Teacher

__all__ = ["Coreset", "derived_seed"]


class Coreset(Method):
    """Images of the training set, exactly IPC of each class, classes independent of each other.

    A job is all slots of some classes: picking anew is cheap beside what it picks by. Of a nested method slot s holds
    the same image whatever the IPC.
    """

    sizes = JobSizes(classes=1000, images=10_000)
    contains_real_images = True

    @property
    def nested(self) -> bool:
        """Whether a larger set begins with a smaller one."""
        return True

    @abstractmethod
    def pick(
        self, precomputed: Precomputed, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        """``count`` of the ``members`` of a class, by slot. ``random`` is keyed by seed, set and class."""

    def jobs(self, spec: DatasetSpec, ipc: int, set_index: int, seed: int) -> list[SynthesisJob]:
        """All slots of so many classes at a time."""
        at_once = max(1, min(self.sizes.classes, self.sizes.images // ipc))
        return [
            SynthesisJob(
                spec=spec,
                set_index=set_index,
                seed=seed,
                slots=tuple(range(ipc)),
                classes=tuple(classes),
                ipc=None if self.nested else ipc,
            )
            for classes in chunks(range(spec.n_classes), at_once)
        ]

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
            raise MethodError(f"{self.name} needs the training images")
        picks = self._picks(
            job, np.asarray(train.labels), precomputed, compute=compute, report=report, checkpoint=checkpoint
        )
        return Rows.of(job, np.ascontiguousarray(train.images[picks[:, list(job.slots)].T.ravel()]))

    @under_compute
    def _picks(
        self,
        job: SynthesisJob,
        labels: Indices,
        precomputed: Precomputed,
        *,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Indices:
        """int64 (classes, slots): those of ``checkpoint``, and the rest."""
        count = job.ipc or max(job.slots) + 1
        saved = checkpoint.load()
        picks = [] if saved is None else list(saved["picks"].numpy())
        for done in range(len(picks), len(job.classes)):
            label = job.classes[done]
            random = seeding.generator(job.seed, f"picks of {self.name}", job.set_index, label)
            picks.append(self.pick(precomputed, members_of(labels, label), count, random, job.set_index))
            report("classes", done + 1, len(job.classes))
            if checkpoint.due():
                checkpoint.save({"picks": torch.from_numpy(np.stack(picks))})
        return np.stack(picks)


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed below 2^63 for a network of its own."""
    return seeding.key(seed, purpose, *numbers) & (2**63 - 1)
