"""Objectives against naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from condense.objectives import BatchNormDistance, CrossEntropy, Objective, Seen
from condense.teachers.taps import Statistics, Targets

SIZES = (2, 3, 4)
GROUPS, BATCH, CLASSES = 2, 3, 5


def seen(layers: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> Seen:
    made = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made, dtype=torch.float64)

    total = sum(SIZES)
    owner = torch.repeat_interleave(torch.tensor(SIZES))
    targets = Targets(draw(total), draw(total), torch.nn.functional.one_hot(owner).double(), SIZES, layers)
    statistics = Statistics(draw(GROUPS, total).requires_grad_(), draw(GROUPS, total).requires_grad_(), targets)
    logits = draw(GROUPS, BATCH, CLASSES).requires_grad_()
    return Seen(draw(GROUPS, BATCH, 1, 2, 2), logits, statistics, torch.tensor([4, 0, 2]).expand(GROUPS, -1))


def naive_distance(given: Seen, group: int, first: float) -> float:
    total, start = 0.0, 0
    for layer, size in enumerate(SIZES):
        channels = range(start, start + size)
        for batch, running in (
            (given.statistics.mean, given.statistics.targets.mean),
            (given.statistics.var, given.statistics.targets.var),
        ):
            ours, theirs = batch[group].tolist(), running.tolist()
            norm = math.sqrt(sum((ours[c] - theirs[c]) ** 2 for c in channels))
            total += norm * (first if layer == 0 else 1.0)
        start += size
    return total


@pytest.mark.parametrize("first", [10.0, 1.0, 0.0])
def test_batchnorm_distance_is_a_sum_of_unsquared_norms(first: float) -> None:
    given = seen()
    losses = BatchNormDistance(first)(given)
    wanted = torch.tensor([naive_distance(given, group, first) for group in range(GROUPS)], dtype=torch.float64)
    torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=1e-12)


def test_first_means_the_first_registered_layer() -> None:
    """Where it did not run, no other takes its place."""
    given = seen(layers=(1, 2, 3))
    torch.testing.assert_close(BatchNormDistance(10.0)(given), BatchNormDistance(1.0)(seen()))
    assert not torch.allclose(BatchNormDistance(10.0)(seen()), BatchNormDistance(1.0)(seen()))


def test_gradient_at_no_distance_is_zero() -> None:
    given = seen()
    targets = given.statistics.targets
    at_target = Statistics(
        targets.mean.repeat(GROUPS, 1).requires_grad_(), targets.var.repeat(GROUPS, 1).requires_grad_(), targets
    )
    losses = BatchNormDistance()(Seen(given.images, given.logits, at_target, given.targets))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert at_target.mean.grad.tolist() == at_target.var.grad.tolist() == torch.zeros(GROUPS, sum(SIZES)).tolist()


@pytest.mark.parametrize("objective", [CrossEntropy(), BatchNormDistance(), CrossEntropy() + 0.3 * BatchNormDistance()])
def test_gradcheck(objective: Objective) -> None:
    given = seen()

    def losses(logits: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        statistics = Statistics(mean, var, given.statistics.targets)
        return objective(Seen(given.images, logits, statistics, given.targets))

    assert torch.autograd.gradcheck(losses, (given.logits, given.statistics.mean, given.statistics.var))


def test_cross_entropy_is_the_mean_over_a_group() -> None:
    given = seen()
    for group, loss in enumerate(CrossEntropy()(given).tolist()):
        wanted = 0.0
        for image, target in enumerate(given.targets[group].tolist()):
            row = given.logits[group, image].tolist()
            wanted += math.log(sum(math.exp(value) for value in row)) - row[target]
        assert loss == pytest.approx(wanted / BATCH, rel=1e-12)


def test_sums_and_multiples() -> None:
    given, one, other = seen(), CrossEntropy(), BatchNormDistance()
    torch.testing.assert_close((2 * one + other * 0.5)(given), 2 * one(given) + 0.5 * other(given))


def test_objectives_say_what_they_are() -> None:
    assert str(CrossEntropy() + 0.01 * BatchNormDistance()) == (
        "cross-entropy + 0.01 * batch-norm distance (first layer x10)"
    )
    assert str(2 * (CrossEntropy() + CrossEntropy())) == "2 * (cross-entropy + cross-entropy)"
