"""IDC: gradients matched in networks that learn from real images, several images stored in one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from condense.config import LATER
from condense.data.spec import DatasetSpec
from condense.errors import ConfigError
from condense.matching import Alike, DistanceName, Growth, Matching, OnReal, PixelOptim
from condense.methods.base import Needs
from condense.methods.matched import MatchedMethod, megabytes
from condense.methods.tiled import TiledConfig, TiledMethod
from condense.training import OptimConfig

__all__ = ["IDC", "IDCConfig"]

LARGE = 128
"""Images with a longer side are taken as those of ImageNet."""

TRAIN_BATCH = 64
"""Images in a step of a network."""

IDCAugment = Literal["idc", "none"]


@dataclass(frozen=True, kw_only=True)
class IDCConfig(TiledConfig):
    """Settings of IDC. Raises `ConfigError` for a value out of range."""

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
    augment: IDCAugment = field(
        default="idc",
        metadata={**LATER, "help": "siamese augmentation: idc, which is color, crop and cutout, or none"},
    )
    pool: int = field(
        default=0,
        metadata={
            **LATER,
            "help": "so many networks learn beforehand, and each step takes a snapshot of one; 0, as published: none",
        },
    )
    pool_snapshots: int = field(
        default=20, metadata={**LATER, "help": "snapshots of each network of the pool, besides the untrained one"}
    )
    pool_memory: int = field(
        default=1024,
        metadata={
            **LATER,
            "help": "MB of real gradients of the pool to keep, with augment=none; what is more is computed each time",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "matches", "train_images", "pool_snapshots", "pool_memory")
        self.at_least(0, "pool")
        self.one_of("distance", DistanceName)
        self.one_of("augment", IDCAugment)
        if self.pool and self.matches == 1:
            raise ConfigError(
                f"pool is {self.pool}, but with matches=1 networks do not learn between steps, and snapshots of a pool "
                "would all be the same; set matches to how often they learn, for example 100"
            )
        if not 0 <= self.cutmix <= 1:
            raise ConfigError(f"cutmix is {self.cutmix}; expected a probability")
        for name in ("lr", "lr_network"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {value}")


class IDC(TiledMethod):
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

    With ``pool`` it departs from the paper: no network learns while images are matched. So many networks have done so
    beforehand, each for as long as one would between its ``matches``, and every step takes one of their snapshots by
    chance; there are as many steps. With augment=none, too, each snapshot has one real batch, whose gradients are
    computed once.
    """

    name = "idc"
    summary = "match gradients in networks that learn from real images; several images stored in one"
    source = "Efficient Synthetic-Data Parameterization (ICML 2022), arXiv 2205.14959"
    revision = 1
    Config = IDCConfig
    quick: ClassVar[Mapping[str, Any]] = {**MatchedMethod.quick, "matches": 2, "train_images": 64}
    config: IDCConfig

    @property
    def needs(self) -> Needs:
        grown = "grown networks" if self.config.pool else "none"
        return Needs(teachers="none", real_images=True, precomputed=grown)  # type: ignore[arg-type]

    def matches(self, ipc: int) -> int:
        return self.config.matches

    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        config, pooled = self.config, self.config.pool > 0
        training = OnReal(
            images=train_images(config, spec), batch=TRAIN_BATCH, lr=config.lr_network, cutmix=config.cutmix
        )
        augmented = config.augment == "idc"
        return Matching(
            what="gradients",
            distance=config.distance or ("mse" if is_small(spec) else "l1"),
            linear=False,
            networks=self.steps(ipc) if pooled else config.networks,
            matches=1 if pooled else config.matches,
            training=None if pooled else training,
            alike=Alike(families=("color", "crop", "cutout"), one=False) if augmented else None,
            taken="snapshots" if pooled else "fresh",
            keep=megabytes(config.pool_memory),
            batch_real=self.config.batch_real,
            batch_synthetic=self.config.batch_synthetic,
            memory=megabytes(self.config.step_memory),
        )

    def growths(self, spec: DatasetSpec, seed: int) -> tuple[Growth, ...]:
        """Each as a network that learns between its matches, with snapshots at equal distances."""
        config = self.config
        total = (config.matches - 1) * -(-train_images(config, spec) // TRAIN_BATCH)
        return tuple(
            Growth(
                network=config.network,
                number=number,
                seed=seed,
                snapshots=config.pool_snapshots,
                every=-(-total // config.pool_snapshots),
                batch=TRAIN_BATCH,
                optim=OptimConfig(lr=config.lr_network, nesterov=False, weight_decay=5e-4, schedule="constant"),
                cutmix=config.cutmix,
                families=("color", "crop"),
            )
            for number in range(config.pool)
        )

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        lr = self.config.lr or published_lr(spec, ipc)
        return PixelOptim(optimizer=self.config.optimizer, lr=2 * lr, momentum=self.config.momentum, raw=True)


def is_small(spec: DatasetSpec) -> bool:
    """Colour images that the authors take as those of CIFAR."""
    return spec.channels > 1 and max(spec.height, spec.width) <= LARGE


def train_images(config: IDCConfig, spec: DatasetSpec) -> int:
    """How many real images a network learns from between two matches."""
    return config.train_images or (2000 if is_small(spec) else 500)


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
