"""How the pixels move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from condense.canvas import Pixels
from condense.errors import ConfigError
from condense.inversion import Adam, AdamConfig

__all__ = ["Mover", "PixelOptim", "PixelOptimiser"]

PixelOptimiser = Literal["sgd", "adam", "adamw"]

BETAS, EPS = (0.9, 0.999), 1e-8
"""Of AdamW."""

BETTER, LEAST_CHANGE = 1e-4, 1e-8
"""By what fraction a loss has to be below the least so far, and the least change of a learning rate, as in PyTorch's
scheduler of plateaus."""


@dataclass(frozen=True, kw_only=True)
class PixelOptim:
    """How pixels move: gradient descent with momentum, Adam or AdamW.

    ``raw``: ``lr`` is of pixels in [0, 1], not of normalised ones; AdamW's always is, and its ``weight_decay`` draws
    these to 0. ``idle``: as many steps without a gradient follow each step, in which what is remembered of gradients
    goes on to move (and to decay) pixels, as where one optimiser serves classes in turn. ``patience``: after more steps
    than that in a row without a smaller loss the learning rate is halved; 0: never.
    """

    optimizer: PixelOptimiser = "sgd"
    lr: float
    momentum: float = 0.5
    raw: bool = False
    weight_decay: float = 0.0
    idle: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(PixelOptimiser):
            raise ConfigError(f'optimizer is "{self.optimizer}"; expected one of {", ".join(get_args(PixelOptimiser))}')
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        for name in ("idle", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.weight_decay and self.optimizer != "adamw":
            raise ConfigError(f"weight_decay is {self.weight_decay}, which {self.optimizer} has none of; take adamw")
        if self.idle and self.optimizer == "adam":
            raise ConfigError("adam has no steps without a gradient; take sgd or adamw")


class AdamW:
    """AdamW (arXiv 1711.05101) on pixels in [0, 1] that are held normalised, in place.

    Steps without a gradient after a step are summed in closed form, which is exact but for eps.
    """

    def __init__(self, canvas: Pixels, weight_decay: float) -> None:
        self.std, self.zero, self.weight_decay = canvas.std, -canvas.mean / canvas.std, weight_decay
        self.first, self.second = torch.zeros_like(canvas.values), torch.zeros_like(canvas.values)
        self.count = 0

    def step(self, values: Tensor, gradient: Tensor, lr: Tensor, idle: int) -> None:
        """One step with ``gradient``, that in ``values``, and ``idle`` without."""
        gradient, first = gradient / self.std, self.count + 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        kept = 1 - lr * self.weight_decay
        moved: Tensor | float = 0.0
        for later in range(idle + 1):
            moved = moved * kept + coefficient(first + later, later)
        direction = self.first / (self.second.sqrt() + EPS * math.sqrt(1 - BETAS[1] ** first))
        values.sub_(self.zero).mul_(kept ** (idle + 1)).sub_(lr * moved * direction / self.std).add_(self.zero)
        self.first.mul_(BETAS[0] ** idle)
        self.second.mul_(BETAS[1] ** idle)
        self.count = first + idle


def coefficient(count: int, later: int) -> float:
    """What step ``count``, ``later`` steps after the gradient came, moves by, in lr * first / sqrt(second)."""
    return (BETAS[0] ** later / (1 - BETAS[0] ** count)) * math.sqrt((1 - BETAS[1] ** count) / BETAS[1] ** later)


class Plateau:
    """A factor of the learning rate, halved after ``patience`` steps without a smaller loss; all on the device."""

    def __init__(self, like: Tensor, lr: float, patience: int) -> None:
        self.lr, self.patience = lr, patience
        self.factor, self.waited = like.new_ones(()), like.new_zeros(())
        self.least = like.new_full((), math.inf)

    def see(self, loss: Tensor) -> None:
        better = loss < self.least * (1 - BETTER)
        self.least = torch.where(better, loss, self.least)
        self.waited = torch.where(better, 0.0, self.waited + 1)
        over = self.waited > self.patience
        worth = self.lr * self.factor / 2 > LEAST_CHANGE
        self.factor = torch.where(over & worth, self.factor / 2, self.factor)
        self.waited = torch.where(over, 0.0, self.waited)

    def state(self) -> dict[str, Tensor]:
        return {"factor": self.factor, "waited": self.waited, "least": self.least}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in self.state().items():
            setattr(self, name, state[name].to(value.device, value.dtype).view(()).clone())


class Mover:
    """The optimiser of the pixels."""

    def __init__(self, canvas: Pixels, optim: PixelOptim) -> None:
        self.optim = optim
        self.scale = canvas.std.square().reciprocal() if optim.raw else None
        self.adam = Adam(canvas.values, AdamConfig(lr=optim.lr)) if optim.optimizer == "adam" else None
        self.adamw = AdamW(canvas, optim.weight_decay) if optim.optimizer == "adamw" else None
        self.momentum = torch.zeros_like(canvas.values) if optim.optimizer == "sgd" else None
        self.plateau = Plateau(canvas.values, optim.lr, optim.patience) if optim.patience else None

    def step(self, values: Tensor, gradient: Tensor) -> None:
        """Move ``values``, in place, by their ``gradient``."""
        factor = None if self.plateau is None else self.plateau.factor
        if self.adamw is not None:
            lr = self.optim.lr * (values.new_ones(()) if factor is None else factor)
            self.adamw.step(values, gradient, lr, self.optim.idle)
        elif self.adam is not None:
            before = None if factor is None else values.clone()
            self.adam.step(values, gradient, self.optim.lr, None)
            if before is not None and factor is not None:
                values.copy_(before.lerp_(values, factor))
        else:
            self._descend(values, gradient, factor)

    def see(self, loss: Tensor) -> None:
        """Of all classes together, after a step."""
        if self.plateau is not None:
            self.plateau.see(loss.to(self.plateau.least.dtype))

    def _descend(self, values: Tensor, gradient: Tensor, factor: Tensor | None) -> None:
        """Steps without a gradient are a geometric series."""
        assert self.momentum is not None
        optim = self.optim
        if self.scale is not None:
            gradient = gradient * self.scale
        self.momentum.mul_(optim.momentum).add_(gradient)
        lr = optim.lr * sum(optim.momentum**later for later in range(optim.idle + 1))
        if factor is None:
            values.sub_(self.momentum, alpha=lr)
        else:
            values.sub_(self.momentum * (lr * factor))
        if optim.idle:
            self.momentum.mul_(optim.momentum**optim.idle)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        return {f"pixels.{name}": value for name, value in self._state()}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for moments in (self.adam, self.adamw):
            if moments is not None:
                yield "first", moments.first
                yield "second", moments.second
                yield "count", torch.tensor(moments.count)
        if self.momentum is not None:
            yield "momentum", self.momentum
        if self.plateau is not None:
            yield from self.plateau.state().items()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        known = {name.removeprefix("pixels."): value for name, value in state.items() if name.startswith("pixels.")}
        for moments in (self.adam, self.adamw):
            if moments is not None:
                moments.first.copy_(known["first"])
                moments.second.copy_(known["second"])
                moments.count = int(known["count"])
        if self.momentum is not None:
            self.momentum.copy_(known["momentum"])
        if self.plateau is not None:
            self.plateau.restore(known)
