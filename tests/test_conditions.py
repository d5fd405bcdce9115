"""The conditions that matching methods are measured under: the files say what they seem to say."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from condense import recipes
from condense.data import DatasetSpec, open_data
from condense.errors import ConfigError
from condense.evaluation.tracks import find_track

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import matched  # noqa: E402

FILES = sorted((ROOT / "benchmarks" / "conditions").glob("*.yaml"))


def options_of(monkeypatch: pytest.MonkeyPatch, *words: object) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["matched.py", *map(str, words)])
    return matched.parse()


@pytest.fixture(scope="module")
def spec() -> DatasetSpec:
    return open_data("fashion-mini").spec


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_all_conditions_can_be_made(path: Path, monkeypatch: pytest.MonkeyPatch, spec: DatasetSpec) -> None:
    found = matched.conditions(options_of(monkeypatch, "--conditions", path))
    assert len({(one.name, one.ipc) for one in found}) == len(found) > 3
    for one in found:
        assert find_track(one.track, spec).network == "convnet3-in"
        assert (one.published is None) or one.source
        if one.method in matched.BASELINES:
            assert one.at == (0,)
        else:
            assert tuple(sorted(one.at)) == one.at
            matched.made_method(one, one.at[-1]).check(spec, one.ipc)


@pytest.mark.parametrize("data", ["fashion-mnist", "cifar10"])
def test_published_conditions_are_those_of_the_recipes(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for pixels, which are clamped, and memory; and what they are compared with is what recipes expect."""
    path = ROOT / "benchmarks" / "conditions" / f"{data}.yaml"
    for one in matched.conditions(options_of(monkeypatch, "--conditions", path)):
        if not one.name.endswith("(published)") or one.name.startswith("idc-i"):
            continue
        recipe = recipes.load(f"{one.method}-{data}")
        assert recipe.expected[0].accuracy["convnet3-in"][one.ipc] == one.published
        said, config = recipe.at(one.ipc), vars(matched.made_method(one).config)
        for key in config.keys() & said.keys() - {"clamp", "networks", "augment", "distance", "train_images"}:
            assert config[key] == said[key], key
        assert one.at[-1] <= said["networks"]


def test_a_grid_is_all_its_combinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {
        "name": "dm",
        "method": "dm",
        "set": {"pool": 3, "augment": "none"},
        "grid": {"lr": [0.1, 0.2], "start": ["real", "k-means"]},
        "at": [5],
        "ipc": {1: {}, 10: {"set": {"pool": 7}, "at": [9]}},
    }
    path = tmp_path / "conditions.yaml"
    path.write_text(yaml.safe_dump({"conditions": [text]}))
    found = matched.conditions(options_of(monkeypatch, "--conditions", path, "--ipc", 1, 10))
    assert len(found) == 8
    assert {one.name for one in found} == {f"dm lr={lr} start={s}" for lr in (0.1, 0.2) for s in ("real", "k-means")}
    assert {(one.ipc, one.set["pool"], one.at) for one in found} == {(1, 3, (5,)), (10, 7, (9,))}
    assert all(f"lr={one.set['lr']} start={one.set['start']}" in one.name for one in found)
    only = matched.conditions(options_of(monkeypatch, "--conditions", path, "--only", "other"))
    assert only == []
    path.write_text(yaml.safe_dump({"conditions": [{**text, "tracks": "native:dc"}]}))
    with pytest.raises(ConfigError, match="tracks"):
        matched.conditions(options_of(monkeypatch, "--conditions", path))


def test_held_out_images_are_of_the_training_set_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matched.opened(options_of(monkeypatch, "--data", "fashion-mini"))
    part = matched.opened(options_of(monkeypatch, "--data", "fashion-mini", "--held-out", 0.1))
    assert len(part.train) + len(part.test) == len(whole.train)
    mine = [image.tobytes() for split in (part.train, part.test) for image in split.images]
    assert sorted(mine) == sorted(image.tobytes() for image in whole.train.images)
    assert part.spec.train_sizes[0] == len([label for label in part.train.labels if label == 0])


def test_lines_are_found_again_and_make_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, Any] = {"condition": "dm", "ipc": 1, "set_index": 0, "settings": {"lr": 0.1, "augment": None}}
    path = tmp_path / "out.jsonl"
    lines = [
        {**run, "set_index": number, "steps": steps, "seconds": 10.0 * steps, "accuracies": values}
        for number, steps, values in ((0, 1, [0.5, 0.7]), (1, 1, [0.6, None]), (0, 2, [0.7, 0.8]))
    ]
    more = {"held_out": 0.0, "track": "native:dc@1"}
    path.write_text("".join(json.dumps({**line, **more}) + "\n" for line in lines))
    assert matched.found_in(path, run, 2)["accuracies"] == [0.7, 0.8]  # type: ignore[index]
    assert matched.found_in(path, run, 3) is None
    assert matched.found_in(path, {**run, "settings": {"lr": 0.2, "augment": None}}, 2) is None
    condition = matched.Condition(name="dm", method="dm", ipc=1, published=71.5, source="somewhere")
    rows = matched.table([condition], options_of(monkeypatch, "--out", path)).splitlines()
    assert rows[2] == "| dm | 1 | native:dc@1 | 1 | 2 x 2 | 10 | 45.00 ± 31.09 | 71.5 |"
    assert rows[3].startswith("| dm | 1 | native:dc@1 | 2 | 1 x 2 | 20 | 75.00 ± 7.07")
