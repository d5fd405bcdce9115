"""Commands on stored results: put them into one table, run them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condense.cli.options import DataName, Images, Machine, Quiet, Teachers, command
from condense.cli.output import say, table
from condense.console import drawn

if TYPE_CHECKING:
    from condense.report import Row

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (compare, repro):
        command(app, function.__name__)(function)


def compare(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Files that `condense evaluate --results` wrote.")
    ],
    baseline: Annotated[str, typer.Option(metavar="NAME", help="The condition that differences are to.")] = "random",
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="table, markdown, csv or json.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it there instead.")] = None,
    with_scores: Annotated[
        bool, typer.Option("--scores", help="Also print HLR, IOR, LRS, ARS, and how alike tracks rank.")
    ] = False,
    maker: Annotated[
        list[str] | None,
        typer.Option(metavar="NETWORK", help="Of the teachers: also print what is kept by other networks; repeatable."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Print or write one table of stored results: means, spreads, and differences with their intervals.

    Example: condense compare results.jsonl --format csv -o table.csv

    Differences are to random real images and to the best coreset there is, paired by set and seed. Runs are only
    compared where data, IPC, student, track and recipe agree, and quick ones (--quick) with quick ones.
    """
    import json

    from condense.errors import ConfigError, suggest
    from condense.evaluation.results import read_results
    from condense.files import disk_errors
    from condense.report import comma_separated, markdown, records, rows_of, show

    forms = {
        "table": markdown,
        "markdown": markdown,
        "csv": comma_separated,
        "json": lambda rows: json.dumps(records(rows), indent=2, ensure_ascii=False) + "\n",
    }
    if form not in forms:
        raise ConfigError(f'--format is "{form}"; {suggest(form, forms)}')
    if form in ("csv", "json") and out is None and (with_scores or maker):
        raise ConfigError(f"--scores and --maker print tables, which are no {form}; write the {form} with --out")
    with drawn(quiet=quiet) as report:
        rows = rows_of(read_results(paths, report), baseline, report)
    if not rows:
        raise ConfigError(f"there is no result in {', '.join(map(str, paths))}")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(forms[form](rows), encoding="utf-8")
        say(f"wrote {out}")
    elif form == "table":
        show(rows)
    else:
        typer.echo(forms[form](rows), nl=False)
    if with_scores:
        show_scores(rows)
    if maker:
        show_transfers(rows, maker)


def show_scores(rows: Sequence[Row]) -> None:
    from condense.report import rankings, score_table, scores

    say()
    found = scores(rows)
    table(*score_table(found))
    if any(None in (one.hlr, one.ior, one.ars) for one in found):
        say(
            "-: not measured. HLR takes the condition and whole data on track hard, IOR random images beside it, LRS "
            "both; ARS takes the condition and random images on hard:none and on an augmented hard track."
        )
    for one in rankings(rows):
        first, second = one.tracks
        say(
            f"{one.data}, IPC {one.ipc}, {one.student}: {first} and {second} rank {one.conditions} conditions with a "
            f"correlation of {one.correlation:+.2f}"
        )


def show_transfers(rows: Sequence[Row], makers: Sequence[str]) -> None:
    """Gains over random images, in points."""
    from condense.report import transfers

    say()
    table(
        ["condition", "data", "IPC", "track", "gain with makers", "with others", "worst drop"],
        [
            [
                condition,
                data,
                str(ipc),
                track,
                f"{100 * one.own:+.2f}",
                f"{100 * one.others:+.2f}",
                f"{100 * one.worst_drop:+.2f} ({one.worst})",
            ]
            for (data, ipc, track, condition), one in transfers(rows, makers).items()
        ],
    )


def repro(
    path: Annotated[Path, typer.Argument(metavar="RECIPE", help="What `condense evaluate --recipe` wrote.")],
    images: Images,
    machine: Machine,
    data: DataName = None,
    teacher: Teachers = None,
) -> None:
    """Run a stored evaluation again and say whether it agrees: exit status 0 if it does, 1 if not.

    Example: condense repro results/cda.recipe.yaml

    The same kind of machine with the same versions must give the same accuracies; another one the same means within 2
    percentage points.
    """
    from condense import pipeline

    with machine.context() as context:
        rows = pipeline.repro(path, context, data=images.requested(data), teachers=teacher or [])
    table(
        ["result", "runs", "stored", "now", "agrees"],
        [
            [
                row.title,
                str(row.runs),
                f"{100 * row.stored:.2f}",
                "-" if row.measured is None else f"{100 * row.measured:.2f}",
                "yes" if row.agrees else "no",
            ]
            for row in rows
        ],
    )
    say("the same machine and versions: equal" if rows[0].exact else "another machine or version: within 2 points")
    if not all(row.agrees for row in rows):
        raise typer.Exit(1)
