"""What a plan still needs, what is ready to start, and who does which share. Pure but for looking into the store."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from condense.engine.job import Job, in_order
from condense.engine.store import Store
from condense.errors import ConfigError

__all__ = ["Schedule", "missing", "share_of", "widest"]


def missing(jobs: Sequence[Job], store: Store) -> list[Job]:
    """The jobs that have to run, inputs first. What only a finished job needed is not looked at."""
    needed: dict[str, bool] = {}
    ordered = in_order(jobs)
    wanted: set[str] = {job.id for job in jobs}
    for job in reversed(ordered):
        needed[job.id] = job.id in wanted and not store.has(job.id)
        if needed[job.id]:
            wanted.update(below.id for below in job.inputs)
    return [job for job in ordered if needed[job.id]]


class Schedule:
    """Which of the jobs ``todo`` (inputs first) can start: those whose inputs are not among the unfinished."""

    def __init__(self, todo: Sequence[Job]) -> None:
        self.jobs = {job.id: job for job in todo}
        self._place = {job.id: place for place, job in enumerate(todo)}
        self._waiting: dict[str, int] = {}
        self._above: dict[str, list[str]] = {job.id: [] for job in todo}
        self._ready: list[tuple[int, str]] = []
        self.given_up: set[str] = set()
        self.finished: set[str] = set()
        for job in todo:
            below = {one.id for one in job.inputs if one.id in self.jobs}
            self._waiting[job.id] = len(below)
            for one in below:
                self._above[one].append(job.id)
            if not below:
                self.put_back(job.id)

    @property
    def left(self) -> int:
        """How many jobs are neither finished nor given up."""
        return len(self.jobs) - len(self.finished) - len(self.given_up)

    def take(self) -> Job | None:
        """The first job of the plan that can start; it is not offered again."""
        return self.jobs[heapq.heappop(self._ready)[1]] if self._ready else None

    def put_back(self, job_id: str) -> None:
        """Offer the job again."""
        heapq.heappush(self._ready, (self._place[job_id], job_id))

    def done(self, job_id: str) -> None:
        """The job is finished; what waited for it alone can start."""
        self.finished.add(job_id)
        for above in self._above[job_id]:
            self._waiting[above] -= 1
            if self._waiting[above] == 0 and above not in self.given_up:
                self.put_back(above)

    def give_up(self, job_id: str) -> None:
        """The job failed: neither it nor what needs it will be done."""
        lost = [job_id]
        while lost:
            one = lost.pop()
            if one not in self.given_up:
                self.given_up.add(one)
                lost += self._above[one]


def widest(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the plan's widest level, in its order; of several the one nearest to the result.

    A level is the jobs of one kind with the same longest way to a job that nothing needs.
    """
    ordered = in_order(jobs)
    height: dict[str, int] = {job.id: 0 for job in ordered}
    for job in reversed(ordered):
        for below in job.inputs:
            height[below.id] = max(height[below.id], height[job.id] + 1)
    levels: dict[tuple[int, str], list[Job]] = {}
    for job in ordered:
        levels.setdefault((height[job.id], job.kind), []).append(job)
    return max(levels.items(), key=lambda level: (len(level[1]), -level[0][0]))[1] if levels else []


def share_of(jobs: Sequence[Job], share: tuple[int, int]) -> list[Job]:
    """Slice ``i`` of ``n`` of the widest level: every n-th job. The slices are apart and together all of it.

    Raises :class:`ConfigError` unless ``0 <= i < n``.
    """
    index, count = share
    if not 0 <= index < count:
        raise ConfigError(f"slice {index}/{count} does not exist; expected i/n with 0 <= i < n")
    return widest(jobs)[index::count]
