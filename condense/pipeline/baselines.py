"""What sets are compared with: chosen real images with the same labels, and all real images in the same steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from condense.config import identity
from condense.data import Data
from condense.dataset import load
from condense.engine.job import Job
from condense.errors import ConfigError, suggest
from condense.evaluation.student import StudentRecipe
from condense.labels.relabel import LabelConfig
from condense.methods import METHODS, choosers
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.given import Given
from condense.pipeline.plans import ON_VIEWS, common_of, run_all, set_jobs
from condense.pipeline.request import Request
from condense.teachers.recipe import TeacherRecipe

__all__ = ["WHOLE", "check_against", "chosen_sets", "need_teachers", "real_job"]

WHOLE = "whole"
"""All training images, in as many steps."""


def check_against(names: Sequence[str]) -> None:
    """Raises :class:`ConfigError` for what nothing can be compared with."""
    known = [*choosers(), WHOLE]
    for name in names:
        if name not in known:
            raise ConfigError(f'--against is "{name}"; {suggest(name, known)}')


def need_teachers(names: Sequence[str]) -> bool:
    """Whether choosing takes a teacher: by its answers, or by its features."""
    needs = [METHODS[name](METHODS[name].Config()).needs for name in names if name != WHOLE]
    return any(one.teachers != "none" or one.precomputed == "features" for one in needs)


def chosen_sets(
    name: str,
    given: Sequence[Given],
    labels: Callable[[Given], LabelConfig],
    request: DataRequest,
    data: Data,
    context: Context,
    teachers: tuple[Job, ...],
    labellers: tuple[Job, ...] | None = None,
    apart: Callable[[Given], str] = lambda _: "",
) -> list[Given]:
    """One set of real images chosen by method ``name`` for each set number, size and seed of the given sets, and for
    each of what ``apart`` tells of them.

    ``labels``: how the one beside a given set is labelled, by ``labellers`` if not by all ``teachers``.
    """
    method = METHODS[name](METHODS[name].Config())
    wanted = {(one.ipc, one.index, one.root, apart(one)): one for one in given if one.method != name}
    jobs = []
    for (ipc, index, root, _), one in wanted.items():
        method.check(data.spec, ipc)
        like = Request(
            data=request, method=method, ipc=ipc, sets=1, seed=root, teacher=TeacherRecipe(), labels=labels(one)
        )
        jobs += set_jobs(like, data.spec, context, teachers, name=name, indices=[index], labellers=labellers)
    return [
        Given(folder, load(folder), index)
        for folder, (_, index, *_) in zip(run_all(lambda: jobs, context, what=f"jobs for {name}"), wanted, strict=True)
    ]


def real_job(
    like: Given, recipe: StudentRecipe, seed: int, context: Context, request: DataRequest, teachers: tuple[Job, ...]
) -> Job:
    """A student of all training images, in as many steps as a student of ``like``."""
    common = common_of(request, context.data(request))
    steps = {"views": like.dataset.views.to_dict(), "items": len(like.dataset), "epochs": like.dataset.epochs}
    config = {
        "recipe": identity(recipe),
        "seed": seed,
        "set_index": like.index,
        "like": {**steps, "seed": like.labels.seed},
        "teacher_bn": like.labels.teacher_bn,
        "compute": context.compute.identity(),
    }
    return Job(
        "student-on-real",
        config,
        revision=ON_VIEWS,
        sources=common["sources"],
        inputs=teachers if recipe.targets == "soft" else (),
        where={**common["where"], "set": str(like.path)},
        title=f"student {recipe.network} on all data, set {like.index}, seed {seed}, {recipe.targets} targets",
    )
