"""IDC: gradients matched in networks that learn from real images, several images stored in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from condense.canvas import Pixels, Tiles, check_factor, mosaic, noise_start, real_start
from condense.data.spec import DatasetSpec, Split
from condense.errors import ConfigError, MethodError
from condense.matching import Alike, DistanceName, Matching, OnReal, PixelOptim
from condense.methods.base import Canvas, SynthesisJob
from condense.methods.matched import MatchedConfig, MatchedMethod, megabytes, real_images
from condense.teachers import Teacher

__all__ = ["IDC", "IDCConfig"]

LARGE = 128
"""Images with a longer side are taken as those of ImageNet."""

NOISE_MEAN, NOISE_STD = 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class IDCConfig(MatchedConfig):
    """Settings of IDC. Raises `ConfigError` for a value out of range."""

    factor: int = field(
        default=2,
        metadata={"help": "stored images are mosaics of factor x factor tiles; 1: IDC-I, published also 2, 3"},
    )
    networks: int = field(
        default=2000, metadata={"help": "random networks, one after the other; published: an upper bound"}
    )
    matches: int = field(default=100, metadata={"help": "steps in each network"})
    distance: DistanceName | None = field(
        default=None,
        metadata={"help": "of gradients: row-cosine, mse or l1; unset: l1 for grey and large images, else mse"},
    )
    lr: float | None = field(
        default=None,
        metadata={
            "help": "of pixels in [0, 1], class by class; unset: as published for images like these, grows with IPC"
        },
    )
    momentum: float = field(default=0.0, metadata={"help": "of sgd on the pixels, from step to step"})
    batch_real: int = field(default=64, metadata={"help": "real images of a class in a step"})
    batch_synthetic: int = field(default=128, metadata={"help": "most synthetic images of a class in a step; 0: all"})
    train_images: int | None = field(
        default=None,
        metadata={
            "help": "real images a network learns from between steps; unset: 2000 for small colour images, else 500"
        },
    )
    lr_network: float = field(default=0.01, metadata={"help": "learning rate of the networks"})
    cutmix: float = field(default=0.5, metadata={"help": "probability of CutMix in a step of a network"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "factor", "matches", "train_images")
        self.one_of("distance", DistanceName)
        if not 0 <= self.cutmix <= 1:
            raise ConfigError(f"cutmix is {self.cutmix}; expected a probability")
        for name in ("lr", "lr_network"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")


class IDC(MatchedMethod):
    """Move the pixels of mosaics so that networks get the same gradients from their enlarged tiles as from real images.

    Source: "Dataset Condensation via Efficient Synthetic-Data Parameterization", arXiv 2205.14959, algorithm 1. Per
    step: for each class the gradients of convolutions on 64 real and at most 128 synthetic images, both changed by the
    same color, crop and cutout; their squared (grey and large images: absolute) distance; a step on the pixels; then
    the network learns from real images, changed and mixed. The authors' values are the defaults.

    Differs from the authors' program in: (1) pixels of all classes move once, together, by descent without momentum at
    twice ``lr``; there those of each class in turn move by descent with momentum 0.5, which with ten classes adds up to
    the same before the class comes again; (2) pixels are clamped at every step, not once for each network
    (clamp=false: not), and rounded to uint8; (3) a factor has to divide the sides; (4) mosaics begin as means, not as
    single pixels, of random real images, not of the first; images repeat where a class is small; (5) gradients of
    gradients are computed as derivatives along a direction, and random numbers are keyed; (6) nothing tells images of
    SVHN from CIFAR: give train_images=500 for it.
    """

    name = "idc"
    summary = "match gradients in networks that learn from real images; several images stored in one"
    source = "Efficient Synthetic-Data Parameterization (ICML 2022), arXiv 2205.14959"
    revision = 1
    Config = IDCConfig
    quick: ClassVar[Mapping[str, Any]] = {**MatchedMethod.quick, "matches": 2, "train_images": 64}
    config: IDCConfig

    @property
    def canvas(self) -> Canvas:
        factor = self.config.factor
        return Canvas("pixels") if factor == 1 else Canvas("tiles", {"factor": factor})

    @property
    def items_per_row(self) -> int:
        return self.config.factor**2

    def matches(self, ipc: int) -> int:
        return self.config.matches

    def canvas_of(self, start: Tensor, spec: DatasetSpec) -> Pixels:
        return Tiles(start, spec, self.config.factor)

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        try:
            check_factor(self.config.factor, spec)
        except ConfigError as error:
            raise MethodError(f"{self.name}: {error}") from None
        super().check(spec, ipc, teachers)

    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        small = spec.channels > 1 and max(spec.height, spec.width) <= LARGE
        images = self.config.train_images or (2000 if small else 500)
        return Matching(
            what="gradients",
            distance=self.config.distance or ("mse" if small else "l1"),
            linear=False,
            networks=self.config.networks,
            matches=self.config.matches,
            training=OnReal(images=images, lr=self.config.lr_network, cutmix=self.config.cutmix),
            alike=Alike(families=("color", "crop", "cutout"), one=False),
            batch_real=self.config.batch_real,
            batch_synthetic=self.config.batch_synthetic,
            memory=megabytes(self.config.step_memory),
        )

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        lr = self.config.lr or published_lr(spec, ipc)
        return PixelOptim(optimizer=self.config.optimizer, lr=2 * lr, momentum=self.config.momentum, raw=True)

    def _start(self, job: SynthesisJob, ipc: int, train: Split) -> Tensor:
        factor = self.config.factor
        if self.config.start == "noise":
            keys = {"seed": job.seed, "set_index": job.set_index}
            return raw_noise(noise_start(job.spec, tuple(range(ipc)), job.classes, **keys), job.spec)
        if factor == 1:
            return super()._start(job, ipc, train)
        images = real_images(job, range(ipc * factor**2), train, self.config.start)
        return mosaic(real_start(images, job.spec), factor)


def published_lr(spec: DatasetSpec, ipc: int) -> float:
    """The authors' for MNIST and Fashion-MNIST, CIFAR and SVHN, and ImageNet-10: it grows with IPC and with area."""
    side = max(spec.height, spec.width)
    if side > LARGE:
        base, usual = 3e-3, 224
    elif spec.channels == 1:
        base, usual = 1e-4, 28 if spec.name == "mnist" else 32
    else:
        base, usual = 5e-3, 32
    return base * ipc / 10 * (spec.height / usual) ** 2


def raw_noise(noise: Tensor, spec: DatasetSpec) -> Tensor:
    """N(0, 1), as N(0.5, 0.25^2) of pixels in [0, 1], normalised by ``spec``; clamped there by the canvas."""
    mean, std = (noise.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
    return ((NOISE_MEAN + NOISE_STD * noise).clamp(0, 1) - mean) / std
