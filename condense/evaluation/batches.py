"""Where a student's batches come from: a distilled set, replayed, or all real images seen through the same views.

Both are :data:`condense.training.Batches`, pure functions of (epoch, first step), so that a run can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Literal

import torch
from torch import Tensor

from condense.data.pixels import normalise
from condense.data.spec import DatasetSpec, Split
from condense.dataset import DistilledDataset, Interpolation, ReplayBatch, replay_step
from condense.device import Compute
from condense.labels.relabel import TeacherBN, label_shares, mean_logits
from condense.networks.grouped_norm import Grouped
from condense.teachers import Teacher
from condense.training import Batch
from condense.views.config import ViewConfig
from condense.views.plan import EpochPlan, plan

__all__ = ["Kind", "OnlineLabels", "RealBatches", "ReplayBatches"]


Kind = Literal["soft", "hard", "both"]


class ReplayBatches:
    """The labelled epochs of a set, over and over: exactly the views that the teachers labelled.

    Targets are the logits (``soft``), stored or by ``labels`` as they are needed, the classes, mixed as the images are
    (``hard``), float32 (b, K), or both side by side (``both``), (b, 2K). ``fresh`` takes epochs of the plan that come
    after the labelled ones. ``interpolation``: see :meth:`DistilledDataset.epoch`. Raises
    :class:`~condense.shards.errors.NoLabels` for a set without labelled epochs.
    """

    def __init__(
        self,
        dataset: DistilledDataset,
        targets: Kind,
        labels: OnlineLabels | None = None,
        *,
        fresh: bool = False,
        interpolation: Interpolation = "probabilities",
    ) -> None:
        self.dataset = dataset
        self.spec = dataset.spec
        self.targets = targets
        self.labels = labels
        self.fresh = fresh
        self.interpolation = interpolation
        self.steps_per_epoch = dataset.plan(0).n_steps

    def __call__(self, epoch: int, first_step: int) -> Iterator[Batch]:
        if self.fresh:
            drawn = self.dataset.fresh_epoch(epoch, first_step)
        else:
            drawn = self.dataset.epoch(epoch % self.dataset.epochs, first_step, interpolation=self.interpolation)
        return (as_batch(made, self.targets, self.labels, self.spec) for made in drawn)


def as_batch(made: ReplayBatch, kind: Kind, labels: OnlineLabels | None, spec: DatasetSpec) -> Batch:
    """What a step of the training loop takes, of the views of a step of a plan."""
    targets = made.targets
    if kind != "hard":
        logits = labels(made.images, made.groups) if labels is not None else made.logits
        assert logits is not None
        targets = logits if kind == "soft" else torch.cat([logits, made.targets.to(logits.device)], 1)
    return Batch(normalise(made.images, spec), targets, made.groups)


class OnlineLabels:
    """The mean logits of ``teachers`` for a batch as it comes; ``teacher_bn``, ``weights`` as in ``LabelConfig``."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        compute: Compute,
        teacher_bn: TeacherBN = "eval",
        weights: Sequence[float] = (),
    ) -> None:
        self.by_group = teacher_bn == "batch"
        if self.by_group:
            teachers = [replace(teacher, network=Grouped(teacher.network)) for teacher in teachers]
        self.teachers, self.shares = teachers, label_shares(teachers, weights)
        self.compute = compute

    def __call__(self, views: Tensor, groups: Sequence[int]) -> Tensor:
        """Views (b, C, H, W), pixels in [0, 1] in BatchNorm ``groups`` -> float32 (b, K) on the device."""
        sizes = groups if self.by_group else [len(views)]
        return mean_logits(views.to(self.compute.torch_device), sizes, self.teachers, self.shares, self.compute)


class RealBatches:
    """Steps through a whole split: what the same number of steps is worth when images are not scarce.

    Step i of the run, ``epoch * steps_per_epoch + step``, is the i-th of one pass after another over the split, each
    pass the plan of its own number. Only the images of a step are read from the memory map. Targets are as
    in :class:`ReplayBatches`; ``labels`` speak of the very views that the student sees.
    """

    def __init__(
        self,
        split: Split,
        spec: DatasetSpec,
        views: ViewConfig,
        seed: int,
        *,
        steps_per_epoch: int,
        targets: Kind = "hard",
        labels: OnlineLabels | None = None,
    ) -> None:
        self.split = split
        self.spec = spec
        self.views = views
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.targets = targets
        self.labels = labels
        self._drawn = (0, self._draw(0))  # a plan of all images takes a while and serves many epochs of a small set

    def __call__(self, epoch: int, first_step: int) -> Iterator[Batch]:
        start = epoch * self.steps_per_epoch
        for drawn, index in islice(self._steps(start + first_step), self.steps_per_epoch - first_step):
            yield as_batch(self._render(drawn, index), self.targets, self.labels, self.spec)

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
