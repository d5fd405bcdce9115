"""Commands about the work itself: what it would take, how far it is, what is kept of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condense.cli.options import Distillation, Images, Machine, Quiet, Recipe, command
from condense.cli.output import pairs, say, say_json, table
from condense.console import drawn
from condense.files import bytes_in_words
from condense.quantities import duration, seconds_of

if TYPE_CHECKING:
    from condense.engine.status import RunningJob, Status
    from condense.engine.store import Store
    from condense.pipeline import Estimate

__all__ = ["register"]

RESULTS = ("teacher", "set", "student", "students", "student-on-real")
"""Kinds of artefacts that are somebody's result; `condense store gc` leaves them, and what they are made of."""

store = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", envvar="CONDENSE_STORE", help="By default in the user's cache."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (plan, status):
        command(app, function.__name__)(function)
    app.add_typer(store, name="store")


def plan(
    wanted: Distillation,
    images: Images,
    recipe: Recipe,
    machine: Machine,
    _out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="As of distill; nothing is written there.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Measure for some seconds how long it would take.")] = True,
    json: AsJson = False,
) -> None:
    """Say what `condense distill` with the same options would do and take, without doing it.

    Example: condense plan --data fashion-mini --method cda --ipc 10

    The times come from the first seconds of a job of each kind, measured now, with nothing kept of them.
    """
    from condense import pipeline

    request = wanted.request(images, recipe)
    with machine.context() as context:
        made = pipeline.estimate(request, context, teachers=wanted.teacher or [], probe=probe)
        workers = context.execution.workers or 1
    if json:
        say_json({**dataclasses.asdict(made), "steps": made.steps})
        return
    show_plan(made, workers)


def show_plan(made: Estimate, workers: int) -> None:
    side_by_side = f"with {workers} worker{'s' if workers > 1 else ''}"
    why = f": {made.why_not_known}" if made.why_not_known else ""
    rows = [
        [one.kind, str(one.jobs), str(one.done), str(one.steps or ""), unknown(one.seconds, about)]
        for one in made.kinds
    ]
    table(["job", "all", "in the store", "steps to do", "seconds of work to do"], rows)
    pairs(
        {
            "images": made.images,
            "optimisation steps": made.steps,
            "time": f"{time_of(made)} {side_by_side}{why}",
            "memory": f"{unknown(made.peak_memory, bytes_in_words)} at the peak of a process",
            "disk": f"{bytes_in_words(made.store_bytes)} in the store, {bytes_in_words(made.set_bytes)} for the result",
        }
    )
    for note in made.notes:
        say(f"note: {note}")


def time_of(made: Estimate) -> str:
    """All of it, or as much as is known."""
    if made.seconds is None and made.at_least >= 1:
        return f"at least {duration(made.at_least)}"
    return unknown(made.seconds, duration)


def about(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 1 or seconds == 0 else "under 1"


def unknown(value: Any, words: Callable[[Any], str]) -> str:
    return "not known" if value is None else words(value)


def status(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A store, or the --out folder of a distillation.")
    ] = None,
    store: StorePath = None,
    json: AsJson = False,
) -> None:
    """Show how far a distillation or an evaluation is: jobs done, running, failed, rates, the time left.

    Example: condense status synthesized/fashion-mini-ipc10-cda

    It only reads what the runs leave in the store, so it works from any terminal and any machine that sees the store.
    Without a path it shows the default store. What is counted are the jobs of the runs that are at work, or of the
    latest: those that were not done when it began.
    """
    from condense.engine.status import status_of
    from condense.engine.store import Store, default_store

    is_store = path is not None and (path / "runs").is_dir()
    root = path if path is not None and is_store else store or default_store()
    found = status_of(Store(root), None if is_store else path)
    if json:
        say_json(dataclasses.asdict(found))
        return
    show_status(found, root, path)


def show_status(found: Status, root: Path, path: Path | None) -> None:
    from condense.errors import StoreError

    if found.state == "none":
        raise StoreError(
            f"store {root} knows of no run{f' for {path}' if path else ''}; expected --store or another path"
        )
    words = {
        "running": f"running, {found.processes} process{'es' if found.processes > 1 else ''}",
        "ended": "ended, everything is done",
        "stopped": "stopped; run the same command again to go on",
    }
    pairs(
        {
            "store": root,
            "state": words[found.state],
            "counted": counted_runs(found),
            "jobs": f"{found.done} of {found.total} done",
        }
    )
    if found.seconds_left is not None:
        pairs({"left": f"about {duration(found.seconds_left)}"})
    say()
    rows = [
        [kind, str(one.total), str(one.done), unknown(one.seconds, lambda seconds: f"{seconds:.3g}")]
        for kind, one in found.kinds.items()
    ]
    table(["job", "all", "done", "seconds each"], rows)
    if found.running:
        say()
        table(["running", "stage", "", "per second", "left"], [running_row(job) for job in found.running])
    for title, why in found.failed:
        say(f"failed: {title}: {why}")


def counted_runs(found: Status) -> str:
    """Which runs the numbers are of: a command makes one run or several, and each has only what was not done before."""
    if found.state == "running":
        which = f"{found.counted} at work" if found.counted > 1 else "the one at work"
    else:
        which = "the latest"
    if found.known == found.counted:
        return f"{found.counted} run{'s' if found.counted > 1 else ''}, all that are known"
    earlier = found.known - found.counted
    return f"{which} of {found.known} runs; what {earlier} other{'s' if earlier > 1 else ''} did is not counted"


def running_row(job: RunningJob) -> list[str]:
    figures = "".join(f", {name} {value:.3g}" for name, value in job.figures.items())
    return [
        job.title,
        job.stage,
        f"{job.done}/{job.total}{figures}" if job.total else "",
        "" if job.rate is None else f"{job.rate:.3g}",
        "" if job.seconds_left is None else duration(job.seconds_left),
    ]


@store.callback()
def stores() -> None:
    """The store of finished work: what is in it, whether it is sound, what nobody needs any more.

    Example: condense store list
    """


def opened(given: Path | None) -> Store:
    from condense.engine.store import Store, default_store

    return Store(given or default_store())


@command(store, "list")
def store_list(
    store: StorePath = None,
    every: Annotated[bool, typer.Option("--all", help="Every artefact, not only the sum of each kind.")] = False,
    json: AsJson = False,
) -> None:
    """List what is in the store, by kind.

    Example: condense store list --all
    """
    from condense.engine.events import costs
    from condense.engine.housekeeping import artefacts

    here = opened(store)
    found = list(artefacts(here))
    seconds = {job_id: cost["seconds"] for job_id, cost in costs(here.root / "runs").items()}
    if json:
        say_json([{**dataclasses.asdict(one), "seconds": seconds.get(one.id)} for one in found])
        return
    say(f"store {here.root}")
    if every:
        rows = [
            [one.id[:12], one.kind, bytes_in_words(one.bytes), unknown(seconds.get(one.id), about), duration(one.age_s)]
            for one in sorted(found, key=lambda one: (one.kind, one.age_s))
        ]
        table(["id", "kind", "size", "seconds it took", "age"], rows)
        return
    kinds = sorted({one.kind for one in found})
    rows = []
    for kind in kinds:
        mine = [one for one in found if one.kind == kind]
        taken = sum(seconds.get(one.id, 0.0) for one in mine)
        rows.append([kind, str(len(mine)), bytes_in_words(sum(one.bytes for one in mine)), duration(taken)])
    total = [str(len(found)), bytes_in_words(sum(one.bytes for one in found)), ""]
    table(["kind", "artefacts", "size", "time they took"], [*rows, ["all", *total]])


@command(store, "verify")
def store_verify(store: StorePath = None, quiet: Quiet = False) -> None:
    """Read every byte in the store and compare it with the hashes of its manifests.

    Example: condense store verify

    A damaged artefact is no loss but time: it is made again when it is needed.
    """
    from condense.engine.housekeeping import faults
    from condense.errors import StoreError

    here = opened(store)
    with drawn(quiet=quiet) as report:
        checked = list(faults(here, report))
    damaged = [(job_id, fault) for job_id, fault in checked if fault is not None]
    for job_id, fault in damaged:
        say(f"{here.path(job_id)}: {fault}")
    if damaged:
        raise StoreError(
            f"store {here.root}: {len(damaged)} of {len(checked)} artefacts are damaged; they are made again when a "
            "command needs them"
        )
    say(f"{here.root}: {len(checked)} artefacts, all valid")


@command(store, "gc")
def store_gc(
    store: StorePath = None,
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Intermediate work goes when it is older, for example 12h or 7d.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
) -> None:
    """Free disk space: remove what no teacher, set or result is made of, and what dead processes left behind.

    Example: condense store gc --older-than 7d --dry-run

    Nothing goes that a finished set in the store was made of, or that a running process needs.
    """
    from condense.engine.housekeeping import collect, garbage

    here = opened(store)
    found = garbage(here, RESULTS, older_than_s=seconds_of(older_than))
    for one in found:
        say(f"{'would remove' if dry_run else 'removing'} {one.what}, {bytes_in_words(one.bytes)}: {one.path}")
    freed = sum(one.bytes for one in found) if dry_run else collect(here, found)
    say(f"{'would free' if dry_run else 'freed'} {bytes_in_words(freed)}")
