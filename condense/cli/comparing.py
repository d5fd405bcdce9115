"""Commands on stored results: put them into one table, run them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condense.cli.options import DataName, Images, Machine, Teachers, command
from condense.cli.output import say, table

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
) -> None:
    """Print or write one table of stored results: means, spreads, and differences with their intervals.

    Example: condense compare results.jsonl --format csv -o table.csv

    Differences are to random real images and to the best coreset there is, paired by set and seed. Runs are only
    compared where data, IPC, student, track and recipe agree.
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
    rows = rows_of(read_results(paths), baseline)
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
