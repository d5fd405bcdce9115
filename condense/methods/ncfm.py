"""NCFM: match the characteristic functions of features, in networks between a random and a trained one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from condense.data import mirrors
from condense.data.spec import DatasetSpec
from condense.errors import ConfigError
from condense.matching import Alike, Growth, Matching, PixelOptim, Spectrum, pass_steps
from condense.methods.base import Needs
from condense.methods.matched import MatchedMethod, megabytes
from condense.methods.tiled import TiledConfig, TiledMethod
from condense.training import OptimConfig
from condense.views.augment import Family

__all__ = ["NCFM", "NCFMConfig"]

LARGE = 128
"""Images with a longer side are taken as those of ImageNet, on which networks learn for longer."""

POOL_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class NCFMConfig(TiledConfig):
    """Settings of NCFM. Raises `ConfigError` for a value out of range."""

    networks: int = field(
        default=20_000, metadata={"help": "steps, each in a network between a random and a trained one"}
    )
    pool: int = field(default=20, metadata={"help": "pairs of a random and a trained network"})
    pool_epochs: int | None = field(
        default=None,
        metadata={"help": "passes that these learn for; unset, as published: 60, and 80 for images from 128 px"},
    )
    frequencies: int = field(default=4096, metadata={"help": "at which characteristic functions are compared"})
    amplitude: float = field(default=0.5, metadata={"help": "weight of the difference in amplitude"})
    phase: float = field(default=0.5, metadata={"help": "weight of the difference in phase"})
    frequency_network: bool = field(
        default=False,
        metadata={
            "help": "a network that learns to make the difference greater gives the frequencies; else they are Gaussian"
        },
    )
    lr_frequencies: float = field(default=1e-3, metadata={"help": "learning rate of that network"})
    scale: float = field(default=300.0, metadata={"help": "what the difference is multiplied with"})
    calibration: float = field(
        default=1.0, metadata={"help": "weight of the cross-entropy in the trained network; 0: no calibration"}
    )
    sampling: Literal["first", "random"] = field(
        default="first",
        metadata={"help": "real images: the first of each class, as published, or random ones in every step"},
    )
    augment: Literal["ncfm", "none"] = field(
        default="ncfm", metadata={"help": "siamese augmentation: ncfm, which is color, crop and cutout, or none"}
    )
    batch_real: int = field(default=1024, metadata={"help": "real images of a class in a step"})
    optimizer: Literal["adamw", "sgd"] = field(
        default="adamw",
        metadata={"help": "what moves the pixels: adamw or sgd; published: adamw, and sgd on CIFAR-100 at IPC 10"},
    )
    lr: float = field(
        default=1e-3, metadata={"help": "learning rate of pixels in [0, 1]; published: 0.001, 0.01 with sgd"}
    )
    weight_decay: float = field(default=5e-4, metadata={"help": "of adamw on pixels in [0, 1]"})
    turns: bool = field(
        default=True,
        metadata={
            "help": "pixels go on to move while the other classes have their turn, as published; false: they wait"
        },
    )
    patience: int = field(
        default=500, metadata={"help": "steps without a smaller loss after which lr is halved; 0: never"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "pool", "pool_epochs")
        self.at_least(0, "patience")
        self.one_of("optimizer", Literal["adamw", "sgd"])
        self.one_of("sampling", Literal["first", "random"])
        self.one_of("augment", Literal["ncfm", "none"])
        self.optim(2)
        _ = self.spectrum
        if not 0 <= self.calibration < math.inf:
            raise ConfigError(f"calibration must be at least 0 and finite, got {self.calibration}")

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(
            frequencies=self.frequencies,
            amplitude=self.amplitude,
            phase=self.phase,
            scale=self.scale,
            learnt=self.frequency_network,
            lr=self.lr_frequencies,
        )

    def optim(self, classes: int) -> PixelOptim:
        """How pixels of so many classes move."""
        return PixelOptim(
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            raw=True,
            weight_decay=self.weight_decay if self.optimizer == "adamw" else 0.0,
            idle=classes - 1 if self.turns else 0,
            patience=self.patience,
        )


class NCFM(TiledMethod):
    """Move the pixels of mosaics so that their enlarged tiles' features have the characteristic functions of real ones.

    Source: "Dataset Distillation with Neural Characteristic Function", arXiv 2502.20653, equations 5 to 8. Networks
    learn beforehand, with augmentation and CutMix; per step: a point between one's random beginning and its end; for
    each class 1024 real images and all synthetic ones, both changed by the same color, crop and cutout; the features
    before the linear layer, of length 1; the difference of their characteristic functions at random frequencies, in
    amplitude and phase; a step on the pixels; then, in the same network's end, a step down the cross-entropy of the
    synthetic images. The authors' released values are the defaults, in which no network gives the frequencies.

    Differs from the authors' program in: (1) pixels of all classes move together; the steps of one AdamW in which the
    other classes have their turn are summed in closed form, which is the same but that all classes count steps from the
    same one (turns=false: there are none), and pixels are clamped after them (clamp=false: not) and rounded to uint8;
    (2) the classes of a step share their frequencies; (3) gradients are of the pixels as they are, not as they were up
    to ten steps before; (4) with ``frequency_network``, which is as wide as the features, it moves once a step by all
    classes together, it is asked for each frequency once, not for sixteen copies, and plateaus halve the rate of pixels
    once, not twice; (5) the loss of a plateau is the sum over classes of both terms; (6) mosaics begin as means of real
    images; images repeat where a class is small; (7) incomplete batches are left out in the training of networks, all
    training images take part, and sets share the networks; (8) features are always of the last layer: networks deeper
    than five blocks are matched in several there.
    """

    name = "ncfm"
    summary = "match characteristic functions of features in networks between random and trained ones"
    source = "Neural Characteristic Function (CVPR 2025), arXiv 2502.20653"
    revision = 1
    Config = NCFMConfig
    quick: ClassVar[Mapping[str, Any]] = {
        **MatchedMethod.quick,
        "pool": 1,
        "pool_epochs": 1,
        "frequencies": 64,
        "network": "convnet3-w16-in",
    }
    config: NCFMConfig

    @property
    def needs(self) -> Needs:
        return Needs(teachers="none", real_images=True, precomputed="grown networks")

    def matching(self, spec: DatasetSpec, ipc: int) -> Matching:
        config = self.config
        return Matching(
            what="characteristic",
            networks=config.networks,
            alike=Alike(families=("color", "crop", "cutout"), one=False) if config.augment == "ncfm" else None,
            batch_real=config.batch_real,
            batch_synthetic=config.batch_synthetic,
            taken="between",
            spectrum=config.spectrum,
            first=config.sampling == "first",
            calibration=config.calibration,
            memory=megabytes(config.step_memory),
        )

    def optim(self, spec: DatasetSpec, ipc: int) -> PixelOptim:
        return self.config.optim(spec.n_classes)

    def growths(self, spec: DatasetSpec, seed: int) -> tuple[Growth, ...]:
        config = self.config
        epochs = config.pool_epochs or (80 if max(spec.height, spec.width) >= LARGE else 60)
        mirrored: tuple[Family, ...] = ("flip",) if mirrors(spec) else ()
        return tuple(
            Growth(
                network=config.network,
                number=number,
                seed=seed,
                snapshots=1,
                every=epochs * pass_steps(sum(spec.train_sizes), POOL_BATCH),
                batch=POOL_BATCH,
                optim=OptimConfig(
                    lr=0.01,
                    nesterov=False,
                    weight_decay=5e-4,
                    schedule="step",
                    milestones=(2 / 3, 5 / 6),
                    factor=0.2,
                ),
                families=(*mirrored, "color"),
                one_of=("crop", "scale", "rotate"),
            )
            for number in range(config.pool)
        )
