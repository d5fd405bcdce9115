"""Settings of the decoupled methods: one config, in which every published method is a choice of values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from condense.config import LATER
from condense.errors import ConfigError
from condense.methods.parts.committee import CommitteeConfig
from condense.starts import STARTS, PatchConfig
from condense.views.config import check_choice, check_fraction, check_integer
from condense.views.recovery import RecoveryViews

__all__ = [
    "BLOCKS",
    "Batch",
    "Blocks",
    "MaskConfig",
    "PerturbConfig",
    "RecoveryConfig",
    "ResidualConfig",
    "ViewChanges",
]

Start = Literal["noise", "real", "easy", "critical", "median"]
Batch = Literal["slot", "class", "all"]
Blocks = Literal["nested", "whole"]
ClassVariance = Literal["class", "image"]


BLOCKS = {
    "help": "slots done at once: those that a larger set begins with as well (nested), or as many of the set as "
    "job_images allows (whole), which is faster on a GPU",
    **LATER,
}


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
class PerturbConfig:
    """Directed weight adjustment (DWA, arXiv 2409.17612); see :func:`condense.teachers.perturb.perturb`."""

    radius: float = field(
        default=0.0,
        metadata={"help": "how far teachers are moved up the loss of a batch's first images; 0: not at all"},
    )
    steps: int = field(default=12, metadata={"help": "steps of that"})

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise ConfigError(f"perturb.radius must be at least 0 and finite, got {self.radius}")
        check_integer("perturb.steps", self.steps, 1)


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """Residual mixing (FADRM, arXiv 2506.24125); see :class:`condense.methods.parts.residual.Residual`."""

    blocks: int = field(
        default=1, metadata={"help": "stages, between which the images are mixed with those they began as"}
    )
    alpha: float = field(default=0.5, metadata={"help": "share of the optimised image in that mixture"})
    low: float = field(
        default=1.0, metadata={"help": "size of every other stage, of the full one (published: 200/224)"}
    )

    def __post_init__(self) -> None:
        check_integer("residual.blocks", self.blocks, 1)
        check_fraction("residual.alpha", self.alpha)
        if not 0 < self.low <= 1:
            raise ConfigError(f"residual.low must be above 0 and at most 1, got {self.low}")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Only what is not critical changes (NRR-DD, arXiv 2503.18267); see :mod:`condense.methods.parts.masks`."""

    eps: float = field(
        default=0.0, metadata={"help": "pixels whose activation is at least this stay as they are; 0: no mask"}
    )
    every: int = field(default=0, metadata={"help": "steps after which activation maps are made anew; 0: never"})

    def __post_init__(self) -> None:
        check_fraction("mask.eps", self.eps)
        check_integer("mask.every", self.every, 0)


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What SRe2L and its successors differ in: start, teachers, objective, views, stages, mask, batches.

    Raises `ConfigError` for a value out of range and for a combination that makes no sense.
    """

    steps: int = field(
        default=1000, metadata={"help": "optimisation steps; published: 1000 at 32 px, 4000 at 64 and 224 px"}
    )
    lr: float = field(default=0.25, metadata={"help": "learning rate of Adam, falling to 0 by half a cosine"})
    alpha_bn: float = field(default=0.01, metadata={"help": "weight of the distance of BatchNorm statistics"})
    first_bn: float = field(default=10.0, metadata={"help": "how many times the first BatchNorm layer counts"})
    variance: float = field(
        default=1.0, metadata={"help": "how many times variances count in that distance (DWA: 2 to 11)", **LATER}
    )
    class_share: float = field(
        default=0.0,
        metadata={"help": "share of that distance that is from the statistics of the images' classes", **LATER},
    )
    class_variance: ClassVariance = field(
        default="class",
        metadata={"help": "variance of a class: over all its images (class), or mean within them (image)", **LATER},
    )
    moving: float = field(
        default=0.0, metadata={"help": "share of earlier steps in the statistics that are compared", **LATER}
    )
    committee: CommitteeConfig = field(default=CommitteeConfig(), metadata=LATER)
    perturb: PerturbConfig = field(default=PerturbConfig(), metadata=LATER)
    start: Start = field(
        default="noise",
        metadata={
            "help": "what images begin as: " + "; ".join(f"{name} ({one.summary})" for name, one in STARTS.items())
        },
    )
    patches: PatchConfig = field(default=PatchConfig(), metadata=LATER)
    residual: ResidualConfig = field(default=ResidualConfig(), metadata=LATER)
    mask: MaskConfig = field(default=MaskConfig(), metadata=LATER)
    views: ViewChanges = ViewChanges()
    batch: Batch = field(
        default="slot",
        metadata={
            "help": "what is matched together: an image of each class (slot), the images of a class (class), or all",
            **LATER,
        },
    )
    batch_classes: int = field(
        default=100, metadata={"help": "most classes in a batch, whose statistics are matched together"}
    )
    job_images: int = field(
        default=100, metadata={"help": "most images optimised at once, as several batches; memory grows with it"}
    )

    blocks: Blocks = field(default="nested", metadata=BLOCKS)

    def __post_init__(self) -> None:
        check_choice("blocks", self.blocks, get_args(Blocks))
        for name in ("steps", "batch_classes", "job_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        for name in ("alpha_bn", "first_bn", "variance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        check_choice("start", self.start, STARTS)
        check_choice("batch", self.batch, get_args(Batch))
        check_choice("class_variance", self.class_variance, get_args(ClassVariance))
        check_fraction("class_share", self.class_share)
        if not 0 <= self.moving < 1:
            raise ConfigError(f"moving must be at least 0 and below 1, got {self.moving}")
        self._refuse_nonsense()

    def _refuse_nonsense(self) -> None:
        asks_images = {
            "perturb": (self.perturb.radius > 0, "teachers would unlearn noise"),
            "residual": (self.residual.blocks > 1, "noise would be mixed in again"),
            "mask": (self.mask.eps > 0, "noise has nothing critical to keep"),
        }
        for name, (on, why) in asks_images.items():
            if on and self.start == "noise":
                raise ConfigError(f"{name} with start=noise makes no sense: {why}; choose another start, such as real")
        if self.mask.eps > 0 and self.residual.low < 1:
            raise ConfigError("mask needs images of one size, but residual.low is below 1; leave one of the two out")
        if self.batch != "slot" and self.committee.size > 0:
            raise ConfigError(
                f"committee.size chooses teachers slot by slot, but batch={self.batch} matches slots together; set "
                "committee.size=0 or batch=slot"
            )
        if self.residual.blocks > self.steps:
            raise ConfigError(f"steps is {self.steps}, fewer than the {self.residual.blocks} blocks of residual")
