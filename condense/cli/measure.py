"""Commands that use a set: train a network on it, evaluate it beside real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condense.cli.options import DataName, Images, Machine, Quick, Recipe, Seed, Teachers, command
from condense.cli.output import pairs, say, table, warn

if TYPE_CHECKING:
    from condense.evaluation.diversity import Diversity, SetDiversity

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (train, evaluate, diversity):
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
    quick: Quick = False,
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
            quick=quick,
        )
    say(f"wrote {out}{', which says that it was trained for seconds only (--quick)' if outcome.quick else ''}")
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
        list[str] | None,
        typer.Option(metavar="NAME", help="A network to train; repeatable. Default convnet3-bn, or the track's."),
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
            metavar="WHAT", help="random (default), other methods that choose real images, whole (all data), or none."
        ),
    ] = None,
    data: DataName = None,
    teacher: Teachers = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON lines to add results to, and to go on from.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print accuracies by class.")] = False,
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
    from condense.dataset import load
    from condense.errors import ConfigError
    from condense.evaluation.student import StudentRecipe
    from condense.report import rows_by_class, rows_of, show
    from condense.shards import sets_in

    said, requested = recipe.values(), images.requested(data)
    for key, option in (("targets", "--targets"), ("network", "--student")):
        if key in said:
            raise ConfigError(f"evaluate takes {key} by {option} {said[key]}, not by --set {key}={said[key]}")
    settings = from_mapping(StudentRecipe, said, "student") if said else None
    asked: dict[str, Any] = {
        "students": split(student),
        "seeds": seeds,
        "targets": targets or None,
        "tracks": split(track),
        "against": [] if split(against) == ["none"] else split(against) or ["random"],
        "together": together,
        "quick": quick,
    }
    with machine.context() as context:
        measured = pipeline.evaluate(
            paths, context, data=requested, teachers=teacher or [], results=results, student=settings, **asked
        )
        if recipe_out is not None and measured.results:
            pipeline.write_recipe(
                recipe_out, paths, {**asked, "student": said or None}, requested, teacher or [], measured
            )
    if measured.results:
        show(rows_of(measured))
    if per_class:
        classes = load(sets_in(paths[0])[0]).classes
        for title, (headings, *rows) in rows_by_class(measured, classes).items():
            say(f"\n{title}")
            table(headings, rows)
    for rate in measured.rates:
        if rate.tried:
            say(f"track {rate.track}, {rate.network}: learning rate {rate.rate:g}, the best of {words(rate.tried)}")
    for failure in measured.failures:
        warn(f"failed, and in no mean: {failure}")
    if measured.failures:
        raise typer.Exit(2)


def split(values: list[str] | None) -> list[str]:
    """What was said once or several times, with commas or without."""
    return [part for value in values or [] for part in value.split(",") if part]


def words(tried: Mapping[float, float]) -> str:
    return ", ".join(f"{rate:g} ({100 * accuracy:.1f} % of held-out images)" for rate, accuracy in tried.items())


def diversity(
    paths: Annotated[
        list[Path], typer.Argument(metavar="SET...", help="Folders of sets, or a folder of set-0, set-1, ...")
    ],
    images: Images,
    recipe: Recipe,
    machine: Machine,
    data: DataName = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The folder of a trained network that looks at the images.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One to be trained briefly for that; another than the set's by default."),
    ] = None,
    draws: Annotated[int, typer.Option(metavar="N", help="Sets of random real images to stand beside.")] = 20,
    seed: Seed = None,
    allow_maker: Annotated[
        bool, typer.Option("--allow-maker", help="Accept a network that is a teacher of the set.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="A .json file to write.")] = None,
) -> None:
    """Say how diverse the images of a class are, and how much of the real class they cover, beside random real images.

    Example: condense diversity synthesized/fashion-mini-ipc10-cda

    A network that did not make the set looks at the images. --set and --config hold settings of its training, by the
    names of the section teacher. Numbers of sets with other numbers of images per class cannot be compared.
    """
    from condense import pipeline

    with machine.context() as context:
        found = pipeline.diversity(
            paths,
            context,
            data=images.requested(data),
            teacher=teacher,
            network=network,
            settings=recipe.values(),
            draws=draws,
            seed=seed or 0,
            allow_maker=allow_maker,
            out=out,
        )
    for one in found.sets:
        show_scores(one, found)
    if out is not None:
        say(f"wrote {out}")


def show_scores(one: SetDiversity, found: Diversity) -> None:
    from condense.report import rows_of_scores

    sizes = sorted(set(one.images_per_class))
    seen = f" ({100 * found.network_accuracy:.1f} % on the test images)" if found.network_accuracy is not None else ""
    pairs(
        {
            "set": f"{one.name} ({one.path})",
            "images": f"{' to '.join(map(str, sizes[:: max(1, len(sizes) - 1)]))} per class",
            "seen by": f"{found.network}{seen}{', a teacher of a set' if found.is_maker else ''}",
            "beside": f"{found.draws} draws of as many random real images",
        }
    )
    headings, *rows = rows_of_scores(one)
    table(headings, rows)
