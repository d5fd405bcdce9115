"""The inversion loop against a plain loop written out, and its promises: groups, resuming, hooks, divergence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from condense.canvas import Canvas, Pixels, noise_start, real_start
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.inversion import Adam, AdamConfig, Hooks, Problem, Stage, Teachers, invert, together
from condense.methods.cda import CDA
from condense.methods.recovery import RecoveryConfig
from condense.methods.sre2l import SRe2L
from condense.networks import build
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryViews, recovery_draws

SIDE, CLASSES, STEPS = 9, (0, 1, 2), 6
SPEC = DatasetSpec(
    name="tiny",
    classes=("a", "b", "c"),
    channels=2,
    height=SIDE,
    width=SIDE,
    mean=(0.4, 0.6),
    std=(0.25, 0.3),
    train_sizes=(9, 9, 9),
    test_sizes=(1, 1, 1),
    fingerprint="0" * 64,
)
COMPUTE = Compute()


def teacher_network(seed: int = 0) -> nn.Module:
    network = build("resnet8", channels=2, height=SIDE, width=SIDE, n_classes=3, seed=seed).train().double()
    with torch.no_grad():
        for step in range(3):
            network(torch.randn(16, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(step)).double())
    return network.eval().requires_grad_(False)


def groups_of(slots: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [(0, slot, CLASSES[0]) for slot in slots]


def canvas_of(slots: tuple[int, ...]) -> Pixels:
    return Pixels(noise_start(SPEC, slots, CLASSES, seed=5, set_index=0).double(), SPEC)


def run(stages: tuple[Stage, ...], slots: tuple[int, ...] = (0, 1), networks: int = 1, **given: Any) -> Pixels:
    canvas = given.pop("canvas", None) or canvas_of(slots)
    taps = [TappedNetwork(teacher_network(seed)) for seed in range(networks)]
    problem = Problem(name="cda", seed=5, groups=groups_of(slots), targets=CLASSES)
    settings: dict[str, Any] = {"compute": COMPUTE, "adam": AdamConfig(), **given}
    invert(canvas, stages, together(taps, len(slots)), problem, **settings)
    return canvas


def stage(steps: int = STEPS, **views: Any) -> Stage:
    objective = CrossEntropy() + 0.05 * BatchNormDistance()
    return Stage(steps=steps, views=RecoveryViews(**views), objective=objective)


def plain_recovery(slot: int, views: RecoveryViews, alpha: float, networks: int = 1) -> Tensor:
    """SRe2L as its paper's program does it: one slot, hooks, torchvision's transforms, torch's Adam."""
    losses: list[Tensor] = []
    nets = [teacher_network(seed) for seed in range(networks)]
    for net in nets:
        for place, module in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):

            def hook(m: Any, inputs: Any, output: Any, weight: float = 10.0 if place == 0 else 1.0) -> None:
                mean = inputs[0].mean((0, 2, 3))
                var = inputs[0].permute(1, 0, 2, 3).contiguous().view(inputs[0].shape[1], -1).var(1, unbiased=False)
                losses.append(weight * (torch.norm(m.running_var - var, 2) + torch.norm(m.running_mean - mean, 2)))

            module.register_forward_hook(hook)
    x = noise_start(SPEC, (slot,), CLASSES, seed=5, set_index=0)[0].double().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.25, betas=(0.5, 0.9), eps=1e-8)
    drawn = recovery_draws(
        views, 5, groups_of((slot,)), range(STEPS), total_steps=STEPS, images=3, height=SIDE, width=SIDE
    )
    for t in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.5 * 0.25 * (1 + math.cos(math.pi * t / STEPS))
        box, roll = drawn.boxes[t, 0, 0].tolist(), drawn.rolls[t, 0, 0].tolist()
        shown = vision.resized_crop(x, *box, [SIDE, SIDE], antialias=True)
        shown = torch.roll(vision.hflip(shown) if drawn.flips[t, 0, 0] else shown, roll, (2, 3))
        total = torch.zeros((), dtype=torch.float64)
        for net in nets:
            losses.clear()
            entropy = nn.functional.cross_entropy(net(shown), torch.tensor(CLASSES))
            total = total + (entropy + alpha * sum(losses)) / networks
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        with torch.no_grad():
            for c in range(2):
                low, high = -SPEC.mean[c] / SPEC.std[c], (1 - SPEC.mean[c]) / SPEC.std[c]
                x[:, c] = x[:, c].clamp(low, high)
    return x.detach()


@pytest.mark.parametrize("method", [SRe2L, CDA])
@pytest.mark.parametrize("networks", [1, 2])
def test_equals_the_plain_loop(method: type[SRe2L | CDA], networks: int) -> None:
    made = method(RecoveryConfig(steps=STEPS, alpha_bn=0.05))
    (only,) = made.stages(SPEC)
    canvas = run((only,), slots=(0, 3), networks=networks)
    for place, slot in enumerate((0, 3)):
        wanted = plain_recovery(slot, only.views, 0.05, networks)
        torch.testing.assert_close(canvas.values[place], wanted, rtol=1e-8, atol=1e-8)
        assert not torch.equal(wanted, canvas_of((slot,)).values[0])


def test_groups_do_not_depend_on_their_company() -> None:
    together_ = run((stage(),), slots=(0, 1, 2)).values
    for slot in (0, 1, 2):
        torch.testing.assert_close(run((stage(),), slots=(slot,)).values[0], together_[slot], rtol=1e-9, atol=1e-9)


class Interrupted(Exception):
    pass


class Memory:
    """A checkpoint that is always due and, once, ends the run after ``stop`` saves."""

    def __init__(self, stop: int) -> None:
        self.state: dict[str, Tensor] | None = None
        self.left = stop

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}
        self.left -= 1
        if self.left == 0:
            raise Interrupted


class Mixing(Hooks):
    """Halves the values between stages, as residual mixing with black would."""

    def __init__(self) -> None:
        self.called: list[int] = []

    def between_stages(self, canvas: Canvas, stage: int) -> None:
        self.called.append(stage)
        canvas.values = canvas.values / 2


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_resumed_run_ends_with_the_same_bits(stop: int) -> None:
    stages = (stage(3), stage(4, schedule="cosine"))
    whole = run(stages, hooks=Mixing())
    memory = Memory(stop)
    with pytest.raises(Interrupted):
        run(stages, hooks=Mixing(), checkpoint=memory)
    assert memory.state is not None
    assert memory.state["counts"][0] == stop
    resumed = run(stages, hooks=Mixing(), checkpoint=memory)
    assert torch.equal(resumed.values, whole.values)


def test_a_finished_run_is_not_done_again() -> None:
    memory = Memory(-1)
    finished = run((stage(2),), checkpoint=memory).values
    assert torch.equal(run((stage(2),), checkpoint=memory).values, finished)


class Masked(Hooks):
    def update_mask(self, canvas: Canvas, step: int) -> Tensor:
        mask = torch.zeros_like(canvas.values)
        mask[..., :4] = 1
        return mask


def test_hooks() -> None:
    """A mask holds pixels still, though Adam would scale any gradient up again; stages are told apart."""
    start = canvas_of((0, 1))
    start.project()
    held = run((stage(),), hooks=Masked()).values
    assert torch.equal(held[..., 4:], start.values[..., 4:])
    assert not torch.equal(held[..., :4], start.values[..., :4])
    mixing = Mixing()
    run((stage(1), stage(2), stage(1)), hooks=mixing)
    assert mixing.called == [1, 2]


def test_hooks_may_change_the_teachers() -> None:
    class Other(Hooks):
        def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
            return together([TappedNetwork(teacher_network(seed=1))], len(canvas.values))

    assert not torch.equal(run((stage(2),), hooks=Other()).values, run((stage(2),)).values)


def test_a_stage_may_change_the_size() -> None:
    class Larger(Hooks):
        def between_stages(self, canvas: Canvas, stage: int) -> None:
            canvas.values = torch.nn.functional.interpolate(
                canvas.values.flatten(0, 1), (SIDE, SIDE), mode="bilinear"
            ).view(2, 3, 2, SIDE, SIDE)

    small = canvas_of((0, 1))
    small.values = small.values[..., :7, :7].contiguous()
    assert run((stage(2), stage(2)), hooks=Larger(), canvas=small).values.shape == (2, 3, 2, SIDE, SIDE)


@pytest.mark.parametrize("mask", [False, True])
def test_adam_is_torchs(mask: bool) -> None:
    made = torch.Generator().manual_seed(0)
    ours = torch.randn(50, generator=made, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    mine, wanted = Adam(ours, AdamConfig()), torch.optim.Adam([theirs], betas=(0.5, 0.9), eps=1e-8)
    kept = torch.arange(50) % 2 == 0
    for step in range(10):
        gradient = torch.randn(50, generator=made, dtype=torch.float64)
        wanted.param_groups[0]["lr"] = 0.1 / (step + 1)
        theirs.grad, before = gradient, theirs.detach().clone()
        wanted.step()
        if mask:
            theirs.data = torch.where(kept, theirs.data, before)
        mine.step(ours, gradient, 0.1 / (step + 1), kept.double() if mask else None)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_learning_rate_ends_above_zero() -> None:
    config = AdamConfig(lr=0.2)
    assert config.lr_at(0, 10) == 0.2
    assert config.lr_at(5, 10) == pytest.approx(0.1)
    assert 0 < config.lr_at(9, 10) == pytest.approx(0.1 * (1 + math.cos(0.9 * math.pi)))


def test_divergence_names_who_and_when() -> None:
    canvas = canvas_of((0, 7))
    canvas.values[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(MethodError, match=r"cda diverged \(seed 5, set 0, slot 7\): .* at step 25; lower lr"):
        run((stage(40),), slots=(0, 7), canvas=canvas)


def test_a_pixel_lost_in_the_last_step_is_noticed() -> None:
    """Its loss is that of the step before, and finite."""

    class Spoiling(Hooks):
        def update_mask(self, canvas: Canvas, step: int) -> Tensor:
            return torch.full_like(canvas.values, float("nan") if step == 2 else 1.0)

    with pytest.raises(MethodError, match=r"slot 0\).* not finite at step 3;"):
        run((stage(3),), hooks=Spoiling())


def test_no_report_within_steps() -> None:
    """Reading a loss waits for the device: only every 25 steps, and at the end."""
    calls: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int, figures: Any = None) -> None:
        assert figures["loss"] > 0
        calls.append((stage, done, total))

    run((stage(30),), slots=(0,), report=report)
    assert calls == [("images", 25, 30), ("images", 30, 30)]


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_bad_settings_are_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match="lr must be above 0 and finite"):
        AdamConfig(lr=lr)
    with pytest.raises(ConfigError, match="steps must be at least 1, got 0"):
        stage(0)


def test_rows_round_to_the_nearest_level_and_survive_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(2).reshape(1, 1, 16, 16, 2)
    spec = replace(SPEC, height=16, width=16)
    canvas = Pixels(real_start(levels, spec), spec)
    canvas.project()
    np.testing.assert_array_equal(canvas.rows(), levels[0])
    canvas.values += 0.4 / 255 / canvas.std
    np.testing.assert_array_equal(canvas.rows(), levels[0])
    canvas.values += 0.2 / 255 / canvas.std
    np.testing.assert_array_equal(canvas.rows(), np.minimum(levels[0].astype(int) + 1, 255))


def test_projection_keeps_pixels_valid() -> None:
    canvas = Pixels(100 * torch.randn(2, 3, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), SPEC)
    canvas.project()
    pixels = canvas.values * canvas.std + canvas.mean
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert (pixels.amin((0, 1, 3, 4)).abs() < 1e-6).all()


def test_noise_is_keyed_by_set_slot_and_class() -> None:
    whole = noise_start(SPEC, (0, 1, 2), (0, 1, 2), seed=1, set_index=0)
    assert torch.equal(noise_start(SPEC, (2,), (1, 2), seed=1, set_index=0)[0], whole[2, 1:])
    assert len(whole.flatten().unique()) == whole.numel()
    assert abs(float(whole.mean())) < 0.1
    assert float(whole.std()) == pytest.approx(1, abs=0.1)
    for other in ({"seed": 2, "set_index": 0}, {"seed": 1, "set_index": 1}):
        assert not torch.isin(noise_start(SPEC, (0, 1, 2), (0, 1, 2), **other), whole).any()
