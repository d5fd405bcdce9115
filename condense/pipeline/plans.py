"""Plans: what a distillation or an evaluation consists of, as jobs named by all that their results depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from condense.config import identity
from condense.data import DATASETS, Data, DatasetSpec
from condense.engine.job import Job
from condense.engine.run import Finished, Plan, run
from condense.evaluation.student import StudentRecipe
from condense.files import sha256_file
from condense.labels.relabel import LabelConfig
from condense.matching import Growth
from condense.methods.base import Method, SynthesisJob
from condense.pipeline.context import Context, DataRequest, spec_digest
from condense.pipeline.request import Request
from condense.shards import SetInfo
from condense.teachers import ExpertRecipe
from condense.teachers.recipe import TeacherRecipe

ON_VIEWS = 2
"""The revision of jobs that train or label on views: raised when the same plan is drawn with other bits."""

MOST_TOGETHER = 8
"""Students in one job, if nobody says otherwise."""

__all__ = [
    "common_of",
    "labels_job",
    "licence_of",
    "name_of",
    "relabelled_job",
    "set_hash",
    "set_jobs",
    "shareable",
    "student_job",
    "students_jobs",
    "teacher_job",
]


def common_of(request: DataRequest, data: Data) -> dict[str, Any]:
    """What every job that reads the data set carries: its hash, and where it is."""
    return {"sources": (spec_digest(data.spec),), "where": {"data": asdict(request)}}


def teacher_job(request: DataRequest, data: Data, recipe: TeacherRecipe, context: Context) -> Job:
    """A teacher to be trained."""
    config = {"recipe": identity(recipe), "compute": context.compute.identity()}
    title = f"teacher {recipe.network}"
    return Job("teacher", config, revision=ON_VIEWS, title=title, **common_of(request, data))


def set_jobs(
    request: Request,
    spec: DatasetSpec,
    context: Context,
    teachers: tuple[Job, ...],
    *,
    name: str,
    indices: Sequence[int] | None = None,
    labellers: tuple[Job, ...] | None = None,
) -> list[Job]:
    """One job per set (numbers ``indices``, by default all of the request); below it rows -> images -> labels.

    ``labellers``: the teachers that label, if not all of ``teachers``.
    """
    common = common_of(request.data, context.data(request.data))
    makers = teachers if labellers is None else labellers
    return [
        set_job(
            request, spec, context, teachers, makers, common, index, name if request.sets == 1 else f"{name}-{index}"
        )
        for index in (range(request.sets) if indices is None else indices)
    ]


def set_job(
    request: Request,
    spec: DatasetSpec,
    context: Context,
    teachers: tuple[Job, ...],
    labellers: tuple[Job, ...],
    common: Mapping[str, Any],
    index: int,
    name: str,
) -> Job:
    """The jobs of one set."""
    method = request.method
    asked = teachers if method.needs.teachers != "none" else ()
    inputs = (*asked, *precomputed_jobs(request, spec, context, teachers, common, index))
    blocks = tuple(
        job
        for block in method.jobs(spec, request.ipc, index, request.seed)
        for job in rows_jobs(method, block, context, inputs, common, without=request.without)
    )
    kept = method.slots(spec, request.ipc)
    images = Job("images", {"ipc": kept}, inputs=blocks, title=f"images of set {index}", **common)
    labels = labels_job(request.labels, images, labellers, context, common, title=f"labels of set {index}")
    info = {
        "name": name,
        "method": {"name": method.name, "revision": method.revision},
        "config": {
            "ipc": request.ipc,
            "settings": identity(method.config),
            "labels": identity(request.labels),
            "data": shareable(request.data, spec),
            "blocks": [job.config["slots"] for job in blocks],
        },
        "seeds": {"root": request.seed, "set": index},
        "contains_real_images": method.contains_real_images,
        "licence": licence_of(request.data.name),
    }
    return Job("set", {"info": info}, inputs=(images, labels, *labellers), title=f"set {index}", **common)


def precomputed_jobs(
    request: Request,
    spec: DatasetSpec,
    context: Context,
    teachers: tuple[Job, ...],
    common: Mapping[str, Any],
    index: int,
) -> tuple[Job, ...]:
    """What the method needs to know of all training images: one job, or none; class statistics by each teacher, or as
    many experts as it asks for.
    """
    method, compute = request.method, context.compute.identity()
    if method.needs.precomputed == "none":
        return ()
    if method.needs.precomputed == "class statistics":
        return tuple(
            Job("class-statistics", {"compute": compute}, inputs=(one,), title=f"class statistics, {one}", **common)
            for one in teachers
        )
    if method.needs.precomputed == "grown networks":
        return tuple(
            growth_job(growth, compute, common, request.without) for growth in method.growths(spec, request.seed)
        )
    if method.needs.precomputed == "experts":
        recipes = method.expert_recipes(spec, request.seed)
        return tuple(expert_job(one, number, context, common) for number, one in enumerate(recipes))
    recipe = method.network_recipe(request.teacher, spec, request.ipc, index, request.seed)
    if method.needs.precomputed == "dynamics":
        recipe = recipe or request.teacher
        config = {"recipe": identity(recipe), "compute": compute}
        title = f"scoring run of {recipe.network}"
        return (Job("dynamics", config, revision=ON_VIEWS, title=title, **common),)
    network = teachers[0]
    if recipe is not None:
        network = teacher_job(request.data, context.data(request.data), recipe, context)
    return (Job("features", {"compute": compute}, inputs=(network,), title=f"features, {network}", **common),)


def growth_job(
    growth: Growth, compute: Mapping[str, Any], common: Mapping[str, Any], without: Mapping[str, float] | None
) -> Job:
    """A network that learns beforehand, not from images that are held out."""
    config: dict[str, Any] = {"growth": identity(growth), "compute": compute}
    if without:
        config["without"] = dict(without)
    return Job("grown-network", config, title=f"network {growth.number} of the pool", **common)


def expert_job(recipe: ExpertRecipe, number: int, context: Context, common: Mapping[str, Any]) -> Job:
    """An expert to be trained."""
    config = {"recipe": identity(recipe), "compute": context.compute.identity()}
    return Job("expert", config, title=f"expert {number}, {recipe.network}", **common)


def rows_jobs(
    method: Method,
    block: SynthesisJob,
    context: Context,
    inputs: tuple[Job, ...],
    common: Mapping[str, Any],
    *,
    without: Mapping[str, float] | None = None,
) -> Iterator[Job]:
    """The job of a block; or, where memory did not suffice for it, those of its halves.

    A batch is never cut: halves are of slots or of classes, as the method says, and there are none where a job is one
    batch.
    """
    slots, classes = block.slots, block.classes
    apart = {"slots": slots, "classes": classes, "nothing": ()}[method.independent]
    whole: dict[str, Any] = {} if block.ipc is None else {"ipc": block.ipc}
    if without:
        whole = {**whole, "without": dict(without)}
    job = Job(
        "rows",
        {
            "method": method.name,
            "settings": identity(method.config),
            "set_index": block.set_index,
            "seed": block.seed,
            "slots": list(slots),
            "classes": list(classes),
            "compute": context.compute.identity(),
            **whole,
        },
        revision=method.revision,
        inputs=inputs,
        groups=max(1, len(apart)),
        title=title_of(method, block),
        **common,
    )
    if job.groups == 1 or not context.store.is_halved(job.id):
        yield job
        return
    middle = (len(apart) + 1) // 2
    for half in (apart[:middle], apart[middle:]):
        part = replace(block, slots=half) if method.independent == "slots" else replace(block, classes=half)
        yield from rows_jobs(method, part, context, inputs, common, without=without)


def title_of(method: Method, block: SynthesisJob) -> str:
    """What a block is called: its slots, and its classes if they are not all."""
    slots, classes = block.slots, block.classes
    title = f"{method.name}, set {block.set_index}, slots {slots[0]} to {slots[-1]}"
    return title if len(classes) == block.spec.n_classes else f"{title}, classes {classes[0]} to {classes[-1]}"


def labels_job(
    labels: LabelConfig,
    images: Job,
    teachers: tuple[Job, ...],
    context: Context,
    common: Mapping[str, Any],
    *,
    title: str = "labels",
) -> Job:
    """Labels of the images of one job."""
    config = {"labels": identity(labels), "compute": context.compute.identity()}
    return Job("labels", config, revision=ON_VIEWS, inputs=(images, *teachers), title=title, **common)


def relabelled_job(
    path: Path, info: SetInfo, labels: LabelConfig, teachers: tuple[Job, ...], context: Context, request: DataRequest
) -> Job:
    """The images of a set on disk with new labels, as a set."""
    common = common_of(request, context.data(request))
    images = Job("supplied-images", {"sha256": set_hash(path)}, where={"folder": str(path)}, title="images")
    labelled = labels_job(labels, images, teachers, context, common)
    known = {
        "name": info.name,
        "method": dict(info.method),
        "config": {**info.config, "labels": identity(labels)},
        "seeds": dict(info.seeds),
        "contains_real_images": info.contains_real_images,
        "licence": info.licence,
    }
    return Job("set", {"info": known}, inputs=(images, labelled, *teachers), title="set", **common)


def student_job(
    path: Path,
    recipe: StudentRecipe,
    seed: int,
    set_index: int,
    context: Context,
    data: DataRequest | None,
    *,
    weights: bool = False,
    teachers: tuple[Job, ...] = (),
    held_out: Mapping[str, float] | None = None,
    quick: bool = False,
) -> Job:
    """A student of a set on disk; measured if there is a data set. ``teachers``: those that it asks for labels.

    ``quick``: its weights are marked as those of a budget of seconds.

    ``held_out``: the ``fraction`` and ``seed`` of :func:`condense.data.holdout` that say which training images it is
    measured on, instead of the test images.
    """
    config = {
        "recipe": identity(recipe),
        "seed": seed,
        "set_index": set_index,
        "weights": weights,
        "measured": data is not None,
        "compute": context.compute.identity(),
        **({"held_out": dict(held_out)} if held_out else {}),
        **({"quick": True} if quick else {}),
    }
    where: dict[str, Any] = {"set": str(path)}
    sources: tuple[str, ...] = (set_hash(path),)
    if data is not None:
        common = common_of(data, context.data(data))
        where, sources = {**where, **common["where"]}, (*sources, *common["sources"])
    title = f"student {recipe.network}, set {set_index}, seed {seed}, {recipe.targets} targets"
    return Job("student", config, revision=ON_VIEWS, sources=sources, inputs=teachers, where=where, title=title)


def students_jobs(
    path: Path,
    recipe: StudentRecipe,
    seeds: Sequence[int],
    set_index: int,
    context: Context,
    data: DataRequest,
    *,
    teachers: tuple[Job, ...] = (),
    together: int | None = None,
    held_out: Mapping[str, float] | None = None,
) -> list[Job]:
    """Students of a set on disk, one for each seed, ``together`` of them in a job; by default, where that saves work.

    That is where teachers are asked about every view, which then happens once for all, and on a GPU.
    """

    def alone(seed: int) -> Job:
        return student_job(path, recipe, seed, set_index, context, data, teachers=teachers, held_out=held_out)

    if together is None:
        shared = bool(teachers) or context.compute.torch_device.type == "cuda"
        together = MOST_TOGETHER if shared else 1
    if recipe.schedule.calibrate or together == 1:
        return [alone(seed) for seed in seeds]
    parts = [seeds[start : start + together] for start in range(0, len(seeds), together)]
    jobs = []
    for part in parts:
        first = alone(part[0])
        config = {key: value for key, value in first.config.items() if key not in ("seed", "weights")}
        title = first.title.replace(f"seed {part[0]}", f"seeds {part[0]} to {part[-1]}")
        jobs.append(replace(first, kind="students", config={**config, "seeds": list(part)}, title=title))
    return jobs


def set_hash(path: Path) -> str:
    """What a set on disk is called in ids: the hash of its ``set.json``, which has the hash of every file."""
    return sha256_file(path / "set.json")


def name_of(request: Request, spec: DatasetSpec) -> str:
    """What the set is called, and its folder if the user does not say."""
    return f"{plain_name(spec)}-ipc{request.ipc}-{request.method.name}"


def plain_name(spec: DatasetSpec) -> str:
    """The data set's name as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name.partition(":")[2] or spec.name).strip("-") or "data"


def shareable(request: DataRequest, spec: DatasetSpec) -> dict[str, Any]:
    """The request as a set may carry it to other machines: without paths."""
    values = {key: value for key, value in asdict(request).items() if key != "root"}
    return {**values, "name": request.name if request.name in DATASETS else spec.name}


def licence_of(name: str) -> str:
    """The licence of a data set's images, where it is known."""
    return DATASETS[name].licence if name in DATASETS else "unknown"


def run_all(
    plan: Plan,
    context: Context,
    *,
    shared: bool = False,
    out: Sequence[Path] = (),
    finished: Finished | None = None,
    what: str = "jobs",
) -> list[Path]:
    """Make what is missing; the folders of the plan's jobs.

    shared: whether slices share the work out. Otherwise all of it is needed by each, and done by the first to come.
    out: where the user will find the result, for `condense status`.
    what: what the jobs are called in the report: a command that makes several plans has a name for each.
    """
    execution = context.execution
    return run(
        plan,
        context,
        executor=context.executor,
        limits=execution.limits if shared else replace(execution.limits, share=None),
        settings=execution.settings,
        report=context.report,
        watch=context.watch,
        about={"out": [str(path.absolute()) for path in out]},
        finished=finished,
        what=what,
    )
