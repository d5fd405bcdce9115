"""What all starts are told: which images are wanted, and the settings of pools and patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.progress import Report
from condense.teachers import Teacher
from condense.views.config import check_choice, check_integer, check_scale

__all__ = [
    "Images",
    "PatchConfig",
    "RealStart",
    "StartJob",
    "TileConfig",
    "check_patches",
    "factor_of",
    "needed_images",
    "needed_teachers",
]

Images = npt.NDArray[np.uint8]

Arrangement = Literal["raster", "random"]
Measure = Literal["sum", "mean"]

LARGEST_WHOLE = 64
"""Images with no longer side are one patch each, as in RDED's scripts; larger ones are collages of four."""


@dataclass(frozen=True, kw_only=True)
class StartJob:
    """Which images are wanted: every one of ``slots`` for every one of ``classes``, of set ``set_index``."""

    spec: DatasetSpec
    set_index: int
    seed: int
    slots: tuple[int, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TileConfig:
    """Which patches there are, and how they become images. Raises `ConfigError` for a value out of range."""

    pool: int = field(default=300, metadata={"help": "images of each class that are looked at; all, if it has fewer"})
    crops: int = field(default=5, metadata={"help": "random patches of each of them"})
    factor: int | None = field(
        default=None, metadata={"help": "an image is made of factor x factor patches; unset: 1 up to 64 px, 2 above"}
    )
    scale: tuple[float, float] = field(
        default=(0.08, 1.0), metadata={"help": "least and greatest share of a real image that a patch shows"}
    )
    arrangement: Arrangement = field(
        default="raster", metadata={"help": "patches of an image from the first chosen to the last (raster) or random"}
    )

    def __post_init__(self) -> None:
        check_integer("pool", self.pool, 1)
        check_integer("crops", self.crops, 1, 10_000)
        if self.factor is not None:
            check_integer("factor", self.factor, 1, 1024)
        check_scale(self.scale)
        check_choice("arrangement", self.arrangement, get_args(Arrangement))


@dataclass(frozen=True, kw_only=True)
class PatchConfig(TileConfig):
    """Settings of all starts that look at teachers. Raises `ConfigError` for a value out of range.

    ``floor``, ``measure`` and ``cap`` are those of critical patches.
    """

    floor: float | None = field(
        default=None,
        metadata={
            "help": "critical: least probability of its class that a patch may have; unset: it must be the greatest"
        },
    )
    measure: Measure = field(
        default="sum",
        metadata={"help": "critical: a patch counts by the activation map inside it (sum) or by its mean (mean)"},
    )
    cap: float = field(default=0.5, metadata={"help": "critical: greatest share of an image, if below that of scale"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise ConfigError(f"floor must be from 0 to 1, got {self.floor}")
        check_choice("measure", self.measure, get_args(Measure))
        if not self.scale[0] <= self.cap <= 1:
            raise ConfigError(f"cap must be from {self.scale[0]}, the least scale, to 1, got {self.cap}")


class RealStart(Protocol):
    """Images uint8 (slots, classes, H, W, C) made of real ones.

    What a slot holds depends neither on the other slots nor on the other classes of the job. Raises `MethodError`
    without training images or teachers where they are needed, `TeacherError` for a teacher that cannot serve.
    """

    def __call__(
        self,
        job: StartJob,
        train: Split | None,
        teachers: Sequence[Teacher],
        config: PatchConfig,
        *,
        compute: Compute,
        report: Report = ...,
    ) -> Images: ...


def factor_of(spec: DatasetSpec, config: TileConfig) -> int:
    """Patches in a row of an image. Raises `MethodError` if it does not divide height and width."""
    factor = config.factor or (1 if max(spec.height, spec.width) <= LARGEST_WHOLE else 2)
    if spec.height % factor or spec.width % factor:
        raise MethodError(
            f"factor is {factor}, which does not divide images of {spec.height} x {spec.width} pixels; "
            "choose one that does, such as factor=1"
        )
    return factor


def check_patches(name: str, spec: DatasetSpec, ipc: int, config: TileConfig) -> None:
    """Raises `MethodError` if ``factor`` does not divide the images, or a class has too few patches for ``ipc``."""
    wanted = ipc * factor_of(spec, config) ** 2
    size, label = min((size, label) for label, size in enumerate(spec.train_sizes))
    there = config.crops * min(config.pool, size)
    if wanted > there:
        raise MethodError(
            f'{name} needs {wanted} patches of each class, but class "{spec.classes[label]}" of {spec.name} gives '
            f"{there} ({config.crops} of each of {min(config.pool, size)} images); raise crops or pool, or lower the "
            "ipc or factor"
        )


def needed_images(start: str, train: Split | None) -> Split:
    """The training images. Raises `MethodError` if there are none."""
    if train is None:
        raise MethodError(f"{start} needs the training images")
    return train


def needed_teachers(start: str, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
    """The teachers. Raises `MethodError` if there are none."""
    if not teachers:
        raise MethodError(f"{start} needs at least one teacher and was given none; train or import one")
    return teachers
