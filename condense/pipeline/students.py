"""Using sets: train a network on one, evaluate several beside real images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from condense.config import from_mapping
from condense.data import Data
from condense.dataset import load
from condense.engine.job import Job
from condense.errors import ConfigError, suggest
from condense.evaluation.results import Evaluation, RateSearch, Result
from condense.evaluation.student import StudentRecipe, check_same_data
from condense.evaluation.tracks import USUAL_NETWORK, Track, find_track
from condense.files import disk_errors
from condense.pipeline.baselines import WHOLE, check_against, chosen_sets, need_teachers, real_job
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.given import Given, condition_names, label_words, opened_sets, teachers_for
from condense.pipeline.plans import run_all, student_job, students_jobs
from condense.pipeline.request import request_of
from condense.pipeline.results import Student, measure_all, read_outcome
from condense.pipeline.teachers import build_for, given_teachers, stored_teachers
from condense.pipeline.tracks import OnTrack, rate_search
from condense.training import Diverged

__all__ = ["TrainOutcome", "evaluate", "train"]

QUICK_EPOCHS = 2


@dataclass(frozen=True)
class TrainOutcome:
    """Where the weights are, the accuracy on the test images if a data set was at hand, and whether the training was
    cut to a budget of seconds."""

    path: Path
    accuracy: float | None
    quick: bool = False


def train(
    path: Path,
    context: Context,
    *,
    recipe: StudentRecipe,
    out: Path,
    seed: int = 0,
    data: DataRequest | None = None,
    teachers: Sequence[Path] = (),
    quick: bool = False,
) -> TrainOutcome:
    """Train one network on a set and write its weights to ``out`` (safetensors, with its name and spec).

    quick: cuts the epochs to 2 where ``recipe`` does not say; the file says so.
    teachers: for a set that stores no soft labels, where the store does not have those that it names.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f'--out is "{out}"; expected a name that ends in .safetensors')
    recipe, hurried = in_a_hurry(recipe, quick)
    dataset = load(path)
    build_for(dataset.spec, recipe.network)
    if data is not None:
        data = request_of(dataset.info, data)
        check_same_data(dataset.spec, context.data(data).spec)
    asked: tuple[Job, ...] = ()
    if recipe.targets == "soft" and dataset.asks_teachers:
        asked = given_teachers(dataset.spec, teachers) if teachers else stored_teachers(dataset.info, context)
    job = student_job(path, recipe, seed, 0, context, data, weights=True, teachers=asked, quick=hurried)
    made = run_all(lambda: [job], context)[0]
    if (made / "failed.json").exists():
        raise Diverged(str(read_outcome(made)))
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / "model.safetensors", out)
    found = read_outcome(made) if data is not None else None
    return TrainOutcome(out, found.accuracy if isinstance(found, Result) else None, hurried)


def in_a_hurry(recipe: StudentRecipe, quick: bool) -> tuple[StudentRecipe, bool]:
    """The recipe within a budget of seconds, if that is wanted and it does not say otherwise; whether it was cut."""
    if not quick or recipe.epochs is not None:
        return recipe, False
    return replace(recipe, epochs=QUICK_EPOCHS), True


def evaluate(
    paths: Sequence[Path],
    context: Context,
    *,
    students: Sequence[str] = (),
    seeds: int | None = None,
    targets: Sequence[str] | None = None,
    tracks: Sequence[str] = (),
    against: Sequence[str] = ("random",),
    data: DataRequest | None = None,
    teachers: Sequence[Path] = (),
    student: StudentRecipe | None = None,
    results: Path | None = None,
    together: int | None = None,
    quick: bool = False,
    only_against: bool = False,
) -> Evaluation:
    """Train fresh networks on each set and test them at their last step.

    paths: folders of sets, or folders holding ``set-0``, ``set-1``, ... of one method.
    students: networks, by default convnet3-bn, or the one of the track; each is trained ``seeds`` times per set and
        kind of targets, with the same initial weights for every set of the same index, so that conditions are compared
        in pairs.
    targets: "soft", "hard"; by default both, or hard alone if a set has no soft labels.
    tracks: recipes of :mod:`condense.evaluation.tracks`, which say all that ``targets`` and ``student`` would: every
        set is labelled anew, by the same teachers.
    against: methods that choose real images, as many of them, labelled with the same teachers and the same plan;
        "whole" takes the same number of the same steps on all training images.
    data: the test images; by default what the sets say they were made of.
    teachers: needed for ``against`` when the store does not have those that labelled the sets.
    results: JSON lines to append to; a run that is there already is not added again.
    together: how many students of a set are trained as one job; by default several where teachers are asked about every
        view, which then happens once for all, and on a GPU. Results agree within rounding, on a CPU to the bit.
    seeds: 3 by default, 1 if ``quick``, which also cuts the epochs to 2 where ``student`` does not say, and tracks to
        a few steps without a search of learning rates.
    only_against: measure what the sets are compared with, and not the sets.
    """
    seeds = seeds if seeds is not None else 1 if quick else 3
    for what, value in (("seeds", seeds), ("together", together)):
        if value is not None and value < 1:
            raise ConfigError(f"{what} must be at least 1, got {value}")
    if tracks and (targets is not None or student not in (None, StudentRecipe())):
        raise ConfigError("a track says how students are trained; leave out --targets and settings of the student")
    check_against(against)
    template, hurried = in_a_hurry(student or StudentRecipe(), quick)
    given = opened_sets(paths)
    request = request_of(given[0].dataset.info, data)
    opened = context.data(request)
    for one in given:
        check_same_data(one.dataset.spec, opened.spec)
    for name in students:
        build_for(given[0].dataset.spec, name)
    asked = _Asked(
        given=given,
        names=condition_names(given),
        students=students,
        seeds=seeds,
        against=against,
        request=request,
        data=opened,
        teachers=teachers,
        together=together,
        quick=quick,
        only_against=only_against,
        context=context,
    )
    if tracks:
        found = [find_track(name, opened.spec) for name in tracks]
        for track in found if not students else ():
            build_for(given[0].dataset.spec, track.network)
        planned = [track_students(track.shortened() if quick else track, asked) for track in found]
        jobs = [job for made, _ in planned for job in made]
        rates = [rate for _, searched in planned for rate in searched]
    else:
        jobs, rates = own_students(asked, targets, template), []
    measured, failures = measure_all(jobs, context, results, quick=hurried)
    return Evaluation(tuple(measured), tuple(failures), tuple(rates))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An evaluation, checked as far as it does not depend on tracks."""

    given: Sequence[Given]
    names: Mapping[Path, str]
    students: Sequence[str]
    seeds: int
    against: Sequence[str]
    request: DataRequest
    data: Data
    teachers: Sequence[Path]
    together: int | None
    quick: bool
    only_against: bool
    context: Context

    @property
    def choosers(self) -> list[str]:
        """The methods that choose real images to compare with."""
        return [name for name in self.against if name != WHOLE]

    def makers(self) -> tuple[Job, ...]:
        return teachers_for(self.given[0], self.data, self.context, self.teachers)


def track_students(track: Track, asked: _Asked) -> tuple[list[Student], list[RateSearch]]:
    """The students of one track, and the learning rates that they take."""
    needed = track.targets == "soft" or need_teachers(asked.against)
    at = OnTrack(track, asked.request, asked.data, asked.context, asked.makers() if needed else ())
    labelled = at.labelled(asked.given)
    sets = (
        []
        if asked.only_against
        else [(asked.names[one.path], again) for one, again in zip(asked.given, labelled, strict=True)]
    )
    sets += [(name, one) for name in asked.choosers for one in at.chosen(name, asked.given)]
    jobs, rates = [], []
    for network in asked.students or [track.network]:
        search = rate_search(at, network)
        rates.append(search)
        jobs += at.students(sets, network, search.rate, asked.seeds, asked.together)
        if WHOLE in asked.against:
            jobs += at.whole(labelled, network, search.rate, asked.seeds)
    return [(condition, track.title, job) for condition, job in jobs], rates


def own_students(asked: _Asked, targets: Sequence[str] | None, template: StudentRecipe) -> list[Student]:
    """Students of the sets as they are, with their own labels."""
    given, request, context = asked.given, asked.request, asked.context
    if targets is None:
        targets = ("hard",) if any(one.dataset.only_hard for one in given) else ("soft", "hard")
    for value in targets:
        if value not in ("soft", "hard"):
            raise ConfigError(f'--targets is "{value}"; {suggest(value, ("soft", "hard"))}')
    words = label_words(given)
    sets = [] if asked.only_against else [(asked.names[one.path] + words(one), one) for one in given]
    asking = "soft" in targets and any(one.dataset.asks_teachers for one in given)
    makers = asked.makers() if asked.against or asking else ()
    for name in asked.choosers:
        chosen = chosen_sets(name, given, lambda one: one.labels, request, asked.data, context, makers, apart=words)
        sets += [(name + words(one), one) for one in chosen]
    recipes = [
        replace(template, network=name, targets=from_mapping(StudentRecipe, {"targets": kind}).targets)
        for name in asked.students or [USUAL_NETWORK]
        for kind in targets
    ]

    def asked_by(one: Given, recipe: StudentRecipe) -> tuple[Job, ...]:
        return makers if recipe.targets == "soft" and one.dataset.asks_teachers else ()

    jobs = [
        (name, "", job)
        for recipe in recipes
        for name, one in sets
        for job in students_jobs(
            one.path,
            recipe,
            range(asked.seeds),
            one.index,
            context,
            request,
            teachers=asked_by(one, recipe),
            together=asked.together,
        )
    ]
    if WHOLE in asked.against:
        first = {one.index: one for one in reversed(given)}
        jobs += [
            ("whole data", "", real_job(one, recipe, seed, context, request, makers))
            for recipe in recipes
            for one in first.values()
            for seed in range(asked.seeds)
        ]
    return jobs
