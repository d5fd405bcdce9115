"""Using sets: train a network on one, evaluate several beside real images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condense.config import from_mapping, to_mapping
from condense.data import Data
from condense.dataset import DistilledDataset, load
from condense.engine.events import costs
from condense.engine.job import Job
from condense.engine.perform import Outcome
from condense.errors import ConfigError, TeacherError, suggest
from condense.evaluation.results import Result, append_result, read_results
from condense.evaluation.student import StudentRecipe, check_same_data
from condense.files import disk_errors
from condense.labels.relabel import LabelConfig
from condense.methods import METHODS
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.plans import common_of, run_all, set_jobs, student_job
from condense.pipeline.request import Request, request_of
from condense.pipeline.teachers import build_for, given_teachers, stored_teachers
from condense.shards import sets_in
from condense.teachers.recipe import TeacherRecipe

__all__ = ["AGAINST", "TrainOutcome", "evaluate", "train"]

AGAINST = ("random", "whole")
"""What sets can be compared with: random real images given labels by the same code, and all training images."""


@dataclass(frozen=True)
class TrainOutcome:
    """Where the weights are, and the accuracy on the test images if a data set was at hand."""

    path: Path
    accuracy: float | None


def train(
    path: Path,
    context: Context,
    *,
    recipe: StudentRecipe,
    out: Path,
    seed: int = 0,
    data: DataRequest | None = None,
    teachers: Sequence[Path] = (),
) -> TrainOutcome:
    """Train one network on a set and write its weights to ``out`` (safetensors, with its name and spec).

    teachers: for a set that stores no soft labels, where the store does not have those that it names.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f'--out is "{out}"; expected a name that ends in .safetensors')
    dataset = load(path)
    build_for(dataset.spec, recipe.network)
    if data is not None:
        data = request_of(dataset.info, data)
        check_same_data(dataset.spec, context.data(data).spec)
    asked: tuple[Job, ...] = ()
    if recipe.targets == "soft" and dataset.asks_teachers:
        asked = given_teachers(dataset.spec, teachers) if teachers else stored_teachers(dataset.info, context)
    job = student_job(path, recipe, seed, 0, context, data, weights=True, teachers=asked)
    made = run_all(lambda: [job], context)[0]
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / "model.safetensors", out)
    return TrainOutcome(out, read_result(made).accuracy if data is not None else None)


@dataclass(frozen=True)
class _Given:
    """A set to be evaluated."""

    path: Path
    dataset: DistilledDataset
    index: int

    @property
    def method(self) -> str:
        return str(self.dataset.info.method["name"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its method."""
        return dict(self.dataset.info.config.get("settings", {}))

    @property
    def ipc(self) -> int:
        return len(self.dataset) // len(self.dataset.classes)

    @property
    def labels(self) -> LabelConfig:
        """How the set was labelled."""
        return self.dataset.label_config


def evaluate(
    paths: Sequence[Path],
    context: Context,
    *,
    students: Sequence[str],
    seeds: int | None = None,
    targets: Sequence[str] | None = None,
    against: Sequence[str] = ("random",),
    data: DataRequest | None = None,
    teachers: Sequence[Path] = (),
    student: StudentRecipe | None = None,
    results: Path | None = None,
    quick: bool = False,
    only_against: bool = False,
) -> list[Result]:
    """Train fresh networks on each set and test them at their last step.

    paths: folders of sets, or folders holding ``set-0``, ``set-1``, ... of one method.
    students: networks; each is trained ``seeds`` times per set and kind of targets, with the same initial weights for
        every set of the same index, so that conditions are compared in pairs.
    targets: "soft", "hard"; by default both, or hard alone if a set has no soft labels.
    against: "random" makes as many sets of random real images and labels them with the same teachers and the same
        plan; "whole" takes the same number of the same steps on all training images.
    data: the test images; by default what the sets say they were made of.
    teachers: needed for ``against`` when the store does not have those that labelled the sets.
    results: JSON lines to append to; a run that is there already is not added again.
    seeds: 3 by default, 1 if ``quick``, which also cuts the epochs to 2 where ``student`` does not say.
    only_against: measure what the sets are compared with, and not the sets.
    """
    seeds = seeds if seeds is not None else 1 if quick else 3
    given = opened_sets(paths)
    if targets is None:
        targets = ("hard",) if any(one.dataset.only_hard for one in given) else ("soft", "hard")
    check_choices(targets, against, seeds)
    template = student or StudentRecipe()
    if quick and template.epochs is None:
        template = replace(template, epochs=2)
    request = request_of(given[0].dataset.info, data)
    opened = context.data(request)
    for one in given:
        check_same_data(one.dataset.spec, opened.spec)
    for name in students:
        build_for(given[0].dataset.spec, name)
    names = condition_names(given)
    conditions = [] if only_against else [(names[one.path], one) for one in given]
    asking = "soft" in targets and any(one.dataset.asks_teachers for one in given)
    makers = teachers_for(given[0], opened, context, teachers) if against or asking else ()
    if "random" in against:
        conditions += [("random", one) for one in random_sets(given, request, opened, context, makers)]
    recipes = [
        replace(template, network=name, targets=from_mapping(StudentRecipe, {"targets": kind}).targets)
        for name in students
        for kind in targets
    ]

    def asked_by(one: _Given, recipe: StudentRecipe) -> tuple[Job, ...]:
        return makers if recipe.targets == "soft" and one.dataset.asks_teachers else ()

    jobs = [
        (condition, student_job(one.path, recipe, seed, one.index, context, request, teachers=asked_by(one, recipe)))
        for recipe in recipes
        for condition, one in conditions
        for seed in range(seeds)
    ]
    if "whole" in against:
        first = {one.index: one for one in reversed(given)}
        jobs += [
            ("whole data", real_job(one, recipe, seed, context, request, makers))
            for recipe in recipes
            for one in first.values()
            for seed in range(seeds)
        ]
    return measure_all(jobs, context, results)


def check_choices(targets: Sequence[str], against: Sequence[str], seeds: int) -> None:
    """Raises :class:`ConfigError` for what cannot be evaluated."""
    for what, values, known in (("--targets", targets, ("soft", "hard")), ("--against", against, AGAINST)):
        for value in values:
            if value not in known:
                raise ConfigError(f'{what} is "{value}"; {suggest(value, known)}')
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")


def opened_sets(paths: Sequence[Path]) -> list[_Given]:
    """Every set that the paths name, opened and checked."""
    found: list[_Given] = []
    for path in paths:
        for folder in sets_in(path):
            dataset = load(folder)
            found.append(_Given(folder, dataset, int(dataset.info.seeds.get("set", len(found)))))
    return found


def condition_names(given: Sequence[_Given]) -> dict[Path, str]:
    """The method's name, with the settings in which sets of one method differ; of an imported set its own."""
    names = {}
    for one in given:
        if one.method == "imported":
            names[one.path] = one.dataset.info.name
            continue
        own = one.settings
        settings = [other.settings for other in given if other.method == one.method]
        differing = sorted(key for key in own if any(other.get(key) != own[key] for other in settings))
        words = ", ".join(f"{key} {own[key]}" for key in differing)
        names[one.path] = f"{one.method} ({words})" if words else one.method
    return names


def teachers_for(one: _Given, data: Data, context: Context, folders: Sequence[Path]) -> tuple[Job, ...]:
    """The teachers that labelled a set, so that real images are labelled by the same."""
    if not folders and not one.dataset.info.teachers:
        if not one.dataset.codec.online:
            raise TeacherError(
                f"{one.path} does not say who labelled it; give teachers with --teacher, or no --against"
            )
        return ()
    if not folders:
        return stored_teachers(one.dataset.info, context)
    jobs = given_teachers(data.spec, folders)
    wanted = [teacher["sha256"] for teacher in one.dataset.info.teachers]
    if wanted and [job.config["sha256"] for job in jobs] != wanted:
        raise TeacherError(f"{one.path} was labelled by other teachers than those of --teacher; give the same ones")
    return jobs


def random_sets(
    given: Sequence[_Given], request: DataRequest, data: Data, context: Context, teachers: tuple[Job, ...]
) -> list[_Given]:
    """One set of random real images for each set index and size, labelled like the given ones."""
    method = METHODS["random"](METHODS["random"].Config())
    wanted = {
        (one.ipc, one.index, one.dataset.info.seeds.get("root", 0)): one for one in given if one.method != "random"
    }
    jobs = []
    for (ipc, index, root), one in wanted.items():
        method.check(data.spec, ipc)
        like = Request(
            data=request, method=method, ipc=ipc, sets=1, seed=int(root), teacher=TeacherRecipe(), labels=one.labels
        )
        jobs += set_jobs(like, data.spec, context, teachers, name="random", indices=[index])
    return [
        _Given(folder, load(folder), index)
        for folder, (_, index, _) in zip(run_all(lambda: jobs, context), wanted, strict=True)
    ]


def real_job(
    like: _Given, recipe: StudentRecipe, seed: int, context: Context, request: DataRequest, teachers: tuple[Job, ...]
) -> Job:
    """A student of all training images, in as many steps as a student of ``like``."""
    common = common_of(request, context.data(request))
    steps = {"views": like.dataset.views.to_dict(), "items": len(like.dataset), "epochs": like.dataset.epochs}
    config = {
        "recipe": to_mapping(recipe),
        "seed": seed,
        "set_index": like.index,
        "like": {**steps, "seed": like.labels.seed},
        "teacher_bn": like.labels.teacher_bn,
        "compute": context.compute.identity(),
    }
    return Job(
        "student-on-real",
        config,
        sources=common["sources"],
        inputs=teachers if recipe.targets == "soft" else (),
        where={**common["where"], "set": str(like.path)},
        title=f"student {recipe.network} on all data, set {like.index}, seed {seed}, {recipe.targets} targets",
    )


def measure_all(jobs: Sequence[tuple[str, Job]], context: Context, path: Path | None) -> list[Result]:
    """Run students and collect their results, appending to ``path`` those that are not there, as they come in."""
    known = {result.key for result in read_results(path)} if path is not None and path.exists() else set()
    conditions: dict[str, list[str]] = {}
    for condition, job in jobs:
        conditions.setdefault(job.id, []).append(condition)
    collected: dict[tuple[str, str], Result] = {}
    earlier: dict[str, dict[str, float]] = {}

    def take(job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            cost = {"seconds": outcome.seconds, "peak_memory_bytes": outcome.peak_memory}
        else:
            if job.id not in earlier:
                earlier.update(costs(context.store.root / "runs"))
            cost = earlier.setdefault(job.id, {})
        for condition in conditions[job.id]:
            result = replace(read_result(context.store.path(job.id), cost), condition=condition)
            collected[job.id, condition] = result
            if path is not None and outcome is None and path.exists():  # another slice may have added it meanwhile
                known.update(one.key for one in read_results(path))
            if path is not None and result.key not in known:
                append_result(path, result)
                known.add(result.key)

    run_all(lambda: [job for _, job in jobs], context, shared=True, finished=take)
    return [collected[job.id, condition] for condition, job in jobs]


def read_result(folder: Path, cost: Mapping[str, float] | None = None) -> Result:
    """The result that a student's job wrote, with what the job has cost, as far as that is known."""
    cost = cost or {}
    return replace(
        Result.from_json((folder / "result.json").read_text()),
        seconds=cost.get("seconds", 0.0),
        peak_memory=int(cost.get("peak_memory_bytes", 0)),
    )
