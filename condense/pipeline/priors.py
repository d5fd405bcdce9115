"""What each teacher of a committee is worth: students of the set that it makes alone, on held-out training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from condense.dataset import load
from condense.engine.job import Job
from condense.engine.plan import missing
from condense.errors import MethodError
from condense.evaluation.results import Failure
from condense.evaluation.student import StudentRecipe
from condense.pipeline.context import Context
from condense.pipeline.plans import run_all, set_jobs, students_jobs
from condense.pipeline.request import Request
from condense.pipeline.results import read_outcomes
from condense.teachers import load_teacher

__all__ = ["with_known_priors", "with_priors"]

PRIOR_IPC = 10
PRIOR_STUDENTS = 2
HOLDOUT = {"fraction": 0.1, "seed": 0}


def with_priors(request: Request, context: Context, teachers: Sequence[Job], *, name: str) -> Request:
    """The request with the priors of its committee, estimated where its method asks for them and they are not known.

    Each teacher makes, by ``method.alone()``, a set of at most `PRIOR_IPC` images per class that holds no image of the
    held-out tenth of the training images, and labels it; a prior is the mean accuracy, in percent, of `PRIOR_STUDENTS`
    students of that set on the held-out images. Students have the network of the first teacher. (Teachers themselves
    are trained as always.) Raises :class:`MethodError` where a student diverges.
    """
    if not request.method.asks_priors:
        return request
    found = [_prior(request, context, one, teachers[0], name) for one in teachers]
    return _with(request, found)


def with_known_priors(request: Request, context: Context, teachers: Sequence[Job], *, name: str) -> Request:
    """The same without doing anything: what is not in the store yet counts as equal priors, for estimates."""
    if not request.method.asks_priors:
        return request
    if missing(teachers, context.store):
        return _with(request, [50.0] * len(teachers))
    for one in teachers:
        sets = _sets(request, context, one, name)
        if missing(sets, context.store) or missing(_students(request, context, one, teachers[0], name), context.store):
            return _with(request, [50.0] * len(teachers))
    return with_priors(request, context, teachers, name=name)


def _with(request: Request, priors: Sequence[float]) -> Request:
    method = request.method.with_priors(tuple(priors))
    weights = request.labels.weights or method.label_weights
    return replace(request, method=method, labels=replace(request.labels, weights=weights))


def _sets(request: Request, context: Context, teacher: Job, name: str) -> list[Job]:
    """The set that a teacher makes alone."""
    like = replace(
        request,
        method=request.method.alone(),
        ipc=min(request.ipc, PRIOR_IPC),
        sets=1,
        labels=replace(request.labels, weights=()),
        without=HOLDOUT,
    )
    return set_jobs(like, context.data(request.data).spec, context, (teacher,), name=f"{name}-prior")


def _students(request: Request, context: Context, teacher: Job, first: Job, name: str) -> list[Job]:
    [folder] = run_all(lambda: _sets(request, context, teacher, name), context, what="jobs for a prior")
    network = load_teacher(context.store.path(first.id)).info.network
    asked = (teacher,) if load(folder).asks_teachers else ()
    recipe = StudentRecipe(network=network)
    return students_jobs(
        folder, recipe, range(PRIOR_STUDENTS), 0, context, request.data, teachers=asked, held_out=HOLDOUT
    )


def _prior(request: Request, context: Context, teacher: Job, first: Job, name: str) -> float:
    students = _students(request, context, teacher, first, name)
    folders = run_all(lambda: students, context, what="students for a prior")
    outcomes = [one for folder in folders for one in read_outcomes(folder)]
    for one in outcomes:
        if isinstance(one, Failure):
            raise MethodError(
                f"the prior of {teacher} cannot be estimated: {one.reason}; give committee.priors, or set "
                "committee.voting=equal"
            )
    return round(100 * sum(one.accuracy for one in outcomes if not isinstance(one, Failure)) / len(outcomes), 2)
