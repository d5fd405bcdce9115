"""The command line: what it understands, what it says, and how it ends."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from condense.cli import app
from condense.cli.options import Images, Recipe, spread
from condense.cli.output import fail
from condense.console import BarReport, LineReport, drawn, duration, shown
from condense.engine.events import finished_jobs
from condense.errors import CondenseError
from condense.files import bytes_in_words
from condense.progress import note, silent

ROOT = Path(__file__).parent.parent


def run(*words: object, code: int = 0) -> Result:
    """Run the command line in this process and check its exit status."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    """The one line with which a mistake ends."""
    result = run(*words, code=2)
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store and a working folder of the test's own; help that is not wrapped."""
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.chdir(tmp_path)


def commands() -> Iterator[tuple[str, ...]]:
    """Every command and group, as the words that call it."""

    def below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(group, "commands", {}).items():
            yield from below(inner, (*words, name))

    yield from below(typer.main.get_command(app), ())


# What it understands


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    text = run(*words, "--help").stdout
    assert "Example: condense" in text
    assert text.index("Example: ") < text.index("--help")


def test_the_commands_are_these() -> None:
    assert sorted(" ".join(words) for words in commands()) == [
        "",
        "compare",
        "data",
        "data list",
        "data show",
        "demo",
        "distill",
        "diversity",
        "evaluate",
        "export",
        "grid",
        "import",
        "methods",
        "methods show",
        "networks",
        "pack",
        "plan",
        "recipes",
        "recipes show",
        "relabel",
        "repro",
        "status",
        "store",
        "store gc",
        "store list",
        "store verify",
        "teacher",
        "teacher import",
        "teacher show",
        "teacher train",
        "tracks",
        "train",
        "unpack",
        "verify",
    ]


@pytest.mark.parametrize(
    "words", [("distill",), ("diversity",), ("evaluate",), ("train",), ("relabel",), ("teacher", "train")]
)
def test_commands_that_compute_share_their_options(words: tuple[str, ...]) -> None:
    text = run(*words, "--help").stdout
    for option in ("--device", "--precision", "--threads", "--store", "--quiet", "--config", "--set", "--data-root"):
        assert option in text


def test_option_groups_are_spread_and_filled() -> None:
    seen: list[Images] = []

    def command(name: str, images: Images) -> None:
        seen.append(images)

    spread(command)(name="x", data_root=Path("d"), size=8, channels=None, normalisation=None)
    assert seen == [Images(data_root=Path("d"), size=8)]
    assert seen[0].values() == {"root": "d", "size": 8}


def test_options_lie_over_assignments_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("method: cda\nipc: 1\nsteps: 1\nlabels: {epochs: 1, seed: 1}\n")
    recipe = Recipe(config=file, assignments=["steps=2", "labels.epochs=2", "ipc=2"])
    assert recipe.values(ipc=3, method=None) == {
        "method": "cda",
        "ipc": 3,
        "steps": 2,
        "labels": {"epochs": 2, "seed": 1},
    }


def test_version() -> None:
    import condense

    assert run("--version").stdout == f"condense {condense.__version__}\n"


# How fast it starts

START = """
import sys
import condense.cli
heavy = {"torch", "torchvision", "numpy", "h5py", "scipy", "pydantic", "PIL", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", START], check=True, cwd=ROOT, timeout=60)


def test_help_is_instant() -> None:
    """Processor time, because the machine may be busy with other things."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "condense", "--help"], capture_output=True, cwd=ROOT, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert b"distill" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["distill", "--ipc", "ten"], "--ipc"),
        (["distill", "--dta", "x"], "--data"),
        (["distil"], "distill"),
        (["verify"], "SET"),
        (["data", "show"], "NAME"),
    ],
)
def test_misused_options_end_in_one_line_too(words: list[str], part: str) -> None:
    line = refused(*words)
    assert part in line
    assert "--help" in line


# Looking around


def test_data_list_and_show() -> None:
    assert "fashion-mini" in run("data", "list").stdout
    assert json.loads(run("data", "list", "--json").stdout)["mnist"]
    lines = run("data", "show", "fashion-mini").stdout.splitlines()
    assert "images       28 x 28 px, 1 channel" in lines
    assert lines[-1].split() == ["all", "5000", "1000"]
    assert json.loads(run("data", "show", "fashion-mini", "--json").stdout)["channels"] == 1


def test_networks_are_listed_with_their_parameters() -> None:
    lines = {line.split()[0]: line.split() for line in run("networks", "--size", 32).stdout.splitlines()}
    assert lines["resnet20"][1] == "269,722"
    assert {"network", "timm:NAME"} <= lines.keys()


def test_methods_alone_lists_and_show_describes() -> None:
    assert {"sre2l", "cda", "random"} <= {line.split()[0] for line in run("methods").stdout.splitlines()}
    text = run("methods", "show", "cda").stdout
    assert "steps" in text
    assert "BatchNorm" in text
    assert "arXiv" in text


# What it says


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_most_every_so_often() -> None:
    clock, stream = Clock(), io.StringIO()
    report = LineReport(stream, every_s=10, clock=clock)
    for step in range(41):
        clock.now = step
        report("recover", step * 10, 1000, {"loss": 3.2149})
    assert stream.getvalue().splitlines() == [
        "recover 20/1000, loss 3.21, 98 s left",
        "recover 120/1000, loss 3.21, 88 s left",
        "recover 220/1000, loss 3.21, 78 s left",
        "recover 320/1000, loss 3.21, 68 s left",
    ]


def test_what_a_checkpoint_brought_does_not_shorten_the_rest() -> None:
    clock, stream = Clock(), io.StringIO()
    report = LineReport(stream, every_s=0, clock=clock)
    report("teacher", 90, 100)
    clock.now = 5
    report("teacher", 95, 100)
    assert stream.getvalue().splitlines() == ["teacher 90/100", "teacher 95/100, 5 s left"]


def test_short_work_says_nothing() -> None:
    clock, stream = Clock(), io.StringIO()
    report = LineReport(stream, clock=clock)
    for done in range(4):
        clock.now += 0.4
        report("short", done, 3)
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_nest_and_leave() -> None:
    from rich.console import Console
    from rich.progress import Progress

    clock, stream = Clock(), io.StringIO()
    progress = Progress(console=Console(file=stream, width=80), auto_refresh=False)
    report = BarReport(progress, clock=clock)

    def bars() -> Mapping[str, bool]:
        return {task.description: task.visible for task in progress.tasks}

    report("jobs", 0, 2)
    report("teacher", 0, 4)
    assert bars() == {"jobs": False, "teacher": False}
    clock.now = 3
    report("teacher", 2, 4, {"loss": 0.5})
    assert bars() == {"jobs": True, "teacher": True}
    report("jobs", 1, 2)
    assert bars() == {"jobs": True}
    report("rows", 4, 4)
    assert bars() == {"jobs": True}
    report("jobs", 2, 2, {"memory": 3})
    assert bars() == {}
    assert stream.getvalue() == "jobs 2/2, memory 3, 3 s\n"


def test_jobs_side_by_side_have_lanes_of_their_own() -> None:
    from rich.console import Console
    from rich.progress import Progress

    clock, stream = Clock(), io.StringIO()
    progress = Progress(console=Console(file=stream, width=80), auto_refresh=False)
    report = BarReport(progress, clock=clock)
    report("jobs", 0, 2)
    one, two = report.lane("one"), report.lane("two")
    one("images", 1, 10)
    two("images", 2, 10)
    clock.now = 5
    two("images", 3, 10)
    assert [task.description for task in progress.tasks] == ["jobs", "one: images", "two: images"]
    one("images", 10, 10)
    report("jobs", 1, 2)
    assert [task.description for task in progress.tasks] == ["jobs", "two: images"]
    report.end_lane("two")
    assert [task.description for task in progress.tasks] == ["jobs"]


def test_lines_say_how_far_each_lane_is() -> None:
    clock, stream = Clock(), io.StringIO()
    report = LineReport(stream, every_s=10, clock=clock)
    one, two = report.lane("one"), report.lane("two")
    report("jobs", 0, 3)
    one("images", 1, 10)
    clock.now = 2
    two("images", 3, 10)
    report.end_lane("one")
    clock.now = 12
    report("jobs", 1, 3)
    assert stream.getvalue().splitlines() == [
        "jobs 0/3",
        "one: images 1/10",
        "two: images 3/10",
        "jobs 1/3, 24 s left",
        "two: images 3/10",
    ]


def test_a_terminal_gets_bars_and_quiet_gets_nothing() -> None:
    with drawn(stream=Terminal()) as report:
        assert isinstance(report, BarReport)
        report("stage [bold]x", 0, 2)
    with drawn(stream=io.StringIO()) as report:
        assert isinstance(report, LineReport)
    with drawn(quiet=True, stream=Terminal()) as report:
        assert report is silent


def test_notes_are_lines_at_once() -> None:
    from rich.console import Console
    from rich.progress import Progress

    stream = io.StringIO()
    note(LineReport(stream, every_s=1e9), "3 files [bold] were passed over")
    note(
        BarReport(Progress(console=Console(file=stream, width=20), auto_refresh=False)), "wide [bold] lines stay whole"
    )
    note(silent, "nothing of this")
    assert stream.getvalue() == "note: 3 files [bold] were passed over\nnote: wide [bold] lines stay whole\n"


def test_numbers_are_short() -> None:
    assert shown({"loss": 3.2149, "accuracy": 0.5, "epoch": 12000}) == ["loss 3.21", "accuracy 0.5", "epoch 12000"]
    assert [duration(s) for s in (3, 99, 150, 9000)] == ["3 s", "99 s", "2 min", "2.5 h"]
    assert [bytes_in_words(b) for b in (0, 999, 1000, 78400, 1234567)] == ["0 B", "999 B", "1 kB", "78.4 kB", "1.23 MB"]


# How it ends

WAITING = """
import sys
from condense.cli.stopping import stoppable
with stoppable():
    try:
        print("ready", flush=True)
        {work}
    except Exception:
        print("taken for a fault")
    finally:
        print("left", flush=True)
"""
PATIENT = "import time; time.sleep(60)"
STUCK = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # one call that Python cannot interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", [PATIENT, STUCK], ids=["between instructions", "inside one"])
def test_a_signal_ends_the_process_within_two_seconds(work: str, number: signal.Signals) -> None:
    script = [sys.executable, "-c", WAITING.format(work=work)]
    with subprocess.Popen(script, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        started = time.perf_counter()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert time.perf_counter() - started < 2
    assert process.returncode == 128 + number
    assert err.strip() == "stopped; finished work is kept, run the same command again to go on"
    assert out == ("left\n" if work == PATIENT else "")


def test_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("condense.shards.verify", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run("verify", "anything")


def test_a_usage_error_ends_in_2() -> None:
    assert "No such option" in run("distill", "--ipx", 1, code=2).stderr
    assert "Missing" in run("verify", code=2).stderr


def test_markup_in_a_message_is_printed_as_it_is() -> None:
    assert "[bold]" in refused("data", "show", "imagefolder:[bold]")


def test_a_message_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    fail(CondenseError("first\nsecond"))
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data", "show", "fashion-mnst"], 'did you mean "fashion-mnist"?'),
        (["data", "show", "imagefolder:nowhere"], "nowhere is not a folder"),
        (["methods", "show", "srel2"], 'there is no method "srel2"; did you mean "sre2l"?'),
        (["verify", "nowhere"], "nowhere is not a distilled set"),
        (["grid", "nowhere"], "nowhere is not a distilled set"),
        (["evaluate", "nowhere"], "nowhere is not a distilled set"),
        (["train", "nowhere", "--out", "model.safetensors"], "nowhere is not a distilled set"),
        (["relabel", "nowhere", "--out", "new"], "nowhere is not a distilled set"),
        (["teacher", "show", "nowhere"], "nowhere"),
        (["teacher", "train", "--out", "t"], "--data is missing"),
        (["teacher", "train", "--data", "fashion-mini", "--out", "t", "--network", "resnet2"], 'did you mean "resnet'),
        (["teacher", "train", "--data", "fashion-mini", "--out", "t", "--set", "epoch=1"], 'did you mean "epochs"?'),
        (["teacher", "train", "--data", "fashion-mini", "--out", "t", "--epochs", "0"], "epochs must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused(*words)
    assert {path.name for path in tmp_path.iterdir()} <= {"store"}


@pytest.mark.parametrize(("key", "option"), [("targets=hard", "--targets hard"), ("network=vit", "--student vit")])
def test_what_evaluate_has_an_option_for_is_no_setting(key: str, option: str) -> None:
    assert option in refused("evaluate", "nowhere", "--set", key)


def distilling(*words: object, **options: object) -> list[object]:
    """``distill`` on fashion-mini with one thing changed."""
    given = {"--data": "fashion-mini", "--method": "cda", "--ipc": 1, **options}
    return ["distill", "--quick", *(word for pair in given.items() for word in pair if pair[1] is not None), *words]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (distilling(**{"--data": "fashion-mini-"}), 'did you mean "fashion-mini"?'),
        (distilling(**{"--data": None}), "data"),
        (distilling(**{"--data": "imagefolder:nowhere"}), "nowhere is not a folder"),
        (distilling(**{"--method": "cdaa"}), 'did you mean "cda"?'),
        (distilling(**{"--ipc": 0}), "ipc must be at least 1, got 0"),
        (distilling(**{"--ipc": -3}), "ipc must be at least 1, got -3"),
        (distilling(**{"--ipc": 501, "--method": "random"}), "501"),
        (distilling("--set", "stepss=3"), 'has no setting "stepss"; did you mean "steps"?'),
        (distilling("--set", "labels.epoch=3"), 'there is no setting "labels.epoch"; did you mean "epochs"?'),
        (distilling("--set", "steps"), "is not an assignment"),
        (distilling("--set", "steps=many"), "steps is 'many'"),
        (distilling("--set", "teacher.network=resnet2"), 'did you mean "resnet'),
        (distilling("--config", "missing.yaml"), "recipe missing.yaml does not exist"),
        (distilling("--config", "bad.yaml"), "recipe bad.yaml is not valid YAML"),
        (distilling("--teacher", "nowhere"), "nowhere is not a teacher"),
        (distilling("--teacher", "nowhere", **{"--method": "cv-dd"}), "nowhere is not a teacher"),
        (distilling("--device", "gpu"), 'device "gpu"'),
        (distilling("--precision", "half"), 'precision is "half"'),
        (distilling("--threads", 0), "threads must be at least 1"),
    ],
    ids=lambda value: " ".join(map(str, value[2:])) if isinstance(value, list) else "",
)
def test_a_wrong_distillation_is_refused_in_one_line(words: list[object], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("steps: [1\n")
    assert said in refused(*words)
    assert not (tmp_path / "synthesized").exists()


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "has 0 CUDA devices; use --device cpu" in refused(*distilling("--device", "cuda"))


# The whole way

CLASSES = ("circle", "cross", "square")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 12 coloured 10 x 10 px pictures, told apart by their brightest channel."""
    folder = tmp_path / "photos"
    noise = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = noise.integers(0, 80, (10, 10, 3), dtype=np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def distill(photos: Path, *words: object, code: int = 0) -> Result:
    teacher = ("--set", "teacher.epochs=8", "--set", "teacher.batch_size=8")
    start = ("distill", "--data", f"imagefolder:{photos}", "--ipc", 2, "--quick", "--threads", 1, *teacher)
    return run(*start, *words, code=code)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_from_a_folder_of_pictures_to_a_table(photos: Path, tmp_path: Path) -> None:
    made = distill(photos, "--method", "cda", "--out", "made")
    assert "images  6, " in made.stdout
    assert "condense evaluate made" in made.stdout
    assert "valid" in run("verify", "made").stdout
    run("grid", "made", "-o", "made.png")
    with Image.open(tmp_path / "made.png") as picture:
        assert picture.width > 20

    before, artefacts = files_of(tmp_path / "made"), sorted((tmp_path / "store").rglob("manifest.json"))
    again = distill(photos, "--method", "cda", "--out", "made")
    assert again.stdout == made.stdout
    assert files_of(tmp_path / "made") == before
    assert sorted((tmp_path / "store").rglob("manifest.json")) == artefacts

    data = ("--data", f"imagefolder:{photos}", "--threads", 1, "--quiet")
    small = ("--student", "convnet3-w8-bn")
    trained = run("train", "made", *data, *small, "--out", "model.safetensors")
    assert "accuracy on the test images" in trained.stdout
    assert (tmp_path / "model.safetensors").stat().st_size > 0

    evaluated = run("evaluate", "made", *data, *small, "--quick", "--seeds", 2, "--results", "results.jsonl")
    conditions = {json.loads(line)["condition"] for line in (tmp_path / "results.jsonl").read_text().splitlines()}
    assert "random" in conditions
    assert all(condition in evaluated.stdout for condition in conditions)


def test_another_set_in_the_output_folder_is_left_alone(photos: Path, tmp_path: Path) -> None:
    distill(photos, "--method", "random", "--out", "made", "--quiet")
    before = files_of(tmp_path / "made")
    line = distill(photos, "--method", "random", "--seed", 1, "--out", "made", "--quiet", code=2).stderr
    assert line.startswith("error: made holds a different set")
    assert line.count("\n") == 1
    assert files_of(tmp_path / "made") == before


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from condense.engine import store

    publish, published = store.publish_folder, []

    def full_after_the_teacher(temporary: Path, final: Path) -> bool:
        if published:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        published.append(final)
        return publish(temporary, final)

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish_folder", full_after_the_teacher)
        line = distill(photos, "--method", "random", "--out", "made", "--quiet", code=2).stderr
    assert line.startswith("error: cannot write")
    assert "the disk is full" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "made").exists()
    [teacher] = published
    written = (teacher / "weights.safetensors").stat().st_mtime_ns
    distill(photos, "--method", "random", "--out", "made", "--quiet")
    assert (teacher / "weights.safetensors").stat().st_mtime_ns == written


def test_a_set_that_is_no_smaller_than_the_data_is_made_with_a_note(photos: Path) -> None:
    small = ("--set", "steps=1", "--set", "labels.epochs=1", "--method", "cda")
    for ipc, noted in ((9, False), (10, True)):  # 12 pictures of a class, of which 2 are held out
        said = distill(photos, *small, "--ipc", ipc, "--out", f"made-{ipc}").stderr.splitlines()
        notes = [line for line in said if line.startswith("note: ")]
        assert bool(notes) == noted
    assert notes == [
        'note: ipc is 10, but class "circle" of imagefolder:photos has 10 training images: the set would be no smaller '
        "than the data it stands for; an ipc below 10 makes sense"
    ]
    line = distill(photos, "--method", "random", "--ipc", 11, "--out", "made", code=2).stderr.splitlines()[-1]
    assert line.startswith("error: random needs 11 real images per class")


def test_files_that_are_no_images_are_noted_once(photos: Path) -> None:
    (photos / "cross" / "README.txt").write_text("about these pictures")
    line = f"note: 1 file that is no image was passed over in {photos}: cross/README.txt"
    assert distill(photos, "--method", "random", "--out", "made").stderr.splitlines().count(line) == 1
    assert run("data", "show", f"imagefolder:{photos}").stderr.splitlines() == [line]
    assert "note" not in run("data", "show", f"imagefolder:{photos}", "--quiet").stderr


def test_what_is_made_one_after_the_other_has_names(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def line(report: LineReport, stage: str, done: int, total: int, figures: object, lane: str = "") -> None:
        if not lane and stage not in seen:
            seen.append(stage)

    monkeypatch.setattr(LineReport, "draw", line)
    distill(photos, "--method", "cda", "--out", "made")
    assert [stage for stage in seen if "image" not in stage] == ["teachers", "jobs"]
    seen.clear()
    small = ("--student", "convnet1-w4-bn", "--quick", "--threads", 1)
    run("evaluate", "made", "--data", f"imagefolder:{photos}", *small, "--against", "random,k-center")
    assert [stage for stage in seen if "image" not in stage] == ["jobs for random", "jobs for k-center", "students"]


SHORT = {
    "data": "fashion-mini",
    "method": "cda",
    "ipc": 2,
    "steps": 4,
    "teacher": {"network": "convnet2-w16-bn", "epochs": 2},
    "labels": {"epochs": 3},
}


def test_the_demo_shows_a_table_and_runs_again_without_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("condense.cli.demo.RECIPE", SHORT)
    monkeypatch.setattr("condense.cli.demo.STUDENT", "convnet2-w8-bn")
    (tmp_path / "nobodys").mkdir()
    for name in ("condense", "activate"):
        (tmp_path / "nobodys" / name).touch()
    monkeypatch.setattr("sys.argv", [str(tmp_path / "nobodys" / "condense")])
    first = run("demo", "--threads", 1)
    assert "undecided against random" in first.stdout or "random by" in first.stdout
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"set", "grid.png", "results.jsonl"}
    assert "\n  nobodys/condense evaluate demo/set --against random\n" in first.stdout
    assert first.stdout.splitlines()[-1] == (
        "the command is nobodys/condense; after `source nobodys/activate` it is condense"
    )

    def broken(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr("condense.pipeline.context.Context.work", broken)
    assert run("demo", "--threads", 1).stdout == first.stdout


DEMO = """
import sys
from condense.cli import demo, main
demo.RECIPE, demo.STUDENT = {recipe!r}, "convnet2-w8-bn"
sys.argv = ["condense", "demo", "--threads", "1", "--quiet"]
main()
"""


def test_a_killed_demo_is_finished_by_running_it_again(tmp_path: Path) -> None:
    """Killed after the first, the third and the sixth finished job; nothing finished is done twice."""

    def start(place: str) -> subprocess.Popen[bytes]:
        (tmp_path / place).mkdir(exist_ok=True)
        environment = {**os.environ, "CONDENSE_STORE": str(tmp_path / place / "store"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DEMO.format(recipe=SHORT)]
        return subprocess.Popen(command, cwd=tmp_path / place, env=environment, stdout=subprocess.PIPE)

    def finished(place: str) -> list[str]:
        return [event["job"] for event in finished_jobs(tmp_path / place / "store" / "runs")]

    for jobs in (1, 3, 6):
        with start("killed") as process:
            while process.poll() is None and len(finished("killed")) < jobs:
                time.sleep(0.01)
            process.kill()
    for place in ("killed", "undisturbed"):
        with start(place) as process:
            table, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert b"random" in table
    assert len(set(finished("killed"))) == len(finished("killed")) <= len(finished("undisturbed"))
    for name in ("set.json", "images-00000.h5", "labels-00000.h5"):
        one, other = (tmp_path / place / "demo" / "set" / name for place in ("killed", "undisturbed"))
        assert one.read_bytes() == other.read_bytes()
    assert list((tmp_path / "killed" / "store" / "checkpoints").glob("*")) == []
