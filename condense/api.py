"""The package from Python: what the commands of the same names do, with the same defaults.

Every function takes ``machine``, which says where to compute and where finished work is kept. Progress goes to standard
error, as bars on a terminal and as a line now and then elsewhere, unless ``quiet``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense import pipeline
from condense.config import from_mapping, merge
from condense.console import drawn
from condense.data import Data
from condense.device import Compute, gpus_of, resolve
from condense.engine.store import Store, default_store
from condense.evaluation.diversity import Diversity
from condense.evaluation.results import Evaluation
from condense.evaluation.student import StudentRecipe
from condense.exchange import imports
from condense.pipeline import Context, DataRequest, TrainOutcome
from condense.pipeline.execution import Execution
from condense.pipeline.plans import licence_of, shareable
from condense.quantities import bytes_of, seconds_of, share_from
from condense.recipes import at_ipc
from condense.report.board import figures_to
from condense.teachers.recipe import TeacherRecipe

__all__ = ["Machine", "distill", "diversity", "evaluate", "import_set", "relabel", "train", "train_teacher"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to compute, where to keep finished work, and who does the jobs. Only the first three change results.

    device: auto, cpu, cuda or cuda:N. precision: auto, float32 or bf16. threads: of a job; None for one per core.
    store: a folder; by default ``CONDENSE_STORE``, else in the user's cache.
    workers: processes that do jobs side by side; None for this one, or one per GPU where there are several.
    memory: most memory of a worker (``"8GB"``). time_limit: when to stop (``"3h"``). checkpoint_every: a time.
    slice: the share of this process (``"0/8"``). ray_address: of a Ray cluster, or ``"local"``.
    tensorboard: a folder for the figures of the jobs.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    store: Path | str | None = None
    workers: int | None = None
    memory: str | int | None = None
    time_limit: str | float | None = None
    checkpoint_every: str | float = 20.0
    slice: str | None = None
    ray_address: str | None = None
    tensorboard: Path | str | None = None

    @contextmanager
    def context(self, quiet: bool, data: Source | None = None) -> Iterator[Context]:
        """What the pipeline works with; ``data`` that is open already is not opened again."""
        store = Store(Path(self.store) if self.store else default_store())
        compute = resolve(self.device, self.precision, self.threads)
        execution = self._execution(compute)
        with figures_to(self.tensorboard) as watch, drawn(quiet=quiet) as report:
            context = Context(store=store, compute=compute, report=report, watch=watch, execution=execution)
            if isinstance(data, Data):
                context.opened[DataRequest(name=data.spec.name)] = data
            try:
                yield context
            finally:
                context.close()

    def _execution(self, compute: Compute) -> Execution:
        gpus = gpus_of(self.device, compute)
        several = len(gpus) if len(gpus) > 1 and self.ray_address is None else None
        return Execution(
            workers=several if self.workers is None else self.workers,
            gpus=gpus,
            share=share_from(self.slice) if self.slice else None,
            memory=bytes_of(str(self.memory)) if self.memory is not None else None,
            time_limit=seconds_of(str(self.time_limit)) if self.time_limit is not None else None,
            checkpoint_every=seconds_of(str(self.checkpoint_every)),
            ray_address=self.ray_address,
        )


Source = str | Mapping[str, Any] | Data
"""A data set: its name, as ``condense distill --data`` takes it; a mapping with ``name`` and ``size``, ``channels``,
``root`` or ``normalisation``; or what ``condense.open_data`` returned."""


def distill(
    *,
    data: Source,
    method: str,
    ipc: int,
    out: Path | str | None = None,
    sets: int = 1,
    seed: int = 0,
    teachers: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> list[Path]:
    """Distil a data set; returns the folders of the sets.

    ``settings``: those of the method by name, and the sections ``teacher`` and ``labels``, as in a recipe file:
    ``{"steps": 500, "labels": {"epochs": 100}}``, or ``condense.recipes.load(NAME).at(ipc)`` for published ones. See
    :func:`condense.pipeline.distill`.
    """
    values = {**at_ipc(settings or {}, ipc), "method": method, "ipc": ipc, "sets": sets, "seed": seed}
    values["data"] = {"name": data.spec.name} if isinstance(data, Data) else data
    request = pipeline.resolve(values, quick=quick)
    with machine.context(quiet, data) as context:
        return pipeline.distill(request, context, out=_path(out), teachers=_paths(teachers))


def relabel(
    path: Path | str,
    *,
    out: Path | str,
    labels: Mapping[str, Any] | None = None,
    teachers: Sequence[Path | str] = (),
    data: Source | None = None,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> Path:
    """Give the images of a set new labels, in a new folder. See :func:`condense.pipeline.relabel`."""
    with machine.context(quiet, data) as context:
        return pipeline.relabel(
            Path(path),
            context,
            labels=labels or {},
            out=Path(out),
            teachers=_paths(teachers),
            data=_request(data),
        )


def train(
    path: Path | str,
    *,
    student: str,
    out: Path | str,
    seed: int = 0,
    data: Source | None = None,
    teachers: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    quick: bool = False,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> TrainOutcome:
    """Train one network on a set and write its weights to ``out``; with ``data`` also measure it.

    ``quick``: for seconds only; the file says so.
    ``teachers`` are only needed for a set that stores no soft labels and names its teachers instead.
    """
    recipe = from_mapping(StudentRecipe, merge(settings or {}, {"network": student}), "student")
    with machine.context(quiet, data) as context:
        return pipeline.train(
            Path(path),
            context,
            recipe=recipe,
            out=Path(out),
            seed=seed,
            data=_request(data),
            teachers=[Path(one) for one in teachers],
            quick=quick,
        )


def evaluate(
    paths: Sequence[Path | str],
    *,
    students: Sequence[str] = (),
    seeds: int | None = None,
    targets: Sequence[str] | None = None,
    tracks: Sequence[str] = (),
    against: Sequence[str] = ("random",),
    data: Source | None = None,
    teachers: Sequence[Path | str] = (),
    settings: Mapping[str, Any] | None = None,
    results: Path | str | None = None,
    together: int | None = None,
    quick: bool = False,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> Evaluation:
    """Train fresh networks on sets and on what they are compared with; one result per student.

    ``condense.report.rows_of`` and ``show`` make the table of them. See :func:`condense.pipeline.evaluate`.
    """
    with machine.context(quiet, data) as context:
        return pipeline.evaluate(
            _paths(paths),
            context,
            students=students,
            seeds=seeds,
            targets=targets,
            tracks=tracks,
            against=against,
            data=_request(data),
            teachers=_paths(teachers),
            student=from_mapping(StudentRecipe, settings, "student") if settings else None,
            results=_path(results),
            together=together,
            quick=quick,
        )


def diversity(
    paths: Sequence[Path | str],
    *,
    data: Source | None = None,
    teacher: Path | str | None = None,
    network: str | None = None,
    settings: Mapping[str, Any] | None = None,
    draws: int = 20,
    seed: int = 0,
    allow_maker: bool = False,
    out: Path | str | None = None,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> Diversity:
    """How diverse the images of sets are, and what they cover of the real ones, beside random real images.

    ``condense.report.rows_of_scores`` makes a table of it. See :func:`condense.pipeline.diversity`.
    """
    with machine.context(quiet, data) as context:
        return pipeline.diversity(
            _paths(paths),
            context,
            data=_request(data),
            teacher=_path(teacher),
            network=network,
            settings=settings,
            draws=draws,
            seed=seed,
            allow_maker=allow_maker,
            out=_path(out),
        )


def train_teacher(
    *,
    data: Source,
    out: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> Path:
    """Train a teacher, or find it trained; returns its folder. ``settings`` are those of ``TeacherRecipe``."""
    recipe = from_mapping(TeacherRecipe, settings or {}, "teacher")
    request = _request(data)
    assert request is not None
    with machine.context(quiet, data) as context:
        return pipeline.train_teacher(request, recipe, context, out=_path(out))


def import_set(
    source: Path | str,
    *,
    out: Path | str,
    name: str,
    data: Source,
    real: bool,
    labels: Path | str | None = None,
    value_range: str | None = None,
    layout: str | None = None,
    licence: str | None = None,
    machine: Machine = Machine(),
    quiet: bool = False,
) -> imports.Imported:
    """Make a set of images from elsewhere. See :func:`condense.exchange.import_set`."""
    request = _request(data)
    assert request is not None
    with machine.context(quiet, data) as context:
        spec = context.data(request).spec
        return imports.import_set(
            Path(source),
            Path(out),
            name=name,
            spec=spec,
            data=shareable(request, spec),
            real=real,
            licence=licence_of(request.name) if licence is None else licence,
            labels=_path(labels),
            value_range=value_range,
            layout=layout,
            report=context.report,
        )


def _request(data: Source | None) -> DataRequest | None:
    if data is None:
        return None
    if isinstance(data, Data):
        return DataRequest(name=data.spec.name)
    return from_mapping(DataRequest, {"name": data} if isinstance(data, str) else data, "data")


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _paths(paths: Sequence[Path | str]) -> list[Path]:
    return [Path(path) for path in paths]
