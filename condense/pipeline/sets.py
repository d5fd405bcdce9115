"""Making sets: distil a data set, or give the images of a set new labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.config import from_mapping, merge, to_mapping
from condense.dataset import load
from condense.engine.job import Job
from condense.errors import MemoryShortError
from condense.evaluation.student import check_same_data
from condense.labels.relabel import LabelConfig
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.estimate import explain
from condense.pipeline.plans import name_of, relabelled_job, run_all, set_jobs
from condense.pipeline.priors import with_priors
from condense.pipeline.publish import publish, refuse_other_files, refuse_other_set
from condense.pipeline.request import Request, no_smaller, request_of
from condense.pipeline.teachers import check_made, given_teachers, stored_teachers, teacher_jobs
from condense.progress import note

__all__ = ["distill", "relabel"]


def distill(
    request: Request, context: Context, *, out: Path | None = None, teachers: Sequence[Path] = ()
) -> list[Path]:
    """Make ``request.sets`` distilled sets and publish them; returns their folders.

    out: the folder of the set, or of ``set-0``, ``set-1``, ... for several; default
        ``synthesized/<data>-ipc<N>-<method>``. A folder that already holds this very set is left as it is.
    teachers: folders of trained teachers; without any, one is trained by ``request.teacher``.

    Everything that can be refused is refused before any work: raises children of :class:`CondenseError`.
    """
    data = context.data(request.data)
    request.method.check(data.spec, request.ipc)
    request.labels.check(data.spec.n_classes)
    if odd := no_smaller(request, data.spec):
        note(context.report, odd)
    name = name_of(request, data.spec)
    out = out or Path("synthesized") / name
    folders = [out] if request.sets == 1 else [out / f"set-{index}" for index in range(request.sets)]
    for folder in folders:
        refuse_other_files(folder)
    makers = teacher_jobs(request, data, context, teachers)
    if request.method.asks_priors:
        check_made(makers, data.spec, request, context, folders)
        request = with_priors(request, context, makers, name=name)

    def plan() -> list[Job]:
        return set_jobs(request, data.spec, context, makers, name=name)

    for job, folder in zip(plan(), folders, strict=True):
        refuse_other_set(folder, job)
    check_made(makers, data.spec, request, context, folders)
    try:
        artefacts = run_all(plan, context, shared=True, out=folders)
    except MemoryShortError as error:
        raise explain(error, plan(), request, context) from None
    for artefact, folder in zip(artefacts, folders, strict=True):
        publish(artefact, folder)
    return folders


def relabel(
    path: Path,
    context: Context,
    *,
    labels: LabelConfig | Mapping[str, Any],
    out: Path,
    teachers: Sequence[Path] = (),
    data: DataRequest | None = None,
) -> Path:
    """Give the images of a set new labels; the new set goes to ``out``, the old one is not touched.

    labels: all settings, or some by name: the others stay as they are (by default, where the set has no labels).
    teachers: their folders; without any, those that labelled the set, if the store has them.
    """
    dataset = load(path)
    if not isinstance(labels, LabelConfig):
        before = LabelConfig() if dataset.only_hard else dataset.label_config
        labels = from_mapping(LabelConfig, merge(to_mapping(before), labels))
    request = request_of(dataset.info, data)
    opened = context.data(request)
    check_same_data(dataset.spec, opened.spec)
    labels.check(opened.spec.n_classes)
    makers = given_teachers(opened.spec, teachers) if teachers else stored_teachers(dataset.info, context)
    job = relabelled_job(path, dataset.info, labels, makers, context, request)
    refuse_other_files(out)
    refuse_other_set(out, job)
    publish(run_all(lambda: [job], context, out=[out])[0], out)
    return out
