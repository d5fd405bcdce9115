"""What DC, DSA, DM, IDC, NCFM and MTT share: settings, the start, and a job as one run of the matching loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
from torch import Tensor

from condense.canvas import Pixels, noise_start, real_start
from condense.checkpoint import Checkpoint
from condense.data import mirrors
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.matching import (
    Alike,
    Grown,
    Matching,
    PixelOptim,
    PixelOptimiser,
    Problem,
    check_memory,
    has_fast_form,
    match,
    network_of,
)
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob
from condense.networks.convnet import ConvNet
from condense.progress import Report
from condense.seeding import generator
from condense.selection import k_means, members_of, pick_random
from condense.teachers import Teacher
from condense.views.augment import FAMILIES, Augment, Family

__all__ = [
    "MatchedConfig",
    "MatchedMethod",
    "SiameseName",
    "Start",
    "WholeSet",
    "WholeSetConfig",
    "alike_of",
    "augment_of",
    "families_of",
]

Start = Literal["noise", "real", "k-means"]
SiameseName = Literal["none", "dsa", "dsa-unmirrored"]


@dataclass(frozen=True, kw_only=True)
class WholeSetConfig:
    """Settings of methods that make a whole set at once. Raises `ConfigError` for a value out of range."""

    network: str = field(default="convnet3-in", metadata={"help": "the networks that images are matched in"})
    optimizer: PixelOptimiser = field(
        default="sgd",
        metadata={"help": "what moves the pixels: sgd, adam or adamw, whose lr is of pixels in [0, 1]; published: sgd"},
    )
    momentum: float = field(default=0.5, metadata={"help": "of sgd on the pixels"})
    start: Start = field(
        default="real",
        metadata={
            "help": "what images begin as: noise, real (random ones of the class) or k-means (nearest to centres)"
        },
    )
    clamp: bool = field(
        default=True, metadata={"help": "keep pixels valid at every step; DC, DSA, DM and MTT, as published, do not"}
    )

    def __post_init__(self) -> None:
        self.one_of("start", Start)
        PixelOptim(optimizer=self.optimizer, lr=1.0, momentum=self.momentum)

    def at_least(self, least: int, *names: str) -> None:
        """Raises `ConfigError` unless these settings are that large, or None."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")

    def one_of(self, name: str, choices: Any) -> None:
        """Raises `ConfigError` unless this setting is one of a literal type's values, or None."""
        value = getattr(self, name)
        if value is not None and value not in get_args(choices):
            raise ConfigError(f'{name} is "{value}"; expected one of {", ".join(get_args(choices))}')


@dataclass(frozen=True, kw_only=True)
class MatchedConfig(WholeSetConfig):
    """Settings of all methods of the matching loop. Raises `ConfigError` for a value out of range."""

    networks: int = field(default=1000, metadata={"help": "random networks, one after the other"})
    batch_real: int = field(default=256, metadata={"help": "real images of a class in a step"})
    batch_synthetic: int = field(
        default=0, metadata={"help": "most synthetic images of a class in a step; 0, as published: all"}
    )
    step_memory: int = field(
        default=1024,
        metadata={"help": "MB that the activations of a step may hold: classes are taken so many at a time"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "networks", "batch_real", "step_memory")
        self.at_least(0, "batch_synthetic")

    def pool_allowed(self, pool: int, *, matches: int | None, augment: str | None) -> None:
        """Raises `ConfigError` for a pool whose real side would not stay the same."""
        self.at_least(0, "pool")
        if pool and matches != 1:
            raise ConfigError(
                f"pool is {pool}: its networks' gradients on real images are computed once, so each is matched once, "
                "untrained; set matches=1 with it"
            )
        if pool and augment != "none":
            raise ConfigError(
                f"pool is {pool}: what its networks say of real images is computed once, which augmentation would "
                "change at every step; set augment=none with it"
            )


class WholeSet(Method):
    """Images of all slots and classes are one problem, and so one job: what a slot holds depends on the IPC.

    Where a job has only some of the slots, all are made, and those handed out.
    """

    config: Any
    sizes = JobSizes(classes=10_000, images=10_000_000)

    @property
    def needs(self) -> Needs:
        return Needs(teachers="none", real_images=True)

    @property
    def contains_real_images(self) -> bool:
        return bool(self.config.start != "noise")

    @property
    def hard_labels(self) -> bool:
        return True

    @property
    def published_labels(self) -> Mapping[str, Any]:
        return {"codec": "none"}

    @property
    def independent(self) -> Literal["slots", "classes", "nothing"]:
        return "nothing"

    def jobs(self, spec: DatasetSpec, ipc: int, set_index: int, seed: int) -> list[SynthesisJob]:
        """One: all slots of all classes."""
        slots, classes = tuple(range(ipc)), tuple(range(spec.n_classes))
        return [SynthesisJob(spec=spec, set_index=set_index, seed=seed, slots=slots, classes=classes, ipc=ipc)]

    def _problem(self, spec: DatasetSpec, seed: int, set_index: int, classes: tuple[int, ...]) -> Problem:
        return Problem(
            name=self.name, spec=spec, seed=seed, set_index=set_index, classes=classes, network=self.config.network
        )

    def _start(self, job: SynthesisJob, ipc: int, train: Split) -> Tensor:
        """(slots, classes, C, H, W), normalised."""
        slots = tuple(range(ipc))
        if self.config.start == "noise":
            return noise_start(job.spec, slots, job.classes, seed=job.seed, set_index=job.set_index)
        return real_start(real_images(job, range(ipc), train, self.config.start), job.spec)


class MatchedMethod(WholeSet):
    """A set is one run of the matching loop."""

    quick: ClassVar[Mapping[str, Any]] = {"networks": 2, "batch_real": 16}

    @abstractmethod
    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        """What the loop does for a set of ``ipc`` images per class."""

    @abstractmethod
    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        """How its pixels move."""

    def canvas_of(self, start: Tensor, spec: DatasetSpec) -> Pixels:
        """The canvas that begins as ``start`` (slots, classes, C, H, W)."""
        return Pixels(start, spec)

    @property
    def items_per_row(self) -> int:
        return 1

    @property
    def optimisation_steps(self) -> int:
        """At the fewest images per class: published steps grow with them."""
        return self.steps(1)

    def steps(self, ipc: int) -> int:
        """Optimisation steps of a set of ``ipc`` images per class."""
        return int(self.config.networks) * self.matches(ipc)

    def matches(self, ipc: int) -> int:
        """Steps in each network."""
        return 1

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        """Also refuses a network that cannot take the images, and a memory in which not one class fits."""
        super().check(spec, ipc, teachers)
        network = network_of(self._problem(spec, 0, 0, (0,)), 0)
        if has_fast_form(network):
            convnet, items = cast(ConvNet, network), ipc * self.items_per_row
            check_memory(self.matching(spec, ipc), convnet, spec, items=items, name=self.name)

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
        canvas = self.optimised(
            job, train=train, precomputed=precomputed, compute=compute, report=report, checkpoint=checkpoint
        )
        return Rows.of(job, canvas.rows())

    def optimised(
        self,
        job: SynthesisJob,
        *,
        train: Split | None,
        precomputed: Precomputed,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Pixels:
        """The canvas of the job's slots as optimisation leaves it, before anything is clipped or rounded."""
        if train is None:
            raise MethodError(f"{self.name} needs the training images")
        ipc = job.ipc or max(job.slots) + 1
        canvas = self.canvas_of(self._start(job, ipc, train).to(compute.torch_device), job.spec)
        match(
            canvas,
            self.matching(job.spec, ipc),
            self.optim(job.spec, ipc),
            self._problem(job.spec, job.seed, job.set_index, job.classes),
            train,
            clamp=self.config.clamp,
            grown=self._grown(precomputed),
            compute=compute,
            report=report,
            checkpoint=checkpoint,
        )
        canvas.values = canvas.values[list(job.slots)]
        return canvas

    def _grown(self, precomputed: Precomputed) -> list[Grown]:
        """The networks that learnt beforehand, if it has any."""
        if self.needs.precomputed != "grown networks":
            return []
        known = [one for one in precomputed if isinstance(one, Grown)] if isinstance(precomputed, tuple) else []
        if not known:
            raise MethodError(f"{self.name} needs networks that learnt from the training images")
        return known


def real_images(job: SynthesisJob, slots: range, train: Split, start: Start) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Training images for each slot and class, uint8 (slots, classes, H, W, C): random ones, or by k-means of pixels.

    By k-means there have to be as many in each class; random ones repeat where a class is small.
    """
    if start == "k-means":
        flat = np.asarray(train.images).reshape(len(train.images), -1)
        labels, columns = np.asarray(train.labels), []
        for label in job.classes:
            random = generator(job.seed, "k-means start", job.set_index, label)
            columns.append(k_means(flat, members_of(labels, label), len(slots), random, iterations=20))
        picks = np.stack(columns, axis=1)
    else:
        picks = pick_random(train.labels, job.classes, slots, seed=job.seed, set_index=job.set_index)
    chosen: np.ndarray[Any, np.dtype[np.uint8]] = train.images[picks.ravel()]
    return chosen.reshape(*picks.shape, *job.spec.image_shape)


def augment_of(augment: SiameseName | None, spec: DatasetSpec) -> Augment:
    """What is asked for, or what is published for such a data set: flips only where they keep the class."""
    return cast(Augment, augment or ("dsa" if mirrors(spec) else "dsa-unmirrored"))


def families_of(augment: SiameseName | None, spec: DatasetSpec) -> tuple[Family, ...]:
    """The families that this augmentation draws from."""
    name = augment_of(augment, spec)
    return () if name == "none" else tuple(one for one in FAMILIES if one != "flip" or name == "dsa")


def alike_of(augment: SiameseName | None, spec: DatasetSpec) -> Alike | None:
    """DSA's siamese augmentation: one of its families for each class and step."""
    families = families_of(augment, spec)
    return Alike(families=families, one=True) if families else None


def megabytes(count: int) -> int:
    return count * 2**20
