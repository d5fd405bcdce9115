"""The command line: parse, build configs, call, print.

Everything but the options lives elsewhere and is imported when a command runs, so that ``condense --help`` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import condense as package
from condense.cli import demo, look, measure, sets
from condense.cli.output import fail, say
from condense.cli.stopping import stoppable
from condense.cli.teacher import teacher
from condense.errors import CondenseError

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """Mistakes of the user end in one line and exit status 2; faults of ours keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CondenseError as error:
            fail(error)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        say(f"condense {package.__version__}")
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Distil a data set of images into a few images per class, with labels, and measure what they are worth.

    Example: condense distill --data fashion-mini --method cda --ipc 10
    """


demo.register(app)
sets.register(app)
measure.register(app)
app.add_typer(teacher, name="teacher")
look.register(app)


def main() -> None:
    """What the command ``condense`` and ``python -m condense`` run.

    A user's own ``module:callable`` may lie in the current folder, which Python looks into only for ``-m``.
    """
    sys.path.insert(0, str(Path.cwd()))
    with stoppable():
        app(prog_name="condense")
