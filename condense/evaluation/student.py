"""Training a fresh network on a set, or on all real images for comparison, and testing it.

Students are trained to the last step of a fixed budget and tested once: nothing is chosen on the test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.spec import Data, DatasetSpec
from condense.dataset import DistilledDataset, Targets
from condense.device import Compute
from condense.errors import ConfigError, DataError, TeacherError
from condense.evaluation.batches import OnlineLabels, RealBatches, ReplayBatches
from condense.labels.relabel import TeacherBN
from condense.networks import build
from condense.progress import Report, silent
from condense.seeding import key
from condense.teachers import Teacher, check_teacher
from condense.training import Loss, OptimConfig, TrainRecord, accuracy, fit, predict

__all__ = ["StudentRecipe", "evaluate_student", "soft_loss", "train_on_real", "train_student"]


def _optim() -> OptimConfig:
    return OptimConfig(optimizer="adamw", lr=4e-3, weight_decay=0.01, decay_norms=False)


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """How a student is trained.

    ``targets``: ``soft`` learns the stored logits by :func:`soft_loss` at ``temperature``, ``hard`` the classes by
    cross-entropy, both on the same views. ``squared_temperature`` multiplies the soft loss by the temperature squared
    (Hinton et al., arXiv 1503.02531); SRe2L (arXiv 2306.13092) does not, which AdamW hardly notices and SGD does.
    ``epochs``: passes over the plan's views; None for each labelled epoch once, more begin again with the first.
    """

    network: str = "resnet20"
    targets: Targets = "soft"
    temperature: float = 20.0
    squared_temperature: bool = False
    optim: OptimConfig = field(default_factory=_optim)
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.targets not in get_args(Targets):
            raise ConfigError(f'targets is "{self.targets}"; expected one of {", ".join(get_args(Targets))}')
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0 and finite, got {self.temperature}")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1 (or none: as many as are labelled), got {self.epochs}")

    @property
    def loss(self) -> Loss:
        """The loss of logits against a batch's targets."""
        if self.targets == "hard":
            return functional.cross_entropy
        return partial(soft_loss, temperature=self.temperature, squared_temperature=self.squared_temperature)


def soft_loss(logits: Tensor, targets: Tensor, *, temperature: float, squared_temperature: bool = False) -> Tensor:
    """Mean over the batch of KL(softmax(targets / T) || softmax(logits / T)); both are logits (n, K)."""
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(targets / temperature, dim=1)
    loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return loss * temperature**2 if squared_temperature else loss


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
    network that cannot take the images, :class:`MethodError` naming the run and the step when the loss is not finite.
    """
    online = recipe.targets == "soft" and dataset.codec.online
    return _train(
        ReplayBatches(dataset, recipe.targets, _online(dataset, teachers, compute) if online else None),
        dataset.spec,
        recipe,
        epochs=recipe.epochs or dataset.epochs,
        seed=seed,
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
    return OnlineLabels(teachers, compute, "batch" if held.teacher_bn == "batch" else "eval")


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
    batches = RealBatches(
        data.train,
        like.spec,
        like.views,
        key(like.label_file().seed, "real-views", set_index),
        steps_per_epoch=like.plan(0).n_steps,
        labels=OnlineLabels(teachers, compute, teacher_bn) if teachers else None,
    )
    return _train(
        batches,
        like.spec,
        recipe,
        epochs=recipe.epochs or like.epochs,
        seed=seed,
        set_index=set_index,
        compute=compute,
        report=report,
        checkpoint=checkpoint,
    )


def _train(
    batches: ReplayBatches | RealBatches,
    spec: DatasetSpec,
    recipe: StudentRecipe,
    *,
    epochs: int,
    seed: int,
    set_index: int,
    compute: Compute,
    report: Report,
    checkpoint: Checkpoint,
) -> tuple[nn.Module, TrainRecord]:
    network = build(
        recipe.network,
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        n_classes=spec.n_classes,
        seed=key(seed, "student", set_index),
    )
    record = fit(
        network,
        batches,
        recipe.loss,
        recipe.optim,
        epochs=epochs,
        steps_per_epoch=batches.steps_per_epoch,
        compute=compute,
        report=report,
        name=f"student {recipe.network}, set {set_index}, seed {seed}, {recipe.targets} targets",
        checkpoint=checkpoint,
    )
    return network, record


def evaluate_student(network: nn.Module, data: Data, spec: DatasetSpec, *, compute: Compute) -> float:
    """Accuracy in [0, 1] on all test images, normalised as the student's training images were (``spec``)."""
    check_same_data(spec, data.spec)
    return accuracy(predict(network, data.test.images, spec, compute=compute), np.asarray(data.test.labels))


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
