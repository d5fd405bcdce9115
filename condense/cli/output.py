"""Words for the person at the terminal: results on standard output, one-line errors on standard error."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

__all__ = ["fail", "pairs", "program", "say", "say_json", "table", "warn"]


def say(line: str = "") -> None:
    """A line of result."""
    typer.echo(line)


def warn(line: str) -> None:
    """A line on standard error that ends nothing."""
    typer.echo(line, err=True)


def say_json(value: Any) -> None:
    """The same for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def fail(error: Exception) -> None:
    """``error: ...`` on one line, whatever line ends the message may hold."""
    typer.echo("error: " + " ".join(str(error).split("\n")), err=True)


def program() -> str:
    """How this program is called from here: ``condense`` where the shell finds that, else the path to it."""
    called = Path(sys.argv[0])
    mine = called if called.name == "condense" else Path(sys.executable).with_name("condense")
    if not mine.is_file():
        return f"{shlex.quote(sys.executable)} -m condense"
    found = shutil.which("condense")
    if found is not None and Path(found).resolve() == mine.resolve():
        return "condense"
    path, here = mine.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Framed on a terminal; aligned columns that are never cut or wrapped anywhere else."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*headings)
        for row in rows:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in [headings, *rows]:
        say("  ".join(map(str.ljust, row, widths)).rstrip())


def pairs(values: Mapping[str, object]) -> None:
    """Names and values, a line each."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        say(f"{name.ljust(width)}  {value}")
