"""Where a student's batches come from: a distilled set, replayed, or all real images seen through the same views.

Both are :data:`condense.training.Batches`, pure functions of (epoch, first step), so that a run can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

from torch import Tensor

from condense.data.pixels import normalise
from condense.data.spec import DatasetSpec, Split
from condense.dataset import DistilledDataset, ReplayBatch, Targets, replay_step
from condense.device import Compute
from condense.labels.relabel import TeacherBN, batch_statistics, mean_logits
from condense.teachers import Teacher
from condense.training import Batch
from condense.views.config import ViewConfig
from condense.views.plan import EpochPlan, plan

__all__ = ["OnlineLabels", "RealBatches", "ReplayBatches"]


class ReplayBatches:
    """The labelled epochs of a set, over and over: exactly the views that the teachers labelled.

    Targets are the logits (``soft``), stored or by ``labels`` as they are needed, or the classes, mixed as the images
    are (``hard``), float32 (b, K).
    Raises :class:`~condense.shards.errors.NoLabels` for a set without labelled epochs.
    """

    def __init__(self, dataset: DistilledDataset, targets: Targets, labels: OnlineLabels | None = None) -> None:
        self.dataset = dataset
        self.spec = dataset.spec
        self.targets = targets
        self.labels = labels
        self.steps_per_epoch = dataset.plan(0).n_steps

    def __call__(self, epoch: int, first_step: int) -> Iterator[Batch]:
        for made in self.dataset.epoch(epoch % self.dataset.epochs, first_step):
            targets = made.targets
            if self.labels is not None:
                targets = self.labels(made.images, made.groups)
            elif self.targets == "soft" and made.logits is not None:
                targets = made.logits
            yield Batch(normalise(made.images, self.spec), targets, made.groups)


class OnlineLabels:
    """The mean logits of ``teachers`` for a batch as it comes; ``teacher_bn`` as in ``LabelConfig``."""

    def __init__(self, teachers: Sequence[Teacher], compute: Compute, teacher_bn: TeacherBN = "eval") -> None:
        self.by_group = teacher_bn == "batch"
        if self.by_group:
            teachers = [replace(teacher, network=batch_statistics(teacher.network)) for teacher in teachers]
        self.teachers = teachers
        self.compute = compute

    def __call__(self, views: Tensor, groups: Sequence[int]) -> Tensor:
        """Views (b, C, H, W), pixels in [0, 1] in BatchNorm ``groups`` -> float32 (b, K) on the device."""
        sizes = groups if self.by_group else [len(views)]
        shares = [1 / len(self.teachers)] * len(self.teachers)
        return mean_logits(views.to(self.compute.torch_device), sizes, self.teachers, shares, self.compute)


class RealBatches:
    """Steps through a whole split: what the same number of steps is worth when images are not scarce.

    Step i of the run, ``epoch * steps_per_epoch + step``, is the i-th of one pass after another over the split, each
    pass the plan of its own number. Only the images of a step are read from the memory map. Targets are what
    ``labels`` says of the very views that the student sees, or, when it is None, the classes, mixed as the images are.
    """

    def __init__(
        self,
        split: Split,
        spec: DatasetSpec,
        views: ViewConfig,
        seed: int,
        *,
        steps_per_epoch: int,
        labels: OnlineLabels | None = None,
    ) -> None:
        self.split = split
        self.spec = spec
        self.views = views
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.labels = labels
        self._drawn = (0, self._draw(0))  # a plan of all images takes a while and serves many epochs of a small set

    def __call__(self, epoch: int, first_step: int) -> Iterator[Batch]:
        start = epoch * self.steps_per_epoch
        for drawn, index in islice(self._steps(start + first_step), self.steps_per_epoch - first_step):
            made = self._render(drawn, index)
            targets = self.labels(made.images, made.groups) if self.labels else made.targets
            yield Batch(normalise(made.images, self.spec), targets, made.groups)

    def _steps(self, first: int) -> Iterator[tuple[EpochPlan, int]]:
        """The steps of all passes in one row, from number ``first`` on."""
        for number in count(first // self._drawn[1].n_steps):
            if self._drawn[0] != number:
                self._drawn = (number, self._draw(number))
            drawn = self._drawn[1]
            for index in range(max(0, first - number * drawn.n_steps), drawn.n_steps):
                yield drawn, index

    def _draw(self, number: int) -> EpochPlan:
        return plan(self.views, self.seed, number, len(self.split), self.spec.height, self.spec.width)

    def _render(self, drawn: EpochPlan, index: int) -> ReplayBatch:
        take, labels = self.split.images.__getitem__, self.split.labels
        return replay_step(take, labels, drawn, index, self.spec.n_classes)
