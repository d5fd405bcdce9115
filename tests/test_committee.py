"""Committees of teachers: who judges a slot, how much each counts, and that a step is what the paper's loop does."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import condense
from condense.api import Machine
from condense.canvas import Pixels, noise_start
from condense.config import from_mapping, to_mapping
from condense.data import DatasetSpec, Split, holdout
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.inversion import AdamConfig, Problem, Stage, invert
from condense.methods.parts.committee import CommitteeConfig, combination, committee, softmax, teacher_weights
from condense.networks import build
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.pipeline import resolve
from condense.pipeline.workers import kept
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryViews, recovery_draws

SIDE, CLASSES, STEPS = 8, (0, 1, 2), 4
PRIORS = (63.0, 65.3, 68.5, 67.6, 67.4)
"""Those of CV-DD on CIFAR-10 (arXiv 2501.07575)."""
SPEC = DatasetSpec(
    name="x",
    classes=("a", "b", "c"),
    channels=2,
    height=SIDE,
    width=SIDE,
    mean=(0.4, 0.6),
    std=(0.2, 0.3),
    train_sizes=(9, 9, 9),
    test_sizes=(1, 1, 1),
    fingerprint="0" * 64,
)


def of(**settings: Any) -> CommitteeConfig:
    return from_mapping(CommitteeConfig, settings)


def test_votes_are_the_softmax_of_priors() -> None:
    np.testing.assert_allclose(softmax(PRIORS, 10.0), [0.140, 0.177, 0.243, 0.222, 0.218], atol=6e-4)
    weights = teacher_weights(of(size=2, voting="prior", priors=PRIORS), 5, [0, 9], seed=0, set_index=0)
    first = math.exp(63.0 / 5) / (math.exp(63.0 / 5) + math.exp(65.3 / 5))
    last = math.exp(67.6 / 5) / (math.exp(67.6 / 5) + math.exp(67.4 / 5))
    np.testing.assert_allclose(weights[:, 0], [first, 1 - first, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(weights[:, 1], [0, 0, 0, last, 1 - last], rtol=1e-12)


def test_who_judges_a_slot() -> None:
    def chosen(slot: int, **settings: Any) -> tuple[int, ...]:
        return combination(of(size=2, **settings), 5, seed=3, set_index=1, slot=slot)

    pairs = list(itertools.combinations(range(5), 2))
    assert [chosen(slot) for slot in range(12)] == [*pairs, *pairs[:2]]
    assert {chosen(slot, choice="best", priors=PRIORS) for slot in range(4)} == {(2, 3)}
    drawn = [chosen(slot, choice="random") for slot in range(200)]
    assert set(drawn) == set(pairs)
    assert drawn == [chosen(slot, choice="random") for slot in range(200)]
    assert combination(of(), 3, seed=0, set_index=0, slot=5) == (0, 1, 2)


def network_of(seed: int) -> nn.Module:
    network = build(f"convnet2-w{4 + seed}-bn", channels=2, height=SIDE, width=SIDE, n_classes=3, seed=seed)
    network = network.train().double()
    with torch.no_grad():
        for step in range(3):
            network(torch.randn(16, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(step)).double())
    return network.eval().requires_grad_(False)


VIEWS = RecoveryViews(crop="none", flip=0.5, roll=2)


def plain_loop(slot: int, weights_at: list[dict[int, float]]) -> Tensor:
    """One slot by the paper: per step each teacher's cross-entropy and statistics, its weight, one sum, Adam."""
    networks = {number: network_of(number) for number in weights_at[0] | weights_at[-1]}
    for weights in weights_at:
        networks.update({number: network_of(number) for number in weights if number not in networks})
    x = noise_start(SPEC, (slot,), CLASSES, seed=5, set_index=0)[0].double().requires_grad_()
    adam = torch.optim.Adam([x], betas=(0.5, 0.9), eps=1e-8)
    drawn = recovery_draws(VIEWS, 5, [(0, slot, 0)], range(STEPS), total_steps=STEPS, images=3, height=SIDE, width=SIDE)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 0.25 / 2 * (1 + math.cos(math.pi * step / STEPS))
        shown = torch.flip(x, (3,)) if drawn.flips[step, 0, 0] else x
        shown = torch.roll(shown, drawn.rolls[step, 0, 0].tolist(), (2, 3))
        total = torch.zeros((), dtype=torch.float64)
        for number, weight in weights_at[step].items():
            seen: list[tuple[nn.BatchNorm2d, Tensor]] = []
            hooks = [
                m.register_forward_hook(lambda m, inputs, _, seen=seen: seen.append((m, inputs[0])))
                for m in networks[number].modules()
                if isinstance(m, nn.BatchNorm2d)
            ]
            loss = nn.functional.cross_entropy(networks[number](shown), torch.tensor(CLASSES))
            for place, (norm, maps) in enumerate(seen):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
                distance = (mean - norm.running_mean).norm() + (var - norm.running_var).norm()
                loss = loss + 0.05 * (10 if place == 0 else 1) * distance
            total = total + weight * loss
            for hook in hooks:
                hook.remove()
        adam.zero_grad()
        total.backward()
        adam.step()
        with torch.no_grad():
            mean, std = (x.new_tensor(values).view(1, 2, 1, 1) for values in (SPEC.mean, SPEC.std))
            low, high = -mean / std, (1 - mean) / std
            x.copy_(x.clamp(low, high))
    return x.detach()


def run(weights: np.ndarray, slots: tuple[int, ...], *, turns: bool) -> Tensor:
    canvas = Pixels(noise_start(SPEC, slots, CLASSES, seed=5, set_index=0).double(), SPEC)
    problem = Problem(name="cv-dd", seed=5, groups=[(0, slot, 0) for slot in slots], targets=CLASSES)
    taps = [TappedNetwork(network_of(number)) for number in range(len(weights))]
    stage = Stage(steps=STEPS, views=VIEWS, objective=CrossEntropy() + 0.05 * BatchNormDistance())
    invert(canvas, (stage,), committee(taps, weights, turns=turns), problem, compute=Compute(), adam=AdamConfig())
    return canvas.values


def test_slots_with_their_own_pairs_in_one_forward_equal_the_plain_loop() -> None:
    config = of(size=2, voting="prior", priors=(60.0, 63.0, 69.0))
    slots = (0, 1, 2, 5)
    weights = teacher_weights(config, 3, slots, seed=5, set_index=0)
    made = run(weights, slots, turns=False)
    for place, slot in enumerate(slots):
        asked = {number: float(weight) for number, weight in enumerate(weights[:, place]) if weight}
        assert len(asked) == 2
        torch.testing.assert_close(made[place], plain_loop(slot, [asked] * STEPS), rtol=1e-8, atol=1e-8)


def test_taking_turns_equals_the_plain_loop() -> None:
    weights = np.array([[1 / 3, 0.5], [1 / 3, 0], [1 / 3, 0.5]])
    made = run(weights, (0, 4), turns=True)
    torch.testing.assert_close(made[0], plain_loop(0, [{step % 3: 1.0} for step in range(STEPS)]), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        made[1], plain_loop(4, [{(0, 2)[step % 2]: 1.0} for step in range(STEPS)]), rtol=1e-8, atol=1e-8
    )


def test_refusals() -> None:
    with pytest.raises(MethodError, match=r"committees of 2 teachers, but there is 1 teacher; give more"):
        of(size=2).check(1, "cv-dd")
    with pytest.raises(ConfigError, match=r"priors has 2 numbers, but there are 3 teachers"):
        of(priors=(1.0, 2.0)).check(3, "cv-dd")
    for wrong, said in (
        ({"temperature": 0}, "temperature must be above 0"),
        ({"priors": (101.0,)}, "percentages from 0 to 100"),
        ({"size": -1}, "committee.size"),
    ):
        with pytest.raises(ConfigError, match=said):
            of(**wrong)


def test_held_out_images_belong_to_no_class() -> None:
    train = Split(np.zeros((30, 1, 1, 1), np.uint8), np.arange(30) % 3)
    without = {"fraction": 0.2, "seed": 0}
    left = kept(train, without)
    _, held = holdout(train.labels, 0.2, 0)
    assert np.flatnonzero(left.labels == -1).tolist() == sorted(held)
    assert (np.delete(left.labels, held) == np.delete(train.labels, held)).all()


def test_priors_are_estimated_once_and_kept_with_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    settings: dict[str, Any] = {"teachers": ["convnet2-w4-bn", "convnet1-w4-bn"]}
    given: dict[str, Any] = {"data": "fashion-mini", "method": "cv-dd", "ipc": 1, "quick": True}
    machine = Machine(store=tmp_path / "store")
    [first] = condense.distill(**given, settings=settings, out=tmp_path / "one", machine=machine)
    info = condense.load(first).info
    priors = info.config["settings"]["committee"]["priors"]
    assert len(priors) == 2
    assert all(0 <= prior <= 100 for prior in priors)
    wanted = softmax(priors, 10.0)
    np.testing.assert_allclose(condense.load(first).label_config.weights, wanted, atol=1e-6)
    made = sorted((tmp_path / "store").rglob("manifest.json"))
    [again] = condense.distill(**given, settings=settings, out=tmp_path / "two", machine=machine)
    assert (again / "set.json").read_bytes() == (first / "set.json").read_bytes()
    assert sorted((tmp_path / "store").rglob("manifest.json")) == made
    told = {**settings, "committee": {"priors": priors}}
    method = resolve({"data": "fashion-mini", "method": "cv-dd", "ipc": 1, **told}, quick=True).method
    assert not method.asks_priors
    assert to_mapping(method.config)["committee"] == info.config["settings"]["committee"]
