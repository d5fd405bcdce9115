"""The one training loop (teachers, students, experts), and running a trained network over images.

A run is a function of its arguments: the learning rate depends on the step alone and batches are asked for by epoch
and step, so a run that goes on from a checkpoint ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense import seeding
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.pixels import normalise, to_pixels
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.progress import Report, silent

__all__ = [
    "Batch",
    "Batches",
    "Listener",
    "Loss",
    "OptimConfig",
    "TrainRecord",
    "accuracy",
    "each_block",
    "fit",
    "predict",
]

REPORT_EVERY_S = 1.0  # reading the loss waits for the device, so it is read once a second and not once a step


Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(logits, targets)``: a scalar, the mean over the images."""


class Batch(NamedTuple):
    """One optimiser step's images and targets.

    ``images``: normalised, float32 (n, C, H, W). ``targets``: int64 (n,) or float32 (n, K). ``groups``: sizes, summing
    to n, of the consecutive runs of images whose BatchNorm statistics are shared; empty means all n. ``loss``: this
    batch's own, if it has one.
    """

    images: Tensor
    targets: Tensor
    groups: tuple[int, ...] = ()
    loss: Loss | None = None


Batches = Callable[[int, int], Iterable[Batch]]
"""``batches(epoch, first_step)``: the epoch's batches from ``first_step`` to its last, a pure function of the two."""


class Listener(Protocol):
    """Told of the last step of each epoch. ``state`` is all that it remembers; a resumed run fills it again."""

    state: Tensor

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        """The network's outputs (n, K) in that step, before it moved, and their targets, on the device."""


Optimiser = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move.

    ``momentum`` and ``nesterov`` are for SGD; AdamW has betas (0.9, 0.999). ``decay_norms=False`` keeps weight decay
    off parameters with one dimension (biases, norms). The learning rate rises linearly over ``warmup_steps`` and then
    stays (constant) or follows half a cosine that would reach 0 one step after the last (cosine).
    """

    optimizer: Optimiser = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = True
    schedule: Schedule = "cosine"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimiser):
            raise ConfigError(f'optimizer is "{self.optimizer}"; expected one of {", ".join(get_args(Optimiser))}')
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f'schedule is "{self.schedule}"; expected one of {", ".join(get_args(Schedule))}')
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ConfigError("nesterov needs a momentum above 0; set nesterov to false or raise momentum")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must be at least 0, got {self.warmup_steps}")

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of step ``step`` (from 0) of ``total``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        done = (step - self.warmup_steps) / (total - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class TrainRecord:
    """What a run did: optimiser steps, the mean loss of each epoch, and seconds (interruptions not counted)."""

    steps: int
    losses: tuple[float, ...]
    seconds: float


def fit(
    network: nn.Module,
    batches: Batches,
    loss: Loss,
    optim: OptimConfig,
    *,
    epochs: int,
    steps_per_epoch: int,
    compute: Compute,
    report: Report = silent,
    name: str = "training",
    checkpoint: Checkpoint = NoCheckpoint(),
    listener: Listener | None = None,
) -> TrainRecord:
    """Train ``network`` in place for ``epochs`` x ``steps_per_epoch`` steps; modules keep the mode they had.

    Convolutions run under ``compute.autocast()``, the loss and the weights in float32 (or the network's wider type).
    With a checkpoint that holds a state the run goes on from there, bit by bit. Raises :class:`MethodError` with
    ``name`` and the step when a loss was not finite; such a state is never saved.
    """
    if epochs < 1 or steps_per_epoch < 1:
        raise ConfigError(f"{name} needs at least one epoch of one step, got {epochs} epochs of {steps_per_epoch}")
    network.to(compute.torch_device).to(memory_format=torch.channels_last)
    run = _Run(network, optim, torch.zeros(epochs * steps_per_epoch, device=compute.torch_device), listener)
    saved = checkpoint.load()
    if saved is not None:
        run.restore(saved)
    started = reported = time.monotonic() - run.seconds
    with compute.applied(), _own_randomness(compute) as dropout, _mode(network, training=True):
        for batch in _remaining(batches, run.step, epochs, steps_per_epoch):
            dropout.manual_seed(seeding.key(0, "dropout", run.step) & (2**63 - 1))
            outputs, targets = run.advance(batch, loss, compute)
            if listener is not None and run.step % steps_per_epoch == 0:
                listener.end_epoch(run.step // steps_per_epoch - 1, outputs, targets)
            now = time.monotonic()
            if now - reported >= REPORT_EVERY_S and run.step < run.total:
                run.report(report, name)
                reported = now
            if checkpoint.due() and run.step < run.total:
                run.check_finite(name)
                checkpoint.save(run.state(now - started))
        run.report(report, name)
    means = run.losses.double().view(epochs, steps_per_epoch).mean(1).tolist()
    return TrainRecord(run.total, tuple(means), time.monotonic() - started)


class _Run:
    """A run's state: the network, its optimiser, the step, and the loss of every step so far (on the device)."""

    def __init__(self, network: nn.Module, optim: OptimConfig, losses: Tensor, listener: Listener | None) -> None:
        self.network = network
        self.optim = optim
        self.losses = losses
        self.listener = listener
        self.optimizer = _optimizer(network, optim)
        self.total = len(losses)
        self.step = 0
        self.seconds = 0.0

    def advance(self, batch: Batch, loss: Loss, compute: Compute) -> tuple[Tensor, Tensor]:
        """One step; its outputs and targets."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr_at(self.step, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        self.losses[self.step], *seen = _accumulate_gradient(self.network, batch, batch.loss or loss, compute)
        self.optimizer.step()
        self.step += 1
        outputs, targets = seen
        return outputs, targets

    def report(self, report: Report, name: str) -> None:
        self.check_finite(name)
        recent = self.losses[max(0, self.step - 50) : self.step]
        report("steps", self.step, self.total, {"loss": float(recent.mean())})

    def check_finite(self, name: str) -> None:
        bad = torch.nonzero(~torch.isfinite(self.losses[: self.step]))
        if len(bad):
            raise MethodError(
                f"{name} diverged: the loss of step {int(bad[0]) + 1} of {self.total} is not finite; "
                f"lower the learning rate (it is {self.optim.lr:g}) or use precision float32"
            )

    def state(self, seconds: float) -> dict[str, Tensor]:
        """Everything the next step depends on, by name."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{key}.{name}"] = value
        if self.listener is not None:
            state["listener"] = self.listener.state
        return {
            **state,
            "losses": self.losses,
            "step": torch.tensor(self.step),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave. Strides are those of the weights: a file holds plain row-major tensors."""
        self.network.load_state_dict({name: state[f"network.{name}"] for name in self.network.state_dict()})
        parameters = dict(self.network.named_parameters())
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, key, parameter = name.split(".", 2)
                owner = parameters[parameter]
                like = owner.detach() if value.shape == owner.shape else value.to(owner.device)
                self.optimizer.state[owner][key] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        self.losses.copy_(state["losses"])
        if self.listener is not None:
            self.listener.state.copy_(state["listener"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def _optimizer(network: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if optim.decay_norms or parameter.ndim > 1]
    others = [parameter for parameter in trained if not optim.decay_norms and parameter.ndim <= 1]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, optim.weight_decay), (others, 0.0))
        if members
    ]
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


def _remaining(batches: Batches, step: int, epochs: int, steps_per_epoch: int) -> Iterator[Batch]:
    for epoch in range(step // steps_per_epoch, epochs):
        first = max(0, step - epoch * steps_per_epoch)
        for _, batch in zip(range(first, steps_per_epoch), batches(epoch, first), strict=True):
            yield batch


def _accumulate_gradient(
    network: nn.Module, batch: Batch, loss: Loss, compute: Compute
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the batch's mean loss, one forward per BatchNorm group.

    Returns that loss, the outputs and the targets, detached and on the device.
    """
    n, device = len(batch.targets), compute.torch_device
    sizes = list(batch.groups) or [n]
    parts, outputs, wanted = [], [], []
    for images, targets in zip(batch.images.split(sizes), batch.targets.split(sizes), strict=True):
        with compute.autocast():
            logits = network(images.to(device))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(device)
        part = loss(logits, targets) * (len(targets) / n)
        part.backward()
        parts.append(part.detach())
        outputs.append(logits.detach())
        wanted.append(targets)
    return torch.stack(parts).sum(), torch.cat(outputs), torch.cat(wanted)


@contextmanager
def _own_randomness(compute: Compute) -> Iterator[torch.Generator]:
    """The device's global generator, which dropout draws from, to be seeded at each step; put back on leaving."""
    device = compute.torch_device
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield torch.cuda.default_generators[cuda[0]] if cuda else torch.default_generator


@contextmanager
def _mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Train or eval mode inside; on leaving every module has its own mode back."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


Take = Callable[[int, Tensor], object]
"""``take(first, logits)``: of the images ``first``, ``first`` + 1, ...: float32 (n, K) on the device."""


@torch.no_grad()
def each_block(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    spec: DatasetSpec,
    take: Take,
    *,
    compute: Compute,
    start: int = 0,
    batch_size: int = 500,
    report: Report = silent,
    stage: str = "predicting",
) -> None:
    """Run ``network`` in eval mode over ``images`` uint8 (N, H, W, C), normalised by ``spec``, block by block.

    ``images`` may be a memory map; it is read ``batch_size`` images at a time, from image ``start`` on. The network is
    moved to the device.
    """
    device = compute.torch_device
    network.to(device).to(memory_format=torch.channels_last)
    with compute.applied(), _mode(network, training=False):
        for first in range(start, len(images), batch_size):
            pixels = to_pixels(images[first : first + batch_size]).to(device)
            with compute.autocast():
                logits = network(normalise(pixels, spec)).float()
            take(first, logits)
            report(stage, first + len(pixels), len(images))


def predict(
    network: nn.Module,
    images: npt.NDArray[np.uint8],
    spec: DatasetSpec,
    *,
    compute: Compute,
    batch_size: int = 500,
    report: Report = silent,
    stage: str = "predicting",
) -> Tensor:
    """Logits of ``images`` uint8 (N, H, W, C), normalised by ``spec``, in eval mode: float32 (N, K) on the CPU.

    See :func:`each_block`, which does it.
    """
    blocks = [torch.empty(0, spec.n_classes)]
    each_block(
        network,
        images,
        spec,
        lambda _, logits: blocks.append(logits.cpu()),
        compute=compute,
        batch_size=batch_size,
        report=report,
        stage=stage,
    )
    return torch.cat(blocks)


def accuracy(logits: Tensor, labels: npt.NDArray[np.int64]) -> float:
    """Fraction of the rows of ``logits`` (N, K) whose largest entry is the label (N,)."""
    return float((logits.argmax(1).cpu().numpy() == labels).mean())
