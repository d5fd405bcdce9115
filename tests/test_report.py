"""The table says what the results say; the grid shows the images it was given."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from condense.errors import CondenseError
from condense.evaluation.results import Result, config_hash, read_results
from condense.methods import choosers
from condense.report import comma_separated, draw_grid, markdown, records, rows_of, scores, show, table
from condense.report.grid import GAP, MAX_CLASSES, spread

ROOT = Path(__file__).parent.parent
CONFIG = {"epochs": 3}
BASE = Result(
    condition="random",
    method="random",
    data="fashion-mini",
    ipc=10,
    set_name="set",
    set_sha256="00",
    set_index=0,
    student="resnet20",
    targets="soft",
    seed=0,
    accuracy=0.5,
    losses=(1.0, 0.5),
    steps=10,
    bytes_images=78_400,
    bytes_labels=60_000,
    bytes_other=900,
    config=CONFIG,
    config_sha256=config_hash(CONFIG),
    versions={"torch": "2"},
    compute={"device": "cpu"},
    seconds=1.5,
    peak_memory=10**9,
)


def study(condition: str, *sets: list[float]) -> list[Result]:
    return [
        replace(BASE, condition=condition, set_index=s, seed=k, accuracy=value)
        for s, values in enumerate(sets)
        for k, value in enumerate(values)
    ]


RESULTS = [*study("random", [0.80, 0.81], [0.79, 0.80]), *study("cda", [0.75, 0.76], [0.741, 0.751])]


def test_rows_hold_the_statistics_of_their_runs() -> None:
    random, cda = rows_of(RESULTS)
    assert (random.condition, random.summary.n_sets, random.summary.n_students) == ("random", 2, 2)
    assert random.difference is None
    assert cda.difference is not None
    assert cda.difference.mean == pytest.approx(-0.0495)
    assert (cda.image_bytes, cda.label_bytes) == (78_400, 60_000)
    assert random.statement == "random, resnet20, soft targets: the baseline"
    assert cda.statement == "cda, resnet20, soft targets: worse than random by 4.3 to 5.6 points"


def test_another_set_of_one_name_and_number_is_never_mixed_in() -> None:
    """Whichever is first; the bytes of a row are those of its set; each is beside the random images of its labels."""
    both = [*RESULTS, *(replace(one, set_sha256="11", accuracy=one.accuracy - 0.1, bytes_labels=5) for one in RESULTS)]
    _, cda, random2, cda2 = rows_of(both)
    assert [one.condition for one in (random2, cda2)] == ["random (2)", "cda (2)"]
    assert (cda.label_bytes, cda2.label_bytes) == (60_000, 5)
    for one, mean in ((cda, 0.7505), (cda2, 0.6505)):
        assert one.summary.mean == pytest.approx(mean)
        assert one.difference is not None
        assert one.difference.mean == pytest.approx(-0.0495)
    assert (cda2.baseline, random2.statement.rpartition(": ")[2]) == ("random (2)", "the baseline")


def test_real_images_stand_beside_sets_of_their_labels() -> None:
    """Named by what labels differ in, brackets within brackets too; another set with one random beside it has that."""
    named = [replace(one, condition=f"{one.condition} [scale [0.5, 1], codec int8]") for one in RESULTS]
    again = [replace(one, set_sha256="22") for one in named if one.condition.startswith("cda")]
    for row in rows_of([*RESULTS, *named, *again]):
        if row.condition.startswith("cda"):
            assert row.baseline == "random" + (" [scale [0.5, 1], codec int8]" if "[" in row.condition else "")
            assert row.difference is not None
            assert row.difference.mean == pytest.approx(-0.0495)


def test_other_recipes_targets_and_students_are_other_rows_and_never_compared() -> None:
    other = {"epochs": 9}
    changes: list[dict[str, object]] = [
        {"config": other, "config_sha256": config_hash(other)},
        {"targets": "hard"},
        {"student": "convnet3"},
        {"data": "cifar10"},
        {"ipc": 50},
    ]
    for change in changes:
        rows = rows_of([*study("random", [0.8]), *(replace(run, **change) for run in study("cda", [0.7]))])  # type: ignore[arg-type]
        assert len(rows) == 2
        assert rows[1].difference is None
        assert "no run of random to compare with" in rows[1].statement


def test_the_later_of_two_identical_runs_counts() -> None:
    (row,) = rows_of([*study("random", [0.1]), *study("random", [0.8])])
    assert (row.summary.mean, row.summary.n_runs) == (0.8, 1)


def test_quick_runs_are_rows_of_their_own_and_only_compared_with_each_other() -> None:
    quick = [replace(run, quick=True) for run in study("cda", [0.7])]
    mixed = rows_of([*study("random", [0.8]), *study("cda", [0.75]), *quick])
    assert [(row.place, row.quick) for row in mixed] == [("soft", False), ("soft", False), ("soft (quick)", True)]
    assert mixed[1].difference is not None
    assert mixed[2].difference is None
    both = rows_of([*(replace(run, quick=True) for run in study("random", [0.8])), *quick])
    assert both[1].difference is not None
    assert both[1].statement.startswith("cda, resnet20, soft targets (quick): ")
    track = rows_of([replace(run, track="hard (quick)@1") for run in quick])[0]
    assert (track.place, track.terms) == ("hard (quick)@1", "track hard (quick)@1")
    assert "(quick): students were trained for seconds" in markdown(mixed)
    assert "(quick)" not in markdown(mixed[:2])
    assert replace(quick[0], quick=False).key != quick[0].key
    assert Result.from_json(quick[0].to_json()) == quick[0]
    assert "quick" not in study("cda", [0.7])[0].to_json()


def test_scores_do_not_mix_quick_runs_with_others() -> None:
    runs = [*study("random", [0.5]), *study("cda", [0.6])]
    rows = rows_of([*runs, *(replace(run, accuracy=0.1, quick=True) for run in runs)])
    assert {one.track: one.ior for one in scores(rows)} == {"soft": pytest.approx(0.1), "soft (quick)": 0.0}


def test_the_names_of_coresets_are_those_of_the_methods() -> None:
    assert table.coresets() == {*choosers()} - {"random"}


COMPARE = """
import sys
from condense.cli import app
try:
    app(["compare", "results.jsonl"], standalone_mode=False)
finally:
    heavy = {"torch", "torchvision", "kornia", "h5py"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_comparing_imports_nothing_heavy_and_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    lines = [replace(run, seed=100 * copy + run.seed).to_json() for copy in range(63) for run in RESULTS]
    path.write_text("\n".join(lines) + "\n")
    subprocess.run([sys.executable, "-c", COMPARE], check=True, cwd=tmp_path, timeout=60, env={"PYTHONPATH": str(ROOT)})
    calls: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int, figures: object = {}, /) -> None:
        calls.append((stage, done, total))

    rows_of(read_results([path], report), report=report)
    assert calls == [
        ("reading files of results", 0, 1),
        *(("lines", number, 504) for number in (100, 200, 300, 400, 500)),
        ("reading files of results", 1, 1),
        ("comparing", 1, 2),
        ("comparing", 2, 2),
    ]


def test_markdown_has_one_line_per_row_and_the_sentences_below() -> None:
    lines = markdown(rows_of(RESULTS)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4]]
    assert cells[0][5:8] == ["accuracy, mean ± sd (sets x students)", "95 % interval", "difference to random"]
    assert cells[3][2] == "cda"
    assert cells[3][5].startswith("75.05 ± ")
    assert cells[3][5].endswith("(2 x 2)")
    assert cells[3][7] == "-4.95 (-5.59 to -4.31)"
    assert cells[3][8:] == ["78.4 kB", "60 kB"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-1] == "- cda, resnet20, soft targets: worse than random by 4.3 to 5.6 points"


def test_rows_are_compared_with_the_best_coreset_of_their_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "coresets", lambda: {"herding", "k-means"})
    results = [
        *RESULTS,
        *(replace(run, method="herding") for run in study("herding", [0.7, 0.7], [0.7, 0.71])),
        *(replace(run, method="k-means") for run in study("k-means", [0.76, 0.77], [0.75, 0.76])),
        *(replace(run, method="herding", targets="hard") for run in study("herding", [0.9])),
    ]
    rows = {(row.condition, row.targets): row for row in rows_of(results)}
    assert {row.coreset for (_, targets), row in rows.items() if targets == "soft"} == {"k-means"}
    cda = rows["cda", "soft"]
    assert cda.to_coreset is not None
    assert cda.to_coreset.mean == pytest.approx(-0.0095)
    assert cda.statement.endswith("; worse than k-means by 0.3 to 1.6 points, the best coreset")
    assert rows["k-means", "soft"].to_coreset is None
    assert rows["herding", "hard"].coreset == "herding"


def test_records_hold_what_the_table_shows() -> None:
    random, cda = records(rows_of(RESULTS))
    assert cda["accuracy"] == pytest.approx(0.7505)
    assert (cda["difference_low"], cda["difference_high"]) == pytest.approx((-0.0559, -0.0431), abs=1e-4)
    assert (cda["difference_verdict"], cda["coreset"], cda["to_coreset"]) == ("worse", "", None)
    assert (random["difference"], random["sets"], random["students"]) == (None, 2, 2)
    lines = list(csv.DictReader(io.StringIO(comma_separated(rows_of(RESULTS)))))
    assert [line["condition"] for line in lines] == ["random", "cda"]
    assert float(lines[1]["accuracy"]) == pytest.approx(0.7505)
    assert lines[0]["difference"] == ""
    assert comma_separated([]) == "\n"


def test_one_set_is_marked() -> None:
    text = markdown(rows_of(study("random", [0.80, 0.82, 0.81])))
    assert "(1 x 3)" in text
    assert "78.52 to 83.48 (1 set)" in text


def test_a_table_without_rows_is_its_heading() -> None:
    assert len(markdown([]).splitlines()) == 3


def test_output_that_is_no_terminal_is_plain_markdown() -> None:
    rows, stream = rows_of(RESULTS), io.StringIO()
    show(rows, Console(file=stream))
    assert stream.getvalue() == markdown(rows)


def test_a_terminal_gets_a_drawn_table_with_the_same_cells() -> None:
    rows, stream = rows_of(RESULTS), io.StringIO()
    show(rows, Console(file=stream, force_terminal=True, width=240, color_system=None))
    text = stream.getvalue()
    assert "┃" in text
    assert "-4.95 (-5.59 to -4.31)" in text
    assert "worse than random by 4.3 to 5.6 points" in text


def test_a_narrow_terminal_gets_a_table_that_fits() -> None:
    rows, stream = rows_of(RESULTS), io.StringIO()
    show(rows, Console(file=stream, force_terminal=True, width=80, color_system=None))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "-4.95" in text
    assert "-5.59" not in text
    assert " to 83.48" not in text
    assert "worse than random by 4.3 to 5.6 points" in text


def draw(path: Path, n_classes: int, ipc: int, channels: int = 3, **options: int) -> np.ndarray:
    """A set whose image of class c, slot s has the one colour 10 c + s (slot-major rows), drawn and read back."""
    labels = np.tile(np.arange(n_classes), ipc)
    colours = (10 * labels + np.repeat(np.arange(ipc), n_classes)) % 251
    images = np.broadcast_to(colours[:, None, None, None], (len(labels), 8, 6, channels)).astype(np.uint8)
    draw_grid(images, labels, [f"class {index}" for index in range(n_classes)], path, **options)
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_per_class_and_a_column_per_slot(tmp_path: Path, channels: int) -> None:
    picture = draw(tmp_path / "a" / "grid.png", n_classes=3, ipc=4, channels=channels, per_class=2, scale=4)
    cell = (8 * 4 + GAP, 6 * 4 + GAP)
    assert picture.shape[0] == 3 * cell[0] + GAP
    left = picture.shape[1] - 2 * cell[1] - GAP
    for row in range(3):
        for column in range(2):
            top, start = GAP + row * cell[0], left + column * cell[1]
            drawn = picture[top : top + 32, start : start + 24]
            assert np.unique(drawn).tolist() == [10 * row + column]
            assert (picture[top : top + 32, start + 24] == 255).all()
        assert (picture[GAP + row * cell[0] : (row + 1) * cell[0], :left] < 128).any(), "the name is missing"


def test_a_thousand_classes_are_thinned_out_and_said_to_be(tmp_path: Path) -> None:
    picture = draw(tmp_path / "grid.png", n_classes=1000, ipc=1, scale=2)
    assert picture.shape[0] > MAX_CLASSES * 16
    assert (picture[-14:] < 128).any()
    assert spread(1000, 100) == list(range(0, 1000, 10))
    assert spread(3, 100) == [0, 1, 2]


def test_small_images_are_enlarged_and_classes_of_other_sizes_leave_gaps(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    images = np.zeros((3, 8, 8, 1), dtype=np.uint8)
    draw_grid(images, np.array([0, 0, 1]), ["ключ", "a name that would fill half of the picture"], path)
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] == 2 * (32 + GAP) + GAP
    assert (picture[-20, -20] == 255).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("grid.jpg", {}, "ends in .png"),
        ("grid.png", {"per_class": 0}, "at least 1"),
        ("grid.png", {"scale": 0}, "at least 1"),
        ("grid.png", {"channels": 2}, r"C 1 or 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(CondenseError, match=words):
        draw(tmp_path / name, 2, 1, **options)
    assert not list(tmp_path.iterdir())
