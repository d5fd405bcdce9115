"""Teachers for a distillation: trained, supplied by the user, or found again in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from condense.data import Data, DatasetSpec
from condense.engine.job import Job
from condense.errors import TeacherError
from condense.files import disk_errors
from condense.networks import build
from condense.networks.base import InputShape
from condense.networks.last_layer import last_layer
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.plans import run_all, teacher_job
from condense.pipeline.publish import publish, refuse_other_files
from condense.pipeline.request import Request
from condense.shards import SetInfo
from condense.teachers import check_teacher, load_teacher, save_teacher
from condense.teachers.importing import import_teacher as bring
from condense.teachers.recipe import TeacherRecipe

__all__ = ["given_teachers", "import_teacher", "stored_teachers", "teacher_jobs", "train_teacher"]


def train_teacher(request: DataRequest, recipe: TeacherRecipe, context: Context, *, out: Path | None = None) -> Path:
    """Train a teacher, or find it trained, and copy its folder to ``out``; returns the folder."""
    if out is not None:
        refuse_other_files(out, "teacher.json")
    job = teacher_job(request, context.data(request), recipe, context)
    made = run_all(lambda: [job], context, out=[out] if out else [])[0]
    return made if out is None else publish(made, out)


def import_teacher(
    weights: Path,
    request: DataRequest,
    context: Context,
    *,
    network: str,
    out: Path,
    class_names: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Path:
    """Bring foreign weights into a teacher's folder ``out``, measured; see :mod:`condense.teachers.importing`."""
    refuse_other_files(out, "teacher.json")
    brought, info = bring(
        weights,
        context.data(request),
        network=network,
        class_names=class_names,
        normalisation=normalisation,
        compute=context.compute,
        report=context.report,
    )
    with disk_errors(out):
        save_teacher(out, brought, info)
    return out


def teacher_jobs(request: Request, data: Data, context: Context, folders: Sequence[Path]) -> tuple[Job, ...]:
    """The teachers of a distillation: those in ``folders``, checked, or one to be trained.

    A folder that is no teacher is named before their number is counted.
    """
    check_own_network(request, data.spec)
    for folder in folders:
        load_teacher(folder)
    request.method.check_number(len(folders) or len(request.teachers) or 1)
    if request.method.hard_labels and request.labels.codec == "none" and not folders and not request.teachers:
        return ()
    if folders:
        for folder in folders:
            check_fits(folder, data.spec, request)
        return given_teachers(data.spec, folders)
    recipes = [replace(request.teacher, network=name) for name in request.teachers] or [request.teacher]
    for recipe in recipes:
        check_network(recipe.network, data.spec, request)
    return tuple(teacher_job(request.data, data, recipe, context) for recipe in recipes)


def check_network(name: str, spec: DatasetSpec, request: Request) -> None:
    """Raises a child of :class:`CondenseError` for a network that cannot be a teacher of this distillation."""
    network = build_for(spec, name)
    request.method.check_network(name, network, spec)
    if request.method.needs.precomputed == "features":
        last_layer(name, network, shape_of(spec))


def check_own_network(request: Request, spec: DatasetSpec) -> None:
    """Raises :class:`NetworkError` if the network that the method has trained for itself cannot serve it."""
    method = request.method
    if method.needs.precomputed == "none":
        return
    recipe = method.network_recipe(request.teacher, spec, request.ipc, request.sets - 1, request.seed)
    if recipe is None:
        return
    network = build_for(spec, recipe.network)
    if method.needs.precomputed == "features":
        last_layer(recipe.network, network, shape_of(spec))


def check_made(jobs: Sequence[Job], spec: DatasetSpec, request: Request, context: Context, out: Sequence[Path]) -> None:
    """Train what has to be trained, and refuse what came out too weak before anything is built on it.

    out: where the sets will be that they are for.
    """
    for folder in run_all(lambda: jobs, context, out=out, what="teachers"):
        check_fits(folder, spec, request)


def given_teachers(spec: DatasetSpec, folders: Sequence[Path]) -> tuple[Job, ...]:
    """Teachers from outside, by the hash of what they are."""
    for folder in folders:
        check_teacher(load_teacher(folder).info, spec, min_accuracy=0.0)
    return tuple(
        Job("supplied-teacher", {"sha256": load_teacher(folder).sha256}, where={"folder": str(folder)}, title="teacher")
        for folder in folders
    )


def check_fits(folder: Path, spec: DatasetSpec, request: Request | None = None) -> None:
    """Raises :class:`TeacherError` for a teacher that cannot serve this data set and, if given, this distillation."""
    teacher = load_teacher(folder)
    check_teacher(
        teacher.info,
        spec,
        min_accuracy=request.min_accuracy if request else None,
        needs_batchnorm=request is not None and request.method.needs.teachers == "batchnorm",
        network=teacher.network,
    )
    if request:
        request.method.check_network(teacher.info.network, teacher.network, spec)
    if request and request.method.needs.precomputed == "features":
        last_layer(teacher.info.network, teacher.network, shape_of(spec))


def stored_teachers(info: SetInfo, context: Context) -> tuple[Job, ...]:
    """The teachers that labelled a set, where the store still has them."""
    jobs = []
    for known, job_id in zip(info.teachers, list(info.config.get("inputs", ()))[2:], strict=False):
        folder = context.store.path(job_id)
        if not context.store.has(job_id):
            break
        jobs.append(
            Job("supplied-teacher", {"sha256": known["sha256"]}, where={"folder": str(folder)}, title="teacher")
        )
    if not jobs or len(jobs) != len(info.teachers):
        networks = ", ".join(known["network"] for known in info.teachers) or "none"
        raise TeacherError(
            f'the teachers of set "{info.name}" ({networks}) are not in the store {context.store.root}; '
            "give their folders with --teacher"
        )
    return tuple(jobs)


def shape_of(spec: DatasetSpec) -> InputShape:
    """What a network is given."""
    return InputShape(spec.channels, spec.height, spec.width)


def build_for(spec: DatasetSpec, network: str) -> nn.Module:
    """The network, untrained. Raises :class:`NetworkError` if it does not exist or cannot take the images."""
    return build(network, channels=spec.channels, height=spec.height, width=spec.width, n_classes=spec.n_classes)
