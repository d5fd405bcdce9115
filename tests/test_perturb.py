"""Perturbed teachers against the plain loop of the paper's program, and what must stay as it was."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from condense.errors import ConfigError, TeacherError
from condense.networks import build
from condense.teachers.perturb import perturb
from condense.teachers.taps import TappedNetwork

SIDE, CLASSES, RADIUS, STEPS = 8, 4, 0.015, 5


def network(name: str = "resnet8") -> nn.Module:
    """Of trained running statistics, with parameters that take gradients, and in training mode, to be tempted."""
    made = build(name, channels=2, height=SIDE, width=SIDE, n_classes=CLASSES, seed=1).double().train()
    with torch.no_grad():
        made(images(16, seed=9))
    return made


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGETS = torch.tensor([0, 1, 2, 3, 1, 0])


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))


def plain_loop(teacher: nn.Module) -> dict[str, Tensor]:
    """theta <- theta + rho/K * g / (||g|| + 1e-12), K times, as the card says, with backward() and .grad."""
    net = copy.deepcopy(teacher).eval()
    for _ in range(STEPS):
        net.zero_grad()
        log_p = net(images()).log_softmax(1)
        entropy = -sum(log_p[i, t] for i, t in enumerate(TARGETS.tolist())) / len(TARGETS)
        entropy.backward()
        flat = torch.cat([p.grad.flatten() for p in net.parameters()])
        length = math.sqrt(sum(x * x for x in flat.tolist()))
        for p in net.parameters():
            p.data = p.data + (RADIUS / STEPS) * p.grad / (length + 1e-12)
    return {name: value.detach() for name, value in net.named_parameters()}


@pytest.mark.parametrize("name", ["resnet8", "convnet2-w8-bn"])
def test_equals_the_plain_loop(name: str) -> None:
    teacher = network(name)
    moved = perturb(teacher, images(), TARGETS, radius=RADIUS, steps=STEPS)
    for parameter, value in plain_loop(teacher).items():
        torch.testing.assert_close(dict(moved.named_parameters())[parameter], value, rtol=1e-10, atol=1e-12)
    assert distance(moved, teacher) > 0.9 * RADIUS


def test_it_unlearns_the_images() -> None:
    teacher = network().eval().requires_grad_(False)
    entropies = [
        float(nn.functional.cross_entropy(one(images()), TARGETS))
        for one in (teacher, *(perturb(teacher, images(), TARGETS, radius=r, steps=STEPS) for r in (0.01, 0.1, 0.5)))
    ]
    assert all(lower < higher for lower, higher in pairwise(entropies))


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_it_goes_no_further_than_the_radius(steps: int) -> None:
    teacher = network()
    gone = distance(perturb(teacher, images(), TARGETS, radius=0.4, steps=steps), teacher)
    assert gone <= 0.4 * (1 + 1e-12)
    if steps == 1:
        assert gone == pytest.approx(0.4, rel=1e-9)


def test_the_teacher_and_the_images_stay_as_they_were() -> None:
    teacher, shown = network(), images().requires_grad_()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    moved = perturb(teacher, shown, TARGETS)
    assert teacher.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert shown.grad is None
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not {value.data_ptr() for value in teacher.state_dict().values()} & {
        value.data_ptr() for value in moved.state_dict().values()
    }
    assert all(torch.equal(value, dict(teacher.named_buffers())[name]) for name, value in moved.named_buffers())


def test_the_copy_is_frozen_and_can_be_tapped() -> None:
    moved = perturb(network(), images(), TARGETS)
    assert not any(module.training for module in moved.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in moved.parameters())
    shown = images().requires_grad_()
    logits, _ = TappedNetwork(moved)(shown, 2)
    torch.testing.assert_close(logits, moved(shown))
    logits.sum().backward()
    assert shown.grad is not None


def test_every_batch_has_a_direction_of_its_own() -> None:
    teacher = network()
    here, there = (perturb(teacher, images(seed=seed), TARGETS) for seed in (0, 1))
    assert distance(here, there) > RADIUS / 2


def test_a_frozen_teacher_under_no_grad_and_autocast_gives_float32() -> None:
    teacher = network().float().eval().requires_grad_(False)
    wanted = perturb(teacher, images().float(), TARGETS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        moved = perturb(teacher, images().float(), TARGETS)
    for one, other in zip(moved.parameters(), wanted.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_no_gradient_moves_nothing() -> None:
    """A network whose answer is right and certain."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    teacher[1].weight.data.copy_(torch.tensor([[1e4, 0], [0, 1e4]]))
    moved = perturb(teacher, torch.eye(2, dtype=torch.float64), torch.tensor([0, 1]))
    assert distance(moved, teacher) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"radius": -1.0}, "radius must be at least 0"),
        ({"radius": math.nan}, "radius must be at least 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        perturb(network(), images(), TARGETS, **settings)  # type: ignore[arg-type]


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    with pytest.raises(TeacherError, match="has no finite gradient"):
        perturb(network(), images() * math.inf, TARGETS)
