"""Commands about teachers: train one, bring one in, look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condense.cli.options import DataName, Images, Machine, Recipe, Seed, command, required
from condense.cli.output import pairs, say

if TYPE_CHECKING:
    from condense.teachers import TeacherInfo

__all__ = ["teacher"]

teacher = typer.Typer(no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")]


@teacher.callback()
def teachers() -> None:
    """Teachers: train one, bring one in from elsewhere, show what is known of one.

    Example: condense teacher train --data fashion-mini --out teachers/mini
    """


@command(teacher, "train")
def train(
    out: Out,
    images: Images,
    recipe: Recipe,
    machine: Machine,
    data: DataName = None,
    network: Annotated[str | None, typer.Option(metavar="NAME", help="One of `condense networks`.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the training images.")] = None,
    seed: Seed = None,
) -> None:
    """Train a teacher on a data set. A killed run goes on where it was.

    Example: condense teacher train --data cifar10 --network resnet20 --epochs 15 --out teachers/cifar10
    """
    from condense import pipeline
    from condense.config import from_mapping
    from condense.teachers.recipe import TeacherRecipe

    request = images.request(required("--data", data))
    settings = from_mapping(TeacherRecipe, recipe.values(network=network, epochs=epochs, seed=seed), "teacher")
    with machine.context() as context:
        folder = pipeline.train_teacher(request, settings, context, out=out)
    report(folder)


@command(teacher, "import")
def bring(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file, or a .pth file of weights.")],
    network: Annotated[str, typer.Option(metavar="NAME", help="The network they are for.")],
    out: Out,
    images: Images,
    machine: Machine,
    data: DataName = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the outputs mean: a class name a line, in their order.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M,M,M", help="Per channel, of pixels in 0..1, if not the data set's.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="The same for the standard deviation.")] = None,
) -> None:
    """Bring in weights that were trained elsewhere, and measure them. No code in the file is ever run.

    Example: condense teacher import resnet18.pth --network resnet18 --data cifar10 --out teachers/mine
    """
    from condense import pipeline

    request = images.request(required("--data", data))
    names = read_lines(classes) if classes else None
    with machine.context() as context:
        folder = pipeline.import_teacher(
            weights,
            request,
            context,
            network=network,
            class_names=names,
            normalisation=normalisation(mean, std),
            out=out,
        )
    report(folder)


@command(teacher, "show")
def show(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A teacher's folder.")],
    network: Annotated[
        str | None, typer.Option(metavar="MODULE:CALLABLE", help="Allows a network of your own code.")
    ] = None,
) -> None:
    """Check a teacher's folder and show what is known of it.

    Example: condense teacher show teachers/mine
    """
    report(path, network)


def report(folder: Path, network: str | None = None) -> None:
    from condense.teachers import load_teacher

    info = load_teacher(folder, network=network).info
    say(f"teacher {folder}")
    pairs(described(info))


def described(info: TeacherInfo) -> dict[str, object]:
    """What a person wants to know of a teacher."""
    spec = info.spec
    return {
        "network": info.network,
        "data": f"{spec.name}, {spec.n_classes} classes, {spec.height} x {spec.width} x {spec.channels}",
        "origin": info.origin + (f", {info.epochs} epochs" if info.epochs else ""),
        "accuracy, held out": percent(info.accuracy_heldout),
        "accuracy, test": percent(info.accuracy_test),
        "sha256": info.sha256,
    }


def percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{100 * fraction:.2f} %"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    from condense.errors import ConfigError

    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read class names from {path}: {error}; expected a text file, a name a line"
        ) from None


def normalisation(mean: str | None, std: str | None) -> tuple[list[float], list[float]] | None:
    """``"0.5,0.5,0.5"`` twice, or not at all."""
    from condense.errors import ConfigError

    if mean is None and std is None:
        return None
    try:
        first, second = ([float(part) for part in (text or "").split(",")] for text in (mean, std))
    except ValueError:
        raise ConfigError(
            f"--mean is {mean}, --std is {std}; expected both, numbers with commas between, such as 0.5,0.5,0.5"
        ) from None
    return first, second
