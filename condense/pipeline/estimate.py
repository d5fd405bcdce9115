"""What a distillation would take: its jobs, what of them is done, and time and memory from a short measured probe.

Nothing is written but in a temporary folder. The probe does the first seconds of one job of each costly kind, in a
process of its own, with real data and a teacher that need not be trained: time does not depend on the weights.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from condense.config import from_mapping
from condense.data import Data, DatasetSpec, holdout
from condense.device import available_cpus
from condense.engine.events import read_events
from condense.engine.job import Job, in_order
from condense.engine.perform import Settings
from condense.engine.plan import missing
from condense.engine.run import Limits, run
from condense.engine.store import Store
from condense.errors import MemoryShortError, UnfinishedError
from condense.matching import Grown, Growth, flat_weights
from condense.methods.base import Canvas, Rows
from condense.pipeline.context import Context
from condense.pipeline.execution import Execution
from condense.pipeline.plans import name_of, set_jobs
from condense.pipeline.priors import with_known_priors
from condense.pipeline.request import Request, no_smaller
from condense.pipeline.teachers import build_for, teacher_jobs
from condense.pipeline.workers import write_rows
from condense.shards.decode import CANVASES
from condense.teachers import Dynamics, ExpertRecipe, TeacherInfo, save_teacher
from condense.teachers.class_statistics import class_statistics
from condense.teachers.experts import expert_bytes, expert_length, untrained_expert, write_expert
from condense.teachers.features import write_features
from condense.teachers.recipe import TeacherRecipe, length_of
from condense.teachers.teacher import weights_sha256

__all__ = ["Estimate", "KindEstimate", "estimate", "explain"]

PROBE_S = 8.0
PROBE_IMAGES = 2000


@dataclass
class KindEstimate:
    """Jobs of one kind; ``steps`` of optimisation and ``seconds`` of those still to be done, None if not known.

    ``at_least``: seconds that they take in any case, as far as that was seen.
    """

    kind: str
    jobs: int = 0
    done: int = 0
    steps: int = 0
    seconds: float | None = None
    at_least: float = 0.0


@dataclass
class Estimate:
    """``seconds`` with as many workers as asked for; ``peak_memory`` in bytes of the largest process; None: not known.

    ``at_least``: what of ``seconds`` is known, where not all of it is. ``why_not_known`` says why, else it is empty.
    ``store_bytes``: what the store grows by. ``set_bytes``: all published sets together.
    """

    kinds: list[KindEstimate]
    images: int
    store_bytes: int
    set_bytes: int
    seconds: float | None = None
    at_least: float = 0.0
    why_not_known: str = ""
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
    name = name_of(request, data.spec)
    request = with_known_priors(request, context, makers, name=name)
    jobs = set_jobs(request, data.spec, context, makers, name=name)
    todo = {job.id for job in missing([*makers, *jobs], context.store)}
    kinds: dict[str, KindEstimate] = {}
    for job in in_order(jobs):
        one = kinds.setdefault(job.kind, KindEstimate(job.kind))
        one.jobs += 1
        one.done += job.id not in todo
        one.steps += steps_of(job, request, data) if job.id in todo else 0
    images = items_per_class(request, data.spec) * data.spec.n_classes * request.sets
    pixels = request.ipc * data.spec.n_classes * request.sets * int(np.prod(data.spec.image_shape))
    labels = 2 * images * data.spec.n_classes * request.labels.epochs
    experts = sum(
        expert_bytes(from_mapping(ExpertRecipe, job.config["recipe"]), data.spec)
        for job in in_order(jobs)
        if job.kind == "expert" and job.id in todo
    )
    made = Estimate(list(kinds.values()), images, 3 * pixels + 2 * labels + experts if todo else 0, pixels + labels)
    if probe and todo:
        with _Prober(request, context, data, jobs) as prober:
            prober.measure(made, todo)
    if not todo:
        made.seconds = 0.0
    elif not probe:
        made.why_not_known = "nothing was measured; leave out --no-probe"
    if odd := no_smaller(request, data.spec):
        made.notes.append(odd)
    return made


def explain(error: MemoryShortError, jobs: Sequence[Job], request: Request, context: Context) -> MemoryShortError:
    """The same refusal with the largest batch that fits, where the job is one whose batch can be made smaller."""
    job = next((one for one in in_order(jobs) if one.id == error.job_id and one.kind == "rows"), None)
    setting = request.method.batch_setting
    if job is None or setting is None:
        return error
    classes = len(job.config["classes"])
    with _Prober(request, context, context.data(request.data), jobs) as prober:
        fits = prober.largest_batch(job)
    if not fits:
        return MemoryShortError(f"{error}; not even one class at a time fits, so it takes a larger --memory")
    return MemoryShortError(
        f"{job.title}: a batch of {classes} classes does not fit into memory, the largest that was seen to fit has "
        f"{fits}; say --set {setting}={fits}, or give more --memory"
    )


def slots_in(job: Job) -> int:
    """Slots of a job that makes rows."""
    return len(job.config["slots"])


def items_per_class(request: Request, spec: DatasetSpec) -> int:
    """Images of a class that train, of one set."""
    canvas = request.method.canvas
    return request.method.slots(spec, request.ipc) * CANVASES[canvas.name].items_per_row(canvas.settings)


def steps_of(job: Job, request: Request, data: Data) -> int:
    """Optimisation steps of a job."""
    if job.kind == "rows":
        return request.method.steps(request.ipc)
    if job.kind == "grown-network":
        growth = from_mapping(Growth, job.config["growth"])
        return growth.snapshots * growth.every
    if job.kind == "expert":
        expert = from_mapping(ExpertRecipe, job.config["recipe"])
        return expert.epochs * expert_length(expert, len(data.train))
    if job.kind not in ("teacher", "dynamics"):
        return 0
    recipe = from_mapping(TeacherRecipe, job.config["recipe"])
    kept = holdout(data.train.labels, recipe.holdout, recipe.seed)[0] if job.kind == "teacher" else data.train.labels
    epochs, steps = length_of(recipe, len(kept))
    return epochs * steps


def time_seen(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds from the first to the last event of a job, which it took at least."""
    return float(events[-1]["time"] - events[0]["time"]) if events else 0.0


def why_not_measured(slow: Sequence[str], too_large: Sequence[str]) -> str:
    """In words: jobs of these kinds made no progress to speak of in the time of a probe, or did not fit into memory."""
    reasons = [f"{', '.join(too_large)} did not fit into memory"] if too_large else []
    if slow:
        cores, load = available_cpus(), os.getloadavg()[0]
        busy = f"; the machine is busy (load {load:.1f} on {cores} cores), try again later" if load > cores else ""
        reasons.append(f"{', '.join(slow)} got too little done in {4 * PROBE_S:.0f} s to be measured{busy}")
    return ", and ".join(reasons)


class _Prober:
    """Does the first seconds of jobs in a scratch store. A context manager, which removes it."""

    def __init__(self, request: Request, context: Context, data: Data, jobs: Sequence[Job]) -> None:
        self.request, self.context, self.data, self.jobs = request, context, data, jobs
        self.seen_s = 0.0
        """What all jobs that are being measured take at least, as far as was seen."""

    def __enter__(self) -> _Prober:
        self._folder = tempfile.TemporaryDirectory(prefix="condense-plan-")
        store, memory = Store(Path(self._folder.name)), self.context.execution.memory
        self.scratch = replace(self.context, store=store, execution=Execution(workers=1, memory=memory))
        return self

    def __exit__(self, *_: object) -> None:
        self.scratch.close()
        self._folder.cleanup()

    def measure(self, made: Estimate, todo: set[str]) -> None:
        """Fill in seconds and memory of the jobs ``todo``."""
        peaks, too_large = [], list[str]()
        for number, kind in enumerate(made.kinds):
            self.context.report("measuring", number, len(made.kinds))
            jobs = [job for job in in_order(self.jobs) if job.kind == kind.kind and job.id in todo]
            self.seen_s = 0.0
            try:
                kind.seconds, peak = self._probe(jobs)
            except MemoryShortError as error:
                made.notes.append(str(error))
                too_large.append(kind.kind)
                continue
            kind.at_least = self.seen_s if kind.seconds is None else kind.seconds
            peaks += [] if peak is None else [peak]
        self.context.report("measuring", len(made.kinds), len(made.kinds))
        made.at_least = sum(self._side_by_side(kind) for kind in made.kinds)
        if all(kind.seconds is not None for kind in made.kinds):
            made.seconds = made.at_least
        slow = [kind.kind for kind in made.kinds if kind.seconds is None and kind.kind not in too_large]
        made.why_not_known = why_not_measured(slow, too_large)
        made.peak_memory = max(peaks, default=None)

    def largest_batch(self, job: Job) -> int:
        """How many classes of a job that does not fit do fit, found by trying; 0 for none."""
        fits, too_many = 0, len(job.config["classes"])
        self.context.report("looking for a batch that fits", 0, 1)
        while too_many - fits > max(1, too_many // 8):
            count = (fits + too_many) // 2
            few = self._with_slots(job, slots_in(job))
            few = replace(few, config={**few.config, "classes": few.config["classes"][:count]})
            try:
                self._run(few)
                fits = count
            except MemoryShortError:
                too_many = count
        self.context.report("looking for a batch that fits", 1, 1)
        return fits

    def _side_by_side(self, kind: KindEstimate) -> float:
        """Seconds with several workers: the jobs of one kind run beside each other, the kinds one after the other."""
        workers = self.context.execution.workers or 1
        return kind.at_least / max(1, min(workers, kind.jobs - kind.done))

    def _probe(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """Seconds for all these jobs of one kind, and the peak memory of the largest; None where that is not known."""
        probes: dict[str, Callable[[list[Job]], tuple[float | None, int | None]]] = {
            "teacher": self._training,
            "dynamics": self._training,
            "grown-network": self._training,
            "expert": self._training,
            "features": self._features,
            "class-statistics": self._features,
            "rows": self._rows,
            "labels": self._labels,
        }
        return probes[jobs[0].kind](jobs) if jobs and jobs[0].kind in probes else (0.0, None)

    def _training(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """Of a scoring run without its looks at all images, unless an epoch ends within the probe."""
        seconds, peak = self._run(jobs[0])
        self.scratch.store.discard(jobs[0].id)
        return None if seconds is None else seconds * len(jobs), peak

    def _features(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        self._have(jobs[0].inputs[0])
        seconds, peak = self._run(jobs[0])
        self.scratch.store.discard(jobs[0].id)
        return None if seconds is None else seconds * len(jobs), peak

    def _rows(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """With one slot and with two: time and memory grow by so much with each. Of a coreset, and where slots are made
        together, a whole job.
        """
        method = self.request.method
        if method.needs.precomputed in ("features", "dynamics") or method.independent != "slots":
            one, peak = self._run(self._with_slots(jobs[0], slots_in(jobs[0])))
            return None if one is None else one * len(jobs), peak
        one, one_peak = self._run(self._with_slots(jobs[0], 1))
        most = max(slots_in(job) for job in jobs)
        if one is None or most == 1:
            return None if one is None else one * len(jobs), one_peak
        self.seen_s = one * len(jobs)
        two, two_peak = self._run(self._with_slots(max(jobs, key=slots_in), 2))
        if two is None or one_peak is None or two_peak is None:
            return None, one_peak
        each = max(two - one, 0.1 * one)
        seconds = sum(one + each * (slots_in(job) - 1) for job in jobs)
        return seconds, one_peak + (most - 1) * max(0, two_peak - one_peak)

    def _with_slots(self, job: Job, count: int) -> Job:
        if self.request.method.needs.precomputed == "experts":
            job = replace(job, inputs=job.inputs[:1])  # a step asks one, whatever there are
        for below in job.inputs:
            self._have(below)
        slots = job.config["slots"][:count]
        return replace(job, config={**job.config, "slots": slots}, groups=1)  # of which nobody makes halves

    def _labels(self, jobs: list[Job]) -> tuple[float | None, int | None]:
        """On no more than so many images; time grows with their number."""
        classes = self.data.spec.n_classes
        of_class = items_per_class(self.request, self.data.spec)
        ipc = min(of_class, max(1, PROBE_IMAGES // classes))
        images, *teachers = jobs[0].inputs
        for teacher in teachers:
            self._have(teacher)
        rows = Job("rows", {"probe": ipc})
        random = np.random.default_rng(0).integers(0, 256, (ipc * classes, *self.data.spec.image_shape), np.uint8)
        labels = np.tile(np.arange(classes), ipc)
        block = Rows(random, labels, np.repeat(np.arange(ipc), classes))
        self.scratch.store.make(rows, lambda folder: write_rows(folder, block, Canvas("pixels")))
        few = replace(images, config={"ipc": ipc}, inputs=(rows,))
        seconds, peak = self._run(replace(jobs[0], inputs=(few, *teachers)))
        return None if seconds is None else seconds * len(jobs) * of_class / ipc, peak

    def _have(self, job: Job) -> None:
        """Put an input of this id into the scratch store: the real one if it is there, else one that knows nothing."""
        store = self.scratch.store
        made = {
            "teacher": self._write_untrained,
            "dynamics": self._write_random_log,
            "grown-network": self._write_ungrown,
            "expert": self._write_untrained_expert,
        }
        if store.has(job.id):
            return
        if self.context.store.has(job.id):
            shutil.copytree(self.context.store.path(job.id), store.path(job.id))
        elif job.kind in made:
            store.make(job, lambda folder: made[job.kind](folder, job))
        elif job.kind == "features":
            self._have(job.inputs[0])
            store.make(job, lambda folder: self._write_random_features(folder, job))
        elif job.kind == "class-statistics":
            self._have(job.inputs[0])
            store.make(job, lambda folder: self._write_poor_statistics(folder, job))
        else:
            run(lambda: [job], self.scratch)

    def _write_random_log(self, folder: Path, job: Job) -> None:
        epochs, _ = length_of(from_mapping(TeacherRecipe, job.config["recipe"]), len(self.data.train))
        shape = (epochs, len(self.data.train))
        log = (np.random.default_rng(n).random(shape, np.float32).astype(np.float16) for n in range(3))
        Dynamics(*log).write(folder)

    def _write_ungrown(self, folder: Path, job: Job) -> None:
        growth = from_mapping(Growth, job.config["growth"])
        flat = flat_weights(build_for(self.data.spec, growth.network)).numpy()
        Grown(growth.network, np.tile(flat, (growth.snapshots + 1, 1))).write(folder, growth)

    def _write_untrained_expert(self, folder: Path, job: Job) -> None:
        recipe = from_mapping(ExpertRecipe, job.config["recipe"])
        write_expert(folder, untrained_expert(recipe, self.data.spec))

    def _write_random_features(self, folder: Path, job: Job) -> None:
        """As many and as wide as the teacher's."""
        few = np.zeros((2, *self.data.spec.image_shape), np.uint8)
        [teacher] = self.scratch.teachers([self.scratch.store.path(job.inputs[0].id)])
        write_features(folder, teacher, few, compute=self.context.compute)
        for name in ("features", "logits"):
            width = np.load(folder / f"{name}.npy").shape[1]
            random = np.random.default_rng(0).standard_normal((len(self.data.train), width), np.float32)
            np.save(folder / f"{name}.npy", random.astype(np.float16))

    def _write_poor_statistics(self, folder: Path, job: Job) -> None:
        """As wide as the teacher's, and of hardly any images."""
        few, labels = np.zeros((2, *self.data.spec.image_shape), np.uint8), np.zeros(2, np.int64)
        [teacher] = self.scratch.teachers([self.scratch.store.path(job.inputs[0].id)])
        class_statistics(teacher, few, labels, compute=self.context.compute).write(folder)

    def _write_untrained(self, folder: Path, job: Job) -> None:
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
        """Seconds that the whole job would take, and its peak memory in bytes, from its first seconds.

        On a machine that is busy with other things the first seconds may go by before anything is done; then longer.
        """
        seconds, peak = self._run_for(PROBE_S, job)
        return (seconds, peak) if seconds is not None else self._run_for(4 * PROBE_S, job)

    def _run_for(self, patience_s: float, job: Job) -> tuple[float | None, int | None]:
        settings = Settings(checkpoint_every_s=1e9, log_every_s=0.05, memory=self.context.execution.memory)
        with suppress(UnfinishedError):
            run(
                lambda: [job],
                self.scratch,
                executor=self.scratch.executor,
                limits=Limits(deadline=time.monotonic() + patience_s),
                settings=settings,
            )
        self.scratch.executor.stop(1.0)  # the next is measured in a fresh process
        runs = sorted((self.scratch.store.root / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
        events = [event for event in read_events(runs[-1]) if event["job"] == job.id]
        peak = max((event.get("peak_memory_bytes", 0) for event in events), default=0) or None
        self.seen_s = max(self.seen_s, time_seen(events))
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
