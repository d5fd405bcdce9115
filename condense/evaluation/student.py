"""Training a fresh network on a set, or on all real images for comparison, and testing it.

Students are trained to the last step of a fixed budget and tested once: nothing is chosen on the test images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import LATER
from condense.data.spec import Data, DatasetSpec
from condense.dataset import DistilledDataset, Targets
from condense.device import Compute
from condense.errors import ConfigError, DataError, TeacherError
from condense.evaluation.batches import Kind, OnlineLabels, RealBatches, ReplayBatches
from condense.evaluation.objective import Schedule, calibrated, match_loss, smoothed_entropy, soft_loss
from condense.labels.relabel import TeacherBN
from condense.networks import build
from condense.progress import Report, silent
from condense.seeding import generator, key
from condense.shards.errors import NoLabels
from condense.teachers import Teacher, check_teacher
from condense.training import (
    Batch,
    Batches,
    Diverged,
    Loss,
    OptimConfig,
    TrainRecord,
    accuracy,
    fit_together,
    predict,
)
from condense.views.augment import AUGMENTS, Augment, augment, cut_and_mix
from condense.views.config import check_choice, check_fraction

__all__ = [
    "StudentRecipe",
    "Trained",
    "evaluate_student",
    "logits_on_test",
    "train_on_real",
    "train_student",
    "train_students",
]


def _optim() -> OptimConfig:
    return OptimConfig(optimizer="adamw", lr=4e-3, weight_decay=0.01, decay_norms=False)


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """How a student is trained.

    ``targets``: ``soft`` learns the stored logits by :func:`soft_loss` at ``temperature``, ``hard`` the classes by
    cross-entropy, both on the same views. ``squared_temperature`` multiplies the soft loss by the temperature squared
    (Hinton et al., arXiv 1503.02531); SRe2L (arXiv 2306.13092) does not, which AdamW hardly notices and SGD does.
    ``schedule`` says how soft targets are used over the epochs. ``epochs``: passes over the plan's views; None for each
    labelled epoch once (and the hard epochs of the schedule), more begin again with the first. ``augment`` changes the
    views of hard targets once more, see :mod:`condense.views.augment`; ``cutmix`` is the probability that images of a
    step and their targets are mixed after that.
    """

    network: str = "resnet20"
    targets: Targets = "soft"
    temperature: float = 20.0
    squared_temperature: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    optim: OptimConfig = field(default_factory=_optim)
    epochs: int | None = None
    augment: Augment = field(default="none", metadata=LATER)
    cutmix: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        check_choice("augment", self.augment, AUGMENTS)
        if self.augment != "none" and self.targets != "hard":
            raise ConfigError(f"augment {self.augment} changes views that labels were made for; take hard targets")
        check_fraction("cutmix", self.cutmix)
        if self.cutmix and self.targets != "hard":
            raise ConfigError(f"cutmix {self.cutmix} changes views that labels were made for; take hard targets")
        if self.targets not in get_args(Targets):
            raise ConfigError(f'targets is "{self.targets}"; expected one of {", ".join(get_args(Targets))}')
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0 and finite, got {self.temperature}")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1 (or none: as many as are labelled), got {self.epochs}")
        if self.targets == "hard" and self.schedule != Schedule():
            raise ConfigError("schedule is for soft targets; leave it out for hard ones")

    @property
    def kind(self) -> Kind:
        """What the batches of soft epochs hold as targets."""
        return "both" if self.schedule.objective == "match" else self.targets

    def total_epochs(self, labelled: int) -> int:
        """Of a student of a set with so many labelled epochs."""
        return self.epochs or labelled + self.schedule.hard_epochs


Trained = tuple[nn.Module, TrainRecord] | Diverged
"""A student and what its training did, or where it went wrong."""


def train_student(
    dataset: DistilledDataset,
    recipe: StudentRecipe,
    *,
    teachers: Sequence[Teacher] = (),
    seed: int,
    set_index: int = 0,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> tuple[nn.Module, TrainRecord]:
    """A fresh network trained by replay of the set's labelled views.

    ``teachers`` are needed for soft targets of a set that stores no labels (codec ``none``): those that it names.

    Its initial weights depend on (``seed``, ``set_index``) only: students of different sets are independent, and the
    same for every condition, so that conditions can be compared pair by pair. Raises :class:`NetworkError` for a
    network that cannot take the images, :class:`Diverged` naming the run and the step when the loss is not finite.
    """
    [found] = train_students(
        dataset,
        recipe,
        teachers=teachers,
        seeds=[seed],
        set_index=set_index,
        compute=compute,
        report=report,
        checkpoint=checkpoint,
    )
    if isinstance(found, Diverged):
        raise found
    return found


def train_students(
    dataset: DistilledDataset,
    recipe: StudentRecipe,
    *,
    teachers: Sequence[Teacher] = (),
    seeds: Sequence[int],
    set_index: int = 0,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> list[Trained]:
    """What :func:`train_student` does, for several seeds at once: views are drawn, and teachers asked, once for all.

    See :func:`condense.training.fit_together`. The temperature of a calibrated schedule is each student's own, so there
    only one seed may be given: raises :class:`ConfigError`.
    """
    epochs, schedule = recipe.total_epochs(dataset.epochs), recipe.schedule
    is_soft = recipe.targets == "soft"
    if is_soft and dataset.files.labels and dataset.only_hard:
        raise NoLabels(
            f"{dataset.path} has classes and no soft labels; take targets=hard, or make soft labels with: "
            f"condense relabel {dataset.path}"
        )
    online = _online(dataset, teachers, compute) if is_soft and dataset.asks_teachers else None
    soft = ReplayBatches(dataset, recipe.kind, online, interpolation=schedule.interpolation)
    hard = ReplayBatches(dataset, "hard", fresh=is_soft)
    return _train(
        lambda epoch, first: soft(schedule.soft_epoch(epoch, epochs) or 0, first),
        lambda epoch, first: hard(schedule.hard_epoch(epoch, epochs) if hard.fresh else epoch, first),
        dataset.spec,
        recipe,
        epochs=epochs,
        steps_per_epoch=hard.steps_per_epoch,
        seeds=seeds,
        set_index=set_index,
        compute=compute,
        report=report,
        checkpoint=checkpoint,
    )


def _online(dataset: DistilledDataset, teachers: Sequence[Teacher], compute: Compute) -> OnlineLabels:
    """The labels of a set that names its teachers instead of storing what they say."""
    held = dataset.label_file()
    wanted = [teacher["sha256"] for teacher in held.teachers]
    if [teacher.sha256 for teacher in teachers] != wanted:
        raise TeacherError(
            f"{dataset.path} stores no soft labels and names the teachers {', '.join(one[:12] for one in wanted)}; "
            "give those"
        )
    known = dataset.label_config
    return OnlineLabels(teachers, compute, known.teacher_bn, known.weights)


def train_on_real(
    data: Data,
    like: DistilledDataset,
    recipe: StudentRecipe,
    *,
    teachers: Sequence[Teacher] = (),
    teacher_bn: TeacherBN = "eval",
    seed: int,
    set_index: int = 0,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> tuple[nn.Module, TrainRecord]:
    """What :func:`train_student` does, on all training images: the set ``like`` gives number and size of the steps and
    the settings of the views.

    With soft targets ``teachers`` label every view as it comes, so the labels are as many as the steps ask for.
    ``set_index`` also chooses the views: each index is an independent repetition.
    """
    check_same_data(like.spec, data.spec)
    if (recipe.targets == "soft") != bool(teachers):
        raise TeacherError(
            f'targets "{recipe.targets}" with {len(teachers)} teachers; soft targets need one, hard none'
        )
    for teacher in teachers:
        check_teacher(teacher.info, like.spec, min_accuracy=0.0)
    steps = like.plan(0).n_steps
    walk = (data.train, like.spec, like.views, key(like.label_file().seed, "real-views", set_index))
    online = OnlineLabels(teachers, compute, teacher_bn) if teachers else None
    batches = RealBatches(*walk, steps_per_epoch=steps, targets=recipe.kind, labels=online)
    classes = RealBatches(*walk, steps_per_epoch=steps) if online and recipe.schedule.hard_epochs else batches
    [found] = _train(
        batches,
        classes,
        like.spec,
        recipe,
        epochs=recipe.total_epochs(like.epochs),
        steps_per_epoch=steps,
        seeds=[seed],
        set_index=set_index,
        compute=compute,
        report=report,
        checkpoint=checkpoint,
    )
    if isinstance(found, Diverged):
        raise found
    return found


def _train(
    soft: Batches,
    hard: Batches,
    spec: DatasetSpec,
    recipe: StudentRecipe,
    *,
    epochs: int,
    steps_per_epoch: int,
    seeds: Sequence[int],
    set_index: int,
    compute: Compute,
    report: Report,
    checkpoint: Checkpoint,
) -> list[Trained]:
    """``soft`` and ``hard`` give the batches of an epoch with targets of that kind."""
    if recipe.schedule.calibrate and len(seeds) > 1:
        raise ConfigError("students with a temperature of their own are trained one by one")
    networks = [
        build(
            recipe.network,
            channels=spec.channels,
            height=spec.height,
            width=spec.width,
            n_classes=spec.n_classes,
            seed=key(seed, "student", set_index),
        )
        for seed in seeds
    ]
    guide = Guide(recipe, epochs, compute.torch_device)
    records = fit_together(
        networks,
        augmented(hard, recipe.augment, spec, key(0, "augment", set_index), recipe.cutmix, compute.torch_device)
        if recipe.targets == "hard"
        else guide.over(soft, hard),
        functional.cross_entropy,
        recipe.optim,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        compute=compute,
        report=report,
        names=[f"student {recipe.network}, set {set_index}, seed {seed}, {recipe.targets} targets" for seed in seeds],
        checkpoint=checkpoint,
        listener=guide if recipe.schedule.calibrate else None,
    )
    return [
        record if isinstance(record, Diverged) else (network, record)
        for network, record in zip(networks, records, strict=True)
    ]


def augmented(
    batches: Batches,
    kind: Augment,
    spec: DatasetSpec,
    seed: int,
    cutmix: float = 0.0,
    device: torch.device | None = None,
) -> Batches:
    """The same batches with their images changed, each by draws of its own, and with probability ``cutmix`` mixed.

    Mixed targets are those of float32 (n, K). Images are changed on ``device``, by default where they are.
    """
    if kind == "none" and not cutmix:
        return batches

    def changed(epoch: int, first_step: int) -> Iterator[Batch]:
        mean: Tensor | None = None
        std: Tensor | None = None
        for step, batch in enumerate(batches(epoch, first_step), start=first_step):
            images = batch.images.to(device or batch.images.device, non_blocking=True)
            if mean is None or std is None:
                mean, std = (images.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
            draws = generator(seed, "step", epoch, step)
            batch = batch._replace(images=augment(kind, images, mean, std, draws))
            yield mixed(batch, draws) if cutmix and draws.random() < cutmix else batch

    return changed


def mixed(batch: Batch, draws: np.random.Generator) -> Batch:
    """CutMix of a batch with float32 targets (n, K)."""
    images, partner, share = cut_and_mix(batch.images, draws)
    targets = batch.targets.to(images.device, non_blocking=True)
    return batch._replace(images=images, targets=share * targets + (1 - share) * targets[partner])


class Guide:
    """Gives every batch of a soft recipe the loss of its epoch. ``state`` is the student's own temperature.

    Epochs of one temperature have one loss, the same object, so that steps with it can be told to be alike.
    """

    def __init__(self, recipe: StudentRecipe, epochs: int, device: torch.device) -> None:
        self.recipe = recipe
        self.schedule = recipe.schedule
        self.epochs = epochs
        self.state = torch.ones((), device=device)
        self._soft = cache(self._soft_loss)
        self._hard = partial(smoothed_entropy, smoothing=recipe.schedule.smoothing)

    def over(self, soft: Batches, hard: Batches) -> Batches:
        """The soft epochs and the hard ones of the schedule."""

        def batches(epoch: int, first_step: int) -> Iterator[Batch]:
            source = hard if self.schedule.soft_epoch(epoch, self.epochs) is None else soft
            loss = self.loss(epoch)
            return (batch._replace(loss=loss) for batch in source(epoch, first_step))

        return batches

    def loss(self, epoch: int) -> Loss:
        """Of logits against the epoch's targets."""
        if self.schedule.soft_epoch(epoch, self.epochs) is None:
            return self._hard
        return self._soft(self.schedule.temperature(self.recipe.temperature, epoch, self.epochs))

    def _soft_loss(self, temperature: float) -> Loss:
        schedule = self.schedule
        if schedule.objective == "match":
            return partial(match_loss, weight=schedule.match_weight, smoothing=schedule.smoothing)
        return partial(
            soft_loss,
            temperature=temperature,
            student_temperature=self.state if schedule.calibrate else None,
            squared_temperature=self.recipe.squared_temperature,
        )

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        """Fit the student's temperature to the last step of a soft epoch."""
        if self.schedule.soft_epoch(epoch, self.epochs) is not None:
            temperature = self.schedule.temperature(self.recipe.temperature, epoch, self.epochs)
            self.state.copy_(calibrated(logits, (targets / temperature).softmax(1)))


def evaluate_student(network: nn.Module, data: Data, spec: DatasetSpec, *, compute: Compute) -> float:
    """Accuracy in [0, 1] on all test images, normalised as the student's training images were (``spec``)."""
    return accuracy(logits_on_test(network, data, spec, compute=compute), np.asarray(data.test.labels))


def logits_on_test(network: nn.Module, data: Data, spec: DatasetSpec, *, compute: Compute) -> Tensor:
    """Logits of all test images, normalised by ``spec``: float32 (n, K) on the CPU."""
    check_same_data(spec, data.spec)
    return predict(network, data.test.images, spec, compute=compute)


def check_same_data(of_set: DatasetSpec, of_data: DatasetSpec) -> None:
    """Raises :class:`DataError` unless a set and a data set have the same classes, in order, and image shape."""
    if of_set.classes != of_data.classes:
        odd = next(
            (f'class {i} is "{a}" in the set and "{b}" in the data set')
            for i, (a, b) in enumerate(zip((*of_set.classes, None), (*of_data.classes, None), strict=False))
            if a != b
        )
        raise DataError(
            f"the set is for {of_set.name}, not for {of_data.name}: {odd}; give the data set it was made of"
        )
    if of_set.image_shape != of_data.image_shape:
        raise DataError(
            f"the set's images are {of_set.image_shape} (height, width, channels), those of {of_data.name} are "
            f"{of_data.image_shape}; open the data set with the set's size"
        )
