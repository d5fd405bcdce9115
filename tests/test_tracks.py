"""Tracks: what is frozen, what a budget buys, and that everybody on a track gets the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condense.data import Data, DatasetSpec, Split, open_data
from condense.dataset import load
from condense.device import Compute
from condense.engine.store import Store
from condense.errors import ConfigError, TeacherError
from condense.evaluation import tracks
from condense.evaluation.results import Evaluation
from condense.evaluation.student import StudentRecipe, augmented
from condense.evaluation.tracks import find_track, fitted
from condense.files import canonical_json
from condense.labels import LabelConfig, store_labels
from condense.pipeline import Context, DataRequest, distill, evaluate, resolve
from condense.shards import SetInfo, image_name, set_bytes, write_images, write_set
from condense.teachers import save_teacher
from condense.teachers.recipe import TeacherRecipe, train_teacher
from condense.training import Batch
from condense.views.config import ViewConfig

STUDENT = "convnet2-w8-bn"
REQUEST = DataRequest(name="tiny")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    recipe = TeacherRecipe(network="convnet2-w8-bn", epochs=2, min_steps=40, batch_size=16)
    save_teacher(folder, *train_teacher(tiny_data, recipe, compute=Compute()))
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "STEPS", 8)
    monkeypatch.setattr(tracks, "RATES", (1e-6, 0.05))


def context_of(store: Path, data: Data) -> Context:
    return Context(store=Store(store), compute=Compute(), opened={REQUEST: data})


def make(context: Context, out: Path, teacher: Path, **changes: Any) -> Path:
    values = {"data": "tiny", "method": "cda", "ipc": 2, "steps": 2, "labels": {"epochs": 2}}
    [folder] = distill(resolve({**values, **changes}), context, out=out, teachers=[teacher])
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# What is frozen

FROZEN = {
    "hard": "bd8c0dd37337e8a6",
    "hard:none": "3c63164b8593f698",
    "hard:dsa": "47fadc9af0b15eb6",
    "hard:randaugment": "09e3b6aaee747e8e",
    "budget:1": "dbce7c740eeddff2",
    "teacher": "f9d1f497b5f93c98",
    "native:dc": "255ef6457416b6ab",
    "native:dsa": "12885d54fa83176c",
    "native:idc": "f6fc9f4640d24c66",
    "native:ncfm": "bb892b4bbdcafd57",
    "native:mtt": "9f3212e3356b86a2",
    "native:sre2l": "c0bf46b4a6c833af",
}


LATER = {"stretch": 2.0, "averaged": 0.0}


@pytest.mark.parametrize("name", FROZEN)
def test_a_track_of_a_version_never_changes(name: str) -> None:
    """Raise the version of a track that you change, and put the new value here.

    Settings that came after these values, and are what was done without them, are left out.
    """
    track = find_track(name, open_data("fashion-mini").spec).to_dict()
    del track["known"], track["summary"]
    assert {key: track["student"]["optim"].pop(key) for key in LATER} == LATER
    assert hashlib.sha256(canonical_json(track).encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hrad", 'there is no track "hrad"; did you mean "hard"'),
        ("hard:2", "there is no track"),
        ("native:edc", "there is no track"),
        ("budget", "no budget"),
        ("budget:-1", "a number above 0"),
        ("budget:much", "a number above 0"),
    ],
)
def test_tracks_that_do_not_exist_are_refused(name: str, words: str, tiny_data: Data) -> None:
    with pytest.raises(ConfigError, match=words):
        find_track(name, tiny_data.spec)


def test_images_whose_mirror_image_is_another_class_are_not_flipped(tiny_data: Data) -> None:
    digits = replace(tiny_data.spec, name="mnist")
    for name in ("hard", "teacher", "native:dc"):
        assert find_track(name, digits).views.flip == 0.0
    assert find_track("hard", tiny_data.spec).views.flip == 0.5
    assert find_track("native:dsa", digits).student.augment == "dsa-unmirrored"
    assert find_track("native:dsa", tiny_data.spec).student.augment == "dsa"


def test_a_known_rate_is_that_of_the_very_data_set(monkeypatch: pytest.MonkeyPatch, tiny_data: Data) -> None:
    found = {"tracks": {"hard@1": {STUDENT: {"rate": 0.25, "tried": {0.25: 0.5}}}}}
    monkeypatch.setattr(tracks, "stored_rates", lambda: {tiny_data.spec.fingerprint: found})
    assert find_track("hard", tiny_data.spec).known == {STUDENT: 0.25}
    assert find_track("teacher", tiny_data.spec).known == {}
    assert find_track("hard", replace(tiny_data.spec, fingerprint="1" * 64)).known == {}


@pytest.mark.parametrize("n_items", [10, 99, 100, 500, 10_000])
def test_every_set_gets_about_the_same_steps(n_items: int, tiny_data: Data) -> None:
    track = find_track("hard", tiny_data.spec)
    steps = track.epochs_for(n_items) * -(-n_items // track.views.batch_size)
    assert abs(steps - tracks.STEPS) <= max(1, n_items // track.views.batch_size) / 2


# ----------------------------------------------------------------------------------------------------------------------
# Budgets


def labelled_bytes(folder: Path, config: LabelConfig, spec: DatasetSpec, ipc: int) -> int:
    """Of labels and metadata, of a set that is labelled so."""
    folder.mkdir()
    count = ipc * spec.n_classes
    shape = (count, *spec.image_shape)
    write_images(
        folder / image_name(0),
        columns={"images": np.zeros(shape, np.uint8)},
        labels=np.tile(np.arange(spec.n_classes), ipc),
        slots=np.repeat(np.arange(ipc), spec.n_classes),
        spec=spec.to_dict(),
    )
    logits = np.zeros((config.n_labelled, count, spec.n_classes), np.float16)
    teachers = [{"network": "resnet20", "sha256": "0" * 64}]
    store_labels(folder, logits, config, spec, images=[folder / image_name(0)], teachers=teachers)
    method = {"name": "cda", "revision": 1}
    write_set(
        folder,
        SetInfo(
            name="a set", spec=spec.to_dict(), method=method, config={}, seeds={"root": 0}, contains_real_images=True
        ),
    )
    size = set_bytes(load(folder).files)
    return size.labels + size.other


@pytest.mark.parametrize(("ipc", "budgets"), [(10, (0.15, 0.3, 1.0, 3.0, 10.0, 40.0)), (50, (0.05, 1.0, 4.0))])
def test_a_budget_is_kept_and_used(tmp_path: Path, ipc: int, budgets: tuple[float, ...]) -> None:
    spec = open_data("fashion-mini").spec
    raw = ipc * 10 * 28 * 28
    before = 0
    for budget in budgets:
        track = find_track(f"budget:{budget}", spec)
        config = track.labels(n_items=ipc * 10, n_classes=10, raw_bytes=raw, metadata=3000)
        used = labelled_bytes(tmp_path / str(budget), config, spec, ipc)
        assert before <= used <= budget * raw
        record = ipc * 10 * 12 + 4
        whole = config.codec == "full" and config.pool == 1
        assert whole or budget * raw - used < 2 * record + 8192 or config.codec == "int8"
        before = used


def test_the_most_exact_labels_that_fit_are_taken() -> None:
    config = LabelConfig(views=ViewConfig(batch_size=50), epochs=60)
    full, int8 = 100 * 20 + 4, 100 * 12 + 4
    assert fitted(config, 60 * full, 100, 10, "it").codec == "full"
    below = fitted(config, 60 * full - 1, 100, 10, "it")
    assert (below.codec, below.pool) == ("int8", 1)
    part = fitted(config, 20 * int8, 100, 10, "it")
    assert (part.codec, part.pool, part.n_labelled) == ("int8", 3, 20)
    assert fitted(config, 20 * int8 - 1, 100, 10, "it").n_labelled <= 19
    assert fitted(config, int8, 100, 10, "it").n_labelled == 1
    wide = fitted(config, 100 * 2002, 100, 1000, "it")
    assert (wide.codec, wide.n_labelled) == ("int8", 1)
    with pytest.raises(ConfigError, match="it leaves no room for one label an image: 1 bytes are missing"):
        fitted(config, int8 - 1, 100, 10, "it")


# ----------------------------------------------------------------------------------------------------------------------
# Evaluations


def run(context: Context, *paths: Path, **changes: Any) -> Evaluation:
    values: dict[str, Any] = {"students": [STUDENT], "seeds": 1, "data": REQUEST}
    return evaluate(list(paths), context, **{**values, **changes})


@pytest.mark.usefixtures("short")
def test_all_conditions_of_a_track_differ_in_images_only(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    folder = make(context, tmp_path / "set", teacher)
    found = run(context, folder, tracks=["hard", "budget:40", "teacher"], against=["random", "whole"])
    assert [(one.track, one.condition) for one in found] == [
        (f"{track}@1", condition)
        for track in ("hard", "budget:40", "teacher")
        for condition in ("cda", "random", "whole data")
    ]
    for first in range(0, 9, 3):
        ours, random, whole = found[first : first + 3]
        assert ours.config == random.config == whole.config
        assert ours.steps == random.steps == whole.steps == 8
        assert ours.bytes_labels == pytest.approx(random.bytes_labels, abs=50)
        assert ours.config["recipe"]["optim"]["lr"] in (1e-6, 0.05)
    hard, budget, online = found[0], found[3], found[6]
    raw = 2 * 3 * 12 * 12 * 3
    assert (hard.bytes_labels, hard.targets) == (0, "hard")
    assert 0 < budget.bytes_labels + budget.bytes_other <= 40 * raw
    assert online.bytes_other > budget.bytes_other + 1000  # the teacher is charged
    assert {rate.track for rate in found.rates} == {"hard@1", "budget:40@1", "teacher@1"}
    assert all(set(rate.tried) == {1e-6, 0.05} for rate in found.rates)


@pytest.mark.usefixtures("short")
def test_rates_are_chosen_without_the_test_images(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    wrong = Split(tiny_data.test.images[::-1].copy(), tiny_data.test.labels)
    searches = []
    for number, data in enumerate((tiny_data, replace(tiny_data, test=wrong))):
        context = context_of(tmp_path / f"store{number}", data)
        folder = make(context, tmp_path / f"set{number}", teacher)
        found = run(context, folder, tracks=["hard"], against=[])
        searches.append(found.rates)
    assert searches[0] == searches[1]
    [search] = searches[0]
    assert search.rate == max(search.tried, key=lambda rate: search.tried[rate])


@pytest.mark.usefixtures("short")
def test_a_run_that_diverges_is_reported_and_in_no_mean(
    tmp_path: Path, tiny_data: Data, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracks, "RATES", ())
    monkeypatch.setattr(tracks, "sgd", lambda: tracks.OptimConfig(lr=1e30))
    context = context_of(tmp_path / "store", tiny_data)
    folder = make(context, tmp_path / "set", teacher)
    found = run(context, folder, tracks=["hard"], against=[], results=tmp_path / "results.jsonl")
    assert len(found) == 0
    [failure] = found.failures
    assert (failure.condition, failure.track) == ("cda", "hard@1")
    assert "diverged" in str(failure)
    assert not (tmp_path / "results.jsonl").exists()
    assert run(context, folder, tracks=["hard"], against=[]).failures == found.failures


@pytest.mark.usefixtures("short")
def test_hard_tracks_need_no_teacher(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    maker = context_of(tmp_path / "store", tiny_data)
    folder = make(maker, tmp_path / "set", teacher)
    elsewhere = context_of(tmp_path / "other", tiny_data)
    assert len(run(elsewhere, folder, tracks=["hard"])) == 2
    with pytest.raises(TeacherError, match="give their folders with --teacher"):
        run(elsewhere, folder, tracks=["teacher"])
    given = run(elsewhere, folder, tracks=["teacher"], teachers=[teacher], against=[])
    assert [one.accuracy for one in given] == [
        one.accuracy for one in run(maker, folder, tracks=["teacher"], against=[])
    ]


@pytest.mark.usefixtures("short")
def test_results_go_to_a_file_under_their_track(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    context, path = context_of(tmp_path / "store", tiny_data), tmp_path / "results.jsonl"
    folder = make(context, tmp_path / "set", teacher)
    for _ in range(2):
        run(context, folder, tracks=["hard"], results=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["track"], line["condition"]) for line in lines] == [("hard@1", "cda"), ("hard@1", "random")]


def test_a_track_takes_no_settings_beside_it(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    folder = make(context, tmp_path / "set", teacher)
    with pytest.raises(ConfigError, match="a track says how students are trained"):
        run(context, folder, tracks=["hard"], targets=["hard"])
    with pytest.raises(ConfigError, match='--against is "whale"'):
        run(context, folder, tracks=["hard"], against=["whale"])


def test_a_protocol_brings_its_network(tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    folder = make(context, tmp_path / "set", teacher)
    [one] = run(context, folder, tracks=["native:dc"], students=[], against=[], quick=True)
    assert (one.student, one.steps, one.track) == ("convnet3-in", 2, "native:dc (quick)@1")
    assert one.config["recipe"]["optim"]["lr"] == 0.01


def test_the_protocol_of_idc_mixes_images_with_their_targets(tiny_data: Data) -> None:
    """About half of the steps, which share one box; a target is the share of the area that each class has."""
    recipe = find_track("native:idc", tiny_data.spec).student
    batch = Batch(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 12, 12).contiguous(), torch.eye(4))
    batches = augmented(lambda *_: iter([batch] * 200), "none", tiny_data.spec, 0, recipe.cutmix)
    found = list(batches(0, 0))
    mixed = [one for one in found if not torch.equal(one.targets, batch.targets)]
    assert 70 < len(mixed) < 130
    for one in mixed:
        for image, target in zip(one.images, one.targets, strict=True):
            areas = [float((image == number).double().mean()) for number in range(4)]
            assert target.tolist() == pytest.approx(areas, abs=1e-6)
    resumed = list(batches(0, 7))
    assert all(torch.equal(one.images, other.images) for one, other in zip(found[7:], resumed, strict=False))
    with pytest.raises(ConfigError, match="take hard targets"):
        StudentRecipe(cutmix=0.5)
    with pytest.raises(ConfigError, match="cutmix"):
        StudentRecipe(targets="hard", cutmix=1.5)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("native:idc", {0: 0.01, 665: 0.01, 666: 0.002, 832: 0.002, 833: 0.0004, 999: 0.0004}),
        ("native:ncfm", {0: 1e-3, 399: 1e-3, 400: 5e-4, 800: 2.5e-4, 1200: 1.25e-4, 1600: 6.25e-5, 1999: 6.25e-5}),
        ("native:mtt", {0: 0.01, 501: 0.01, 502: 0.001, 1000: 0.001}),
    ],
)
def test_learning_rates_of_protocols(name: str, rates: dict[int, float], tiny_data: Data) -> None:
    """By epoch, with three steps in each."""
    track = find_track(name, tiny_data.spec)
    assert track.epochs is not None
    optim = track.student.optim
    for epoch, rate in rates.items():
        for step in range(3):
            assert optim.lr_at(3 * epoch + step, 3 * track.epochs) == pytest.approx(rate, rel=1e-9)


def test_the_protocol_of_mtt_trains_at_the_step_size_that_a_set_learnt(tiny_data: Data) -> None:
    def learnt(config: dict[str, Any]) -> SetInfo:
        spec = tiny_data.spec.to_dict()
        return SetInfo(
            name="set", spec=spec, method={}, config=config, seeds={}, contains_real_images=True, licence="unknown"
        )

    track = find_track("native:mtt", tiny_data.spec)
    assert track.rate_of(learnt({"learned": {"lr": 0.037}}), 0.01) == 0.037
    assert track.rate_of(learnt({}), 0.01) == 0.01
    assert find_track("native:dsa", tiny_data.spec).rate_of(learnt({"learned": {"lr": 0.037}}), 0.01) == 0.01


def test_augmented_students_are_reproducible_and_differ_from_plain_ones(
    tmp_path: Path, tiny_data: Data, teacher: Path
) -> None:
    found = []
    for store, name in (("a", "native:dsa"), ("b", "native:dsa"), ("a", "native:dc")):
        context = context_of(tmp_path / store, tiny_data)
        folder = make(context, tmp_path / f"set-{store}", teacher)
        [one] = run(context, folder, tracks=[name], against=[], quick=True)
        found.append(one)
    assert found[0].losses == found[1].losses
    assert found[0].losses != found[2].losses
    assert found[0].config["recipe"]["augment"] == "dsa"
    assert "augment" not in found[2].config["recipe"]
    with pytest.raises(ConfigError, match="changes views that labels were made for"):
        StudentRecipe(augment="dsa")
