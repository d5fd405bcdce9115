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
from condense.cli import comparing, demo, exchange, jobs, look, measure, sets
from condense.cli.output import fail, say
from condense.cli.stopping import stoppable
from condense.cli.teacher import teacher
from condense.errors import CondenseError, UnfinishedError

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """Mistakes of the user end in one line and exit status 2; faults of ours keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CondenseError as error:
            fail(error)
            raise typer.Exit(2) from None
        except UnfinishedError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.status) from None

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Misused options end like every other mistake, instead of in a box of several lines."""
        if not extra.get("standalone_mode", True):
            return super().main(args, prog_name, **extra)
        try:
            code = super().main(args, prog_name, **{**extra, "standalone_mode": False})
        except Exception as error:
            if not hasattr(error, "format_message"):  # what the parser raises has one, whichever parser typer brings
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
            else:
                context = getattr(error, "ctx", None)
                where = f"; see {context.command_path} --help" if context else ""
                fail(CondenseError(error.format_message().rstrip(".") + where))
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


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
comparing.register(app)
exchange.register(app)
app.add_typer(teacher, name="teacher")
jobs.register(app)
look.register(app)


def main() -> None:
    """What the command ``condense`` and ``python -m condense`` run.

    A user's own ``module:callable`` may lie in the current folder, which Python looks into only for ``-m``.
    """
    sys.path.insert(0, str(Path.cwd()))
    with stoppable():
        app(prog_name="condense")
