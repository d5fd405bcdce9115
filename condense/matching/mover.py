"""How the pixels move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from condense.canvas import Pixels
from condense.errors import ConfigError
from condense.inversion import Adam, AdamConfig

__all__ = ["Mover", "PixelOptim", "PixelOptimiser"]

PixelOptimiser = Literal["sgd", "adam"]


@dataclass(frozen=True, kw_only=True)
class PixelOptim:
    """How pixels move: gradient descent with momentum, or Adam. No schedule.

    ``raw``: ``lr`` is of pixels in [0, 1], not of normalised ones.
    """

    optimizer: PixelOptimiser = "sgd"
    lr: float
    momentum: float = 0.5
    raw: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(PixelOptimiser):
            raise ConfigError(f'optimizer is "{self.optimizer}"; expected one of {", ".join(get_args(PixelOptimiser))}')
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum}")


class Mover:
    """The optimiser of the pixels."""

    def __init__(self, canvas: Pixels, optim: PixelOptim) -> None:
        self.optim = optim
        self.scale = canvas.std.square().reciprocal() if optim.raw else None
        self.adam = Adam(canvas.values, AdamConfig(lr=optim.lr)) if optim.optimizer == "adam" else None
        self.momentum = torch.zeros_like(canvas.values)

    def step(self, values: Tensor, gradient: Tensor) -> None:
        if self.adam is not None:
            self.adam.step(values, gradient, self.optim.lr, None)
            return
        if self.scale is not None:
            gradient = gradient * self.scale
        self.momentum.mul_(self.optim.momentum).add_(gradient)
        values.sub_(self.momentum, alpha=self.optim.lr)

    def state(self) -> dict[str, Tensor]:
        if self.adam is None:
            return {"pixels.momentum": self.momentum}
        return {
            "pixels.first": self.adam.first,
            "pixels.second": self.adam.second,
            "pixels.count": torch.tensor(self.adam.count),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.adam is None:
            self.momentum.copy_(state["pixels.momentum"])
            return
        self.adam.first.copy_(state["pixels.first"])
        self.adam.second.copy_(state["pixels.second"])
        self.adam.count = int(state["pixels.count"])
