"""The one loop of the decoupled methods: a canvas optimised through views of it, under frozen teachers.

``loss = objective(teacher(view(canvas.images())))``, backward, step, project. What varies between methods is what the
loop is given: the canvas and its start, the stages with their views and objectives, the teachers and their weights,
and three hooks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from condense.canvas import Canvas
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.device import Compute, under_compute
from condense.errors import ConfigError, MethodError
from condense.objectives import MovingStatistics, Objective, Seen
from condense.progress import Report, silent
from condense.recorded import Recorded
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryDraws, RecoveryViews, apply_recovery, recovery_draws
from condense.views.render import channels_last

__all__ = ["AdamConfig", "Chain", "Hooks", "Member", "Problem", "Stage", "Teachers", "invert", "together"]

REPORT_EVERY = 25
"""Steps between looks at the loss: looking waits for the device."""

DRAWN_AHEAD = 200
"""Steps whose views are drawn at once."""

MOST_RECORDED = 64
"""Teachers whose part in a step is recorded on a GPU; a perturbed one for every slot is many."""


@dataclass(frozen=True, eq=False)
class Member:
    """A teacher, and the weight of what it says in the loss of each of the G groups.

    Groups of weight 0 are not shown to it. ``key`` is its name among the teachers, for what is kept of it.
    """

    network: TappedNetwork
    weights: tuple[float, ...]
    key: str = "0"

    @cached_property
    def shares(self) -> Tensor:
        """The weights that are not 0, on the network's device."""
        running = self.network.taps[0].mean
        return running.new_tensor([weight for weight in self.weights if weight])

    @cached_property
    def places(self) -> Tensor:
        """The numbers of the groups of :attr:`shares`, there too."""
        shown = [group for group, weight in enumerate(self.weights) if weight]
        return torch.tensor(shown, device=self.network.taps[0].mean.device)


Teachers = Callable[[int], Sequence[Member]]
"""The teachers of a step: a committee, or one after the other."""


def together(networks: Sequence[TappedNetwork], groups: int) -> Teachers:
    """All of them at every step and for every group, with equal weights that sum to one."""
    shares = (1 / len(networks),) * groups
    members = [Member(network, shares, str(number)) for number, network in enumerate(networks)]
    return lambda _: members


@dataclass(frozen=True, kw_only=True)
class Stage:
    """``steps`` steps with these ``views`` and this ``objective``. Raises `ConfigError` for less than one step."""

    steps: int
    views: RecoveryViews
    objective: Objective

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam (arXiv 1412.6980) with half a cosine over the whole run.

    Step t of T has learning rate ``lr / 2 * (1 + cos(pi t / T))``, so the last is above 0.
    """

    lr: float = 0.25
    betas: tuple[float, float] = (0.5, 0.9)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr must be above 0 and finite, got {self.lr}")

    def lr_at(self, step: int, total: int) -> float:
        return self.lr / 2 * (1 + math.cos(math.pi * step / total))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be made, besides how.

    ``targets``: the class of each of a group's B images, for all groups or group by group. ``groups``: the numbers that
    name each group, (set, slot, first class): views are drawn by them. ``name`` is who to blame in messages.
    """

    name: str
    seed: int
    groups: Sequence[tuple[int, int, int]]
    targets: Sequence[int] | Sequence[Sequence[int]]


class Hooks:
    """What a method may do at three places of the loop; by default nothing."""

    def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
        """Before the first step, and again when a run is resumed: the teachers to use."""
        return teachers

    def update_mask(self, canvas: Canvas, step: int) -> Tensor | None:
        """What to multiply the update of ``canvas.values`` with. (A mask on the gradient would be undone by Adam.)"""
        return None

    def between_stages(self, canvas: Canvas, stage: int) -> None:
        """Before the first step of stages 1, 2, ...; may replace ``canvas.values``."""


class Chain(Hooks):
    """Several hooks, in order."""

    def __init__(self, parts: Sequence[Hooks]) -> None:
        self.parts = parts

    def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
        for part in self.parts:
            teachers = part.prepare(canvas, teachers)
        return teachers

    def update_mask(self, canvas: Canvas, step: int) -> Tensor | None:
        masks = [mask for mask in (part.update_mask(canvas, step) for part in self.parts) if mask is not None]
        return torch.stack(masks).prod(0) if len(masks) > 1 else next(iter(masks), None)

    def between_stages(self, canvas: Canvas, stage: int) -> None:
        for part in self.parts:
            part.between_stages(canvas, stage)


class Adam:
    """Adam on one tensor, in place, with a mask on the update."""

    def __init__(self, values: Tensor, config: AdamConfig) -> None:
        self.config, self.count = config, 0
        self.first, self.second = torch.zeros_like(values), torch.zeros_like(values)

    def step(self, values: Tensor, gradient: Tensor, lr: float, mask: Tensor | None) -> None:
        (beta1, beta2), self.count = self.config.betas, self.count + 1
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (self.second / (1 - beta2**self.count)).sqrt_().add_(self.config.eps)
        update = self.first / spread
        if mask is not None:
            update *= mask
        values.sub_(update, alpha=lr / (1 - beta1**self.count))


@under_compute
def invert(
    canvas: Canvas,
    stages: Sequence[Stage],
    teachers: Teachers,
    problem: Problem,
    *,
    compute: Compute,
    adam: AdamConfig,
    hooks: Hooks | None = None,
    moving: MovingStatistics | None = None,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Optimise ``canvas``, in place.

    The groups share nothing but the forward pass. Adam starts anew in every stage; the learning rate and the views'
    schedule run over all stages. ``moving`` stands between the statistics and the objective. Goes on bit by bit from
    ``checkpoint``. Raises `MethodError` when a loss or a value
    is no longer finite.
    """
    hooks, checkpoint = hooks or Hooks(), checkpoint or NoCheckpoint()
    total = sum(stage.steps for stage in stages)
    teachers = hooks.prepare(canvas, teachers)
    targets = torch.tensor(problem.targets, device=canvas.values.device).expand(len(problem.groups), -1)
    state, done = Adam(canvas.values, adam), 0
    saved = checkpoint.load()
    if saved is not None:
        done, state.count = saved["counts"].tolist()
        canvas.values, state.first, state.second = (
            saved[name].to(canvas.values.device) for name in ("values", "first", "second")
        )
        if moving is not None:
            moving.load(saved)
    first, judge = 0, _Judge(compute, moving)
    for number, stage in enumerate(stages):
        steps = range(max(first, done), first + stage.steps)
        if number and steps and steps.start == first:
            hooks.between_stages(canvas, number)
            state = Adam(canvas.values, adam)
        for step, draws in _drawn(stage.views, steps, total, canvas, problem):
            losses, gradient = _gradient(canvas, draws, step, stage.objective, judge, teachers(step), targets)
            state.step(canvas.values, gradient, adam.lr_at(step, total), hooks.update_mask(canvas, step))
            canvas.project()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == total:
                _refuse_divergence(losses, canvas, problem, step)
                report("images", step + 1, total, {"loss": float(losses.mean())})
            if checkpoint.due():
                counts = torch.tensor([step + 1, state.count])
                moments = {"first": state.first, "second": state.second}
                averages = moving.state() if moving is not None else {}
                checkpoint.save({"counts": counts, "values": canvas.values, **moments, **averages})
        first += stage.steps


def _drawn(
    views: RecoveryViews, steps: range, total: int, canvas: Canvas, problem: Problem
) -> Iterator[tuple[int, RecoveryDraws]]:
    """Each step with draws that cover it, moved to the device many steps at once."""
    if not steps:
        return
    images, _, height, width = canvas.images().shape[1:]
    for start in range(steps.start, steps.stop, DRAWN_AHEAD):
        ahead = range(start, min(start + DRAWN_AHEAD, steps.stop))
        draws = recovery_draws(
            views,
            problem.seed,
            problem.groups,
            ahead,
            total_steps=total,
            images=images,
            height=height,
            width=width,
        ).to(canvas.values.device)
        for step in ahead:
            yield step, draws


def _gradient(
    canvas: Canvas,
    draws: RecoveryDraws,
    step: int,
    objective: Objective,
    judge: _Judge,
    teachers: Sequence[Member],
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Losses (G,), and the gradient of their sum in ``canvas.values``.

    Teachers are gone through one by one, so that memory holds the activations of one.
    """
    canvas.values.requires_grad_(True)
    views = apply_recovery(canvas.images(), draws, step)
    shown = views.detach()
    losses, to_shown = shown.new_zeros(len(shown)), torch.zeros_like(shown)
    for member in teachers:
        places = ... if len(member.places) == len(shown) else member.places
        said, to_mine = judge(objective, member, shown[places], targets[places])
        losses[places] += said
        to_shown[places] += to_mine
    (gradient,) = torch.autograd.grad(views, canvas.values, to_shown)
    canvas.values.requires_grad_(False)
    return losses, gradient


class _Judge:
    """What a member says of the views (G, B, C, H, W) that it is shown, weighted, and its gradient in them.

    On a GPU recorded, but with ``moving`` statistics, which are another computation at every step.
    """

    def __init__(self, compute: Compute, moving: MovingStatistics | None) -> None:
        self.compute, self.moving = compute, moving
        self.recorded = Recorded(compute.torch_device, most=MOST_RECORDED if moving is None else 0)

    def __call__(self, objective: Objective, member: Member, shown: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        judge = partial(self._judge, objective, member)
        said, gradient = self.recorded((objective, member.network), judge, shown, targets, member.shares)
        return said, gradient

    def _judge(
        self, objective: Objective, member: Member, shown: Tensor, targets: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        shown = shown.detach().requires_grad_(True)
        with self.compute.autocast():
            logits, statistics = member.network(channels_last(shown.flatten(0, 1)), groups=len(shown))
        if self.moving is not None:
            statistics = self.moving.smooth(statistics, member.key, member.places)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        seen = Seen(shown, logits.view(*shown.shape[:2], -1), statistics, targets)
        said = objective(seen) * shares
        (gradient,) = torch.autograd.grad(said.sum(), shown)
        return said.detach(), gradient


def _refuse_divergence(losses: Tensor, canvas: Canvas, problem: Problem, step: int) -> None:
    finite = losses.isfinite() & canvas.values.flatten(1).isfinite().all(1)
    if finite.all():
        return
    lost = problem.groups[int(finite.logical_not().nonzero()[0])]
    raise MethodError(
        f"{problem.name} diverged (seed {problem.seed}, set {lost[0]}, slot {lost[1]}): the loss or a pixel is not "
        f"finite at step {step + 1}; lower lr, or use --precision float32"
    )
