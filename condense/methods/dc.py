"""DC: match the gradients of networks that learn from the synthetic images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from condense.data.spec import DatasetSpec
from condense.errors import ConfigError
from condense.matching import Alike, DistanceName, Matching, OnSynthetic, PixelOptim
from condense.methods.matched import MatchedConfig, MatchedMethod, Start, megabytes
from condense.views.augment import Augment

__all__ = ["DC", "DCConfig", "GradientMethod"]

PUBLISHED = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""IPC -> matches of a network, and epochs of training between two of them."""


@dataclass(frozen=True, kw_only=True)
class DCConfig(MatchedConfig):
    """Settings of DC. Raises `ConfigError` for a value out of range."""

    networks: int = field(default=1000, metadata={"help": "random networks, one after the other"})
    matches: int | None = field(
        default=None, metadata={"help": "steps in each network; unset, as published: 1 at IPC 1, 10 at 10, 50 at 50"}
    )
    epochs: int | None = field(
        default=None,
        metadata={
            "help": "passes of the network over the set between steps; unset, as published: 50 at IPC 10, 10 at 50"
        },
    )
    distance: DistanceName = field(default="row-cosine", metadata={"help": "of gradients: row-cosine, mse or l1"})
    lr: float = field(default=0.1, metadata={"help": "learning rate of the pixels"})
    lr_network: float = field(default=0.01, metadata={"help": "learning rate of the networks"})
    batch_train: int = field(default=256, metadata={"help": "synthetic images in a step of a network"})
    start: Start = field(
        default="noise",
        metadata={
            "help": "what images begin as: noise, real (random ones of the class) or k-means (nearest to centres)"
        },
    )
    pool: int = field(
        default=0,
        metadata={
            "help": "so many networks instead of fresh ones, their real gradients computed once; 0, as published: none"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "matches", "epochs", "batch_train")
        self.one_of("distance", DistanceName)
        self.pool_allowed(self.pool, matches=self.matches, augment=getattr(self, "augment", "none"))
        for name in ("lr", "lr_network"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")


class GradientMethod(MatchedMethod):
    """What DC and DSA share."""

    config: DCConfig

    def alike(self, spec: DatasetSpec) -> Alike | None:
        """How real and synthetic images are changed before they are matched."""
        return None

    def augment(self, spec: DatasetSpec) -> Augment:
        """How synthetic images are changed while networks learn from them."""
        return "none"

    def matches(self, ipc: int) -> int:
        return self.config.matches or published(ipc)[0]

    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        training = OnSynthetic(
            epochs=self.config.epochs or published(ipc)[1],
            batch=self.config.batch_train,
            lr=self.config.lr_network,
            augment=self.augment(spec),
        )
        return Matching(
            what="gradients",
            distance=self.config.distance,
            networks=self.config.networks,
            matches=self.matches(ipc),
            training=training,
            alike=self.alike(spec),
            batch_real=self.config.batch_real,
            batch_synthetic=self.config.batch_synthetic,
            pool=self.config.pool,
            memory=megabytes(self.config.step_memory),
        )

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        return PixelOptim(optimizer=self.config.optimizer, lr=self.config.lr, momentum=self.config.momentum)


def published(ipc: int) -> tuple[int, int]:
    """Matches and epochs of the greatest published IPC that is not above this one."""
    return PUBLISHED[max(known for known in PUBLISHED if known <= ipc)]


class DC(GradientMethod):
    """Move pixels so that networks get the same gradients from them as from real images, class by class.

    Source: "Dataset Condensation with Gradient Matching", arXiv 2006.05929, algorithm 1, equations 8 to 10. Per step:
    for each class the gradients of the mean cross-entropy on 256 real and on all synthetic images; the sum over rows of
    each weight of one minus their cosine; gradient descent with momentum on all pixels; then the network learns from
    the synthetic set. The authors' values are the defaults; between the IPCs that they give, those of the next smaller.

    Differs from the authors' program in: (1) pixels are clamped at every step (clamp=false: not) and rounded to uint8;
    (2) gradients of gradients are computed as derivatives along a direction, which is the same number; (3) random
    numbers are keyed, so results do not depend on what ran before; (4) it ends after 1000 networks, not 1001. With
    ``pool`` it departs from the paper: a few untrained networks are used again and again, each with one real batch.
    """

    name = "dc"
    summary = "match gradients of real and synthetic images in networks that learn from the latter"
    source = "Gradient Matching (ICLR 2021), arXiv 2006.05929"
    revision = 1
    Config = DCConfig
    quick: ClassVar[Mapping[str, Any]] = {**MatchedMethod.quick, "matches": 2, "epochs": 1}
