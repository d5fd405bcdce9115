"""The comparison of all decoupled methods: its grids, its choice of the best, and a set in one job."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condense.config import from_mapping, identity
from condense.data import open_data
from condense.errors import ConfigError
from condense.methods import METHODS
from condense.methods.base import slot_blocks
from condense.networks import build
from condense.networks.mobilenet import scaled
from condense.pipeline import resolve

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import family
import write_results

SPEC = open_data("fashion-mini").spec


def request(condition: family.Condition, ipc: int = 10) -> Any:
    values = {**condition.of_method, **({"compensators": 4} if "infer" in condition.title else {})}
    return resolve({"data": "fashion-mini", "ipc": ipc, "labels": {"codec": "none"}, **values})


def test_every_method_has_as_many_candidates_and_no_candidate_twice() -> None:
    for method, candidates in family.GRID.items():
        assert len(candidates) == 8, method
        assert len({json.dumps(one, sort_keys=True) for one in candidates}) == 8, method


@pytest.mark.parametrize("method", list(family.GRID))
def test_every_candidate_is_a_distillation(method: str) -> None:
    configs = set()
    for candidate in family.GRID[method]:
        made = request(family.condition_of(method, candidate))
        made.method.check(SPEC, 10)
        configs.add((made.method.name, json.dumps(identity(made.method.config)), candidate.get("seed")))
    assert len(configs) == 8, "two candidates are one"


@pytest.mark.parametrize("method", [one for one in family.GRID if one != "coreset"])
def test_published_settings_are_a_distillation(method: str) -> None:
    made = request(family.Condition(method, family.published(method, 10)))
    made.method.check(SPEC, 10)
    if "lr" in {entry.name for entry in fields(made.method.Config)}:
        assert made.method.config.lr in (0.05, 0.1, 0.25)


def line(settings: dict[str, Any], accuracy: float, student: str = "a", track: str = "hard@1") -> str:
    return json.dumps({"method": "sre2l", "settings": settings, "track": track, "student": student}
                      | {"held_out_accuracy": accuracy})  # fmt: skip


def study(tmp_path: Path, **options: Any) -> Any:
    usual = {"results": tmp_path / "r.jsonl", "tuned": None, "ipc": 10, "steps": None, "tracks": ["hard"]}
    made = family.Study(argparse.Namespace(**{**usual, **options}), context=None)  # type: ignore[arg-type]
    vars(made)["data"] = open_data("fashion-mini")
    return made


def test_the_best_is_the_best_on_average_over_students_and_of_its_track(tmp_path: Path) -> None:
    lines = [
        line({"method": "sre2l", "lr": 1}, 0.9),
        line({"method": "sre2l", "lr": 1}, 0.1, "b"),
        line({"method": "sre2l", "lr": 2}, 0.6),
        line({"method": "sre2l", "lr": 2}, 0.6, "b"),
        line({"method": "sre2l", "lr": 3}, 1.0, track="budget:1@1"),
    ]
    (tmp_path / "r.tuned.jsonl").write_text("\n".join(lines))
    made = study(tmp_path)
    assert family.best_of(made, "sre2l", "hard").settings["lr"] == 2
    assert family.best_of(made, "sre2l", "budget:1").settings["lr"] == 3
    assert family.best_of(made, "cda", "hard") is None
    assert family.best_of(made, "random", "hard").settings == {"method": "random"}


def test_lines_of_other_settings_are_not_taken_for_done() -> None:
    one = dict.fromkeys(family.IDENTITY, 1)
    assert family.identity_of({**one, "rate": 3}) == family.identity_of(one)
    for name in family.IDENTITY:
        assert family.identity_of({**one, name: 2}) != family.identity_of(one)


def test_the_page_pairs_conditions_by_set_and_seed() -> None:
    spots = [(index, seed) for index in range(3) for seed in range(2)]
    random = dict(zip(spots, (0.50, 0.52, 0.60, 0.61, 0.70, 0.72), strict=True))
    runs = {"random": random, "cda": {spot: value + 0.03 for spot, value in random.items()}, "k-means": random}
    runs["sre2l"] = {spot: value - 0.01 * (1 + spot[0] / 10) for spot, value in random.items()}
    told = write_results.orderings(runs)
    assert told.startswith("- cda above sre2l: holds, +4.10 (")
    lines = write_results.family_table(runs, {}).splitlines()
    assert lines[2].startswith("| cda | 63.83 (3 x 2) | 10.00 / 1.22 |")
    assert "| +3.00 | +3.00 |" in lines[2]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| cda", "| random", "| k-means", "| sre2l"]
    assert write_results.seconds_each(
        {"sets": 2, "students": 4, "seconds": {"images": 10.0, "labels": 2.0, "students": 6.0}}
    ) == ("5.0", "2.0")


def test_all_slots_of_a_set_in_one_job() -> None:
    for name in ("sre2l", "infer"):
        kind = METHODS[name]
        method = kind(kind.Config())
        whole = kind(replace(method.config, blocks="whole"))
        slots = method.slots(SPEC, 12)
        [*nested] = [job.slots for job in method.jobs(SPEC, 12, 0, 0)]
        assert nested == list(slot_blocks(slots, 10))
        covered = [range(first, min(first + 10, slots)) for first in range(0, slots, 10)]
        assert [job.slots for job in whole.jobs(SPEC, 12, 0, 0)] == [tuple(one) for one in covered]
        assert identity(method.config) == identity(kind(from_mapping(kind.Config, {"blocks": "nested"})).config)
        assert "blocks" not in identity(method.config)
        with pytest.raises(ConfigError, match="blocks"):
            kind.Config(blocks="all")


def test_a_narrow_mobilenet_has_a_quarter_of_the_channels_in_whole_eights() -> None:
    for channels, width in ((32, 1.0), (16, 0.25), (24, 0.5), (320, 0.25), (96, 0.35)):
        multiples = np.arange(8, 2048, 8)
        allowed = multiples[multiples >= 0.9 * channels * width]
        nearest = min(allowed, key=lambda one: (abs(one - channels * width), -one))
        assert scaled(channels, width) == nearest
    shape = {"channels": 1, "height": 28, "width": 28, "n_classes": 10}
    narrow, full = (build(name, **shape) for name in ("mobilenetv2-w25", "mobilenetv2"))
    counts = [sum(one.numel() for one in network.parameters()) for network in (narrow, full)]
    assert counts[0] < counts[1] / 10
    assert narrow.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
