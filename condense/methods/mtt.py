"""MTT: students of the synthetic images are to go where networks go that learn from all real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from condense.canvas import Pixels
from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.matching import Following, PixelOptim, Rate, follow, network_of
from condense.methods.base import Needs, Precomputed, Rows, SynthesisJob
from condense.methods.coreset import derived_seed
from condense.methods.matched import SiameseName, WholeSet, WholeSetConfig, augment_of, families_of
from condense.progress import Report
from condense.teachers import ExpertRecipe, Experts, Teacher

__all__ = ["MTT", "ExpertsConfig", "MTTConfig", "Published", "published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the authors give for a data set and an IPC, by the names of the settings."""

    student_steps: int
    ahead: int = 2
    max_start: int
    lr: float
    lr_rate: float = 1e-5
    rate: float = 0.01
    batch_student: int = 0


PUBLISHED: dict[str, dict[int, Published]] = {
    "cifar10": {
        1: Published(student_steps=50, max_start=2, lr=100, lr_rate=1e-7),
        10: Published(student_steps=30, max_start=20, lr=100, rate=0.001),
        50: Published(student_steps=30, max_start=40, lr=1000, rate=0.001),
    },
    "cifar100": {
        1: Published(student_steps=20, ahead=3, max_start=20, lr=1000),
        10: Published(student_steps=20, max_start=20, lr=1000),
        50: Published(student_steps=80, max_start=40, lr=1000, batch_student=125),
    },
    "tiny-imagenet": {
        1: Published(student_steps=10, max_start=10, lr=10_000, lr_rate=1e-4),
        10: Published(student_steps=20, max_start=40, lr=10_000, lr_rate=1e-4, batch_student=200),
        50: Published(student_steps=20, max_start=40, lr=10_000, lr_rate=1e-4, batch_student=300),
    },
}
"""Data set, or folder of images of that name -> IPC -> values. Others have none published; CIFAR-10's are taken."""


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """How experts are trained. Raises `ConfigError` for a value out of range."""

    count: int = field(default=100, metadata={"help": "how many; each is a job of its own and is kept"})
    epochs: int = field(
        default=50, metadata={"help": "how long each trains; more than max_start - 1 + ahead change nothing"}
    )
    batch: int = field(default=256, metadata={"help": "images in a step"})
    lr: float = field(default=0.01, metadata={"help": "learning rate, constant"})
    momentum: float = field(default=0.0, metadata={"help": "of sgd"})
    weight_decay: float = field(default=0.0, metadata={"help": "of sgd"})
    augment: SiameseName | None = field(
        default=None,
        metadata={"help": "of the real images: none, dsa, dsa-unmirrored; unset: dsa, flips where they keep the class"},
    )

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"experts.count must be at least 1, got {self.count}")
        _ = self.recipe

    @property
    def recipe(self) -> ExpertRecipe:
        """The recipe, but for the network, the seed and the data set's augmentation."""
        return ExpertRecipe(
            epochs=self.epochs,
            batch_size=self.batch,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            augment=self.augment or "dsa",
        )


@dataclass(frozen=True, kw_only=True)
class MTTConfig(WholeSetConfig):
    """Settings of MTT. Raises `ConfigError` for a value out of range."""

    experts: ExpertsConfig = ExpertsConfig()
    iterations: int = field(
        default=5000, metadata={"help": "students, one after the other; a step of the pixels after each"}
    )
    student_steps: int | None = field(
        default=None, metadata={"help": "steps of a student; unset, as published for the data set and IPC: 10 to 80"}
    )
    ahead: int | None = field(
        default=None, metadata={"help": "epochs of the expert that they stand for; unset, as published: 2 or 3"}
    )
    max_start: int | None = field(
        default=None,
        metadata={"help": "students begin at a random epoch of the expert below this; unset, as published: 2 to 40"},
    )
    batch_student: int | None = field(
        default=None, metadata={"help": "synthetic images in a student's step; 0: all; unset, as published"}
    )
    lr: float | None = field(
        default=None, metadata={"help": "learning rate of the pixels; unset, as published: 100 to 10000"}
    )
    rate: float | None = field(
        default=None,
        metadata={"help": "the students' step size at first, which is learnt; unset, as published"},
    )
    lr_rate: float | None = field(
        default=None, metadata={"help": "learning rate of the step size; unset, as published: 1e-7 to 1e-4"}
    )
    augment: SiameseName | None = field(
        default=None,
        metadata={
            "help": "of the synthetic images: none, dsa, dsa-unmirrored; unset: dsa, flips where they keep the class"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "iterations", "student_steps", "ahead", "max_start")
        self.at_least(0, "batch_student")
        self.one_of("augment", SiameseName)
        for name in ("lr", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")
        if self.lr_rate is not None and not 0 <= self.lr_rate < math.inf:
            raise ConfigError(f"lr_rate must be at least 0 and finite, got {self.lr_rate}")


class MTT(WholeSet):
    """Move pixels so that a network which learns from them ends where one went that learnt from all real images.

    Source: "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932, algorithm 1, equation 3, and its
    program. Experts are trained on the real images, and their weights kept after each epoch. Per iteration: an expert
    and an epoch are drawn; a student begins there and takes N plain steps of a learnt size on the synthetic images,
    augmented as in DSA; the distance of all its parameters from the expert's, M epochs later, over that distance at its
    start, goes down in the pixels and in the step size. Values are the authors', between the IPCs that they give those
    of the next smaller one.

    Differs from the authors' program in: (1) the gradient through the student's steps is computed step by step
    backwards, which is the same number with the memory of one step (:mod:`condense.matching.adjoint`); (2) pixels are
    clamped at every step (clamp=false: not) and rounded to uint8; (3) there is no ZCA whitening, which the authors use
    on CIFAR but for CIFAR-10 at IPC 50 and CIFAR-100 at 10; (4) experts and epochs are drawn independently, by keys,
    not from shuffled files; (5) the step size is kept at or above 1e-6. The paper trains its students at the learnt
    step size, which ``set.json`` has as ``config.learned.lr``; so does the track ``native:mtt``.
    """

    name = "mtt"
    summary = "students of the images end where trainings on all real images went"
    source = "Matching Training Trajectories (CVPR 2022), arXiv 2203.11932"
    revision = 1
    Config = MTTConfig
    quick: ClassVar[Mapping[str, Any]] = {
        "experts": {"count": 1, "epochs": 2},
        "iterations": 2,
        "student_steps": 2,
        "ahead": 1,
        "max_start": 2,
    }
    config: MTTConfig

    @property
    def needs(self) -> Needs:
        return Needs(teachers="none", real_images=True, precomputed="experts")

    @property
    def optimisation_steps(self) -> int:
        return self.config.iterations

    def expert_recipes(self, spec: DatasetSpec, seed: int) -> tuple[ExpertRecipe, ...]:
        """One for each number: more experts are those before, and some more."""
        experts = self.config.experts
        like = replace(experts.recipe, network=self.config.network, augment=augment_of(experts.augment, spec))
        return tuple(replace(like, seed=derived_seed(seed, "expert", number)) for number in range(experts.count))

    def chosen(self, spec: DatasetSpec, ipc: int) -> Published:
        """The settings, with published values where they are unset."""
        usual = published(spec, ipc)
        own = {name: getattr(self.config, name) for name in vars(usual)}
        return replace(usual, **{name: value for name, value in own.items() if value is not None})

    def following(self, spec: DatasetSpec, ipc: int) -> Following:
        """What the loop does for a set of ``ipc`` images per class."""
        chosen = self.chosen(spec, ipc)
        return Following(
            iterations=self.config.iterations,
            steps=chosen.student_steps,
            ahead=chosen.ahead,
            max_start=chosen.max_start,
            batch=chosen.batch_student,
            families=families_of(self.config.augment, spec),
            rate=Rate(start=chosen.rate, lr=chosen.lr_rate, momentum=self.config.momentum),
        )

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        """How the pixels move."""
        config = self.config
        return PixelOptim(optimizer=config.optimizer, lr=self.chosen(spec, ipc).lr, momentum=config.momentum)

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        """Also refuses a network that cannot take the images, and experts that do not go far enough."""
        super().check(spec, ipc, teachers)
        network_of(self._problem(spec, 0, 0, (0,)), 0)
        self.following(spec, ipc).refuse_experts(self.name, self.config.experts.epochs)

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
        if not isinstance(precomputed, Experts):
            raise MethodError(f"{self.name} needs the trajectories of experts")
        ipc = job.ipc or max(job.slots) + 1
        canvas = Pixels(self._start(job, ipc, train).to(compute.torch_device), job.spec)
        rate = follow(
            canvas,
            self.following(job.spec, ipc),
            self.optim(job.spec, ipc),
            self._problem(job.spec, job.seed, job.set_index, job.classes),
            precomputed,
            clamp=self.config.clamp,
            compute=compute,
            report=report,
            checkpoint=checkpoint,
        )
        canvas.values = canvas.values[list(job.slots)]
        return replace(Rows.of(job, canvas.rows()), learned={"lr": rate})


def published(spec: DatasetSpec, ipc: int) -> Published:
    """Values for the greatest published IPC of the data set that is not above this one."""
    known = PUBLISHED.get(spec.name.rpartition(":")[2], PUBLISHED["cifar10"])
    return known[max(one for one in known if one <= ipc)]
