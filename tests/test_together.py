"""Several networks trained at once end where each would by itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from condense.data import Data
from condense.device import Compute
from condense.engine.store import Store
from condense.errors import ConfigError
from condense.evaluation.objective import Schedule
from condense.evaluation.results import Failure
from condense.evaluation.student import StudentRecipe
from condense.networks import build
from condense.pipeline import Context, DataRequest, distill, evaluate, resolve
from condense.training import Batch, Diverged, OptimConfig, TrainRecord, fit, fit_together

CPU = Compute()
REQUEST = DataRequest(name="tiny")
STEPS: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 3, "compute": CPU}
SGD = OptimConfig(lr=0.05, weight_decay=0.01)


def batches(dtype: torch.dtype = torch.float32, groups: tuple[int, ...] = ()) -> Any:
    def made(epoch: int, first_step: int) -> Iterator[Batch]:
        for step in range(first_step, 3):
            draws = torch.Generator().manual_seed(100 * epoch + step)
            images = torch.randn(8, 3, 12, 12, generator=draws, dtype=torch.float64).to(dtype)
            yield Batch(images, torch.randint(4, (8,), generator=draws), groups)

    return made


def fresh(name: str, count: int = 3, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    return [build(name, channels=3, height=12, width=12, n_classes=4, seed=seed).to(dtype) for seed in range(count)]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def names(count: int) -> list[str]:
    return [f"student {number}" for number in range(count)]


def test_taking_turns_changes_no_bit() -> None:
    together, alone = fresh("vit", 2), fresh("vit", 2)
    records = fit_together(together, batches(), cross_entropy, SGD, names=names(2), **STEPS)
    for mine, other, record in zip(together, alone, records, strict=True):
        single = fit(other, batches(), cross_entropy, SGD, **STEPS)
        assert isinstance(record, TrainRecord)
        assert record.losses == single.losses
        for name, value in weights(other).items():
            assert torch.equal(weights(mine)[name], value)


def test_the_weights_of_each_are_averaged() -> None:
    optim = replace(SGD, averaged=0.9)
    together, alone = fresh("resnet8", 2), fresh("resnet8", 2)
    fit_together(together, batches(), cross_entropy, optim, names=names(2), **STEPS)
    for mine, other in zip(together, alone, strict=True):
        fit(other, batches(), cross_entropy, optim, **STEPS)
        for key, value in weights(other).items():
            assert torch.equal(weights(mine)[key], value)


def test_one_that_diverges_does_not_take_the_others_along() -> None:
    networks = fresh("convnet2-w8-bn")
    with torch.no_grad():
        list(networks[1].parameters())[-1].fill_(float("nan"))
    alone = copy.deepcopy(networks[2])
    records = fit_together(networks, batches(), cross_entropy, SGD, names=names(3), **STEPS)
    assert [type(record) for record in records] == [TrainRecord, Diverged, TrainRecord]
    assert "student 1 diverged: the loss of step 1 of 6" in str(records[1])
    fit(alone, batches(), cross_entropy, SGD, **STEPS)
    for key, value in weights(alone).items():
        assert torch.equal(weights(networks[2])[key], value)


class Held:
    """A checkpoint in memory that keeps the state of one step."""

    def __init__(self, at: int) -> None:
        self.at, self.asked, self.state = at, 0, None

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.at

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}

    def load(self) -> dict[str, Tensor] | None:
        return self.state


def test_a_resumed_training_ends_with_the_same_bits() -> None:
    common: dict[str, Any] = {"names": names(2), **STEPS}
    whole, again = fresh("resnet8", 2), fresh("resnet8", 2)
    held = Held(at=4)
    fit_together(whole, batches(), cross_entropy, SGD, checkpoint=held, **common)
    assert held.state is not None
    records = fit_together(again, batches(), cross_entropy, SGD, checkpoint=held, **common)
    assert all(isinstance(record, TrainRecord) and record.steps == 6 for record in records)
    for mine, other in zip(whole, again, strict=True):
        for key, value in weights(mine).items():
            assert torch.equal(weights(other)[key], value)


# Evaluations


@pytest.fixture
def context(tmp_path: Path, tiny_data: Data) -> Context:
    return Context(store=Store(tmp_path / "store"), compute=Compute(), opened={REQUEST: tiny_data})


def evaluated(context: Context, folder: Path, **changes: Any) -> Any:
    student = StudentRecipe(optim=OptimConfig(optimizer="sgd", lr=0.05), epochs=2)
    values = {"students": ["convnet2-w8-bn"], "seeds": 3, "targets": ["soft"], "against": [], "data": REQUEST}
    return evaluate([folder], context, **{**values, "student": student, **changes})


def test_students_of_one_job_are_those_of_several(context: Context, tmp_path: Path) -> None:
    teacher = {"network": "convnet2-w8-bn", "epochs": 1, "min_steps": 5, "batch_size": 16}
    recipe = {"data": "tiny", "method": "random", "ipc": 2, "teacher": teacher}
    [folder] = distill(resolve({**recipe, "labels": {"epochs": 2, "codec": "none"}}), context, out=tmp_path / "set")
    alone, two, usual = (evaluated(context, folder, together=number) for number in (1, 2, None))
    assert [one.seed for one in two] == [0, 1, 2]
    for found in (two, usual):
        assert [replace(one, seconds=0, peak_memory=0) for one in found] == [
            replace(one, seconds=0, peak_memory=0) for one in alone
        ]
    wild = evaluated(context, folder, together=3, student=StudentRecipe(optim=OptimConfig(lr=1e30), epochs=2))
    assert (len(wild), len(wild.failures)) == (0, 3)
    assert all(isinstance(one, Failure) and "diverged" in one.reason for one in wild.failures)
    assert [one.seed for one in wild.failures] == [0, 1, 2]
    calibrated = StudentRecipe(optim=OptimConfig(optimizer="sgd", lr=0.05), epochs=2, schedule=Schedule(calibrate=True))
    assert len(evaluated(context, folder, together=3, student=calibrated)) == 3
    with pytest.raises(ConfigError, match="together must be at least 1"):
        evaluated(context, folder, together=0)
