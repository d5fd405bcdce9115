"""INFER: real images, and what one addition to an image of every class can tell of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from condense.canvas import Compensated, compensated_columns, real_start
from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.inversion import AdamConfig, Problem, Stage, invert, together
from condense.methods.base import Canvas, JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob, chunks
from condense.methods.parts.settings import BLOCKS, Blocks, ViewChanges
from condense.methods.recovery import published_roll
from condense.methods.sre2l import LARGEST_WHOLE
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.progress import Report
from condense.selection import pick_random
from condense.teachers import Teacher
from condense.teachers.feeding import fed_by
from condense.teachers.taps import TappedNetwork
from condense.views.config import check_choice
from condense.views.recovery import RecoveryViews

__all__ = ["Infer", "InferConfig", "InferDyn"]

Unit = Literal["images", "bytes"]

ALL_CLASSES = 2**31
"""No batch is cut: a compensator that has not seen every class would be one of a part of them."""

LEVEL_BYTES, USE_BYTES = 2, 4
"""What a level of a compensator takes, and the number of a compensator that a row uses."""

IMAGE_EPOCHS = 400
CIFAR_LABELS: Mapping[str, Any] = {
    "teacher_bn": "eval",
    "views": {"crop": "pad", "pad": 4, "flip": 0.5, "mix": "mixup", "mix_alpha": 0.8, "batch_size": 64},
}
"""Those of the authors' CIFAR script."""


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Settings of INFER. Raises `ConfigError` for a value out of range."""

    compensators: int = field(
        default=4,
        metadata={"help": "of each slot, one made by each teacher; published: 4, at 224 px 3"},
    )
    steps: int = field(
        default=1000, metadata={"help": "optimisation steps for each teacher; published: 1000 at 32 px, 2000 at 224 px"}
    )
    lr: float = field(default=0.25, metadata={"help": "learning rate of Adam, falling to 0 by half a cosine"})
    alpha_bn: float = field(
        default=1.0,
        metadata={"help": "weight of the distance of BatchNorm statistics; published: 1 at 32 px, 0.01 at 224 px"},
    )
    first_bn: float = field(default=10.0, metadata={"help": "how many times the first BatchNorm layer counts"})
    unit: Unit = field(
        default="images",
        metadata={"help": "what a compensator counts as: one of the images (as published) or the bytes it takes"},
    )
    views: ViewChanges = field(default_factory=ViewChanges)
    job_images: int = field(
        default=100, metadata={"help": "most images optimised at once, in batches of all classes; memory grows with it"}
    )
    blocks: Blocks = field(default="nested", metadata=BLOCKS)

    def __post_init__(self) -> None:
        for name in ("compensators", "steps", "job_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        for name in ("alpha_bn", "first_bn"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        check_choice("blocks", self.blocks, get_args(Blocks))
        if self.unit not in get_args(Unit):
            raise ConfigError(f'unit is "{self.unit}"; expected one of {", ".join(get_args(Unit))}')


class Infer(Method):
    """Keep real images, and of every teacher one compensator for a real image of each class, shared by all classes.

    Source: "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator",
    arXiv 2408.06927, section 3. With C classes and M teachers a set of IPC has K = floor(IPC / (M/C + 1)) real images
    of each class and M * K compensators, which train (M + 1) * K images of each class: the real ones and their sums.
    A compensator starts at zero. Per step: cross-entropy of the C sums + alpha_bn * the L2 distances of batch mean and
    variance to the running ones, over all layers; Adam with betas (0.5, 0.9), on the compensator only, no clamping.
    Views: one crop, flip and roll for the batch, up to 32 px only the roll. The values of the authors' CIFAR-100
    script are the defaults. Labels are static: one for each whole image, mixed as the images are.

    Labels are mixed here as probabilities; the paper mixes logits, which a student does with
    ``schedule.interpolation=logits``. Published for students on CIFAR: temperature 30, AdamW with lr 0.001.

    Differs from the authors' program in: (1) what is stored is what is counted, real images and compensators, not all
    their sums as JPEG; compensators are rounded to whole levels, sums are clipped when they are read; a compensator
    takes two bytes for each value, so a set is larger than its budget by M * K * H * W * channels bytes unless
    ``unit=bytes``; (2) compensators are those after the last step, not before it; (3) several real images of a class
    are worked on in one forward, each group with its own statistics and views, which gives each the same gradient;
    (4) BatchNorm layers that do not run are left out by themselves; (5) random numbers are keyed; (6) a batch always
    holds all classes.
    """

    name = "infer"
    summary = "real images, each with additions that all classes share; one label an image"
    source = "Breaking Class Barriers: INFER (ICLR 2025), arXiv 2408.06927"
    revision = 1
    Config = InferConfig
    config: InferConfig
    quick: ClassVar[Mapping[str, Any]] = {"steps": 30, "compensators": 2}
    networks: ClassVar[tuple[str, ...]] = ("resnet20", "convnet3-bn", "mobilenetv2", "shufflenetv2")

    needs = Needs(teachers="batchnorm", real_images=True)
    contains_real_images = True

    @property
    def sizes(self) -> JobSizes:
        return JobSizes(ALL_CLASSES, self.config.job_images)

    @property
    def canvas(self) -> Canvas:
        return Canvas("compensated", {"compensators": self.config.compensators, "with_original": True})

    @property
    def optimisation_steps(self) -> int:
        return self.config.compensators * self.config.steps

    @property
    def published_labels(self) -> Mapping[str, Any]:
        """Those of the authors' CIFAR script."""
        return {**CIFAR_LABELS, "codec": "static", "epochs": IMAGE_EPOCHS}

    def blocks(self, slots: int, most: int) -> Iterable[Sequence[int]]:
        return chunks(range(slots), most) if self.config.blocks == "whole" else super().blocks(slots, most)

    def slots(self, spec: DatasetSpec, ipc: int) -> int:
        """K: real images of each class. 0 where not even one fits with its compensators."""
        slot, image = self._sizes_of(spec)
        return ipc * image // slot

    def _sizes_of(self, spec: DatasetSpec) -> tuple[int, int]:
        """What a slot of all classes takes, and what one image of each class may take, in the budget's unit."""
        classes, count = spec.n_classes, self.config.compensators
        if self.config.unit == "images":
            return classes + count, classes
        pixels = math.prod(spec.image_shape)
        return classes * (pixels + USE_BYTES * count) + count * LEVEL_BYTES * pixels, classes * pixels

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        if ipc >= 1 and self.slots(spec, ipc) < 1:
            slot, image = self._sizes_of(spec)
            raise MethodError(
                f"{self.name} has no space for a real image and its {self.config.compensators} compensators in an "
                f"ipc of {ipc} on {spec.n_classes} classes; ask for an ipc of at least {-(-slot // image)}"
            )
        super().check(spec, ipc, teachers)

    def check_number(self, teachers: int) -> None:
        super().check_number(teachers)
        if teachers != self.config.compensators:
            raise MethodError(
                f"{self.name} makes a compensator with each teacher; it was given {teachers} teachers and "
                f"compensators={self.config.compensators}; say --set compensators={teachers}, or give as many teachers"
            )

    def stages(self, spec: DatasetSpec) -> tuple[Stage, ...]:
        """One: cross-entropy and the BatchNorm distance."""
        objective = CrossEntropy() + self.config.alpha_bn * BatchNormDistance(self.config.first_bn)
        views = self.config.views.over(published_views(spec))
        return (Stage(steps=self.config.steps, views=views, objective=objective),)

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
        self._check_teachers(teachers)
        if train is None:
            raise MethodError(f"{self.name} needs the training images")
        picks = pick_random(train.labels, job.classes, job.slots, seed=job.seed, set_index=job.set_index)
        images = train.images[picks.ravel()].reshape(*picks.shape, *job.spec.image_shape)
        originals = real_start(images, job.spec).to(compute.torch_device)
        made = Compensators(checkpoint, report)
        for number in range(len(made.finished), len(teachers)):
            canvas = Compensated(originals, job.spec)
            self.compensate(canvas, teachers[number], number, job, compute, made.reporter(len(teachers)), made)
            made.keep(canvas.values)
        finished = [Compensated(originals, job.spec, values.to(originals.device)) for values in made.finished]
        columns = compensated_columns(finished)
        return Rows.of(job, columns.pop("images"), columns)

    def compensate(
        self,
        canvas: Compensated,
        teacher: Teacher,
        number: int,
        job: SynthesisJob,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> None:
        """Optimise the compensators of all slots under one teacher, in place; ``number`` is its place among them."""
        network = TappedNetwork(fed_by(job.spec, teacher)).to(canvas.values.device)
        problem = Problem(
            name=self.name,
            seed=job.seed,
            groups=[(job.set_index, slot, number) for slot in job.slots],
            targets=job.classes,
        )
        adam = AdamConfig(lr=self.config.lr)
        stages = self.stages(job.spec)
        invert(
            canvas,
            stages,
            together([network], len(job.slots)),
            problem,
            compute=compute,
            adam=adam,
            report=report,
            checkpoint=checkpoint,
        )


class InferDyn(Infer):
    """INFER with labels of every view: the same images, and what the teachers say of each view of each epoch.

    Source and departures: see :class:`Infer`. Epochs are the fewer the more images there are, 400 / (M + 1), so that a
    student takes about as many steps as in 400 epochs of IPC images. The authors ask the teachers while the student is
    trained; here labels are stored, unless ``labels.codec=none``. A set of `infer` becomes one of `infer-dyn` by being
    labelled anew.
    """

    name = "infer-dyn"
    summary = "infer with a label for every view"

    @property
    def published_labels(self) -> Mapping[str, Any]:
        return {**CIFAR_LABELS, "epochs": max(1, IMAGE_EPOCHS // (self.config.compensators + 1))}


def published_views(spec: DatasetSpec) -> RecoveryViews:
    """Those of SRe2L: whole images, rolled, up to 32 px; above that crops and flips as well."""
    roll = published_roll(spec)
    if max(spec.height, spec.width) <= LARGEST_WHOLE:
        return RecoveryViews(crop="none", flip=0.0, roll=roll)
    return RecoveryViews(crop="resized", flip=0.5, roll=roll)


class Compensators:
    """The compensators that are finished, teacher by teacher, kept beside the state of the run that goes on.

    To the loop of one teacher this is its checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, report: Report) -> None:
        self.checkpoint, self.report = checkpoint, report
        saved = checkpoint.load() or {}
        count = int(saved.pop("finished", torch.tensor(0)))
        self.finished = [saved.pop(_name(number)) for number in range(count)]
        self._going_on = saved

    def keep(self, values: Tensor) -> None:
        """The run is over; the next one starts anew."""
        self.finished.append(values.detach())
        self._going_on = {}

    def reporter(self, runs: int) -> Report:
        """How far one of ``runs`` equal runs is, told as how far all of them are."""
        before = len(self.finished)

        def told(stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
            self.report(stage, before * total + done, runs * total, figures)

        return told

    def load(self) -> dict[str, Tensor] | None:
        return self._going_on or None

    def due(self) -> bool:
        return self.checkpoint.due()

    def save(self, state: dict[str, Tensor]) -> None:
        done = {_name(number): values for number, values in enumerate(self.finished)}
        self.checkpoint.save({**state, **done, "finished": torch.tensor(len(done))})


def _name(number: int) -> str:
    return f"compensators {number}"
