"""Commands that list and describe: data sets, networks, methods, tracks, recipes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condense.cli.options import Images, Quiet, command
from condense.cli.output import pairs, say, say_json, table
from condense.console import drawn

if TYPE_CHECKING:
    from condense.recipes import Recipe

__all__ = ["data", "methods", "recipes", "register"]

data = typer.Typer(no_args_is_help=True)
methods = typer.Typer(invoke_without_command=True)
recipes = typer.Typer(invoke_without_command=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@data.callback()
def data_sets() -> None:
    """Data sets: which have a name, what is in one.

    Example: condense data list
    """


@command(data, "list")
def data_list(json: AsJson = False) -> None:
    """List the data sets that have a name.

    Example: condense data list
    """
    from condense.data import DATASETS

    if json:
        say_json({name: dataclasses.asdict(entry) for name, entry in DATASETS.items()})
        return
    rows = [[name, entry.summary, entry.images, entry.files] for name, entry in DATASETS.items()]
    table(["data", "what it shows", "images", "files"], rows)


@command(data, "show")
def data_show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="One of `condense data list`, imagefolder:PATH or module:callable.")
    ],
    images: Images,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what is in a data set: classes, sizes, mean and std. Reads it if that was not done before.

    Example: condense data show imagefolder:photos --size 32
    """
    from condense.data import open_data

    with drawn(quiet=quiet) as report:
        spec = open_data(name, report=report, **images.values()).spec
    if json:
        say_json(spec.to_dict())
        return
    pairs(
        {
            "name": spec.name,
            "images": f"{spec.height} x {spec.width} px, {spec.channels} channel{'s' if spec.channels > 1 else ''}",
            "mean": ", ".join(f"{value:.4f}" for value in spec.mean),
            "std": ", ".join(f"{value:.4f}" for value in spec.std),
            "fingerprint": spec.fingerprint[:16],
        }
    )
    say()
    sizes = zip(spec.classes, spec.train_sizes, spec.test_sizes, strict=True)
    rows = [[str(index), *map(str, row)] for index, row in enumerate(sizes)]
    total = ["", "all", str(sum(spec.train_sizes)), str(sum(spec.test_sizes))]
    table(["", "class", "training", "test"], [*rows, total])


def register(app: typer.Typer) -> None:
    """Add the groups and the command of this module."""
    app.add_typer(data, name="data")
    app.add_typer(methods, name="methods")
    app.add_typer(recipes, name="recipes")
    command(app, "networks")(networks)
    command(app, "tracks")(tracks)


def tracks(
    images: Images,
    name: Annotated[str | None, typer.Argument(metavar="TRACK", help="One of those listed without it.")] = None,
    data: Annotated[str, typer.Option(metavar="NAME", help="For which data set.")] = "fashion-mini",
    json: AsJson = False,
) -> None:
    """List the tracks of `condense evaluate`, or show one of them in full.

    Example: condense tracks hard --data fashion-mnist
    """
    from condense.data import open_data
    from condense.evaluation.tracks import all_tracks, find_track

    spec = open_data(data, **images.values()).spec
    if name is None:
        listed = all_tracks(spec)
        if json:
            say_json([track.to_dict() for track in listed])
            return
        table(["track", "version", "what it is"], [[one.name, str(one.version), one.summary] for one in listed])
        return
    track = find_track(name, spec)
    if json:
        say_json(track.to_dict())
        return
    known = ", ".join(f"{network} {rate:g}" for network, rate in track.known.items())
    tried = ", ".join(f"{rate:g}" for rate in track.rates)
    length = f"{track.steps} optimiser steps" if track.steps else f"{track.epochs} epochs"
    pairs(
        {
            "track": track.title,
            "is": track.summary,
            "length": length,
            "network": track.network,
            "learning rate": f"of {tried} the best on held-out images" if tried else f"{track.student.optim.lr:g}",
            "known rates": known or "none",
        }
    )
    for heading, rows in (("views", settings_of(track.views)), ("student", settings_of(track.student))):
        say()
        table([heading, "value", ""], rows)


def networks(
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the images.")] = 32,
    channels: Annotated[int, typer.Option(metavar="N", help="1 (grey) or 3 (colour).")] = 3,
    classes: Annotated[int, typer.Option(metavar="N", help="Number of classes.")] = 10,
    json: AsJson = False,
) -> None:
    """List the networks and how many parameters they have.

    Example: condense networks --size 28 --channels 1
    """
    from condense.networks import NETWORK_FORMS, describe

    listed = describe(channels=channels, height=size, width=size, n_classes=classes)
    if json:
        say_json([dataclasses.asdict(row) for row in listed])
        return
    table(
        ["network", "  parameters", "what it is"],
        [[row.name, f"{row.parameters:>12,}", row.summary] for row in listed]
        + [[form, "", summary] for form, summary in NETWORK_FORMS.items()],
    )


@methods.callback()
def methods_list(context: typer.Context) -> None:
    """List the methods; `methods show NAME` shows one.

    Example: condense methods
    """
    if context.invoked_subcommand is not None:
        return
    from condense.methods import METHODS

    table(["method", "what it does"], [[name, method.summary] for name, method in METHODS.items()])


@command(methods, "show")
def methods_show(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="One of `condense methods`.")], json: AsJson = False
) -> None:
    """Show a method's settings with their defaults, what it needs, and where it was published.

    Example: condense methods show cda
    """
    from condense.config import to_mapping
    from condense.errors import MethodError, suggest
    from condense.methods import METHODS
    from condense.pipeline.request import usual_labels
    from condense.teachers.recipe import TeacherRecipe

    if name not in METHODS:
        raise MethodError(f'there is no method "{name}"; {suggest(name, METHODS)}')
    method = METHODS[name]
    config, teacher = method.Config(), TeacherRecipe()
    labels = usual_labels(method(config))
    networks = list(method.networks or (teacher.network,))
    if json:
        known = {"method": name, "summary": method.summary, "source": method.source}
        say_json({**known, "settings": to_mapping(config), "teachers": networks, "labels": to_mapping(labels)})
        return
    about = {"method": name, "does": method.summary, "source": method.source, "needs": needs_of(method, config)}
    pairs(about if method(config).needs.teachers == "none" else {**about, "teachers": ", ".join(networks)})
    for heading, rows in (
        ("setting", settings_of(config)),
        ("setting of teachers that are trained", settings_of(teacher, "teacher.")),
        ("setting of labels", settings_of(labels, "labels.")),
    ):
        if rows:
            say()
            table([heading, "default", "meaning"], rows)


def needs_of(method: Any, config: Any) -> str:
    """In words."""
    needs = method(config).needs
    teachers = {"none": "no teacher", "batchnorm": "teachers with BatchNorm", "any": "teachers"}[needs.teachers]
    images = "real images" if needs.real_images else "no real images"
    more = {
        "none": "",
        "features": ", the features of a teacher",
        "dynamics": ", a scoring run",
        "experts": ", trainings with their weights after each epoch",
        "class statistics": ", the class statistics of its teachers",
        "grown networks": ", networks that learn beforehand",
    }[needs.precomputed]
    return f"{teachers}, {images}{more}"


def settings_of(config: Any, prefix: str = "") -> list[list[str]]:
    """A row per setting; those of a nested config under dotted names."""
    rows: list[list[str]] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            rows += settings_of(value, f"{prefix}{field.name}.")
        else:
            rows.append([prefix + field.name, repr(value), field.metadata.get("help", "")])
    return rows


@recipes.callback()
def recipes_list(context: typer.Context, json: AsJson = False) -> None:
    """List the recipes: published settings, for which data set and IPCs, and the accuracy that was published.

    Example: condense recipes

    Accuracies are those of one network, in percent, in the order of the IPCs; with * if only others than the method's
    authors print them. `recipes show NAME` has all of them. `condense distill --recipe NAME --ipc N` follows one.
    """
    if context.invoked_subcommand is not None:
        return
    from condense.recipes import load, names

    found = [load(name) for name in names()]
    if json:
        say_json([{"name": one.name, **one.values} for one in found])
        return
    rows = [
        [one.name, one.values["method"], one.data, ", ".join(map(str, one.ipcs)), expectation(one)] for one in found
    ]
    table(["recipe", "method", "data", "IPC", "published accuracy"], rows)


def expectation(recipe: Recipe) -> str:
    """Published accuracies of the first network, one for each IPC of the recipe."""
    if not recipe.expected:
        return "none"
    network = next(iter(recipe.expected[0].accuracy))
    known: dict[int, str] = {}
    for one in recipe.expected:
        mark = "" if one.status == "verified" else "*"
        known = {ipc: f"{value:.1f}{mark}" for ipc, value in one.accuracy.get(network, {}).items()} | known
    return f"{network} " + ", ".join(known.get(ipc, "-") for ipc in recipe.ipcs)


@command(recipes, "show")
def recipes_show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="One of `condense recipes`.")],
    ipc: Annotated[
        int | None, typer.Option(metavar="N", help="Only what it says for this IPC, as a file for --config.")
    ] = None,
    student: Annotated[
        bool, typer.Option("--student", help="Only the student, for `condense evaluate --config`; with --ipc.")
    ] = False,
) -> None:
    """Print a recipe: YAML, with what the paper does otherwise as comments.

    Example: condense recipes show cv-dd-cifar100
    """
    import yaml

    from condense.recipes import load

    found = load(name)
    if ipc is None and not student:
        say(found.text.rstrip())
        return
    values = found.at(ipc)
    say(yaml.safe_dump(values["student"] if student else values, sort_keys=False).rstrip())
