"""Commands that bring sets to other places and programs, and images from elsewhere into a set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from condense.cli.options import DataName, Images, Quiet, command, required
from condense.cli.output import say
from condense.cli.sets import SetPath, data_options, describe, suggest_next
from condense.console import drawn
from condense.files import bytes_in_words

__all__ = ["register"]

OutFile = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for name, function in (("pack", pack), ("unpack", unpack), ("export", export), ("import", bring)):
        command(app, name)(function)


def pack(path: SetPath, out: OutFile, quiet: Quiet = False) -> None:
    """Make one file of a set, to send it somewhere. The same set gives the same bytes.

    Example: condense pack synthesized/mini -o mini.zip
    """
    from condense.exchange import pack

    with drawn(quiet=quiet) as report:
        pack(path, out, report)
    say(f"wrote {out}, {bytes_in_words(out.stat().st_size)}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `condense pack` wrote.")],
    out: OutFolder,
    quiet: Quiet = False,
) -> None:
    """Make a set of such a file again, checked to its last byte. Safe with files of strangers.

    Example: condense unpack mini.zip -o synthesized/mini
    """
    from condense.exchange import unpack

    with drawn(quiet=quiet) as report:
        unpack(file, out, report)
    describe(out)


def export(
    path: SetPath,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="imagefolder, parquet, safetensors or npz.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The file or folder to write.")],
    soft: Annotated[
        bool, typer.Option("--soft", help="Also the mean probabilities of the stored labels (safetensors, npz).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write the images of a set and their classes in a format of other programs.

    Example: condense export synthesized/mini --to parquet -o mini.parquet
    """
    from condense.exchange import export_set

    with drawn(quiet=quiet) as report:
        export_set(path, to, out, soft=soft, report=report)
    say(f"wrote {out}")


def bring(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder per class, or a .npz, .safetensors, .pt or .pth file."),
    ],
    out: OutFolder,
    images: Images,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What the set is called.")] = None,
    data: DataName = None,
    real: Annotated[
        str | None, typer.Option("--real", metavar="yes|no", help="Are these real images, or recognisably so?")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="The labels, if SOURCE has none, or others.")
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option("--range", metavar="RANGE", help="Of numbers that are no bytes: 0-1, 0-255 or normalised."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="LAYOUT", help="nchw or nhwc, where the shape does not tell.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", metavar="NAME", help="Of the images; that of the data set by default.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a set of distilled images from elsewhere, to look at and measure it here. No code in a file is ever run.

    Example: condense import images.npz --data cifar10 --range 0-1 --real no --name theirs -o synthesized/theirs

    Labels may come in a file of their own (--labels labels_best.pt). Classes and size must be those of --data.
    """
    from condense import api
    from condense.errors import ConfigError

    answers = {"yes": True, "no": False}
    if (answer := required("--real", real, "yes|no")) not in answers:
        raise ConfigError(f'--real is "{answer}"; expected yes or no: whether these are real images')
    called, request = required("--name", name), images.request(required("--data", data))
    made = api.import_set(
        source,
        out=out,
        name=called,
        data={"name": request.name, **images.values()},
        real=answers[answer],
        labels=labels,
        value_range=value_range,
        layout=layout,
        licence=licence,
        quiet=quiet,
    )
    describe(out)
    if made.clamped:
        say(f"clamped {made.clamped} values that were out of range")
    if made.lacking:
        say(f"no images of: {', '.join(made.lacking)}")
    suggest_next([out], data_options(request))
