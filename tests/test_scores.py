"""Scores over several rows: each from the rows it needs, and nothing where one of them is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_report import BASE
from typer.testing import CliRunner

from condense.cli import app
from condense.evaluation.metrics import augmentation_robust_score, label_robust_score
from condense.evaluation.results import Result, append_result
from condense.report import rankings, rows_of, score_table, scores, transfers


def runs(track: str, student: str = "resnet20", **means: float) -> list[Result]:
    """Two students of each condition around a mean; names are spelt as keywords can be."""
    names = {"whole": "whole data", "kmeans": "k-means"}
    return [
        replace(
            BASE,
            condition=names.get(name, name),
            method=names.get(name, name),
            track=f"{track}@1",
            targets="hard" if track.startswith("hard") else "soft",
            student=student,
            seed=seed,
            accuracy=mean + off,
        )
        for name, mean in means.items()
        for seed, off in enumerate((-0.01, 0.01))
    ]


STUDY = [
    *runs("hard", whole=0.85, random=0.70, cda=0.60, kmeans=0.72),
    *runs("budget:1", whole=0.86, random=0.80, cda=0.78, kmeans=0.81),
    *runs("teacher", random=0.82, cda=0.83),
    *runs("hard:none", random=0.66, cda=0.60, kmeans=0.68),
    *runs("hard:dsa", random=0.72, cda=0.70, kmeans=0.71),
]


def test_scores_are_those_of_the_rows_they_need() -> None:
    found = {(one.condition, one.track): one for one in scores(rows_of(STUDY))}
    assert set(found) == {("cda", "budget:1"), ("k-means", "budget:1"), ("cda", "teacher")}
    cda = found["cda", "budget:1"]
    assert (cda.hlr, cda.ior) == pytest.approx((0.25, -0.02))
    assert cda.lrs == pytest.approx(label_robust_score(0.25, -0.02))
    assert cda.ars == pytest.approx(augmentation_robust_score(0.70 - 0.72, 0.60 - 0.66))
    assert found["cda", "teacher"].ior == pytest.approx(0.01)


def test_what_is_missing_leaves_its_score_out() -> None:
    [only] = scores(rows_of(runs("budget:1", cda=0.7)))
    assert (only.hlr, only.ior, only.lrs, only.ars) == (None, None, None, None)
    assert score_table([only])[1] == [["cda", "fashion-mini", "10", "resnet20", "budget:1", "-", "-", "-", "-"]]
    [some] = scores(rows_of([*runs("budget:1", cda=0.7, random=0.6), *runs("hard", cda=0.5, whole=0.8)]))
    assert (some.hlr, some.ior) == pytest.approx((0.3, 0.1))
    assert some.ars is None


def test_tracks_are_said_to_rank_alike_or_not() -> None:
    found = {one.tracks: one for one in rankings(rows_of(STUDY))}
    assert found["hard", "budget:1"].correlation == pytest.approx(1.0)
    assert found["hard", "budget:1"].conditions == 3
    assert found["hard:none", "hard:dsa"].correlation == pytest.approx(0.5)
    assert ("hard", "teacher") not in found  # two conditions in common


def test_what_other_networks_keep() -> None:
    study = [
        *runs("hard", "resnet20", random=0.70, cda=0.75),
        *runs("hard", "convnet3-in", random=0.65, cda=0.66),
        *runs("hard", "vit", random=0.50, cda=0.48),
        *runs("teacher", "vit", random=0.50, cda=0.48),
    ]
    [(key, found)] = transfers(rows_of(study), ["resnet20"]).items()
    assert key == ("fashion-mini", 10, "hard", "cda")
    assert (found.own, found.others) == pytest.approx((0.05, -0.005))
    assert (found.worst, found.worst_drop) == ("vit", pytest.approx(0.07))


def test_the_command_prints_them(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for result in [*STUDY, *runs("hard", "vit", random=0.5, cda=0.48)]:
        append_result(path, result)
    said = CliRunner().invoke(app, ["compare", str(path), "--scores", "--maker", "resnet20"])
    assert said.exit_code == 0
    assert "hard and budget:1 rank 3 conditions with a correlation of +1.00" in said.stdout
    assert "0.250" in said.stdout
    assert "(vit)" in said.stdout
    written = CliRunner().invoke(app, ["compare", str(path), "--format", "json", "-o", str(tmp_path / "table.json")])
    assert written.exit_code == 0
    assert '"condition": "k-means"' in (tmp_path / "table.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jsonl"], "cannot read results"),
        (["{path}", "--format", "xml"], '--format is "xml"'),
        (["{path}", "--format", "json", "--scores"], "write the json with --out"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, STUDY[0])
    said = CliRunner().invoke(app, ["compare", *(word.format(path=path) for word in words)])
    assert said.exit_code == 2
    assert message in said.stderr
