"""What a distillation would take: its jobs, what of them is done, and time and memory from a short measured probe.

Nothing is written but in a temporary folder. The probe does the first seconds of one job of each costly kind, in a
process of its own, with real data and a teacher that need not be trained: time does not depend on the weights.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from condense.data import Data, holdout
from condense.engine.events import read_events
from condense.engine.job import Job, in_order
from condense.engine.perform import Settings
from condense.engine.plan import missing
from condense.engine.run import Limits, run
from condense.engine.store import Store
from condense.errors import UnfinishedError
from condense.pipeline.context import Context
from condense.pipeline.execution import Execution
from condense.pipeline.plans import set_jobs
from condense.pipeline.request import Request
from condense.pipeline.sets import name_of
from condense.pipeline.teachers import build_for, teacher_jobs
from condense.pipeline.workers import write_rows
from condense.teachers import TeacherInfo, save_teacher
from condense.teachers.recipe import length_of
from condense.teachers.teacher import weights_sha256

__all__ = ["Estimate", "KindEstimate", "estimate"]

PROBED = ("teacher", "rows", "labels")
PROBE_S = 8.0
PROBE_IMAGES = 2000


@dataclass
class KindEstimate:
    """Jobs of one kind; ``steps`` of optimisation and ``seconds`` of those still to be done, None if not known."""

    kind: str
    jobs: int = 0
    done: int = 0
    steps: int = 0
    seconds: float | None = None


@dataclass
class Estimate:
    """``seconds`` with as many workers as asked for; ``peak_memory`` in bytes of the largest process; None: not known.

    ``store_bytes``: what the store grows by. ``set_bytes``: all published sets together.
    """

    kinds: list[KindEstimate]
    images: int
    store_bytes: int
    set_bytes: int
    seconds: float | None = None
    peak_memory: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return sum(kind.steps for kind in self.kinds)


def estimate(request: Request, context: Context, *, teachers: Sequence[Path] = (), probe: bool = True) -> Estimate:
    """What ``distill`` with the same arguments would do. Refuses what it would refuse, for the same reasons."""
    data = context.data(request.data)
    request.method.check(data.spec, request.ipc)
    makers = teacher_jobs(request, data, context, teachers)
    jobs = set_jobs(request, data.spec, context, makers, name=name_of(request, data.spec))
    todo = {job.id for job in missing([*makers, *jobs], context.store)}
    kinds: dict[str, KindEstimate] = {}
    for job in in_order(jobs):
        one = kinds.setdefault(job.kind, KindEstimate(job.kind))
        one.jobs += 1
        one.done += job.id not in todo
        one.steps += steps_of(job, request, data) if job.id in todo else 0
    images = request.ipc * data.spec.n_classes * request.sets
    pixels = images * int(np.prod(data.spec.image_shape))
    labels = 2 * images * data.spec.n_classes * request.labels.epochs
    made = Estimate(list(kinds.values()), images, 3 * pixels + 2 * labels if todo else 0, pixels + labels)
    if probe and todo:
        _Prober(request, context, data, jobs, todo).measure(made, kinds)
    return made


def steps_of(job: Job, request: Request, data: Data) -> int:
    """Optimisation steps of a job."""
    if job.kind == "rows":
        return request.method.optimisation_steps
    if job.kind == "teacher":
        kept, _ = holdout(data.train.labels, request.teacher.holdout, request.teacher.seed)
        epochs, steps = length_of(request.teacher, len(kept))
        return epochs * steps
    return 0


@dataclass
class _Prober:
    request: Request
    context: Context
    data: Data
    jobs: Sequence[Job]
    todo: set[str]

    def measure(self, made: Estimate, kinds: dict[str, KindEstimate]) -> None:
        """Fill in seconds and memory."""
        with tempfile.TemporaryDirectory(prefix="condense-plan-") as folder:
            self.scratch = replace(
                self.context, store=Store(Path(folder)), execution=Execution(workers=1), opened=self.context.opened
            )
            try:
                peaks = [peak for kind in self._told(PROBED) if (peak := self._probe_kind(kinds.get(kind))) is not None]
            finally:
                self.scratch.close()
        for kind in made.kinds:
            if kind.kind not in PROBED:
                kind.seconds = 0.0
        seconds = [kind.seconds for kind in made.kinds]
        if all(value is not None for value in seconds):
            made.seconds = self._side_by_side(kinds)
        made.peak_memory = max(peaks, default=None)

    def _told(self, kinds: Sequence[str]) -> Iterator[str]:
        for number, kind in enumerate(kinds):
            self.context.report("measuring", number, len(kinds))
            yield kind
        self.context.report("measuring", len(kinds), len(kinds))

    def _side_by_side(self, kinds: dict[str, KindEstimate]) -> float:
        """Seconds with several workers: the jobs of one kind run beside each other, the kinds one after the other."""
        workers = self.context.execution.workers or 1
        return sum((one.seconds or 0.0) / max(1, min(workers, one.jobs - one.done)) for one in kinds.values())

    def _probe_kind(self, kind: KindEstimate | None) -> int | None:
        """Estimate all that is to be done of one kind; the peak memory of a job."""
        if kind is None or kind.jobs == kind.done:
            if kind is not None:
                kind.seconds = 0.0
            return None
        jobs = [job for job in in_order(self.jobs) if job.kind == kind.kind and job.id in self.todo]
        probes: dict[str, Callable[[list[Job]], tuple[float | None, int | None]]] = {
            "teacher": self._teacher,
            "rows": self._rows,
            "labels": self._labels,
        }
        kind.seconds, peak = probes[kind.kind](jobs)
        return peak

    def _teacher(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        seconds, peak = self._run(jobs[0])
        self.scratch.store.discard(jobs[0].id)
        return None if seconds is None else seconds * len(jobs), peak

    def _rows(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """With one slot and with two: time and memory grow by so much with each."""
        one, one_peak = self._run(self._with_slots(jobs[0], 1))
        if one is None or max(job.groups for job in jobs) == 1:
            return None if one is None else one * len(jobs), one_peak
        two, two_peak = self._run(self._with_slots(max(jobs, key=lambda job: job.groups), 2))
        if two is None or one_peak is None or two_peak is None:
            return None, one_peak
        each = max(two - one, 0.1 * one)
        most = max(job.groups for job in jobs)
        return sum(one + each * (job.groups - 1) for job in jobs), one_peak + (most - 1) * max(0, two_peak - one_peak)

    def _with_slots(self, job: Job, count: int) -> Job:
        for below in job.inputs:
            self._have_teacher(below)
        return replace(job, config={**job.config, "slots": job.config["slots"][:count]}, groups=count)

    def _labels(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """On no more than so many images; time grows with their number."""
        classes = self.data.spec.n_classes
        ipc = min(self.request.ipc, max(1, PROBE_IMAGES // classes))
        images, *teachers = jobs[0].inputs
        for teacher in teachers:
            self._have_teacher(teacher)
        rows = Job("rows", {"probe": ipc})
        random = np.random.default_rng(0).integers(0, 256, (ipc * classes, *self.data.spec.image_shape), np.uint8)
        labels = np.tile(np.arange(classes), ipc)
        self.scratch.store.make(rows, lambda f: write_rows(f, random, labels, np.repeat(np.arange(ipc), classes)))
        few = replace(images, config={"ipc": ipc}, inputs=(rows,))
        seconds, peak = self._run(replace(jobs[0], inputs=(few, *teachers)))
        return None if seconds is None else seconds * len(jobs) * self.request.ipc / ipc, peak

    def _have_teacher(self, job: Job) -> None:
        """Put a teacher of this id into the scratch store: the real one if it is there, else one that knows nothing."""
        store = self.scratch.store
        if store.has(job.id):
            return
        if job.kind != "teacher":
            run(lambda: [job], self.scratch)
        elif self.context.store.has(job.id):
            shutil.copytree(self.context.store.path(job.id), store.path(job.id))
        else:
            store.make(job, self._write_untrained)

    def _write_untrained(self, folder: Path) -> None:
        network = build_for(self.data.spec, self.request.teacher.network)
        info = TeacherInfo(
            network=self.request.teacher.network,
            spec=self.data.spec,
            accuracy_heldout=1.0,
            accuracy_test=1.0,
            epochs=0,
            recipe={},
            origin="trained",
            weights_sha256=weights_sha256(network),
        )
        save_teacher(folder, network, info)

    def _run(self, job: Job) -> tuple[float | None, int | None]:
        """Seconds that the whole job would take, and its peak memory in bytes, from its first seconds."""
        settings = Settings(checkpoint_every_s=1e9, log_every_s=0.05)
        with suppress(UnfinishedError):
            run(
                lambda: [job],
                self.scratch,
                executor=self.scratch.executor,
                limits=Limits(deadline=time.monotonic() + PROBE_S),
                settings=settings,
            )
        self.scratch.executor.stop(1.0)  # the next is measured in a fresh process
        runs = sorted((self.scratch.store.root / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
        events = [event for event in read_events(runs[-1]) if event["job"] == job.id]
        peak = max((event.get("peak_memory_bytes", 0) for event in events), default=0) or None
        if events and events[-1]["event"] == "done":
            return float(events[-1]["seconds"]), peak
        progress = [event for event in events if event["event"] == "progress"]
        if not progress:
            return None, peak
        largest = max(progress, key=lambda event: event["total"])["stage"]
        stage = [event for event in progress if event["stage"] == largest]
        first, last = stage[0], stage[-1]
        if last["done"] <= first["done"]:
            return None, peak
        return (last["time"] - first["time"]) / (last["done"] - first["done"]) * last["total"], peak
