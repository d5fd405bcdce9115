"""The loop that brings a plan to its end: what is missing is handed to an executor as soon as its inputs are there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condense.engine.executors import Executor, Here, Progress, ignore
from condense.engine.job import Job, Task
from condense.engine.perform import Outcome, Settings, Workshop
from condense.engine.plan import Schedule, missing, share_of, widest
from condense.engine.presence import Run
from condense.errors import MemoryShortError, OutputError, StoreError, UnfinishedError, WorkerLostError
from condense.files import disk_errors
from condense.progress import Report, end_lane, lane, silent

__all__ = ["MOST_FAILURES", "MOST_LOSSES", "Finished", "Limits", "Plan", "run"]

Plan = Callable[[], Sequence[Job]]
"""The jobs wanted. Asked again when the store has learnt that a job has to be halved; see :meth:`Store.is_halved`."""

Finished = Callable[[Job, Outcome | None], None]
"""Told of a job and how it ended; None if this run did not do it."""

MOST_FAILURES = 3
"""After one failure the jobs that do not need it go on; after this many nothing more is started."""

MOST_LOSSES = 3
"""How often a job is started again whose process or machine went away."""

LOOK_ELSEWHERE_S = 0.3
WAIT_S = 5.0
STOP_PATIENCE_S = 20.0
HURRY_S = 0.8
TRY_AGAIN = 75
"""Exit status that says: run the same command again (EX_TEMPFAIL)."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """deadline: when to stop, by ``time.monotonic``. share: do slice i of n only; see :func:`share_of`."""

    deadline: float | None = None
    share: tuple[int, int] | None = None


def run(
    plan: Plan,
    shop: Workshop,
    *,
    executor: Executor | None = None,
    limits: Limits = Limits(),
    settings: Settings = Settings(),
    report: Report = silent,
    watch: Progress = ignore,
    about: Mapping[str, Any] | None = None,
    finished: Finished | None = None,
    what: str = "jobs",
) -> list[Path]:
    """Make every missing artefact of ``plan()`` and return the paths of its jobs' artefacts, in their order.

    executor: where jobs are done; by default in this process. It can be used again, unless an exception ended the run.
    watch: told of the progress of every job, by job, besides ``report``, which draws it.
    about: what `condense status` may say of the run.
    finished: told of each wanted job as soon as its artefact is there, once.
    what: what the jobs are called in the report, so that the plans of one command can be told apart.

    A job that raises ends in that exception, after the jobs that do not need it are done; what is finished stays, and
    the failed job's checkpoint with it. Raises :class:`UnfinishedError` when the time is up or the rest belongs to
    other slices, :class:`MemoryShortError` and :class:`WorkerLostError` as they say.
    """
    tell = _Once(finished)

    def complete(wanted: Plan, called: str = what) -> list[Path]:
        carrier = executor or Here(limits.deadline)
        common = (settings, report, watch, dict(about or {}), tell, called)
        return _Driver(wanted, shop, carrier, limits.deadline, *common).complete()

    if limits.share is None:
        return complete(plan)
    share = limits.share
    complete(lambda: share_of(plan(), share), f"{what} of slice {share[0]}/{share[1]}")
    others = [job for job in widest(plan()) if not shop.store.has(job.id)]
    if others:
        raise UnfinishedError(
            f"slice {share[0]} of {share[1]} has done its share; {len(others)} jobs of other slices are missing, "
            "and the last slice to end does the rest",
            status=0,
        )
    return complete(plan)


class _Once:
    """Tells ``finished`` of each job once."""

    def __init__(self, finished: Finished | None) -> None:
        self.finished, self.told = finished, set[str]()

    def __call__(self, job: Job, outcome: Outcome | None = None) -> None:
        if self.finished is not None and job.id not in self.told:
            self.told.add(job.id)
            self.finished(job, outcome)


@dataclass
class _Driver:
    """One executor at work on one plan."""

    plan: Plan
    shop: Workshop
    executor: Executor
    deadline: float | None
    settings: Settings
    report: Report
    watch: Progress
    about: dict[str, Any]
    tell: _Once
    what: str

    schedule: Schedule = field(default_factory=lambda: Schedule(()))
    running: dict[str, Job] = field(default_factory=dict)
    elsewhere: list[Job] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    failures: list[Outcome] = field(default_factory=list)
    done: int = 0
    """Jobs that this run did. ``settled``: those that were finished when the plan was last made anew."""
    settled: int = 0
    halved: int = 0

    def complete(self) -> list[Path]:
        """Do all that is missing; the paths of the wanted artefacts."""
        store = self.shop.store
        self._load()
        if self.schedule.jobs:
            todo = list(self.schedule.jobs.values())
            with disk_errors(store.root), Run(store.root, todo, self.about) as record:
                self.claims = record.claims
                self.executor.start(self.shop, record.folder, self.settings, self._progress)
                try:
                    self._loop()
                except BaseException:
                    self.executor.stop(HURRY_S)
                    raise
        if self.failures:
            raise self._fault()
        for job in self.jobs:
            if not store.has(job.id):
                raise StoreError(
                    f"store {store.root}: {job} was removed while the run went on; run the same command again"
                )
            self.tell(job)
        return [store.path(job.id) for job in self.jobs]

    def _load(self) -> None:
        """Plan, or plan anew: then what runs goes on, and what failed is not tried again."""
        self.settled += len(self.schedule.finished)
        self.jobs = list(self.plan())
        self.schedule = Schedule(missing(self.jobs, self.shop.store))
        self.wanted = {job.id: job for job in self.jobs}
        self.elsewhere.clear()
        for outcome in self.failures:
            if outcome.task.id in self.schedule.jobs:
                self.schedule.give_up(outcome.task.id)

    def _loop(self) -> None:
        looked = time.monotonic()
        while True:
            self._feed()
            self._tell_progress()
            if not self.running and not self.elsewhere:
                return
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise self._out_of_time()
            for outcome in self.executor.wait(self._patience()):
                self._end(outcome)
            if self.elsewhere and time.monotonic() - looked >= LOOK_ELSEWHERE_S:
                looked = time.monotonic()
                for job in self.elsewhere:
                    self.schedule.put_back(job.id)
                self.elsewhere.clear()

    def _tell_progress(self) -> None:
        """The total is that of the plan from the start; it changes only where a job has to be cut in two."""
        done = self.settled + len(self.schedule.finished)
        total = self.settled + len(self.schedule.jobs)
        self.report(self.what, done, total, {"cut in two": self.halved} if self.halved else {})

    def _patience(self) -> float:
        """How long to wait for outcomes before looking around."""
        left = WAIT_S if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        return min(WAIT_S, left, LOOK_ELSEWHERE_S if self.elsewhere else WAIT_S)

    def _feed(self) -> None:
        """Hand out what can start, as far as the executor has room."""
        while len(self.running) < self.executor.slots and not self._is_enough() and (job := self.schedule.take()):
            if job.id in self.running:
                continue
            if not self.claims.take(job.id):
                self.elsewhere.append(job)
            elif self.shop.store.has(job.id):  # another run has finished it in the meantime
                self._finish(job)
            else:
                self.running[job.id] = job
                self.executor.submit(job.task())

    def _is_enough(self) -> bool:
        return len(self.failures) >= MOST_FAILURES or any(
            isinstance(outcome.error, OutputError) for outcome in self.failures
        )

    def _end(self, outcome: Outcome) -> None:
        """Take note of how a job ended, and decide what becomes of it."""
        job = self.running.pop(outcome.task.id)
        end_lane(self.report, outcome.task.title)
        if outcome.status == "done":
            self.done += 1
            self._finish(job, outcome)
            return
        self.claims.release(job.id)
        if outcome.status == "paused":
            self._again(job)
        elif outcome.status == "lost":
            self.losses[job.id] += 1
            if self.losses[job.id] >= MOST_LOSSES:
                self._fail(job, outcome)
            elif self.losses[job.id] > 1 and job.groups > 1:
                self._halve(job)
            else:
                self._again(job)
        elif outcome.status == "memory" and job.groups > 1:
            self._halve(job)
        elif self._mend_inputs(job):
            self._load()
        else:
            self._fail(job, outcome)

    def _finish(self, job: Job, outcome: Outcome | None = None) -> None:
        self.claims.release(job.id)
        if job.id in self.schedule.jobs:
            self.schedule.done(job.id)
        if job.id in self.wanted:
            self.tell(job, outcome)

    def _again(self, job: Job) -> None:
        if job.id in self.schedule.jobs:
            self.schedule.put_back(job.id)

    def _halve(self, job: Job) -> None:
        self.shop.store.halve(job.id)
        self.halved += 1
        self._load()

    def _fail(self, job: Job, outcome: Outcome) -> None:
        self.failures.append(outcome)
        if job.id in self.schedule.jobs:
            self.schedule.give_up(job.id)

    def _mend_inputs(self, job: Job) -> bool:
        """Whether the job failed over an input that was damaged after it was made; it is out of the way then."""
        self.repairs[job.id] += 1
        store = self.shop.store
        broken = [below.id for below in job.inputs if store.fault(below.id) is not None]
        for job_id in broken:
            store.discard(job_id)
        return bool(broken) and self.repairs[job.id] <= MOST_LOSSES

    def _fault(self) -> BaseException:
        """The exception that the run ends in: that of the first job that failed."""
        outcome = self.failures[0]
        if outcome.status == "lost":
            return WorkerLostError(
                f"{outcome.task}: {outcome.why}, {MOST_LOSSES} times; "
                "if memory ran out, give --memory or fewer --workers"
            )
        if outcome.status == "memory":
            short = MemoryShortError(
                f"{outcome.task} does not fit into memory ({outcome.why}), and it cannot be done in smaller parts"
            )
            short.job_id = outcome.task.id
            return short
        assert outcome.error is not None
        return outcome.error

    def _out_of_time(self) -> UnfinishedError:
        self.executor.stop(STOP_PATIENCE_S)
        left = self.schedule.left
        return UnfinishedError(
            f"the time is up: {self.done} jobs done, {left} left; run the same command again to go on", TRY_AGAIN
        )

    def _progress(self, task: Task, stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        """Drawn in the job's own lane."""
        lane(self.report, task.title)(stage, done, total, figures)
        self.watch(task, stage, done, total, figures)
