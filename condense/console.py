"""What :mod:`condense.progress` reports, drawn on standard error: bars on a terminal, now and then a line elsewhere.

Stages nest: one that reports while another is unfinished lies inside it, and is over when the outer one reports again.
Things done side by side have a lane each; stages nest within a lane.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from condense.progress import Report, silent
from condense.quantities import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BarReport", "LineReport", "drawn"]

SHOW_AFTER_S = 1.0  # what is over sooner is not worth a flicker
LINE_EVERY_S = 10.0
FIRST_LINE_AFTER_S = 2.0

Clock = Callable[[], float]


@dataclass
class Stage:
    """One stage that is under way: where it was when it was first heard of, and when that was."""

    name: str
    first: int
    started: float
    line: str = ""
    """What was last said of it."""

    def seconds_left(self, done: int, total: int, now: float) -> float | None:
        """At the pace so far; None before there is a pace. What a checkpoint brought along does not count."""
        if done <= self.first:
            return None
        return (now - self.started) / (done - self.first) * (total - done)


class Stages:
    """The stages of each lane that are under way, outermost first."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lanes: dict[str, list[Stage]] = {}

    @property
    def open(self) -> list[Stage]:
        return [stage for stages in self.lanes.values() for stage in stages]

    def at(self, name: str, done: int, lane: str = "") -> Stage:
        """The stage ``name``, the innermost of its lane from now on; what lay inside it is closed."""
        stages = self.lanes.setdefault(lane, [])
        for depth, stage in enumerate(stages):
            if stage.name == name:
                del stages[depth + 1 :]
                return stage
        stages.append(Stage(name, done, self.clock()))
        return stages[-1]

    def close_lane(self, lane: str) -> None:
        self.lanes.pop(lane, None)

    def close(self, stage: Stage, lane: str = "") -> None:
        self.lanes[lane].remove(stage)
        if not self.lanes[lane]:
            del self.lanes[lane]


class Lane:
    """A report of its own within another: what it says is headed by its name."""

    def __init__(self, outer: LanedReport, name: str) -> None:
        self.outer, self.name = outer, name

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        self.outer.draw(f"{self.name}: {stage}", done, total, figures, self.name)


class LanedReport(ABC):
    """Draws stages, each in its lane; the lane of no name is the report itself."""

    stages: Stages

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        self.draw(stage, done, total, figures)

    def lane(self, name: str) -> Report:
        return Lane(self, name)

    def end_lane(self, name: str) -> None:
        self.stages.close_lane(name)

    @abstractmethod
    def note(self, line: str) -> None:
        """Say ``note: line`` once, at once."""

    @abstractmethod
    def draw(self, stage: str, done: int, total: int, figures: Mapping[str, float], lane: str = "") -> None: ...


class LineReport(LanedReport):
    """Plain lines such as ``recover 400/1000, loss 3.21, 2 min left``: every ``every_s`` seconds one for each lane."""

    def __init__(self, stream: TextIO, *, every_s: float = LINE_EVERY_S, clock: Clock = time.monotonic) -> None:
        self.stream = stream
        self.every_s = every_s
        self.stages = Stages(clock)
        self.due = clock() + min(FIRST_LINE_AFTER_S, every_s)

    def note(self, line: str) -> None:
        self.stream.write(f"note: {line}\n")
        self.stream.flush()

    def draw(self, stage: str, done: int, total: int, figures: Mapping[str, float], lane: str = "") -> None:
        now = self.stages.clock()
        current = self.stages.at(stage, done, lane)
        left = current.seconds_left(done, total, now)
        current.line = ", ".join([f"{stage} {done}/{total}", *shown(figures), *remaining(left)])
        if now >= self.due:
            self.due = now + self.every_s
            self.stream.write("".join(f"{stages[-1].line}\n" for stages in self.stages.lanes.values()))
            self.stream.flush()
        if done >= total:
            self.stages.close(current, lane)


class BarReport(LanedReport):
    """A bar for each stage under way; a stage that took long leaves one line behind when it is over."""

    def __init__(self, progress: Progress, *, clock: Clock = time.monotonic) -> None:
        self.progress = progress
        self.stages = Stages(clock)
        self.bars: dict[str, TaskID] = {}

    def end_lane(self, name: str) -> None:
        super().end_lane(name)
        self._show_open()

    def note(self, line: str) -> None:
        self._leave_line(f"note: {line}")

    def draw(self, stage: str, done: int, total: int, figures: Mapping[str, float], lane: str = "") -> None:
        current = self.stages.at(stage, done, lane)
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, visible=False, figures="")
        self.progress.update(self.bars[stage], completed=done, total=total, figures=" ".join(shown(figures)))
        if done >= total:
            self.stages.close(current, lane)
            taken = self.stages.clock() - current.started
            if taken >= FIRST_LINE_AFTER_S:
                self._leave_line(", ".join([f"{stage} {done}/{total}", *shown(figures), duration(taken)]))
        self._show_open()

    def _leave_line(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show_open(self) -> None:
        """Remove the bars of closed stages, show those of stages that are no longer young."""
        ages = {stage.name: self.stages.clock() - stage.started for stage in self.stages.open}
        for name, bar in list(self.bars.items()):
            if name in ages:
                self.progress.update(bar, visible=ages[name] >= SHOW_AFTER_S)
            else:
                self.progress.remove_task(self.bars.pop(name))


def shown(figures: Mapping[str, float]) -> list[str]:
    """``{"loss": 3.2149}`` -> ``["loss 3.21"]``; integers keep their digits."""
    return [f"{name} {value:.3g}" if value != int(value) else f"{name} {int(value)}" for name, value in figures.items()]


def remaining(seconds: float | None) -> list[str]:
    return [] if not seconds else [f"{duration(seconds)} left"]


@contextmanager
def drawn(*, quiet: bool = False, stream: TextIO | None = None, every_s: float = LINE_EVERY_S) -> Iterator[Report]:
    """A report for the time of the block: nothing when ``quiet``, bars on a terminal, lines otherwise."""
    stream = stream or sys.stderr
    if quiet:
        yield silent
    elif stream.isatty():
        with _bars(stream) as progress:
            yield BarReport(progress)
    else:
        yield LineReport(stream, every_s=every_s)


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(file=stream),
        transient=True,
        expand=True,
    )
