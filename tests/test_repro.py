"""A stored evaluation, run again: it agrees, or it is said where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from condense.data import Data
from condense.device import Compute
from condense.engine.store import Store
from condense.errors import ConfigError, DataError
from condense.evaluation.student import StudentRecipe
from condense.pipeline import Context, DataRequest, distill, evaluate, repro, resolve, write_recipe
from condense.training import OptimConfig

REQUEST = DataRequest(name="tiny")
DISTILL = {"data": "tiny", "method": "random", "ipc": 2, "labels": {"epochs": 2, "codec": "none"}}
TEACHER = {"network": "convnet2-w8-bn", "epochs": 1, "min_steps": 5, "batch_size": 16}
STUDENT = {"optim": {"optimizer": "sgd", "lr": 0.05}, "epochs": 3}


def context_of(store: Path, data: Data) -> Context:
    return Context(store=Store(store), compute=Compute(), opened={REQUEST: data})


@pytest.fixture
def recipe(tmp_path: Path, tiny_data: Data) -> Path:
    """An evaluation of one set beside one of random images, and its recipe."""
    context = context_of(tmp_path / "store", tiny_data)
    [folder] = distill(resolve({**DISTILL, "teacher": TEACHER}), context, out=tmp_path / "sets" / "ours")
    arguments: dict[str, Any] = {"students": ["convnet2-w8-bn"], "seeds": 2, "targets": ["hard"], "against": []}
    settings = StudentRecipe(optim=OptimConfig(optimizer="sgd", lr=0.05), epochs=3)
    found = evaluate([folder], context, data=REQUEST, student=settings, **arguments)
    path = tmp_path / "recipes" / "ours.yaml"
    write_recipe(path, [folder], {**arguments, "student": STUDENT}, REQUEST, [], found)
    return path


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    held = yaml.safe_load(path.read_text())
    edit(held)
    path.write_text(yaml.safe_dump(held))


def test_the_same_machine_gives_the_same(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    [row] = repro(recipe, context_of(tmp_path / "other store", tiny_data))
    assert (row.exact, row.agrees, row.runs, row.worst) == (True, True, 2, 0.0)
    assert row.measured == row.stored
    assert row.title == "random, tiny, IPC 2, convnet2-w8-bn, hard"


def test_nothing_is_taken_from_the_store(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    for stored in (tmp_path / "store").rglob("result.json"):
        stored.write_text(stored.read_text().replace('"accuracy":', '"accuracy":0.5,"was":'))
    [row] = repro(recipe, context_of(tmp_path / "store", tiny_data))
    assert row.agrees
    assert list((tmp_path / "store-repro").iterdir()) == []


def test_what_differs_is_said(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    def by(points: float) -> Callable[[dict[str, Any]], None]:
        def edit(held: dict[str, Any]) -> None:
            for one in held["expected"]:
                one["accuracy"] += points

        return edit

    context = context_of(tmp_path / "store", tiny_data)
    change(recipe, by(0.001))
    assert not repro(recipe, context)[0].agrees
    change(recipe, lambda held: held["versions"].update(torch="1.0"))
    near = repro(recipe, context)[0]
    assert (near.exact, near.agrees) == (False, True)
    change(recipe, by(0.03))
    assert not repro(recipe, context)[0].agrees


def test_a_run_that_is_missing_does_not_agree(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    change(recipe, lambda held: held["expected"].append({**held["expected"][0], "seed": 7}))
    [row] = repro(recipe, context_of(tmp_path / "store", tiny_data))
    assert (row.measured, row.agrees) == (None, False)


def test_a_recipe_may_make_its_sets(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    def edit(held: dict[str, Any]) -> None:
        del held["sets"]
        held["distill"] = {**DISTILL, "teacher": TEACHER}

    change(recipe, edit)
    [row] = repro(recipe, context_of(tmp_path / "other store", tiny_data))
    assert row.agrees
    assert (recipe.parent / "ours-sets" / "set.json").exists()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda held: held.pop("expected"), "is no recipe of an evaluation: it has no expected"),
        (lambda held: held.pop("sets"), "it has no sets, and no distill"),
        (lambda held: held["evaluate"].update(student_s=1), 'evaluate has the unknown "student_s"'),
        (lambda held: held["expected"][0].pop("seed"), "expected holds no list of results"),
        (lambda held: held.update(expected=[]), "expected holds no list of results"),
        (lambda held: held["evaluate"].update(student={"epoch": 3}), 'no setting "student.epoch"'),
    ],
)
def test_what_is_no_recipe_is_refused(
    recipe: Path, tmp_path: Path, tiny_data: Data, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    change(recipe, edit)
    with pytest.raises(ConfigError, match=words):
        repro(recipe, context_of(tmp_path / "store", tiny_data))


def test_other_sets_than_the_recipes_are_refused(recipe: Path, tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    change(recipe, lambda held: held["sets"][0].update(sha256="0" * 64))
    with pytest.raises(DataError, match="is another set than the one of"):
        repro(recipe, context)
    change(recipe, lambda held: held["sets"][0].update(path="../nowhere"))
    with pytest.raises(DataError, match="is no set, but"):
        repro(recipe, context)
