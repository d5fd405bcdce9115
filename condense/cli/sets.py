"""Commands that make a set and look at it: distill, relabel, verify, grid."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condense.cli.options import DataName, Distillation, Images, Machine, Recipe, Seed, Teachers, command
from condense.cli.output import pairs, say
from condense.errors import ConfigError
from condense.files import bytes_in_words

if TYPE_CHECKING:
    from condense.pipeline import DataRequest
    from condense.shards.read import Level

__all__ = ["describe", "draw_set", "register"]

SetPath = Annotated[Path, typer.Argument(metavar="SET", help="The folder of a distilled set.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (distill, relabel, verify, grid):
        command(app, function.__name__)(function)


def distill(
    wanted: Distillation,
    images: Images,
    recipe: Recipe,
    machine: Machine,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The folder to write; default synthesized/DATA-ipcN-METHOD."),
    ] = None,
) -> None:
    """Distil a data set: teachers (trained unless given), images, labels, the finished set.

    Example: condense distill --data fashion-mini --method cda --ipc 10

    Run the same line again after an interruption and only what is missing is done. A --config file holds data, method,
    ipc, sets, seed, the method's settings by name (see `condense methods show`), and the sections teacher and labels.
    A --recipe of `condense recipes` is such a file that comes with the package.
    """
    from condense import pipeline

    request = wanted.request(images, recipe)
    with machine.context() as context:
        made = pipeline.distill(request, context, out=out, teachers=wanted.teacher or [])
    for folder in made:
        describe(folder)
    suggest_next(made, data_options(request.data))


def relabel(
    path: SetPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder of the new set.")],
    images: Images,
    recipe: Recipe,
    machine: Machine,
    data: DataName = None,
    teacher: Teachers = None,
    seed: Seed = None,
) -> None:
    """Give the images of a set new labels: other teachers, views, epochs, or another codec. The images stay.

    Example: condense relabel synthesized/mini --data imagefolder:photos --set epochs=200 --out synthesized/mini-200

    What is not set stays as it was. --data is only needed for data that is not found by its name, --teacher for
    teachers that the store does not have.
    """
    from condense import pipeline

    labels = recipe.values(seed=seed)
    with machine.context() as context:
        made = pipeline.relabel(
            path, context, labels=labels, teachers=teacher or [], data=images.requested(data), out=out
        )
    describe(made)
    suggest_next([made], data_options(images.requested(data)))


def verify(
    path: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a set, of several, or an .h5 file.")],
    deep: Annotated[bool, typer.Option("--deep", help="Every checksum and every number as well.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Structure and sizes only; hashes are not computed.")] = False,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="In a process of its own, with limits: for files from strangers.")
    ] = False,
) -> None:
    """Check a set against the specification: structure, sizes, ranges, and the hash of every file.

    Example: condense verify synthesized/fashion-mini-ipc10-cda
    """
    from condense.shards import sets_in
    from condense.shards import verify as check
    from condense.shards.isolated import verify_isolated

    if deep and fast:
        raise ConfigError("--deep and --fast exclude each other; give one of them")
    for one in sets_in(path):
        level: Level = "deep" if deep else "structure" if fast else "hashes"
        found = verify_isolated(one, level) if isolated else check(one, level)
        say(f"{one}: valid{', hashes not checked' if fast else ''}")
        pairs(counted(found.rows, found.epochs, found.bytes.images, found.bytes.labels, found.bytes.other))


def grid(
    path: SetPath,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.png", help="The picture to write.")] = Path(
        "grid.png"
    ),
    per_class: Annotated[int, typer.Option(metavar="N", help="Images of each class.")] = 10,
    scale: Annotated[int | None, typer.Option(metavar="N", help="Enlarge by this whole factor.")] = None,
) -> None:
    """Draw a set (of several the first) as one picture, a row per class.

    Example: condense grid synthesized/fashion-mini-ipc10-cda -o grid.png
    """
    draw_set(path, out, per_class=per_class, scale=scale)
    say(f"wrote {out}")


def draw_set(path: Path, out: Path, *, per_class: int = 10, scale: int | None = None) -> None:
    """Write the picture of the set in the folder ``path``."""
    import numpy as np

    from condense.report.grid import draw_grid
    from condense.shards import read_set, sets_in

    files = read_set(sets_in(path)[0])
    pixels = np.concatenate([file.decode() for file in files.images])
    labels = np.concatenate([file.labels for file in files.images])
    draw_grid(pixels, labels, files.info.classes, out, per_class=per_class, scale=scale)


def describe(folder: Path) -> None:
    """Where a set is, how many images it has and how large it is."""
    from condense.shards import read_set, set_bytes

    files = read_set(folder)
    taken = set_bytes(files)
    say(f"set {folder}")
    soft = [held for held in files.labels if held.codec != "none" or held.teachers]
    pairs(counted(files.n_rows, soft[0].epochs if soft else 0, taken.images, taken.labels, taken.other))


def counted(rows: int, epochs: int, images: int, labels: int, other: int) -> dict[str, object]:
    return {
        "images": f"{rows}, {bytes_in_words(images)}",
        "labels": f"{epochs} epochs, {bytes_in_words(labels)}" if labels else "none beside the classes",
        "other": bytes_in_words(other),
    }


def data_options(request: DataRequest | None) -> str:
    """What `evaluate` must be told of a data set that is not found by its name alone."""
    if request is None or (":" not in request.name and request.root is None):
        return ""
    options = {
        "--data": request.name,
        "--data-root": request.root,
        "--size": request.size,
        "--channels": request.channels,
    }
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in options.items() if value is not None)


def suggest_next(made: Sequence[Path], data: str) -> None:
    """What one does with a set."""
    one = shlex.quote(str(made[0]))
    everything = one if len(made) == 1 else shlex.quote(str(made[0].parent))
    say("next:")
    say(f"  condense evaluate {everything}{data} --against random")
    say(f"  condense grid {one} -o grid.png")
    say(f"  condense train {one} --student resnet20 --out model.safetensors")
    say(f'  in Python: condense.load("{made[0]}")')
