"""DM: match the mean features of random networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from condense.config import LATER
from condense.data.spec import DatasetSpec, Split
from condense.errors import ConfigError
from condense.matching import Matching, PixelOptim
from condense.methods.base import SynthesisJob
from condense.methods.matched import MatchedMethod, SiameseName, alike_of, megabytes
from condense.methods.tiled import TiledConfig, TiledMethod

__all__ = ["DM", "DMConfig"]


@dataclass(frozen=True, kw_only=True)
class DMConfig(TiledConfig):
    """Settings of DM. Raises `ConfigError` for a value out of range."""

    factor: int = field(
        default=1,
        metadata={"help": "stored images are mosaics of factor x factor tiles; published: 1", **LATER},
    )

    networks: int = field(default=20_000, metadata={"help": "random networks, a step in each"})
    lr: float = field(default=1.0, metadata={"help": "learning rate of the pixels; published: 1, and 10 from IPC 100"})
    augment: SiameseName | None = field(
        default=None,
        metadata={
            "help": "siamese augmentation: none, dsa, dsa-unmirrored; unset: dsa, flips where they keep the class"
        },
    )
    pool: int = field(
        default=0,
        metadata={
            "help": "so many networks instead of fresh ones, their real means computed once; 0, as published: none"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("augment", SiameseName)
        self.pool_allowed(self.pool, matches=1, augment=self.augment)
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")


class DM(TiledMethod):
    """Move pixels so that each class's mean features in fresh random networks equal those of its real images.

    Source: "Dataset Condensation with Distribution Matching", arXiv 2110.04181, equations 5 and 6. Per step: a new
    network; for each class 256 real images and all synthetic ones, both changed by the same augmentation (DSA); the
    squared distance of the mean features before the linear layer; gradient descent with momentum on all pixels. The
    authors' values for CIFAR are the defaults.

    Differs from the authors' program in: (1) pixels are clamped at every step (clamp=false: not) and rounded to uint8;
    (2) random numbers are keyed, so results do not depend on what ran before; (3) it ends after 20,000 steps, not
    20,001. Two settings depart from the paper: with ``pool`` a few networks are used again and again, each with one
    real batch; with ``factor`` several images are stored in one, as IDC does it.
    """

    name = "dm"
    summary = "match mean features of real and synthetic images in random networks"
    source = "Distribution Matching (WACV 2023), arXiv 2110.04181"
    revision = 1
    Config = DMConfig
    config: DMConfig

    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        return Matching(
            what="features",
            networks=self.config.networks,
            alike=alike_of(self.config.augment, spec),
            batch_real=self.config.batch_real,
            batch_synthetic=self.config.batch_synthetic,
            pool=self.config.pool,
            memory=megabytes(self.config.step_memory),
        )

    def _start(self, job: SynthesisJob, ipc: int, train: Split) -> Tensor:
        whole = self.config.factor == 1
        return MatchedMethod._start(self, job, ipc, train) if whole else super()._start(job, ipc, train)

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        return PixelOptim(optimizer=self.config.optimizer, lr=self.config.lr, momentum=self.config.momentum)
