"""Objectives against naive loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from condense.errors import ConfigError
from condense.objectives import (
    BatchNormDistance,
    ClassStatisticsDistance,
    CrossEntropy,
    MovingStatistics,
    Objective,
    Seen,
)
from condense.teachers.taps import ClassTargets, Statistics, Targets

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


def with_classes(given: Seen, targets: Tensor | None = None) -> Seen:
    """With statistics of each class, and other targets, (B,) or (G, B), if wanted."""
    made = torch.Generator().manual_seed(1)
    mean, var = (torch.randn(CLASSES, sum(SIZES), generator=made, dtype=torch.float64) for _ in range(2))
    known = replace(given.statistics.targets, classes=ClassTargets(mean, var))
    statistics = replace(given.statistics, targets=known)
    return replace(given, statistics=statistics, targets=given.targets if targets is None else targets)


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


def naive_weighted(given: Seen, group: int, first: float, variance: float, mean: Tensor, var: Tensor) -> float:
    """DWA's form: c_l * (||mean_l - mean|| + r_var * ||var_l - var||), summed over layers, channel by channel."""
    total, start = 0.0, 0
    for layer, size in enumerate(SIZES):
        norms = []
        for ours, theirs in ((given.statistics.mean[group], mean), (given.statistics.var[group], var)):
            squares = 0.0
            for channel in range(start, start + size):
                squares += (float(ours[channel].detach()) - float(theirs[channel])) ** 2
            norms.append(squares**0.5)
        total += (first if layer == 0 else 1) * (norms[0] + variance * norms[1])
        start += size
    return total


@pytest.mark.parametrize(("first", "variance"), [(10.0, 11.0), (1.0, 2.0), (3.0, 0.0), (10.0, 1.0)])
def test_variances_have_a_weight_of_their_own(first: float, variance: float) -> None:
    given = seen()
    running = given.statistics.targets
    wanted = [naive_weighted(given, group, first, variance, running.mean, running.var) for group in range(GROUPS)]
    losses = BatchNormDistance(first, variance)(given)
    torch.testing.assert_close(losses, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_equal_weights_give_the_bits_that_they_gave_before() -> None:
    """The norms of both statistics, added first."""
    given = seen()
    statistics, targets = given.statistics, given.statistics.targets
    narrow = Statistics(
        statistics.mean.detach().float(),
        statistics.var.detach().float(),
        replace(targets, mean=targets.mean.float(), var=targets.var.float(), membership=targets.membership.float()),
    )
    now = BatchNormDistance()(Seen(given.images, given.logits, narrow, given.targets))
    differences = torch.stack((narrow.mean - narrow.targets.mean, narrow.var - narrow.targets.var))
    norms = (differences.square() @ narrow.targets.membership).sqrt().sum(0)
    assert torch.equal(now, norms.sum(1) + 9.0 * norms[:, 0])


MIXED = [[4, 0, 2], [1, 1, 3]]
ALIKE = [[3, 3, 3], [0, 0, 0]]


@pytest.mark.parametrize("targets", [MIXED, ALIKE])
def test_class_statistics_are_averaged_over_the_images(targets: list[list[int]]) -> None:
    """EDC's form for groups of several classes; for groups of one class LPLD's, which has that class's statistics."""
    given = with_classes(seen(), torch.tensor(targets))
    classes = given.statistics.targets.classes
    assert classes is not None
    losses = ClassStatisticsDistance(10.0, 2.0)(given)
    for group, labels in enumerate(targets):
        mean, var = torch.zeros(sum(SIZES)).double(), torch.zeros(sum(SIZES)).double()
        if targets is ALIKE:
            mean, var = classes.mean[labels[0]], classes.var[labels[0]]
        else:
            for label in labels:
                mean, var = mean + classes.mean[label] / BATCH, var + classes.var[label] / BATCH
        assert float(losses[group].detach()) == pytest.approx(
            naive_weighted(given, group, 10.0, 2.0, mean, var), rel=1e-12
        )


def test_class_targets_for_all_groups_or_for_each() -> None:
    once = ClassStatisticsDistance()(with_classes(seen(), torch.tensor(MIXED[0])))
    each = ClassStatisticsDistance()(with_classes(seen(), torch.tensor(MIXED[:1] * GROUPS)))
    torch.testing.assert_close(once, each, rtol=1e-14, atol=0)
    other = ClassStatisticsDistance()(with_classes(seen(), torch.tensor(MIXED)))
    assert float(other[0].detach()) == pytest.approx(float(once[0].detach()), rel=1e-12)
    assert abs(float((other[1] - once[1]).detach())) > 1e-3


def test_global_and_class_targets_are_mixed_as_in_edc() -> None:
    given = with_classes(seen(), torch.tensor(MIXED))
    mixed = 0.5 * BatchNormDistance() + 0.5 * ClassStatisticsDistance()
    wanted = (BatchNormDistance()(given) + ClassStatisticsDistance()(given)) / 2
    torch.testing.assert_close(mixed(given), wanted, rtol=1e-14, atol=0)
    assert str(CrossEntropy() + 0.01 * mixed) == (
        "cross-entropy + 0.01 * (0.5 * batch-norm distance (first layer x10) + "
        "0.5 * class-statistics distance (first layer x10))"
    )


def test_class_statistics_must_be_there() -> None:
    with pytest.raises(ValueError, match="tapped without class statistics"):
        ClassStatisticsDistance()(seen())


def naive_moving(values: list[Tensor], keep: float, start: str) -> list[Tensor]:
    """S_t = keep S_{t-1} + (1 - keep) s_t, number by number."""
    kept, found = [0.0] * values[0].numel(), []
    for step, value in enumerate(values):
        for place, now in enumerate(value.flatten().tolist()):
            begins = step == 0 and start == "first"
            kept[place] = now if begins else keep * kept[place] + (1 - keep) * now
        found.append(torch.tensor(kept, dtype=torch.float64).view_as(value))
    return found


def steps_of(count: int) -> list[Statistics]:
    return [seen(seed=seed).statistics for seed in range(count)]


@pytest.mark.parametrize("start", ["first", "zero"])
def test_moving_statistics_have_the_value_of_the_average_and_the_gradient_of_the_step(start: str) -> None:
    moving, steps = MovingStatistics(0.8, GROUPS, start), steps_of(4)  # type: ignore[arg-type]
    means, variances = (
        naive_moving([getattr(step, name).detach() for step in steps], 0.8, start) for name in ("mean", "var")
    )
    for step, mean, var in zip(steps, means, variances, strict=True):
        smooth = moving.smooth(step, "0")
        torch.testing.assert_close(smooth.mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(smooth.var, var, rtol=1e-12, atol=1e-12)
        (3 * smooth.mean.sum() + smooth.var.square().sum()).backward()
        torch.testing.assert_close(step.mean.grad, torch.full_like(step.mean, 3.0), rtol=0, atol=0)
        torch.testing.assert_close(step.var.grad, 2 * var, rtol=1e-12, atol=1e-12)
        assert smooth.targets is step.targets


def test_nothing_is_kept_at_zero() -> None:
    moving = MovingStatistics(0.0, GROUPS)
    for step in steps_of(3):
        assert torch.equal(moving.smooth(step, "0").mean, step.mean)


def test_networks_and_groups_have_averages_of_their_own() -> None:
    """Group 1 alone is shown to network "b" at first: it has begun, group 0 begins later."""
    moving, steps = MovingStatistics(0.5, GROUPS), steps_of(3)
    only = Statistics(steps[0].mean[1:], steps[0].var[1:], steps[0].targets)
    assert torch.equal(moving.smooth(only, "b", torch.tensor([1])).mean, only.mean)
    moving.smooth(steps[1], "a")
    then = moving.smooth(steps[2], "b")
    assert torch.equal(then.mean[0], steps[2].mean[0])
    torch.testing.assert_close(then.mean[1], (steps[0].mean[1] + steps[2].mean[1]) / 2)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_moving_statistics_go_on_with_the_same_bits(stop: int) -> None:
    whole, before, after = (MovingStatistics(0.7, GROUPS) for _ in range(3))
    steps = steps_of(5)
    values = [whole.smooth(step, key).var for step in steps for key in ("0", "1")]
    for step in steps[:stop]:
        for key in ("0", "1"):
            before.smooth(step, key)
    state = {name: value.clone() for name, value in before.state().items()}
    after.load({**state, "values": torch.zeros(3)})  # names of others are left alone
    resumed = [after.smooth(step, key).var for step in steps[stop:] for key in ("0", "1")]
    assert all(torch.equal(one, other) for one, other in zip(values[2 * stop :], resumed, strict=True))
    assert len(state) == (4 if stop else 0)


@pytest.mark.parametrize("keep", [-0.1, 1.0, math.nan])
def test_what_cannot_be_kept_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep must be in"):
        MovingStatistics(keep, 1)
    with pytest.raises(ConfigError, match="expected one of first, zero"):
        MovingStatistics(0.5, 1, "last")  # type: ignore[arg-type]


TERMS = [
    CrossEntropy(),
    BatchNormDistance(),
    CrossEntropy() + 0.3 * BatchNormDistance(),
    BatchNormDistance(10.0, 11.0),
    0.5 * BatchNormDistance() + 0.5 * ClassStatisticsDistance(2.0, 3.0),
]


@pytest.mark.parametrize("objective", TERMS, ids=str)
def test_gradcheck(objective: Objective) -> None:
    given = with_classes(seen())

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
    assert str(BatchNormDistance(1.0, 11.0)) == "batch-norm distance (first layer x1, variances x11)"
    assert str(2 * (CrossEntropy() + CrossEntropy())) == "2 * (cross-entropy + cross-entropy)"
