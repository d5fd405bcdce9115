"""Commands that use a set: train a network on it, evaluate it beside real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from condense.cli.options import DataName, Images, Machine, Quick, Recipe, Seed, Teachers, command
from condense.cli.output import say, table, warn

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (train, evaluate, compare, repro):
        command(app, function.__name__)(function)


def train(
    path: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a distilled set.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The .safetensors file to write.")],
    images: Images,
    recipe: Recipe,
    machine: Machine,
    student: Annotated[str | None, typer.Option(metavar="NAME", help="One of `condense networks`.")] = None,
    data: DataName = None,
    teacher: Teachers = None,
    seed: Seed = None,
) -> None:
    """Train one network on a set and keep its weights. With --data it is also measured on the test images.

    Example: condense train synthesized/fashion-mini-ipc10-cda --student resnet20 --out model.safetensors

    --teacher is only needed for a set that stores no soft labels and names its teachers instead.
    """
    from condense import pipeline
    from condense.config import from_mapping
    from condense.evaluation.student import StudentRecipe

    settings = from_mapping(StudentRecipe, recipe.values(network=student), "student")
    with machine.context() as context:
        outcome = pipeline.train(
            path,
            context,
            recipe=settings,
            seed=seed or 0,
            data=images.requested(data),
            teachers=teacher or [],
            out=out,
        )
    say(f"wrote {out}")
    if outcome.accuracy is not None:
        say(f"accuracy on the test images: {100 * outcome.accuracy:.2f} %")


def evaluate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="SET...", help="Folders of sets, or a folder of set-0, set-1, ...")
    ],
    images: Images,
    recipe: Recipe,
    machine: Machine,
    student: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A network to train; repeatable. Default convnet3-bn.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Students of each kind per set; 3 by default, 1 with --quick.")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="soft or hard; repeatable. Both by default.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="hard, teacher, budget:B, native:NAME: see `condense tracks`; repeatable."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT", help="random, another method that chooses real images, or whole (all data); repeatable."
        ),
    ] = None,
    data: DataName = None,
    teacher: Teachers = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON lines to add results to, and to go on from.")
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(metavar="N", help="Students of a set in one job; by default several where that saves work."),
    ] = None,
    recipe_out: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Write how to do it again, for `condense repro`.")
    ] = None,
    quick: Quick = False,
) -> None:
    """Train fresh networks on sets and print what they are worth, beside random real images labelled the same way.

    Example: condense evaluate synthesized/fashion-mini-ipc10-cda --student resnet20 --seeds 3 --against random

    Accuracies are those of the last epoch on the test images. Sets of one method are repetitions of each other: make
    them with `condense distill --sets 3`, because one set says nothing about the method.
    """
    from condense import pipeline
    from condense.config import from_mapping
    from condense.evaluation.student import StudentRecipe
    from condense.report import rows_of, show

    said, requested = recipe.values(), images.requested(data)
    settings = from_mapping(StudentRecipe, said, "student") if said else None
    asked: dict[str, Any] = {
        "students": split(student) or ["convnet3-bn"],
        "seeds": seeds,
        "targets": targets or None,
        "tracks": split(track),
        "against": split(against) or ["random"],
        "together": together,
        "quick": quick,
    }
    with machine.context() as context:
        measured = pipeline.evaluate(
            paths, context, data=requested, teachers=teacher or [], results=results, student=settings, **asked
        )
        if recipe_out is not None:
            pipeline.write_recipe(
                recipe_out, paths, {**asked, "student": said or None}, requested, teacher or [], measured
            )
    if measured.results:
        show(rows_of(measured))
    for rate in measured.rates:
        if rate.tried:
            say(f"track {rate.track}, {rate.network}: learning rate {rate.rate:g}, the best of {words(rate.tried)}")
    for failure in measured.failures:
        warn(f"failed, and in no mean: {failure}")
    if measured.failures:
        raise typer.Exit(2)


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


def split(values: list[str] | None) -> list[str]:
    """What was said once or several times, with commas or without."""
    return [part for value in values or [] for part in value.split(",") if part]


def words(tried: Mapping[float, float]) -> str:
    return ", ".join(f"{rate:g} ({100 * accuracy:.1f} % of held-out images)" for rate, accuracy in tried.items())
