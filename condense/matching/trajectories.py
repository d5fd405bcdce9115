"""The loop of trajectory matching: students of the synthetic images are to end where experts of the real ones went."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from condense.canvas import Pixels
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.device import Compute, under_compute
from condense.errors import ConfigError, MethodError
from condense.matching.adjoint import Lesson, Passed, Student, pass_back, trained
from condense.matching.loop import CHECK_EVERY, REPORT_EVERY_S, Problem, network_of
from condense.matching.mover import Mover, PixelOptim
from condense.progress import Report, silent
from condense.seeding import generator
from condense.teachers.experts import Experts
from condense.views.augment import Family, each_by_itself

__all__ = ["Following", "Rate", "follow"]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The students' step size, which is learnt: gradient descent with momentum from ``start``, kept at ``least``."""

    start: float = 0.01
    lr: float = 1e-5
    momentum: float = 0.5
    least: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("start", "least"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} of the step size must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.lr < math.inf:
            raise ConfigError(f"lr of the step size must be at least 0 and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum of the step size must be in [0, 1), got {self.momentum}")


@dataclass(frozen=True, kw_only=True)
class Following:
    """What is matched.

    In each of ``iterations`` a student begins where a random expert was after a random number of epochs, less than
    ``max_start``, and takes ``steps`` steps on ``batch`` synthetic images (0: all) to where that is ``ahead`` epochs
    later. ``families``: of each step's images one is drawn, with parameters for each image; empty for no change.
    """

    iterations: int
    steps: int
    ahead: int
    max_start: int
    batch: int = 0
    families: tuple[Family, ...] = ()
    rate: Rate = Rate()

    def refuse_experts(self, name: str, epochs: int) -> None:
        """Raises `MethodError` where experts of so many epochs do not go far enough."""
        wanted = self.max_start - 1 + self.ahead
        if wanted > epochs:
            raise MethodError(
                f"{name}: students begin at up to {self.max_start - 1} epochs (max_start={self.max_start}) and are "
                f"compared {self.ahead} later, but experts have {epochs}; set experts.epochs to at least {wanted}, or "
                "lower max_start or ahead"
            )


@under_compute
def follow(
    canvas: Pixels,
    following: Following,
    optim: PixelOptim,
    problem: Problem,
    experts: Experts,
    *,
    clamp: bool = True,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Optimise ``canvas``, whose values are (slots, classes, C, H, W) in the order of the problem's classes, in place;
    the step size that was learnt.

    ``clamp``: pixels are kept valid at every step. Goes on bit by bit from ``checkpoint``. Raises `MethodError` when a
    loss, a pixel or the step size is no longer finite, and for experts that are too short or of another network.
    """
    checkpoint = checkpoint or NoCheckpoint()
    run = _Run(canvas, following, optim, problem, experts, compute)
    total, reported = following.iterations, time.monotonic()
    saved = checkpoint.load()
    first = 0 if saved is None else run.restore(saved)
    for number in range(first, total):
        loss = run.step(number)
        if clamp:
            canvas.project()
        if (number + 1) % CHECK_EVERY == 0 or number + 1 == total:
            _refuse_divergence(loss, run, number)
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S or number + 1 == total:
            reported = now
            report("images", number + 1, total, {"loss": float(loss), "step size": float(run.rate)})
        if checkpoint.due():
            checkpoint.save(run.state(number + 1))
    return float(run.rate)


class _Run:
    """The state of a run: the canvas and its optimiser, the step size and its momentum."""

    def __init__(
        self,
        canvas: Pixels,
        following: Following,
        optim: PixelOptim,
        problem: Problem,
        experts: Experts,
        compute: Compute,
    ) -> None:
        self.canvas, self.following, self.problem, self.experts = canvas, following, problem, experts
        self.mover = Mover(canvas, optim)
        self.student = Student(network_of(problem, 0), compute, canvas.values.dtype)
        self.rate = canvas.values.new_tensor(following.rate.start)
        self.rate_momentum = torch.zeros_like(self.rate)
        slots = len(canvas.values)
        self.targets = torch.tensor(problem.classes, device=canvas.values.device).repeat(slots)
        following.refuse_experts(problem.name, experts.epochs)
        if (size := experts.weights[0].shape[1]) != self.student.size:
            raise MethodError(
                f"{problem.name}: experts have {size} parameters and {problem.network} has {self.student.size}; "
                "match in the network that the experts are of"
            )

    def step(self, number: int) -> Tensor:
        """Train one student, then move the pixels and the step size; the loss, on the device."""
        passed = self._match(number)
        self.mover.step(self.canvas.values, passed.items.view(self.canvas.values.shape))
        self.rate_momentum.mul_(self.following.rate.momentum).add_(passed.rate)
        self.rate.sub_(self.rate_momentum, alpha=self.following.rate.lr).clamp_(min=self.following.rate.least)
        return passed.loss

    def state(self, done: int) -> dict[str, Tensor]:
        """All that iteration ``done`` depends on."""
        return {
            "done": torch.tensor(done),
            "values": self.canvas.values,
            "rate": self.rate,
            "rate.momentum": self.rate_momentum,
            **self.mover.state(),
        }

    def restore(self, state: dict[str, Tensor]) -> int:
        """Take back what :meth:`state` gave; the number of iterations done."""
        self.canvas.values.copy_(state["values"])
        self.rate.copy_(state["rate"])
        self.rate_momentum.copy_(state["rate.momentum"])
        self.mover.restore(state)
        return int(state["done"])

    def _match(self, number: int) -> Passed:
        draws = generator(self.problem.seed, "expert and start", self.problem.set_index, number)
        expert, epoch = int(draws.integers(len(self.experts))), int(draws.integers(self.following.max_start))
        start, goal = (
            self.experts.at(expert, at).to(self.canvas.values.device, self.canvas.values.dtype, non_blocking=True)
            for at in (epoch, epoch + self.following.ahead)
        )
        items = self.canvas.images().flatten(0, 1).detach()
        lessons, rate = list(self._lessons(number, len(items))), self.rate.clone()
        path = trained(self.student, start, items, self.targets, lessons, rate)
        return pass_back(self.student, path, goal, items, self.targets, lessons, rate)

    def _lessons(self, number: int, count: int) -> Iterator[Lesson]:
        """Consecutive parts of a random order of all images, a new one where it is used up; the last may be smaller."""
        batch = min(self.following.batch or count, count)
        a_pass = -(-count // batch)
        order = torch.empty(0, dtype=torch.int64)
        for step in range(self.following.steps):
            if step % a_pass == 0:
                key = (self.problem.set_index, number, step // a_pass)
                order = torch.from_numpy(generator(self.problem.seed, "student order", *key).permutation(count))
            chosen = order[step % a_pass * batch :][:batch].to(self.canvas.values.device, non_blocking=True)
            yield Lesson(chosen, partial(self._change, number, step))

    def _change(self, number: int, step: int, images: Tensor) -> Tensor:
        """The same for the same numbers."""
        families = self.following.families
        if not families:
            return images
        draws = generator(self.problem.seed, "student augmentation", self.problem.set_index, number, step)
        return each_by_itself(images, families[draws.integers(len(families))], draws)


def _refuse_divergence(loss: Tensor, run: _Run, number: int) -> None:
    if bool(loss.isfinite() & run.rate.isfinite() & run.canvas.values.isfinite().all()):
        return
    problem = run.problem
    raise MethodError(
        f"{problem.name} diverged (seed {problem.seed}, set {problem.set_index}): the loss, a pixel or the step size "
        f"is not finite at step {number + 1}; lower lr, lr_rate or max_start, or use --precision float32"
    )
