"""Commands that make a set and look at it: distill, relabel, verify, grid."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condense.cli.options import DataName, Distillation, Images, Machine, Recipe, Seed, Teachers, command
from condense.cli.output import pairs, program, say
from condense.errors import ConfigError
from condense.files import bytes_in_words

if TYPE_CHECKING:
    from condense.pipeline import DataRequest
    from condense.shards import SetBytes
    from condense.shards.read import LabelKind, Level

__all__ = ["data_options", "describe", "draw_set", "register", "suggest_next"]

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
    suggest_next(made, data_options(request.data) + machine.store_option())


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
    suggest_next([made], data_options(images.requested(data)) + machine.store_option())


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="SET", help="The folder of a set, of several, a pack or an .h5 file.")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Every checksum and every number as well.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Structure and sizes only; hashes are not computed.")] = False,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="In a process of its own, with limits: for files from strangers.")
    ] = False,
) -> None:
    """Check a set against the specification: structure, sizes, ranges, and the hash of every file.

    Example: condense verify synthesized/fashion-mini-ipc10-cda
    """
    from condense.exchange import unpacked
    from condense.shards import sets_in
    from condense.shards import verify as check
    from condense.shards.isolated import verify_isolated

    if deep and fast:
        raise ConfigError("--deep and --fast exclude each other; give one of them")
    level: Level = "deep" if deep else "structure" if fast else "hashes"
    with unpacked(path) as folder:
        for one in sets_in(folder):
            found = verify_isolated(one, level) if isolated else check(one, level)
            say(f"{path if folder != path else one}: valid{', hashes not checked' if fast else ''}")
            pairs(counted(found.rows, found.epochs, found.label_kind, found.bytes))


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
    say(f"set {folder}")
    epochs = files.labels[0].epochs if files.labels else 0
    pairs(counted(files.n_rows, epochs, files.label_kind, set_bytes(files)))


def counted(rows: int, epochs: int, kind: LabelKind, taken: SetBytes) -> dict[str, object]:
    return {
        "images": f"{rows}, {bytes_in_words(taken.images)}",
        "labels": labels_in_words(epochs, kind, taken),
        "other": bytes_in_words(taken.other),
    }


def labels_in_words(epochs: int, kind: LabelKind, taken: SetBytes) -> str:
    """How many there are, and what of their bytes are labels: the rest of a label file has always the same size."""
    what = {
        "stored": f"{epochs} epochs",
        "asked": f"{epochs} epochs, for which the teachers are asked",
        "classes": "the classes alone",
    }[kind]
    if not taken.labels:
        return what
    fixed = f"{bytes_in_words(taken.labels - taken.records)} fixed (settings of the views)"
    if kind != "stored":
        return f"{what}, {fixed}"
    return f"{what}, {bytes_in_words(taken.labels)}: {bytes_in_words(taken.records)} of labels, {fixed}"


def data_options(request: DataRequest | None) -> str:
    """What `evaluate` and `train` must be told of a data set that is not found by its name alone."""
    if request is None or (":" not in request.name and request.root is None):
        return ""
    options = {
        "--data": request.name,
        "--data-root": None if ":" in request.name else request.root,
        "--size": request.size,
        "--channels": request.channels,
        "--normalisation": None if request.normalisation == "data" else request.normalisation,
    }
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in options.items() if value is not None)


def suggest_next(made: Sequence[Path], options: str) -> None:
    """What one does with a set: commands that run as they are printed.

    ``options``: what they must be told of data set and store, with a space before.
    """
    from condense.shards import read_set

    files, call = read_set(made[0]), program()
    one = shlex.quote(str(made[0]))
    everything = one if len(made) == 1 else shlex.quote(str(made[0].parent))
    nobody = not files.info.teachers and files.label_kind == "stored"  # whose labels could stand beside real images
    against = "none" if nobody or files.n_items < len(files.info.classes) else "random"
    hard = " --set targets=hard" if files.label_kind == "classes" else ""
    say("next:")
    say(f"  {call} evaluate {everything}{options} --against {against}")
    say(f"  {call} grid {one} -o grid.png")
    say(f"  {call} train {one}{options} --student resnet20{hard} --out model.safetensors")
    say(f"  in Python: condense.load({str(made[0])!r})")
