"""What commands print: suggestions that run as they are, and words that agree with each other."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from test_cli import run

import condense
from condense.cli.output import program
from condense.cli.sets import labels_in_words
from condense.evaluation.student import StudentRecipe
from condense.shards import SetBytes

CLASSES = ("circle", "square")
QUICK = ("--quick", "--threads", 1, "--quiet")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONDENSE_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students take one epoch, whatever is asked for: here it matters that they are trained, not how well."""
    monkeypatch.setattr(StudentRecipe, "total_epochs", lambda recipe, labelled: 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 grey 10 x 10 px pictures."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (tmp_path / "my photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = noise.integers(0, 80, (10, 10), dtype=np.uint8) + np.uint8(150 * number)
            Image.fromarray(pixels).save(tmp_path / "my photos" / name / f"{index}.png")
    return tmp_path / "my photos"


def suggested(stdout: str) -> Iterator[list[str]]:
    """The commands below ``next:``, each as its words without the program."""
    for line in stdout.partition("next:\n")[2].splitlines():
        words = shlex.split(line)
        if "condense" in [Path(word).name for word in words]:
            yield words[[Path(word).name for word in words].index("condense") + 1 :]


def follow(stdout: str) -> dict[str, str]:
    """Run every suggested command, as printed but without progress; what each said, by its name."""
    said = {}
    for words in suggested(stdout):
        silent = ["--quiet", "--threads", "1"] if words[0] in ("evaluate", "train") else []
        said[words[0]] = run(*words, *silent).stdout
    assert said.keys() == {"evaluate", "grid", "train"}
    return said


# Suggestions


@pytest.mark.usefixtures("briefly")
def test_what_distill_suggests_runs_as_printed(photos: Path) -> None:
    data = ("--data", f"imagefolder:{photos}", "--size", 12)
    made = run("distill", *data, "--method", "cda", "--ipc", 2, *QUICK, "--store", "a store", "--out", "made")
    said = follow(made.stdout)
    assert "random" in said["evaluate"]
    assert "accuracy on the test images" in said["train"]
    assert all("'a store'" in line for line in made.stdout.splitlines() if " evaluate " in line or " train " in line)


@pytest.mark.usefixtures("briefly")
def test_what_distill_suggests_for_classes_alone_and_several_sets_runs_too(photos: Path) -> None:
    data, labels = ("--data", f"imagefolder:{photos}"), ("--set", "networks=1")
    made = run("distill", *data, "--method", "dm", "--ipc", 1, *labels, "--sets", 2, *QUICK, "--out", "made")
    assert "the classes alone" in made.stdout
    assert "--set targets=hard" in made.stdout
    assert follow(made.stdout)["evaluate"].count("(2 x 3)") == 2


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("soft", [True, False])
def test_what_import_suggests_runs_as_printed(photos: Path, soft: bool) -> None:
    images, labels = np.zeros((4, 10, 10, 1), np.uint8), np.array([0, 1, 0, 1])
    arrays = {"probabilities": np.eye(2, dtype=np.float32)[labels]} if soft else {"labels": labels}
    np.savez("theirs.npz", images=images, **arrays)
    data = ("--data", f"imagefolder:{photos}", "--real", "no", "--name", "theirs", "--quiet")
    made = run("import", "theirs.npz", *data, "--out", "made")
    table, _, sentences = follow(made.stdout)["evaluate"].partition("\n\n")
    assert ("| random " in table) == (not soft)
    assert "theirs, convnet3-bn, " in sentences


@pytest.mark.usefixtures("briefly")
def test_what_relabel_suggests_runs_as_printed(photos: Path) -> None:
    data = ("--data", f"imagefolder:{photos}")
    run("distill", *data, "--method", "random", "--ipc", 2, *QUICK, "--out", "made")
    made = run("relabel", "made", *data, "--set", "epochs=3", "--out", "again", "--threads", 1, "--quiet")
    follow(made.stdout)
    [line] = [line for line in made.stdout.splitlines() if line.startswith("labels")]
    # 3 epochs of 4 images with 2 logits of 2 bytes each, and a checksum of 4 bytes
    assert line.startswith("labels  3 epochs, ")
    assert f": {3 * (4 * 2 * 2 + 4)} B of labels, " in line
    assert line.endswith(" fixed (settings of the views)")


@pytest.mark.parametrize(
    ("argv", "on_path", "expected"),
    [
        (".venv/bin/condense", False, ".venv/bin/condense"),
        (".venv/bin/condense", True, "condense"),
        ("condense/__main__.py", False, ".venv/bin/condense"),
        ("condense/__main__.py", True, "condense"),
    ],
)
def test_the_program_is_called_as_it_can_be_called(
    argv: str, on_path: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / ".venv" / "bin" / "condense"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / argv)])
    monkeypatch.setenv("PATH", str(script.parent) if on_path else "/nowhere")
    assert program() == expected
    monkeypatch.chdir(script.parent.parent)
    assert program() == ("condense" if on_path else "bin/condense")
    script.unlink()
    assert program() == f"{script.with_name('python')} -m condense"


def test_another_program_of_that_name_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "condense").touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "ours" / "condense")])
    monkeypatch.setenv("PATH", str(tmp_path / "theirs"))
    assert program() == "ours/condense"


# Words


def test_labels_are_spoken_of_in_one_way() -> None:
    stored = SetBytes(images=10, labels=5100, other=10, records=1000)
    assert labels_in_words(3, "stored", stored) == (
        "3 epochs, 5.1 kB: 1 kB of labels, 4.1 kB fixed (settings of the views)"
    )
    fixed = SetBytes(images=10, labels=4100, other=10, records=0)
    assert labels_in_words(300, "classes", fixed) == ("the classes alone, 4.1 kB fixed (settings of the views)")
    assert labels_in_words(300, "asked", fixed).startswith("300 epochs, for which the teachers are asked, 4.1 kB f")
    assert labels_in_words(0, "classes", SetBytes(10, 0, 10)) == "the classes alone"


def test_classes_alone_are_called_so_everywhere(photos: Path) -> None:
    np.savez("theirs.npz", images=np.zeros((2, 10, 10, 1), np.uint8), labels=np.array([0, 1]))
    data = ("--data", f"imagefolder:{photos}", "--real", "no", "--name", "theirs", "--quiet")
    words = run("import", "theirs.npz", *data, "--out", "made").stdout
    checked = run("verify", "made").stdout
    isolated = run("verify", "made", "--isolated").stdout
    [line] = [line for line in words.splitlines() if line.startswith("labels")]
    assert line.startswith("labels  the classes alone, ")
    assert line in checked.splitlines()
    assert line in isolated.splitlines()
    assert "classes alone as labels" in repr(condense.load("made"))


# Quick


def test_quick_results_and_weights_say_so(photos: Path) -> None:
    data = ("--data", f"imagefolder:{photos}")
    run("distill", *data, "--method", "random", "--ipc", 2, *QUICK, "--out", "made")
    common = (*data, "--student", "convnet2-w8-bn", "--threads", 1, "--quiet")

    def evaluate(*words: object) -> str:
        options = ("--targets", "soft", "--against", "none", "--results", "results.jsonl")
        return run("evaluate", "made", *common, *options, *words).stdout

    quick = evaluate("--quick")
    assert "| soft (quick) |" in quick
    assert "random, convnet2-w8-bn, soft targets (quick): the baseline" in quick
    assert quick.splitlines()[-1].startswith("- (quick): students were trained for seconds")
    assert "(quick)" not in evaluate("--set", "epochs=2", "--seeds", 1)  # the same training, but asked for
    assert "(quick)" not in evaluate("--set", "epochs=3", "--seeds", 1, "--quick")  # nothing was cut
    lines = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    assert [line.get("quick") for line in lines] == [True, None, None]
    evaluate("--quick")
    assert len(Path("results.jsonl").read_text().splitlines()) == 3

    compared = run("compare", "results.jsonl").stdout
    assert compared.count("| soft (quick) |") == 1
    assert compared.count("| soft         |") == 2
    assert "- (quick): students were trained for seconds" in compared
    assert [row["quick"] for row in json.loads(run("compare", "results.jsonl", "--format", "json").stdout)] == [
        True,
        False,
        False,
    ]


def test_train_in_a_hurry_marks_its_weights(photos: Path) -> None:
    data = ("--data", f"imagefolder:{photos}")
    run("distill", *data, "--method", "random", "--ipc", 2, *QUICK, "--out", "made")

    def train(*words: object) -> str:
        options = ("--student", "convnet2-w8-bn", "--threads", 1, "--quiet", "--out", "model.safetensors")
        return run("train", "made", *options, *words).stdout

    def marks() -> tuple[object, object]:
        with safe_open("model.safetensors", framework="pt") as file:
            return file.metadata().get("quick"), condense.load_network("model.safetensors").quick

    assert train("--quick").startswith("wrote model.safetensors, which says that it was trained for seconds only")
    assert marks() == ("true", True)
    assert train() == "wrote model.safetensors\n"
    assert marks() == (None, False)
    assert train("--quick", "--set", "epochs=1") == "wrote model.safetensors\n"
    assert marks() == (None, False)
