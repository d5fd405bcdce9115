"""What SRe2L and its successors share: settings, teachers, and a job as one run of the inversion loop."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from condense.canvas import Pixels, noise_start, real_start
from condense.checkpoint import Checkpoint
from condense.config import LATER
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.inversion import AdamConfig, Problem, Stage, Teachers, invert
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob
from condense.methods.committee import CommitteeConfig, committee, softmax, teacher_weights
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.progress import Report
from condense.selection import pick_random
from condense.teachers import Teacher
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryViews

__all__ = ["RecoveryConfig", "RecoveryMethod", "ViewChanges", "published_roll"]

Start = Literal["noise", "real"]


@dataclass(frozen=True, kw_only=True)
class ViewChanges:
    """Departures from the paper's views; what is None stays as published for the images' size."""

    crop: Literal["none", "resized"] | None = field(
        default=None,
        metadata={"help": "random crops (resized) or whole images (none); unset, like all views.*: as published"},
    )
    scale: tuple[float, float] | None = field(default=None, metadata={"help": "least and greatest share of the area"})
    schedule: Literal["constant", "step", "linear", "cosine"] | None = field(
        default=None, metadata={"help": "how the least share falls to its value: constant, step, linear, cosine"}
    )
    milestone: float | None = field(default=None, metadata={"help": "when it is there, as a fraction of the run"})
    flip: float | None = field(default=None, metadata={"help": "probability of a left-right flip"})
    roll: int | None = field(default=None, metadata={"help": "greatest wrap-around shift in pixels"})
    two_sided: bool | None = field(default=None, metadata={"help": "roll both ways, not only down and right"})
    shared: bool | None = field(default=None, metadata={"help": "one view for a batch and step, not one per image"})

    def __post_init__(self) -> None:
        self.over(RecoveryViews())

    def over(self, published: RecoveryViews) -> RecoveryViews:
        """``published`` with these changes. Raises `ConfigError` for a value out of range."""
        return replace(published, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """Settings of SRe2L and its successors. Raises `ConfigError` for a value out of range."""

    steps: int = field(
        default=1000, metadata={"help": "optimisation steps; published: 1000 at 32 px, 4000 at 64 and 224 px"}
    )
    lr: float = field(default=0.25, metadata={"help": "learning rate of Adam, falling to 0 by half a cosine"})
    alpha_bn: float = field(default=0.01, metadata={"help": "weight of the distance of BatchNorm statistics"})
    first_bn: float = field(default=10.0, metadata={"help": "how many times the first BatchNorm layer counts"})
    variance: float = field(
        default=1.0, metadata={"help": "how many times variances count in that distance (DWA: 2 to 11)", **LATER}
    )
    committee: CommitteeConfig = field(default=CommitteeConfig(), metadata=LATER)
    start: Start = field(
        default="noise", metadata={"help": "what images begin as: noise, or real (random real images of the class)"}
    )
    views: ViewChanges = ViewChanges()
    batch_classes: int = field(
        default=100, metadata={"help": "most classes in a batch, whose statistics are matched together"}
    )
    job_images: int = field(
        default=100, metadata={"help": "most images optimised at once, as several batches; memory grows with it"}
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch_classes", "job_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        for name in ("alpha_bn", "first_bn", "variance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.start not in get_args(Start):
            raise ConfigError(f'start is "{self.start}"; expected one of {", ".join(get_args(Start))}')


class RecoveryMethod(Method):
    """Images of one slot, one of each class, are a batch; a job's slots are independent groups of one forward."""

    Config = RecoveryConfig
    config: RecoveryConfig
    quick: ClassVar[Mapping[str, Any]] = {"steps": 30}
    batch_setting = "batch_classes"

    @abstractmethod
    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        """The paper's views for images of this size."""

    @property
    def needs(self) -> Needs:
        return Needs(teachers="batchnorm", real_images=self.config.start == "real")

    @property
    def sizes(self) -> JobSizes:
        return JobSizes(self.config.batch_classes, self.config.job_images)

    @property
    def optimisation_steps(self) -> int:
        return self.config.steps

    @property
    def contains_real_images(self) -> bool:
        return self.config.start == "real"

    def stages(self, spec: DatasetSpec) -> tuple[Stage, ...]:
        """One: cross-entropy and the BatchNorm distance."""
        objective = CrossEntropy() + self.config.alpha_bn * BatchNormDistance(self.config.first_bn)
        views = self.config.views.over(self.published_views(spec))
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
        device = compute.torch_device
        canvas = Pixels(self._start(job, train).to(device), job.spec)
        networks = [TappedNetwork(_fed_by(job.spec, teacher)).to(device) for teacher in teachers]
        problem = Problem(
            name=self.name,
            seed=job.seed,
            groups=[(job.set_index, slot, job.classes[0]) for slot in job.slots],
            targets=job.classes,
        )
        invert(
            canvas,
            self.stages(job.spec),
            self._committee(networks, job),
            problem,
            compute=compute,
            adam=AdamConfig(lr=self.config.lr),
            report=report,
            checkpoint=checkpoint,
        )
        return Rows.of(job, canvas.rows())

    @property
    def asks_priors(self) -> bool:
        return self.config.committee.asks_priors

    def with_priors(self, priors: tuple[float, ...]) -> Method:
        return type(self)(replace(self.config, committee=replace(self.config.committee, priors=priors)))

    def alone(self) -> Method:
        return type(self)(replace(self.config, committee=CommitteeConfig()))

    @property
    def label_weights(self) -> tuple[float, ...]:
        given = self.config.committee
        if given.voting == "equal" or not given.priors:
            return ()
        return tuple(round(float(share), 6) for share in softmax(given.priors, given.label_temperature))

    def check_number(self, teachers: int) -> None:
        super().check_number(teachers)
        self.config.committee.check(teachers, self.name)

    def _committee(self, networks: Sequence[TappedNetwork], job: SynthesisJob) -> Teachers:
        given = self.config.committee
        weights = teacher_weights(given, len(networks), job.slots, seed=job.seed, set_index=job.set_index)
        return committee(networks, weights, turns=given.turns)

    def _start(self, job: SynthesisJob, train: Split | None) -> Tensor:
        keys = {"seed": job.seed, "set_index": job.set_index}
        if self.config.start == "noise":
            return noise_start(job.spec, job.slots, job.classes, **keys)
        if train is None:
            raise MethodError(f"{self.name} with start=real needs the training images; use start=noise without them")
        picks = pick_random(train.labels, job.classes, job.slots, **keys)
        return real_start(train.images[picks.ravel()].reshape(*picks.shape, *job.spec.image_shape), job.spec)


def published_roll(spec: DatasetSpec) -> int:
    """Greatest shift in pixels: 4 up to 64 px, 32 above (224 px)."""
    return 4 if max(spec.height, spec.width) <= 64 else 32


class _Renormalise(nn.Module):
    """Images normalised by one mean and standard deviation -> normalised by another."""

    def __init__(self, given: DatasetSpec, wanted: DatasetSpec) -> None:
        super().__init__()
        old, new = (
            (torch.tensor(spec.mean).view(-1, 1, 1), torch.tensor(spec.std).view(-1, 1, 1)) for spec in (given, wanted)
        )
        self.register_buffer("factor", old[1] / new[1])
        self.register_buffer("offset", (old[0] - new[0]) / new[1])

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("offset"), images, self.get_buffer("factor"))


def _fed_by(spec: DatasetSpec, teacher: Teacher) -> nn.Module:
    """The teacher's network for images normalised by ``spec``; imported teachers may have their own normalisation."""
    own = teacher.info.spec
    if (own.mean, own.std) == (spec.mean, spec.std):
        return teacher.network
    return nn.Sequential(_Renormalise(spec, own), teacher.network)
