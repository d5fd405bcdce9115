"""From students' jobs to results: what each wrote, what it has cost, and a file that collects them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from condense.engine.events import costs
from condense.engine.job import Job
from condense.engine.perform import Outcome
from condense.evaluation.results import Failure, Result, append_result, read_results
from condense.pipeline.context import Context
from condense.pipeline.plans import run_all

__all__ = ["Student", "keep_failure", "keep_result", "measure_all", "read_outcome", "read_outcomes"]

Student = tuple[str, str, Job]
"""A condition, a track (or nothing), and the job."""


def keep_result(folder: Path, result: Result, *, seed: int | None = None) -> None:
    """Write ``result.json``, without seconds and memory: the artefact is the same bytes wherever it was made.

    ``seed``: whose it is, where a job trains several students: ``result-3.json``.
    """
    text = replace(result, seconds=0.0, peak_memory=0).to_json() + "\n"
    (folder / named("result", seed)).write_text(text)


def keep_failure(folder: Path, failure: Failure, *, seed: int | None = None) -> None:
    """Write ``failed.json`` instead: the same run would fail again."""
    (folder / named("failed", seed)).write_text(json.dumps(asdict(failure)) + "\n")


def named(what: str, seed: int | None) -> str:
    return f"{what}.json" if seed is None else f"{what}-{seed}.json"


def named_row(one: Result | Failure, condition: str, track: str, quick: bool) -> Result | Failure:
    """What a student's job wrote, as a line of the table of this evaluation."""
    one = replace(one, condition=condition, track=track)
    return replace(one, quick=quick) if isinstance(one, Result) else one


def read_outcome(folder: Path, cost: Mapping[str, float] | None = None) -> Result | Failure:
    """What a student's job wrote, with what the job has cost, as far as that is known."""
    [found] = read_outcomes(folder, cost)
    return found


def read_outcomes(folder: Path, cost: Mapping[str, float] | None = None) -> list[Result | Failure]:
    """The same of a job with several students, in order of their seeds; each has cost its share of the seconds."""
    cost = cost or {}
    paths = [path for path in folder.glob("*.json") if path.stem.partition("-")[0] in ("result", "failed")]
    found: list[Result | Failure] = []
    for path in sorted(paths, key=lambda path: int(path.stem.partition("-")[2] or 0)):
        if path.stem.startswith("failed"):
            found.append(Failure(**json.loads(path.read_text())))
            continue
        seconds, memory = cost.get("seconds", 0.0) / len(paths), int(cost.get("peak_memory_bytes", 0))
        found.append(replace(Result.from_json(path.read_text()), seconds=seconds, peak_memory=memory))
    return found


class Held:
    """The results in a file that several slices may add to. It is read again only after another has done so."""

    def __init__(self, path: Path) -> None:
        self.path, self.keys, self.size = path, set[tuple[str, ...]](), 0
        self.look()

    def look(self) -> None:
        """Take note of what others have added."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self.size:
            self.keys, self.size = {one.key for one in read_results(self.path)}, size

    def add(self, result: Result) -> None:
        """Append a result that is not there."""
        if result.key not in self.keys:
            self.size += append_result(self.path, result)
            self.keys.add(result.key)


def measure_all(
    students: Sequence[Student], context: Context, path: Path | None, *, quick: bool = False
) -> tuple[list[Result], list[Failure]]:
    """Run students and collect their results, appending to ``path`` those that are not there, as they come in.

    ``quick``: mark them as results of a budget of seconds.
    """
    held = None if path is None else Held(path)
    rows: dict[str, list[tuple[str, str]]] = {}
    for condition, track, job in students:
        rows.setdefault(job.id, []).append((condition, track))
    collected: dict[tuple[str, str, str], list[Result | Failure]] = {}
    earlier: dict[str, dict[str, float]] = {}

    def take(job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            cost = {"seconds": outcome.seconds, "peak_memory_bytes": outcome.peak_memory}
        else:
            if job.id not in earlier:
                earlier.update(costs(context.store.root / "runs"))
            cost = earlier.setdefault(job.id, {})
        outcomes = read_outcomes(context.store.path(job.id), cost)
        if held is not None and outcome is None:
            held.look()
        for condition, track in rows[job.id]:
            collected[job.id, condition, track] = [named_row(one, condition, track, quick) for one in outcomes]
            for found in collected[job.id, condition, track]:
                if held is not None and isinstance(found, Result):
                    held.add(found)

    run_all(lambda: [job for _, _, job in students], context, shared=True, finished=take, what="students")
    found = [one for condition, track, job in students for one in collected[job.id, condition, track]]
    return (
        [one for one in found if isinstance(one, Result)],
        [one for one in found if isinstance(one, Failure)],
    )
