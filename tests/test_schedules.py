"""Which targets, at which temperature, in which epoch; and that runs with schedules can be interrupted."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import CPU, LABELS, RECIPE, SPEC, data, split, teacher, write

from condense.checkpoint import FileCheckpoint, Paused
from condense.data.spec import Data
from condense.dataset import DistilledDataset
from condense.errors import ConfigError
from condense.evaluation import Schedule, StudentRecipe, soft_loss, train_on_real, train_student
from condense.evaluation.objective import calibrated, match_loss, smoothed_entropy
from condense.evaluation.student import Guide
from condense.teachers import Teacher
from condense.training import Batch, OptimConfig

__all__ = ["data", "teacher"]

HALD = Schedule(hard_epochs=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> DistilledDataset:
    return write(tmp_path_factory.mktemp("sets") / "tiny", [teacher])


def test_hard_epochs_lie_in_the_middle() -> None:
    assert [HALD.soft_epoch(epoch, 8) for epoch in range(8)] == [0, 1, None, None, None, 2, 3, 4]
    assert [HALD.hard_epoch(epoch, 8) for epoch in (2, 3, 4)] == [0, 1, 2]
    assert [HALD.soft_epoch(epoch, 2) for epoch in range(2)] == [None, None]
    assert [Schedule().soft_epoch(epoch, 3) for epoch in range(3)] == [0, 1, 2]


def test_temperatures_fall_as_published() -> None:
    """20, 14, 9.8, 6.9, 4.8, 3.4, 2.4, 2, 2, 2 over 300 epochs, 30 each."""
    step = Schedule(decay="step")
    found = [step.temperature(20, epoch, 300) for epoch in range(0, 300, 30)]
    assert [round(value, 1) for value in found] == [20, 14, 9.8, 6.9, 4.8, 3.4, 2.4, 2, 2, 2]
    assert step.temperature(20, 29, 300) == 20
    cosine = [Schedule(decay="cosine").temperature(20, epoch, 100) for epoch in range(100)]
    assert (cosine[0], cosine[50]) == (20, 11)
    assert all(2 < later < earlier for earlier, later in pairwise(cosine))
    assert Schedule().temperature(20, 299, 300) == 20
    assert step.temperature(1.5, 200, 300) == 1.5  # already below the end


@pytest.mark.parametrize("true", [0.05, 0.5, 1.0, 3.0, 40.0])
def test_calibration_finds_the_temperature(true: float) -> None:
    logits = 5 * torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(calibrated(logits, (logits / true).softmax(1))) == pytest.approx(true, rel=1e-3)


def test_calibration_is_the_best_of_a_grid() -> None:
    draws = torch.Generator().manual_seed(1)
    logits, targets = (torch.randn(64, 10, generator=draws, dtype=torch.float64) for _ in range(2))
    targets = 0.5 * targets + logits

    def loss(temperature: float) -> float:
        return float(soft_loss(logits, targets, temperature=4.0, student_temperature=temperature))

    found = float(calibrated(logits, (targets / 4).softmax(1)))
    assert loss(found) <= min(loss(value) for value in np.geomspace(0.01, 100, 400)) + 1e-9
    assert float(calibrated(logits, torch.eye(10, dtype=torch.float64)[logits.argmax(1)])) == pytest.approx(0.01, 0.01)


def test_the_match_loss_is_what_the_card_says() -> None:
    """Plain form, image by image: cross-entropy to smoothed mixed classes, and the distances to those in the view."""
    draws = torch.Generator().manual_seed(2)
    logits, labels = (3 * torch.randn(3, 4, generator=draws, dtype=torch.float64) for _ in range(2))
    classes = torch.tensor([[0.3, 0.7, 0, 0], [0, 0, 1, 0], [0, 0.5, 0, 0.5]], dtype=torch.float64)
    expected = 0.0
    for z, label, mixed in zip(logits, labels, classes, strict=True):
        student, said = z - z.logsumexp(0), label - label.logsumexp(0)
        for one in range(4):
            expected -= float((0.9 * mixed[one] + 0.1 / 4) * student[one]) / 3
            if mixed[one] > 0:
                expected += 2 * abs(float(student[one] - said[one])) / 3
    found = match_loss(logits, torch.cat([labels, classes], 1), weight=2.0, smoothing=0.1)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_smoothing_spreads_over_all_classes() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    classes = torch.eye(4)[torch.tensor([0, 1, 2, 3, 0])]
    expected = torch.nn.functional.cross_entropy(logits, classes.argmax(1), label_smoothing=0.8)
    assert float(smoothed_entropy(logits, classes, smoothing=0.8)) == pytest.approx(float(expected), rel=1e-6)


def targets_of(recipe: StudentRecipe, epochs: int) -> list[str]:
    """The kind of each epoch's batches."""
    zero = torch.zeros(1, 3)
    soft = lambda epoch, first: iter([Batch(zero, zero)])  # noqa: E731
    hard = lambda epoch, first: iter([Batch(zero, zero + 1)])  # noqa: E731
    batches = Guide(recipe, epochs, torch.device("cpu")).over(soft, hard)
    return ["hard" if float(next(iter(batches(epoch, 0))).targets.sum()) else "soft" for epoch in range(epochs)]


def test_a_guide_takes_hard_batches_in_hard_epochs() -> None:
    assert targets_of(replace(RECIPE, schedule=HALD), 6) == ["soft", "hard", "hard", "hard", "soft", "soft"]
    assert targets_of(RECIPE, 3) == ["soft"] * 3


def test_hard_epochs_see_new_views_and_soft_ones_the_labelled_views(
    dataset: DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        DistilledDataset, "epoch", lambda self, epoch, first=0, real=DistilledDataset.epoch, **given: (
            seen.append(f"soft {epoch}"), real(self, epoch, first, **given))[1],
    )  # fmt: skip
    monkeypatch.setattr(
        DistilledDataset, "fresh_epoch", lambda self, epoch, first=0, real=DistilledDataset.fresh_epoch: (
            seen.append(f"hard {epoch}"), real(self, epoch, first))[1],
    )  # fmt: skip
    _, record = train_student(dataset, replace(RECIPE, epochs=None, schedule=HALD), seed=0, compute=CPU)
    assert seen == ["soft 0", "hard 0", "hard 1", "hard 2", "soft 1", "soft 2"]
    assert record.steps == 6 * 2


def test_fresh_epochs_are_those_after_the_labelled_ones(dataset: DistilledDataset) -> None:
    labelled = [batch.images for epoch in range(LABELS.epochs) for batch in dataset.epoch(epoch)]
    fresh = [batch for epoch in range(3) for batch in dataset.fresh_epoch(epoch)]
    assert all(batch.logits is None for batch in fresh)
    assert not any(
        torch.equal(batch.images, one) for batch in fresh for one in labelled if batch.images.shape == one.shape
    )
    (last,) = list(dataset.fresh_epoch(1))[1:]
    (again,) = dataset.fresh_epoch(1, 1)
    assert torch.equal(last.images, again.images)


SCHEDULES = {
    "decay": Schedule(decay="step"),
    "calibrate": Schedule(decay="cosine", calibrate=True),
    "hard": Schedule(hard_epochs=5, calibrate=True),
    "match": Schedule(objective="match"),
}


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_interrupted_student_ends_with_the_same_bytes(tmp_path: Path, dataset: DistilledDataset, name: str) -> None:
    recipe = replace(RECIPE, epochs=8, schedule=SCHEDULES[name])
    whole, record = train_student(dataset, recipe, seed=0, compute=CPU)
    count = [0]

    def stopping() -> bool:
        count[0] += 1
        return count[0] % 5 == 0

    for _ in range(20):
        checkpoint = FileCheckpoint(tmp_path / "state", 1e9, stopping)
        try:
            resumed, again = train_student(dataset, recipe, seed=0, compute=CPU, checkpoint=checkpoint)
            break
        except Paused:
            continue
    assert count[0] > 5
    assert torch.equal(weights(whole), weights(resumed))
    assert again.losses == record.losses


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_learn_on_a_set_and_on_all_data(
    dataset: DistilledDataset, data: Data, teacher: Teacher, name: str
) -> None:
    recipe = replace(RECIPE, epochs=20, schedule=SCHEDULES[name], optim=OptimConfig(lr=0.01))
    _, on_set = train_student(dataset, recipe, seed=0, compute=CPU)
    _, on_real = train_on_real(data, dataset, recipe, teachers=[teacher], seed=0, compute=CPU)
    for record in (on_set, on_real):
        assert record.steps == 40
        assert math.isfinite(record.losses[-1])
        if name == "match":
            assert np.mean(record.losses[-5:]) < np.mean(record.losses[:5])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "mse"}, "objective is"),
        ({"decay": "linear"}, "decay is"),
        ({"match_weight": -1}, "match_weight must be"),
        ({"temperature_end": 0}, "temperature_end must be"),
        ({"hard_epochs": -1}, "hard_epochs must be"),
        ({"smoothing": 1.5}, "smoothing must be"),
        ({"objective": "match", "calibrate": True}, "has no temperature"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Schedule(**settings)


def test_hard_targets_have_no_schedule() -> None:
    with pytest.raises(ConfigError, match="schedule is for soft targets"):
        StudentRecipe(targets="hard", schedule=HALD)


def test_the_fixtures_are_those_of_the_evaluation() -> None:
    assert split(15, 5).images.shape == (15, *SPEC.image_shape)
    assert isinstance(RECIPE.optim, OptimConfig)
