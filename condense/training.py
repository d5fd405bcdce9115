"""The one training loop (teachers, students, experts), and running a trained network over images.

A run is a function of its arguments: the learning rate depends on the step alone and batches are asked for by epoch
and step, so a run that goes on from a checkpoint ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense import seeding
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import LATER
from condense.data.pixels import normalise, to_pixels
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.progress import Report, silent
from condense.recorded import Recorded

__all__ = [
    "Batch",
    "Batches",
    "Diverged",
    "Listener",
    "Loss",
    "OptimConfig",
    "TrainRecord",
    "accuracy",
    "each_block",
    "fit",
    "fit_together",
    "predict",
]

REPORT_EVERY_S = 1.0  # reading the loss waits for the device, so it is read once a second and not once a step


class Diverged(MethodError):
    """A training whose loss was not finite: as reproducible as one that went well."""


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

    def to(self, device: torch.device) -> Batch:
        images, targets = (one.to(device, non_blocking=True) for one in (self.images, self.targets))
        return self._replace(images=images, targets=targets)


Batches = Callable[[int, int], Iterable[Batch]]
"""``batches(epoch, first_step)``: the epoch's batches from ``first_step`` to its last, a pure function of the two."""


class Listener(Protocol):
    """Told of the last step of each epoch. ``state`` is all that it remembers; a resumed run fills it again."""

    state: Tensor

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        """The network's outputs (n, K) in that step, before it moved, and their targets, on the device."""


Optimiser = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant", "step", "smoothed"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move.

    ``momentum`` and ``nesterov`` are for SGD; AdamW has betas (0.9, 0.999). ``decay_norms=False`` keeps weight decay
    off parameters with one dimension (biases, norms). The learning rate rises linearly over ``warmup_steps`` and then
    stays (constant), follows half a cosine that would reach 0 one step after the last (cosine), is multiplied by
    ``factor`` at each of ``milestones``, fractions of the run (step), or follows the half cosine of a run ``stretch``
    times as long, so that with 2 it ends at half its height (smoothed: EDC, arXiv 2404.13733, per step and not per
    epoch). ``averaged`` is the rate, 0 for none, of a moving average of the weights over the steps, beginning with the
    initial ones, with which the network is left at the end, its buffers being the live ones (EDC: 0.99).
    """

    optimizer: Optimiser = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = True
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    milestones: tuple[float, ...] = field(default=(0.5,), metadata=LATER)
    factor: float = field(default=0.1, metadata=LATER)
    stretch: float = field(default=2.0, metadata=LATER)
    averaged: float = field(default=0.0, metadata=LATER)

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
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise ConfigError(f"milestones are {self.milestones}; expected fractions of the run, between 0 and 1")
        if not 0 < self.factor < math.inf:
            raise ConfigError(f"factor must be above 0 and finite, got {self.factor}")
        if not 1 <= self.stretch < math.inf:
            raise ConfigError(f"stretch must be at least 1 and finite, got {self.stretch}")
        if not 0 <= self.averaged < 1:
            raise ConfigError(f"averaged must be in [0, 1), got {self.averaged}")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must be at least 0, got {self.warmup_steps}")

    def lr_at(self, step: int, total: int) -> float:
        """Learning rate of step ``step`` (from 0) of ``total``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            return self.lr * self.factor ** sum(step >= round(milestone * total) for milestone in self.milestones)
        done = (step - self.warmup_steps) / (total - self.warmup_steps)
        if self.schedule == "smoothed":
            done /= self.stretch
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
    With a checkpoint that holds a state the run goes on from there, bit by bit. Raises :class:`Diverged` with
    ``name`` and the step when a loss was not finite; such a state is never saved.
    """
    [found] = fit_together(
        [network],
        batches,
        loss,
        optim,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        compute=compute,
        report=report,
        names=[name],
        checkpoint=checkpoint,
        listener=listener,
    )
    if isinstance(found, Diverged):
        raise found
    return found


def fit_together(
    networks: Sequence[nn.Module],
    batches: Batches,
    loss: Loss,
    optim: OptimConfig,
    *,
    epochs: int,
    steps_per_epoch: int,
    compute: Compute,
    report: Report = silent,
    names: Sequence[str],
    checkpoint: Checkpoint = NoCheckpoint(),
    listener: Listener | None = None,
) -> list[TrainRecord | Diverged]:
    """What :func:`fit` does, for several networks on the same batches, which are made once for all of them.

    They take turns, on a GPU side by side on streams of their own, and each ends with the bits that it would have by
    itself. One that diverges ends there, and the others go on. A ``listener`` is for one network.
    """
    if epochs < 1 or steps_per_epoch < 1:
        raise ConfigError(f"{names[0]} needs at least one epoch of one step, got {epochs} epochs of {steps_per_epoch}")
    for network in networks:
        network.to(compute.torch_device).to(memory_format=torch.channels_last)
    total = epochs * steps_per_epoch
    runs = [_Run(one, name, optim, total, compute, listener) for one, name in zip(networks, names, strict=True)]
    saved = checkpoint.load()
    if saved is not None:
        for number, run in enumerate(runs):
            run.restore({key.removeprefix(f"{number}."): value for key, value in saved.items()})
    started = reported = time.monotonic() - runs[0].seconds
    with compute.applied(), _own_randomness(compute) as dropout, ExitStack() as modes:
        for run in runs:
            modes.enter_context(_mode(run.network, training=True))
        for batch in _remaining(batches, runs[0].step, epochs, steps_per_epoch):
            batch = batch.to(compute.torch_device)
            for run in runs:
                dropout.manual_seed(seeding.key(0, "dropout", run.step) & (2**63 - 1))
                outputs, targets = run.advance(batch, loss, compute)
                if listener is not None and run.step % steps_per_epoch == 0:
                    run.join()
                    listener.end_epoch(run.step // steps_per_epoch - 1, outputs, targets)
            for run in runs:
                run.join()
            step, now = runs[0].step, time.monotonic()
            if now - reported >= REPORT_EVERY_S and step < total:
                reported = now
                if not any(run.alive() for run in runs):
                    break
                report("steps", step, total, {"loss": runs[0].recent()})
            if checkpoint.due() and step < total and any(run.alive() for run in runs):
                states = [run.state(now - started) for run in runs]
                checkpoint.save({f"{n}.{key}": value for n, state in enumerate(states) for key, value in state.items()})
        report("steps", runs[0].step, total, {"loss": runs[0].recent()})
    for run in runs:
        run.take_average()
    seconds = time.monotonic() - started
    return [run.found(epochs, seconds) for run in runs]


class _Run:
    """A run's state: a network, its optimiser, the step, and every loss so far (on the device)."""

    def __init__(
        self,
        network: nn.Module,
        name: str,
        optim: OptimConfig,
        total: int,
        compute: Compute,
        listener: Listener | None,
    ) -> None:
        self.network = network
        self.optim = optim
        self.losses = torch.zeros(total, device=compute.torch_device)
        self.listener = listener
        self.name = name
        on_gpu = compute.torch_device.type == "cuda"
        self.optimizer = _optimizer(network, optim, compute.torch_device if on_gpu else None)
        self.stream = torch.cuda.Stream(compute.torch_device) if on_gpu else None
        self.recorded = Recorded(compute.torch_device)
        self.average = {
            name: value.detach().clone() for name, value in network.named_parameters() if optim.averaged > 0
        }
        self.total = total
        self.step = 0
        self.seconds = 0.0

    def advance(self, batch: Batch, loss: Loss, compute: Compute) -> tuple[Tensor, Tensor]:
        """One step; its outputs and targets. On a GPU it has only begun: see :meth:`join`."""
        with self._lane():
            for group in self.optimizer.param_groups:
                set_rate(group, self.optim.lr_at(self.step, self.total))
            loss = batch.loss or loss
            update = partial(self._update, groups=batch.groups, loss=loss, compute=compute)
            lost, outputs, targets = self.recorded((batch.groups, loss), update, batch.images, batch.targets)
            self.losses[self.step] = lost
            if self.average:
                now = [value.detach() for value in self.network.parameters()]
                torch._foreach_lerp_(list(self.average.values()), now, 1 - self.optim.averaged)
        self.step += 1
        return outputs, targets

    def _update(
        self, images: Tensor, targets: Tensor, *, groups: tuple[int, ...], loss: Loss, compute: Compute
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        made = _accumulate_gradient(self.network, images, targets, groups, loss, compute)
        self.optimizer.step()
        return made

    def _lane(self) -> AbstractContextManager[object]:
        """A stream of its own that begins when the current one has come this far."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self.stream)

    def join(self) -> None:
        """What the current stream does next comes after this run's steps."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    @torch.no_grad()
    def take_average(self) -> None:
        """Leave the network with the average of its weights, if there is one."""
        for name, parameter in self.network.named_parameters():
            if name in self.average:
                parameter.copy_(self.average[name])

    def recent(self) -> float:
        """The mean loss of the last steps."""
        return float(self.losses[max(0, self.step - 50) : self.step].mean())

    def alive(self) -> bool:
        """Whether all losses so far were finite."""
        return bool(self.losses[: self.step].isfinite().all())

    def found(self, epochs: int, seconds: float) -> TrainRecord | Diverged:
        """What it did, or where it diverged."""
        bad = torch.nonzero(~torch.isfinite(self.losses[: self.step]))
        if len(bad):
            return Diverged(
                f"{self.name} diverged: the loss of step {int(bad[0]) + 1} of {self.total} is not finite; "
                f"lower the learning rate (it is {self.optim.lr:g}) or use precision float32"
            )
        return TrainRecord(self.total, tuple(self.losses.double().view(epochs, -1).mean(1).tolist()), seconds)

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
            **{f"average.{name}": value for name, value in self.average.items()},
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
        for name, value in self.average.items():
            value.copy_(state[f"average.{name}"])
        self.losses.copy_(state["losses"])
        if self.listener is not None:
            self.listener.state.copy_(state["listener"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def _optimizer(network: nn.Module, optim: OptimConfig, gpu: torch.device | None) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if optim.decay_norms or parameter.ndim > 1]
    others = [parameter for parameter in trained if not optim.decay_norms and parameter.ndim <= 1]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, optim.weight_decay), (others, 0.0))
        if members
    ]
    lr = optim.lr if gpu is None else torch.tensor(optim.lr, device=gpu)  # where a recorded step reads it
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True, capturable=gpu is not None)
    return torch.optim.SGD(groups, lr=lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


def set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _remaining(batches: Batches, step: int, epochs: int, steps_per_epoch: int) -> Iterator[Batch]:
    for epoch in range(step // steps_per_epoch, epochs):
        first = max(0, step - epoch * steps_per_epoch)
        for _, batch in zip(range(first, steps_per_epoch), batches(epoch, first), strict=True):
            yield batch


def _accumulate_gradient(
    network: nn.Module, images: Tensor, targets: Tensor, groups: tuple[int, ...], loss: Loss, compute: Compute
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the batch's mean loss, one forward per BatchNorm group.

    Returns that loss, the outputs and the targets, detached and on the device.
    """
    n = len(targets)
    sizes = list(groups) or [n]
    parts, outputs = [], []
    for some, wanted in zip(images.split(sizes), targets.split(sizes), strict=True):
        with compute.autocast():
            logits = network(some)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        part = loss(logits, wanted) * (len(wanted) / n)
        part.backward()
        parts.append(part.detach())
        outputs.append(logits.detach())
    return torch.stack(parts).sum(), torch.cat(outputs), targets


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
