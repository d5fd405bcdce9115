"""What README.md and docs/ print can be run: commands, on a folder of pictures, and the blocks of Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from test_cli import run

import condense
from condense.api import Machine
from condense.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HURRIED = {
    "distill": ("--set", "steps=3", "--set", "labels.epochs=2", "--quick", "--threads", "1", "--quiet"),
    "evaluate": ("--quick", "--threads", "1", "--quiet"),
    "train": ("--quick", "--threads", "1", "--quiet"),
    "diversity": ("--set", "min_steps=1", "--set", "epochs=1", "--draws", "2", "--threads", "1", "--quiet"),
}
"""What is added to a command so that it takes no longer than a test may."""


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of every ``condense`` command in a block of a page, without comments."""
    text = re.sub(r"```[a-z]+\n.*?```", "", page.read_text(), flags=re.DOTALL) if page.name == "README.md" else ""
    text = (text or page.read_text()).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True) if line.startswith("    condense ") else []
        words = words[: words.index(">")] if ">" in words else words
        if words:
            yield words[1:]


def parsed(words: list[str]) -> str:
    """The command that the words are understood as; nothing is run."""
    command: Any = typer.main.get_command(app)
    context, rest = command.make_context("condense", list(words)), words
    while rest and hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    return str(context.command_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path) -> None:
    for words in commands_in(page):
        parsed(words)


def test_the_commands_are_found() -> None:
    assert len(list(commands_in(ROOT / "README.md"))) > 20
    assert parsed(["teacher", "show", "somewhere"]) == "condense teacher show"
    assert parsed(["methods"]) == "condense methods"
    for wrong in (["distill", "--dta", "x"], ["evaluate"], ["data", "shwo", "x"], ["distill", "--ipc", "ten"]):
        with pytest.raises(Exception) as caught:  # of the parser's own kind, whichever parser typer brings
            parsed(wrong)
        assert hasattr(caught.value, "format_message")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pictures that the README speaks of, in a working folder of its own."""
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(20):
            pixels = noise.integers(0, 80, (36, 34, 3), dtype=np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def about_photos() -> Iterator[list[str]]:
    for words in commands_in(ROOT / "README.md"):
        if any("photos" in word for word in words) and (words[0] != "export" or find_spec("pyarrow")):
            yield words


@pytest.mark.usefixtures("photos")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines of one core
def test_what_the_readme_does_with_photos_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = []
    for words in about_photos():
        run(*words, *HURRIED.get(words[0], ()))
        done.append(words[0])
    assert {"data", "distill", "grid", "evaluate", "train", "pack", "unpack", "diversity"} <= {*done}

    machine = Machine(store=tmp_path / "store", threads=1)
    hurry: dict[str, Any] = {"quick": True, "quiet": True, "machine": machine}
    distill = partial(condense.distill, **hurry)

    def briefly(*, settings: Mapping[str, Any], **given: Any) -> list[Path]:
        return distill(settings={**settings, "steps": 3, "labels": {"epochs": 2}}, **given)

    monkeypatch.setattr(condense, "distill", briefly)
    monkeypatch.setattr(condense, "evaluate", partial(condense.evaluate, **hurry))
    before = {path: path.stat().st_mtime_ns for path in Path("synthesized/photos").iterdir()}
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert {path: path.stat().st_mtime_ns for path in Path("synthesized/photos").iterdir()} == before
