"""Metrics of logits against closed forms and naive loops; the published scores at their anchors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import BASE

from condense.errors import ConfigError
from condense.evaluation.measure import MOST_IN_CONFUSION, judged
from condense.evaluation.metrics import (
    accuracy_per_class,
    augmentation_robust_score,
    calibration,
    confusion,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    negative_log_likelihood,
    transfer,
)
from condense.evaluation.results import Result, ResultError, read_results
from condense.report import rows_by_class

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def logits_of(confidences: list[float], predicted: list[int], n_classes: int = 2) -> np.ndarray:
    """Logits whose softmax has ``confidences`` at ``predicted`` and the rest spread evenly."""
    rest = (1 - np.array(confidences)) / (n_classes - 1)
    probabilities = np.repeat(rest[:, None], n_classes, 1)
    probabilities[np.arange(len(predicted)), predicted] = confidences
    return np.log(probabilities) + np.arange(len(predicted))[:, None]  # a constant per row changes nothing


def drawn(n: int = 300, n_classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    return (2 * rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[labels]).astype(np.float32), labels


# Logits


def test_confusion_counts_rows_by_class_and_columns_by_answer() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 2, 2]]
    counts = confusion(logits, np.array([0, 1, 1, 1, 2, 2]))
    np.testing.assert_array_equal(counts, [[1, 0, 0], [1, 1, 1], [0, 0, 2]])
    assert confusion(np.zeros((2, 3)), np.array([0, 1])).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]  # ties: first


def test_accuracy_per_class_and_a_class_without_images() -> None:
    counts = confusion(np.eye(3)[[0, 0, 0, 1]], np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(accuracy_per_class(counts), [1, 1 / 3, np.nan])


def test_confusion_holds_the_accuracy() -> None:
    logits, labels = drawn()
    counts = confusion(logits, labels)
    assert counts.sum() == 300
    assert np.trace(counts) / 300 == (logits.argmax(1) == labels).mean()


def test_calibration_in_closed_form() -> None:
    """Two bins: confidence 0.6 and right half of the time, 0.9 and always right."""
    logits = logits_of([0.6, 0.6, 0.9, 0.9], [0, 0, 0, 1])
    found = calibration(logits, np.array([0, 1, 0, 1]), bins=10)
    assert found.expected == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert found.maximum == pytest.approx(0.1)
    one = calibration(logits, np.array([0, 1, 0, 1]), bins=1)
    assert one.expected == pytest.approx(0.0)  # 0.75 right, 0.75 sure
    border = calibration(logits_of([0.5, 0.9], [0, 0]), np.array([1, 0]), bins=2)
    assert border.expected == pytest.approx(0.3)  # 0.5 belongs to the lower bin


def test_calibration_against_a_loop() -> None:
    logits, labels = drawn()
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    expected, maximum = 0.0, 0.0
    for m in range(15):
        inside = [i for i in range(300) if m / 15 < probabilities[i].max() <= (m + 1) / 15]
        if inside:
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            gap = abs(right - np.mean([probabilities[i].max() for i in inside]))
            expected, maximum = expected + gap * len(inside) / 300, max(maximum, gap)
    found = calibration(logits, labels)
    assert (found.expected, found.maximum) == pytest.approx((expected, maximum))


def test_calibration_of_the_surest_and_of_the_least_sure() -> None:
    assert calibration(np.array([[1000.0, 0.0]]), np.array([0])).expected == 0
    assert calibration(np.array([[1000.0, 0.0]]), np.array([1])).expected == 1
    assert calibration(np.zeros((4, 4)), np.arange(4)).expected == pytest.approx(0)
    with pytest.raises(ConfigError, match="bins must be at least 1"):
        calibration(np.zeros((4, 4)), np.arange(4), bins=0)


def test_negative_log_likelihood() -> None:
    assert negative_log_likelihood(np.zeros((5, 8)), np.arange(5)) == pytest.approx(math.log(8))
    assert negative_log_likelihood(logits_of([0.6, 0.9], [0, 1]), np.array([0, 0])) == pytest.approx(
        -(math.log(0.6) + math.log(0.1)) / 2
    )
    assert negative_log_likelihood(np.array([[2000.0, 0.0]]), np.array([1])) == 2000


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), "expected"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least 1"),
        (np.zeros((1, 3)), np.array([3]), "expected 0 to 2"),
        (np.zeros((1, 3)), np.array([-1]), "expected 0 to 2"),
        (np.full((1, 3), np.nan), np.array([0]), "not finite"),
    ],
)
def test_what_are_no_logits_and_labels(logits: np.ndarray, labels: np.ndarray, words: str) -> None:
    for metric in (confusion, calibration, negative_log_likelihood):
        with pytest.raises(ValueError, match=words):
            metric(logits, labels)


# DD-Ranking


@pytest.mark.parametrize(
    ("improvement", "recovery", "score"), [(0.0, 0.0, 26.9), (0.0, 0.50, 17.5), (0.05, 0.30, 21.9)]
)
def test_label_robust_score_at_its_anchors(improvement: float, recovery: float, score: float) -> None:
    assert 100 * label_robust_score(recovery, improvement) == pytest.approx(score, abs=0.05)


@pytest.mark.parametrize(("gain", "score"), [(0.05, 29.1), (-0.05, 24.8)])
def test_augmentation_robust_score_at_its_anchors(gain: float, score: float) -> None:
    assert 100 * augmentation_robust_score(gain, gain) == pytest.approx(score, abs=0.05)


def test_scores_reach_from_0_to_1_and_weigh_as_they_say() -> None:
    assert label_robust_score(1.0, -1.0) == pytest.approx(0)
    assert label_robust_score(-1.0, 1.0) == pytest.approx(1)
    assert label_robust_score(0.7, 0.1, weight=1.0) == label_robust_score(0.0, 0.1, weight=1.0)
    assert label_robust_score(0.7, 0.1, weight=0.0) == label_robust_score(0.7, 0.0, weight=0.0)
    assert augmentation_robust_score(0.1, 0.0, weight=1.0) == augmentation_robust_score(0.1, 0.9, weight=1.0)
    assert augmentation_robust_score(0.4, 0.0) == pytest.approx(augmentation_robust_score(0.2, 0.2))
    assert augmentation_robust_score(0.4, 0.0, weight=0.25) == pytest.approx(augmentation_robust_score(0.1, 0.1))


def test_what_the_scores_are_made_of() -> None:
    assert hard_label_recovery(real=0.9, synthetic=0.4) == pytest.approx(0.5)
    assert improvement_over_random(synthetic=0.45, random=0.4) == pytest.approx(0.05)


def test_percent_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"56\.5; expected a fraction in \[0, 1\], not percent"):
        hard_label_recovery(56.5, 0.4)
    with pytest.raises(ConfigError, match="random images is 40"):
        improvement_over_random(0.4, 40)
    with pytest.raises(ConfigError, match="HLR is 30"):
        label_robust_score(30, 0.05)
    with pytest.raises(ConfigError, match="the gain without is -5"):
        augmentation_robust_score(0.05, -5)
    with pytest.raises(ConfigError, match="weight g is 2"):
        augmentation_robust_score(0.05, 0.0, weight=2)


# Transfer


def test_drops_to_other_networks() -> None:
    found = transfer({"a": 0.7, "b": 0.8, "c": 0.5, "d": 0.72}, makers=["a", "b"])
    assert (found.own, found.others) == pytest.approx((0.75, 0.61))
    assert (found.mean_drop, found.worst_drop) == pytest.approx((0.14, 0.25))
    assert (found.worst, found.makers) == ("c", ("a", "b"))
    better = transfer({"a": 0.7, "b": 0.8}, makers=["a"])
    assert (better.mean_drop, better.worst_drop) == pytest.approx((-0.1, -0.1))


def test_a_transfer_needs_both_sides() -> None:
    with pytest.raises(ConfigError, match="no value of z"):
        transfer({"a": 0.7}, makers=["z"])
    with pytest.raises(ConfigError, match="network that made the set"):
        transfer({"a": 0.7}, makers=[])
    with pytest.raises(ConfigError, match="measure another"):
        transfer({"a": 0.7}, makers=["a"])


# Results


def test_accuracies_by_class_are_means_over_the_runs_of_a_condition() -> None:
    runs = [replace(BASE, seed=seed, accuracy_per_class=(share, None)) for seed, share in enumerate([0.5, 0.75])]
    other = replace(BASE, condition="cda", accuracy_per_class=(1.0, 0.25))
    [(title, rows)] = rows_by_class([*runs, other], ["cat", "dog"]).items()
    assert title == "resnet20, soft targets, IPC 10: accuracy in percent"
    assert rows == [["class", "random", "cda"], ["cat", "62.50", "100.00"], ["dog", "-", "25.00"]]
    hard = replace(BASE, targets="hard")
    assert [rows[1][1:] for rows in rows_by_class([other, hard], ["cat", "dog"]).values()] == [["100.00"], ["-"]]


def test_what_a_result_keeps_of_the_logits() -> None:
    logits, labels = drawn()
    labels[labels == 3] = 2
    kept = judged(logits, labels)
    assert kept["accuracy"] == (logits.argmax(1) == labels).mean()
    assert kept["accuracy_per_class"][3] is None
    assert kept["accuracy_per_class"][2] == (logits.argmax(1) == labels)[labels == 2].mean()
    assert kept["calibration_error"] == calibration(logits, labels).expected
    assert kept["negative_log_likelihood"] == negative_log_likelihood(logits, labels)
    np.testing.assert_array_equal(kept["confusion"], confusion(logits, labels))
    result = replace(BASE, **kept)
    assert Result.from_json(result.to_json()) == result
    assert len(result.to_json()) < len(BASE.to_json()) + 700


def test_of_many_classes_there_is_no_confusion_matrix() -> None:
    logits, labels = drawn(n_classes=MOST_IN_CONFUSION + 1)
    assert judged(logits, labels)["confusion"] is None
    assert len(judged(logits, labels)["accuracy_per_class"]) == 101
    logits, labels = drawn(n_classes=MOST_IN_CONFUSION)
    assert judged(logits, labels)["confusion"] is not None


def test_logits_that_are_not_finite_are_no_result() -> None:
    with pytest.raises(ResultError, match="failed run"):
        judged(np.full((1, 3), np.nan), np.array([0]))


def test_results_of_before_read_and_are_written_as_they_were() -> None:
    files = sorted(RESULTS.glob("decoupled-*.jsonl"))
    assert files
    for path in files:
        assert read_results(path)
    line = BASE.to_json()
    assert "confusion" not in json.loads(line)
    assert Result.from_json(line) == BASE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy_per_class": [0.5, 1.5]}, "accuracy_per_class"),
        ({"accuracy_per_class": 0.5}, "accuracy_per_class is 0.5, expected list"),
        ({"accuracy_per_class": ["x"]}, "accuracy_per_class"),
        ({"calibration_error": -0.1}, "calibration_error is -0.1"),
        ({"calibration_error": "low"}, "calibration_error is 'low', expected float"),
        ({"negative_log_likelihood": -1.0}, "negative_log_likelihood is -1.0"),
        ({"confusion": [[1, 2], [3]]}, "confusion"),
        ({"confusion": [[1.5]]}, "confusion"),
        ({"confusion": [[-1]]}, "confusion"),
        ({"confusion": 3}, "confusion is 3, expected list"),
        ({"confusion": [3]}, "confusion"),
    ],
)
def test_measurements_that_cannot_be_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ResultError, match=words):
        Result.from_json(json.dumps({**json.loads(BASE.to_json()), **change}))
