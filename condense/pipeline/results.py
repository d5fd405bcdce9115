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

__all__ = ["Student", "keep_failure", "keep_result", "measure_all", "read_outcome"]

Student = tuple[str, str, Job]
"""A condition, a track (or nothing), and the job."""


def keep_result(folder: Path, result: Result) -> None:
    """Write ``result.json``, without seconds and memory: the artefact is the same bytes wherever it was made."""
    (folder / "result.json").write_text(replace(result, seconds=0.0, peak_memory=0).to_json() + "\n")


def keep_failure(folder: Path, failure: Failure) -> None:
    """Write ``failed.json`` instead: the same run would fail again."""
    (folder / "failed.json").write_text(json.dumps(asdict(failure)) + "\n")


def read_outcome(folder: Path, cost: Mapping[str, float] | None = None) -> Result | Failure:
    """What a student's job wrote, with what the job has cost, as far as that is known."""
    failed = folder / "failed.json"
    if failed.exists():
        return Failure(**json.loads(failed.read_text()))
    cost = cost or {}
    return replace(
        Result.from_json((folder / "result.json").read_text()),
        seconds=cost.get("seconds", 0.0),
        peak_memory=int(cost.get("peak_memory_bytes", 0)),
    )


def measure_all(students: Sequence[Student], context: Context, path: Path | None) -> tuple[list[Result], list[Failure]]:
    """Run students and collect their results, appending to ``path`` those that are not there, as they come in."""
    known = {result.key for result in read_results(path)} if path is not None and path.exists() else set()
    rows: dict[str, list[tuple[str, str]]] = {}
    for condition, track, job in students:
        rows.setdefault(job.id, []).append((condition, track))
    collected: dict[tuple[str, str, str], Result | Failure] = {}
    earlier: dict[str, dict[str, float]] = {}

    def take(job: Job, outcome: Outcome | None) -> None:
        if outcome is not None:
            cost = {"seconds": outcome.seconds, "peak_memory_bytes": outcome.peak_memory}
        else:
            if job.id not in earlier:
                earlier.update(costs(context.store.root / "runs"))
            cost = earlier.setdefault(job.id, {})
        for condition, track in rows[job.id]:
            found = replace(read_outcome(context.store.path(job.id), cost), condition=condition, track=track)
            collected[job.id, condition, track] = found
            if path is None or isinstance(found, Failure):
                continue
            if outcome is None and path.exists():  # another slice may have added it meanwhile
                known.update(one.key for one in read_results(path))
            if found.key not in known:
                append_result(path, found)
                known.add(found.key)

    run_all(lambda: [job for _, _, job in students], context, shared=True, finished=take)
    found = [collected[job.id, condition, track] for condition, track, job in students]
    return (
        [one for one in found if isinstance(one, Result)],
        [one for one in found if isinstance(one, Failure)],
    )
