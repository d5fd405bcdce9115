"""Closed forms, the pairing law, and the coverage of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from condense.evaluation.statistics import (
    MOST_SETS,
    Difference,
    paired_difference,
    power_of,
    sets_needed,
    summarise,
    t_interval,
)

T_975_2 = 4.302652729911275  # Student's t, 97.5 %, 2 degrees of freedom
T_975_1 = 12.706204736432095


def runs_of(*sets: list[float]) -> dict[tuple[int, int], float]:
    return {(s, k): value for s, values in enumerate(sets) for k, value in enumerate(values)}


def test_closed_forms_of_a_summary() -> None:
    summary = summarise(runs_of([0.70, 0.72], [0.74, 0.76], [0.80, 0.80]))
    assert (summary.n_sets, summary.n_students, summary.n_runs, summary.unit) == (3, 2, 6, "set")
    assert summary.mean == pytest.approx((0.71 + 0.75 + 0.80) / 3)
    sd_sets = math.sqrt(((0.71 - summary.mean) ** 2 + (0.75 - summary.mean) ** 2 + (0.80 - summary.mean) ** 2) / 2)
    assert summary.sd_sets == pytest.approx(sd_sets)
    assert summary.sd_students == pytest.approx(math.sqrt(4 * 0.01**2 / 3))
    assert summary.sd == pytest.approx(np.std([0.70, 0.72, 0.74, 0.76, 0.80, 0.80], ddof=1))
    half = T_975_2 * sd_sets / math.sqrt(3)
    assert summary.interval == pytest.approx((summary.mean - half, summary.mean + half))


def test_the_set_is_the_unit_however_many_students_there_are() -> None:
    few = summarise(runs_of([0.70], [0.74], [0.80]))
    many = summarise(runs_of([0.70] * 50, [0.74] * 50, [0.80] * 50))
    assert many.interval == pytest.approx(few.interval)


def test_one_set_falls_back_to_students_and_says_so() -> None:
    summary = summarise(runs_of([0.70, 0.72, 0.77]))
    assert summary.unit == "student"
    assert summary.sd_sets is None
    half = T_975_2 * np.std([0.70, 0.72, 0.77], ddof=1) / math.sqrt(3)
    assert summary.interval == pytest.approx((0.73 - half, 0.73 + half))


def test_a_single_run_has_no_spread() -> None:
    summary = summarise(runs_of([0.7]))
    assert (summary.mean, summary.sd, summary.sd_sets, summary.sd_students, summary.interval) == (0.7, *[None] * 4)


def test_sets_of_unequal_size_weigh_the_same() -> None:
    assert summarise(runs_of([0.6], [0.8, 0.8, 0.8])).mean == pytest.approx(0.7)


def test_failed_and_missing_runs_are_never_averaged() -> None:
    with pytest.raises(ValueError, match="never averaged"):
        summarise(runs_of([0.7, math.nan]))
    with pytest.raises(ValueError, match="no runs"):
        summarise({})


def test_pairing_cancels_what_both_sides_share() -> None:
    """Large effects of set and seed, common to both sides, leave the difference and its interval untouched."""
    rng = np.random.default_rng(0)
    shared = {(s, k): float(rng.normal(0, 0.2)) for s in range(4) for k in range(3)}
    gain = [0.010, 0.012, 0.015, 0.011]
    difference = paired_difference({key: value + gain[key[0]] for key, value in shared.items()}, shared)
    assert difference is not None
    assert (difference.n_sets, difference.n_pairs, difference.unit) == (4, 12, "set")
    assert difference.mean == pytest.approx(0.012)
    assert difference.interval == pytest.approx(t_interval(gain))


def test_only_common_sets_and_seeds_are_paired() -> None:
    runs = {(0, 0): 0.5, (0, 1): 0.6, (1, 0): 0.7, (9, 9): 0.1}
    baseline = {(0, 0): 0.4, (1, 0): 0.4, (1, 5): 0.0}
    difference = paired_difference(runs, baseline)
    assert difference is not None
    assert (difference.n_sets, difference.n_pairs) == (2, 2)
    assert difference.mean == pytest.approx(0.2)
    half = T_975_1 * np.std([0.1, 0.3], ddof=1) / math.sqrt(2)
    assert difference.interval == pytest.approx((0.2 - half, 0.2 + half))
    assert paired_difference({(0, 0): 0.5}, {(1, 0): 0.5}) is None


def test_exchanging_the_sides_changes_the_sign() -> None:
    a, b = runs_of([0.5, 0.6], [0.7, 0.7]), runs_of([0.4, 0.6], [0.6, 0.9])
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward is not None
    assert backward is not None
    assert forward.mean == pytest.approx(-backward.mean)
    assert forward.interval == pytest.approx(tuple(-bound for bound in reversed(backward.interval or ())))


@pytest.mark.parametrize(
    ("interval", "unit", "words"),
    [
        ((0.012, 0.020), "set", "better than random by 1.2 to 2.0 points"),
        ((-0.052, -0.031), "set", "worse than random by 3.1 to 5.2 points"),
        ((-0.003, 0.011), "set", "undecided against random: -0.3 to 1.1 points"),
        ((0.0, 0.0), "set", "undecided against random: 0.0 to 0.0 points"),
        ((0.012, 0.020), "student", "better than random by 1.2 to 2.0 points (1 set: holds for this set only)"),
        (None, "student", "undecided against random: +1.6 points from a single pair, no interval"),
    ],
)
def test_the_statement_in_words(interval: tuple[float, float] | None, unit: str, words: str) -> None:
    difference = Difference(n_sets=1, n_pairs=1, mean=0.016, interval=interval, unit=unit)  # type: ignore[arg-type]
    assert difference.statement("random") == words


def test_intervals_cover_the_truth_in_95_of_100_studies() -> None:
    """3 sets x 3 students, variance between sets and between students: the set as unit covers 93 to 97 %.

    Treating the nine students as independent, the usual mistake, covers far less: the test can tell them apart.
    """
    rng = np.random.default_rng(1)
    studies = 0.8 + rng.normal(0, 0.01, (2000, 3, 1)) + rng.normal(0, 0.005, (2000, 3, 3))
    assert 0.93 <= coverage([list(study.mean(axis=1)) for study in studies], 0.8) <= 0.97
    assert coverage([list(study.ravel()) for study in studies], 0.8) < 0.85


def coverage(studies: list[list[float]], truth: float) -> float:
    intervals = [t_interval(values) or (1.0, 0.0) for values in studies]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


# How many sets


def study(rng: np.random.Generator, n_sets: int, effect: float) -> Difference:
    """Paired runs in points / 100: the sets' differences have sd 0.8, their 3 students' another 0.4."""
    shared = rng.normal(80, 1, (n_sets, 3))
    gains = effect + rng.normal(0, 0.8, (n_sets, 1)) + rng.normal(0, 0.4, (n_sets, 3))
    runs = {(s, k): (shared[s, k] + gains[s, k]) / 100 for s in range(n_sets) for k in range(3)}
    baseline = {(s, k): shared[s, k] / 100 for s in range(n_sets) for k in range(3)}
    difference = paired_difference(runs, baseline)
    assert difference is not None
    return difference


SD = math.sqrt(0.8**2 + 0.4**2 / 3)  # of a set's mean difference


@pytest.mark.parametrize("n_sets", [3, 5])
def test_coverage_and_power_are_as_planned(n_sets: int) -> None:
    rng = np.random.default_rng(n_sets)
    found = [study(rng, n_sets, effect=1.0) for _ in range(3000)]
    covered = np.mean([low <= 0.01 <= high for low, high in (one.interval or (1, 0) for one in found)])
    assert 0.93 <= covered <= 0.97
    better = np.mean([one.verdict == "better" for one in found])
    assert better == pytest.approx(power_of(1.0, SD, n_sets), abs=0.02)
    assert np.mean([one.sd or 0 for one in found]) == pytest.approx(SD / 100, rel=0.15)


def test_power_in_closed_form() -> None:
    assert power_of(0.0, 1.0, 7) == pytest.approx(0.025)
    assert power_of(1.0, 1.0, 1000) == pytest.approx(1)
    # As G*Power has it for paired t tests, two-sided 5 %.
    assert power_of(0.5, 1.0, 34) == pytest.approx(0.8078, abs=1e-3)
    assert power_of(-1.0, 1.0, 10) == pytest.approx(0.8031, abs=1e-3)
    assert power_of(1.0, 0.0, 2) == 1
    assert power_of(0.0, 0.0, 2) == 0


def test_sets_needed_is_the_fewest_that_suffice() -> None:
    for effect in (0.1, 0.5, 1.0, 3.0):
        needed = sets_needed(effect, 1.0)
        assert needed is not None
        assert power_of(effect, 1.0, needed) >= 0.8
        assert needed == 2 or power_of(effect, 1.0, needed - 1) < 0.8
    assert sets_needed(0.5, 1.0) == 34
    assert sets_needed(1.0, 0.0) == 2
    assert sets_needed(0.0, 1.0) is None
    assert sets_needed(0.5, 1.0, power=0.9) == 44
    large = sets_needed(2.81 / math.sqrt(MOST_SETS), 1.0)
    assert large is not None
    assert 9900 < large <= MOST_SETS


def test_how_many_more_sets_an_undecided_comparison_takes() -> None:
    undecided = Difference(n_sets=5, n_pairs=15, mean=0.005, interval=(-0.002, 0.012), unit="set", sd=0.01)
    assert undecided.more_sets() == 34 - 5
    assert undecided.more_sets(effect=0.01) == 10 - 5
    assert undecided.more_sets(effect=0.1) == 0
    assert undecided.outlook() == "about 29 more sets would show a difference of 0.5 points (80 % power)"
    assert undecided.outlook(0.1) == "5 sets are enough to show a difference of 10.0 points (80 % power)"
    assert undecided.outlook(-0.0117) == "about 3 more sets would show a difference of 1.2 points (80 % power)"
    assert undecided.outlook(0.0) == "not even 10000 sets would show a difference of 0.0 points (80 % power)"
    decided = Difference(n_sets=5, n_pairs=15, mean=0.02, interval=(0.01, 0.03), unit="set", sd=0.02)
    assert decided.more_sets() == 0
    assert decided.outlook() == "5 sets are enough to show a difference of 2.0 points"
    one = Difference(n_sets=1, n_pairs=3, mean=0.02, interval=None, unit="student")
    assert one.more_sets(0.01) is None
    assert "make at least 2" in one.outlook()


def test_the_spread_between_differences_is_that_of_the_sets() -> None:
    difference = paired_difference(runs_of([0.5, 0.6], [0.7, 0.9]), runs_of([0.5, 0.5], [0.5, 0.5]))
    assert difference is not None
    assert difference.sd == pytest.approx(np.std([0.05, 0.3], ddof=1))
    single = paired_difference(runs_of([0.5, 0.6]), runs_of([0.4, 0.6]))
    assert single is not None
    assert single.sd is None


@pytest.mark.parametrize(("sd", "n_sets", "level"), [(-1.0, 3, 0.95), (1.0, 1, 0.95), (1.0, 3, 1.0)])
def test_plans_that_cannot_be_are_refused(sd: float, n_sets: int, level: float) -> None:
    with pytest.raises(ValueError, match="expected at least 2 sets"):
        power_of(1.0, sd, n_sets, level)
    with pytest.raises(ValueError, match=r"power is 1\.0"):
        sets_needed(1.0, 1.0, power=1.0)


@pytest.mark.parametrize("sets", [1, 2])
def test_pairs_that_agree_exactly_decide_nothing(sets: int) -> None:
    """Two gains of 5.5 points, which floating point may tell apart in the last place."""
    keys = [(0, 0), (0, 1)] if sets == 1 else [(0, 0), (1, 0)]
    runs, baseline = dict(zip(keys, (0.785, 0.787), strict=True)), dict(zip(keys, (0.73, 0.732), strict=True))
    found = paired_difference(runs, baseline)
    assert found is not None
    assert (found.interval, found.verdict) == (None, "undecided")
    assert found.statement("random") == (
        "undecided against random: +5.5 points from 2 pairs that agree exactly, no interval"
    )
    assert found.more_sets() is None
    assert ("agree exactly; make more" in found.outlook()) == (sets == 2)
    assert summarise(dict.fromkeys(keys, 0.5)).interval is None
