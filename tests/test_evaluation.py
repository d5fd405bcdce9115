"""Students see what the teachers labelled, learn by the stated losses, and leave results that can be trusted."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from condense.data.pixels import normalise, to_pixels
from condense.data.spec import Data, DatasetSpec, Split
from condense.dataset import DistilledDataset, load
from condense.device import Compute
from condense.errors import CondenseError, ConfigError, DataError, MethodError, NetworkError, OutputError, TeacherError
from condense.evaluation import (
    OnlineLabels,
    RealBatches,
    ReplayBatches,
    Result,
    ResultError,
    StudentRecipe,
    append_result,
    evaluate_student,
    measure_real,
    measure_set,
    read_results,
    resolved_config,
    soft_loss,
    train_on_real,
    train_student,
)
from condense.evaluation import student as student_module
from condense.evaluation.objective import smoothed_entropy
from condense.labels import LabelConfig, make_logits, store_labels
from condense.shards import SetInfo, write_images, write_set
from condense.shards.errors import NoLabels
from condense.teachers import Teacher, TeacherRecipe, train_teacher
from condense.training import Batch, OptimConfig
from condense.views import ViewConfig, plan
from condense.views.render import render

CPU = Compute()
NETWORK = "convnet2-w8-bn"
SPEC = DatasetSpec(
    name="brightness",
    classes=("dark", "middle", "bright"),
    channels=1,
    height=8,
    width=8,
    mean=(0.47,),
    std=(0.26,),
    train_sizes=(40, 40, 40),
    test_sizes=(10, 10, 10),
    fingerprint="f" * 64,
)
VIEWS = ViewConfig(scale=(0.3, 1.0), mix="cutmix", batch_size=8, group_size=4)
LABELS = LabelConfig(views=VIEWS, epochs=3, seed=7, teacher_bn="eval")
RECIPE = StudentRecipe(
    network=NETWORK, optim=OptimConfig(lr=0.05), squared_temperature=True, temperature=4.0, epochs=20
)


def split(count: int, seed: int) -> Split:
    """Grey images of 8 x 8 whose brightness is the class."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = (40 + 80 * labels)[:, None, None, None] + draws.integers(-30, 30, (count, 8, 8, 1))
    return Split(images.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(SPEC, split(120, 0), split(30, 1))


@pytest.fixture(scope="module")
def teacher(data: Data) -> Teacher:
    recipe = TeacherRecipe(network=NETWORK, epochs=5, batch_size=16, optim=OptimConfig(lr=0.05), pad=1)
    return Teacher(*train_teacher(data, recipe, compute=CPU))


def write(folder: Path, teachers: list[Teacher], labels: LabelConfig = LABELS) -> DistilledDataset:
    """A set of 5 images per class on disk, opened; without ``teachers`` without soft labels."""
    folder.mkdir()
    items, images = split(15, 5), folder / "images-00000.h5"
    slots = np.arange(15) // 3
    write_images(images, columns={"images": items.images}, labels=items.labels, slots=slots, spec=SPEC.to_dict())
    if teachers:
        names = [{"network": held.info.network, "sha256": held.sha256} for held in teachers]
        logits = make_logits(items.images, teachers, SPEC, labels, compute=CPU)
        store_labels(folder, logits, labels, SPEC, images=[images], teachers=names)
    method = {"name": "random", "revision": 1}
    info = SetInfo(name="tiny", spec=SPEC.to_dict(), method=method, config={}, seeds={}, contains_real_images=True)
    write_set(folder, info)
    return load(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> DistilledDataset:
    return write(tmp_path_factory.mktemp("sets") / "tiny", [teacher])


def same(one: Iterator[Batch], other: Iterator[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.images, b.images, rtol=0, atol=0)
        torch.testing.assert_close(a.targets, b.targets, rtol=0, atol=0)
        assert a.groups == b.groups


# Batches


def test_replay_shows_exactly_what_the_teacher_labelled(dataset: DistilledDataset, teacher: Teacher) -> None:
    """Views drawn again from the plan alone are the student's images, and the teacher says of them what is stored."""
    pixels = to_pixels(np.array(dataset.images))
    soft, hard = ReplayBatches(dataset, "soft"), ReplayBatches(dataset, "hard")
    for epoch in range(LABELS.epochs):
        drawn = plan(LABELS.views, LABELS.seed, epoch, 15, 8, 8)
        for step, (with_logits, with_classes) in enumerate(zip(soft(epoch, 0), hard(epoch, 0), strict=True)):
            views = normalise(render(pixels, drawn, drawn.step(step)), SPEC)
            torch.testing.assert_close(with_logits.images, views)
            torch.testing.assert_close(with_classes.images, views)
            with torch.no_grad():
                torch.testing.assert_close(with_logits.targets, teacher.logits(views), rtol=2e-3, atol=2e-3)
            own = torch.from_numpy(split(15, 5).labels[drawn.order])
            lam = torch.from_numpy(drawn.lam)[:, None]
            mixed = lam * one_hot(own, 3) + (1 - lam) * one_hot(own[torch.from_numpy(drawn.partner)], 3)
            torch.testing.assert_close(with_classes.targets.double(), mixed[drawn.step(step)])
            assert with_logits.groups == with_classes.groups == drawn.step_groups(step)
        assert step + 1 == drawn.n_steps == soft.steps_per_epoch


def test_replay_begins_again_and_goes_on_in_the_middle(dataset: DistilledDataset) -> None:
    batches = ReplayBatches(dataset, "soft")
    same(batches(LABELS.epochs + 1, 0), batches(1, 0))
    whole = list(batches(2, 0))
    assert len(whole) == 2
    same(batches(2, 1), iter(whole[1:]))


@pytest.mark.parametrize("teacher_bn", ["eval", "batch"])
def test_online_labels_are_those_that_would_be_stored(tmp_path: Path, teacher: Teacher, teacher_bn: Any) -> None:
    """Real batches over a set's own images are its replay: same views, same groups, same labels up to float16."""
    stored = write(tmp_path / "set", [teacher, teacher], replace(LABELS, teacher_bn=teacher_bn))
    online = OnlineLabels([teacher, teacher], CPU, teacher_bn)
    real = RealBatches(split(15, 5), SPEC, LABELS.views, LABELS.seed, steps_per_epoch=2, targets="soft", labels=online)
    classes = RealBatches(split(15, 5), SPEC, LABELS.views, LABELS.seed, steps_per_epoch=2)
    for epoch in range(LABELS.epochs):
        same(classes(epoch, 0), ReplayBatches(stored, "hard")(epoch, 0))
        for made, kept in zip(real(epoch, 0), ReplayBatches(stored, "soft")(epoch, 0), strict=True):
            torch.testing.assert_close(made.images, kept.images, rtol=0, atol=0)
            torch.testing.assert_close(made.targets, kept.targets, rtol=2e-3, atol=2e-3)
            assert made.groups == kept.groups


@pytest.mark.parametrize("teacher_bn", ["eval", "batch"])
def test_a_set_can_name_its_teacher_instead_of_storing_labels(
    tmp_path: Path, teacher: Teacher, teacher_bn: Any
) -> None:
    """The student sees what it would see of stored labels, up to float16."""
    stored = write(tmp_path / "set", [teacher], replace(LABELS, teacher_bn=teacher_bn))
    named = write(tmp_path / "named", [teacher], replace(LABELS, teacher_bn=teacher_bn, codec="none"))
    online = ReplayBatches(named, "soft", OnlineLabels([teacher], CPU, teacher_bn))
    for epoch in range(LABELS.epochs):
        for made, kept in zip(online(epoch, 0), ReplayBatches(stored, "soft")(epoch, 0), strict=True):
            torch.testing.assert_close(made.images, kept.images, rtol=0, atol=0)
            torch.testing.assert_close(made.targets, kept.targets, rtol=2e-3, atol=2e-3)
    recipe = replace(RECIPE, epochs=1)
    _, record = train_student(named, recipe, teachers=[teacher], seed=0, compute=CPU)
    assert record.losses == pytest.approx(train_student(stored, recipe, seed=0, compute=CPU)[1].losses, rel=1e-2)
    train_student(named, replace(recipe, targets="hard"), seed=0, compute=CPU)
    other = Teacher(teacher.network, replace(teacher.info, weights_sha256="0" * 64))
    for wrong in ([], [other], [teacher, teacher]):
        with pytest.raises(TeacherError, match="stores no soft labels and names the teachers"):
            train_student(named, recipe, teachers=wrong, seed=0, compute=CPU)
    with pytest.raises(NoLabels, match="stores no soft labels"):
        load(named.path, targets="soft")


@pytest.mark.parametrize("codec", ["int8", "topk:1", "distances", "static"])
def test_students_learn_from_every_codec(tmp_path: Path, data: Data, teacher: Teacher, codec: str) -> None:
    labels = replace(LABELS, codec=codec, pool=1 if codec == "static" else 2)
    small = write(tmp_path / "set", [teacher], labels)
    network, record = train_student(small, RECIPE, seed=0, compute=CPU)
    assert record.steps == 40
    assert evaluate_student(network, data, SPEC, compute=CPU) >= 0.8


@pytest.mark.parametrize("per_epoch", [1, 3, 7, 40])
def test_real_steps_do_not_depend_on_how_they_are_cut_into_epochs(data: Data, per_epoch: int) -> None:
    """120 images are 15 steps of 8: every cutting walks through the passes in the same order, from any step."""
    reference = list(RealBatches(data.train, SPEC, LABELS.views, 1, steps_per_epoch=42)(0, 0))
    batches = RealBatches(data.train, SPEC, LABELS.views, 1, steps_per_epoch=per_epoch)
    for epoch in reversed(range(42 // per_epoch)):
        first = epoch % per_epoch
        here = reference[epoch * per_epoch + first : (epoch + 1) * per_epoch]
        same(batches(epoch, first), iter(here))


def test_only_the_images_of_a_step_are_read(data: Data) -> None:
    class Watched:
        reads: list[int] = []

        def __getitem__(self, items: Any) -> Any:
            self.reads.append(len(items))
            return data.train.images[items]

    watched = Split(Watched(), data.train.labels)  # type: ignore[arg-type]
    assert len(list(RealBatches(watched, SPEC, LABELS.views, 1, steps_per_epoch=3)(0, 1))) == 2
    assert Watched.reads == [8, 8]


# Losses


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_the_soft_loss_is_the_divergence_written_out(temperature: float) -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = (5 * torch.randn(6, 4, generator=draws) for _ in range(2))
    expected = 0.0
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p = np.exp(np.array(t) / temperature) / np.exp(np.array(t) / temperature).sum()
        q = np.exp(np.array(s) / temperature) / np.exp(np.array(s) / temperature).sum()
        expected += float((p * (np.log(p) - np.log(q))).sum()) / 6
    assert float(soft_loss(student, teacher, temperature=temperature)) == pytest.approx(expected, rel=1e-5)
    squared = soft_loss(student, teacher, temperature=temperature, squared_temperature=True)
    assert float(squared) == pytest.approx(temperature**2 * expected, rel=1e-5)
    assert float(soft_loss(teacher, teacher, temperature=temperature)) == pytest.approx(0, abs=1e-7)


def test_the_hard_loss_is_the_cross_entropy_of_mixed_classes_written_out() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 4, generator=draws)
    mixed = torch.rand(5, 4, generator=draws).softmax(1)
    expected = 0.0
    for z, target in zip(logits.double().tolist(), mixed.double().tolist(), strict=True):
        total = math.log(sum(math.exp(v) for v in z))
        expected += sum(p * (total - v) for p, v in zip(target, z, strict=True)) / 5
    assert float(smoothed_entropy(logits, mixed, smoothing=0.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": "sfot"}, "sfot"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.inf}, "finite"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_recipes_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StudentRecipe(**settings)


# Students


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_a_student_learns_from_the_set(dataset: DistilledDataset, data: Data, targets: Any) -> None:
    network, record = train_student(dataset, replace(RECIPE, targets=targets), seed=0, compute=CPU)
    assert (record.steps, len(record.losses)) == (40, 20)
    assert record.losses[-1] < record.losses[0]
    assert evaluate_student(network, data, SPEC, compute=CPU) >= 0.8


def test_initial_weights_depend_on_seed_and_set_and_nothing_else(dataset: DistilledDataset, data: Data) -> None:
    short = replace(RECIPE, epochs=1)

    def weights(seed: int, set_index: int, recipe: StudentRecipe = short) -> torch.Tensor:
        network, _ = train_student(dataset, recipe, seed=seed, set_index=set_index, compute=CPU)
        return torch.cat([value.flatten() for value in network.parameters()])

    assert torch.equal(weights(1, 2), weights(1, 2))
    assert not torch.equal(weights(1, 2), weights(2, 2))
    assert not torch.equal(weights(1, 2), weights(1, 0))
    frozen = replace(short, optim=OptimConfig(lr=1e-30, weight_decay=0))
    hard = replace(frozen, targets="hard")
    real, _ = train_on_real(data, dataset, hard, seed=1, set_index=2, compute=CPU)
    for same_start in (weights(1, 2, hard), torch.cat([value.flatten() for value in real.parameters()])):
        torch.testing.assert_close(weights(1, 2, frozen), same_start, rtol=0, atol=1e-20)


def test_whole_data_takes_the_same_steps(dataset: DistilledDataset, data: Data, teacher: Teacher) -> None:
    network, record = train_on_real(data, dataset, RECIPE, teachers=[teacher], seed=0, compute=CPU)
    assert (record.steps, len(record.losses)) == (40, 20)
    assert evaluate_student(network, data, SPEC, compute=CPU) >= 0.8


def test_whole_data_of_another_set_number_is_another_walk(
    dataset: DistilledDataset, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[list[Batch]] = []

    class Watched(RealBatches):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            walks.append(list(self(0, 0)))

    monkeypatch.setattr(student_module, "RealBatches", Watched)
    for set_index, seed in ((0, 0), (0, 1), (1, 0)):
        recipe = replace(RECIPE, targets="hard", epochs=1)
        train_on_real(data, dataset, recipe, seed=seed, set_index=set_index, compute=CPU)
    same(iter(walks[0]), iter(walks[1]))
    assert not torch.equal(walks[0][0].images, walks[2][0].images)


def test_a_diverging_student_names_its_run(dataset: DistilledDataset) -> None:
    wild = replace(RECIPE, optim=OptimConfig(lr=1e30, schedule="constant"))
    with pytest.raises(MethodError, match=r"student convnet2-w8-bn, set 2, seed 3, soft targets .*not finite"):
        train_student(dataset, wild, seed=3, set_index=2, compute=CPU)


def test_what_does_not_fit_is_refused(dataset: DistilledDataset, data: Data, teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        train_student(dataset, replace(RECIPE, network="convnet9"), seed=0, compute=CPU)
    with pytest.raises(NoLabels, match="condense relabel"):
        train_student(write(tmp_path / "bare", []), RECIPE, seed=0, compute=CPU)
    with pytest.raises(TeacherError, match="soft targets need one"):
        train_on_real(data, dataset, RECIPE, seed=0, compute=CPU)
    with pytest.raises(TeacherError, match="hard none"):
        train_on_real(data, dataset, replace(RECIPE, targets="hard"), teachers=[teacher], seed=0, compute=CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("dark", "bright", "middle")}, 'class 1 is "middle" in the set and "bright" in the data set'),
        ({"classes": ("dark", "middle")}, 'class 2 is "bright" in the set and "None"'),
        ({"height": 10}, r"\(8, 8, 1\).*\(10, 8, 1\)"),
    ],
)
def test_another_data_set_is_refused(dataset: DistilledDataset, data: Data, change: dict[str, Any], words: str) -> None:
    other = replace(data, spec=replace(SPEC, name="other", **change))
    network, _ = train_student(dataset, replace(RECIPE, epochs=1), seed=0, compute=CPU)
    with pytest.raises(DataError, match=words):
        evaluate_student(network, other, dataset.spec, compute=CPU)
    with pytest.raises(DataError, match=words):
        train_on_real(other, dataset, replace(RECIPE, targets="hard"), seed=0, compute=CPU)


# Results


@pytest.fixture(scope="module")
def result(dataset: DistilledDataset, data: Data) -> Result:
    recipe = replace(RECIPE, epochs=None)
    network, record = train_student(dataset, recipe, seed=4, set_index=1, compute=CPU)
    return measure_set(network, record, dataset, data, recipe, seed=4, set_index=1, compute=CPU)


def test_a_result_says_what_was_measured(result: Result, dataset: DistilledDataset) -> None:
    assert (result.condition, result.method, result.data, result.ipc) == ("random", "random", "brightness", 5)
    assert (result.student, result.targets, result.seed, result.set_index) == (NETWORK, "soft", 4, 1)
    assert (result.steps, len(result.losses)) == (6, 3)
    assert result.bytes_images == (dataset.path / "images-00000.h5").stat().st_size
    assert result.bytes_labels == (dataset.path / "labels-00000.h5").stat().st_size
    assert result.bytes_other == (dataset.path / "set.json").stat().st_size
    assert result.config["recipe"]["epochs"] == 3
    assert result.config["views"] == LABELS.views.to_dict()
    assert result.peak_memory > 50e6
    assert result.compute["device"] == "cpu"


def test_hard_targets_and_whole_data_are_charged_for_what_they_use(
    dataset: DistilledDataset, data: Data, teacher: Teacher
) -> None:
    hard = replace(RECIPE, targets="hard", epochs=1)
    network, record = train_student(dataset, hard, seed=0, compute=CPU)
    assert measure_set(network, record, dataset, data, hard, seed=0, compute=CPU).bytes_labels == 0
    real = measure_real(network, record, dataset, data, hard, teachers=[teacher], seed=0, compute=CPU)
    assert (real.condition, real.bytes_images, real.bytes_labels) == ("whole data", 120 * 64, 0)
    weights = sum(value.numel() * value.element_size() for value in teacher.network.state_dict().values())
    assert real.bytes_other == 120 * 8 + weights
    assert real.config_sha256 == measure_set(network, record, dataset, data, hard, seed=0, compute=CPU).config_sha256


def test_no_epochs_and_all_epochs_are_one_recipe(dataset: DistilledDataset) -> None:
    spelled = replace(RECIPE, epochs=LABELS.epochs)
    assert resolved_config(dataset, replace(RECIPE, epochs=None)) == resolved_config(dataset, spelled)


def test_results_are_read_back_as_they_were(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "new" / "results.jsonl"
    runs = [result, replace(result, seed=5), replace(result, set_index=2)]
    for run in runs:
        append_result(path, run)
    assert read_results(path) == runs
    assert read_results([path, path]) == [*runs, *runs]
    assert len({run.key for run in runs}) == 3
    assert len(path.read_text().splitlines()) == 3


def test_many_writers_leave_whole_lines(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: append_result(path, replace(result, seed=seed)), range(40)))
    assert sorted(run.seed for run in read_results(path)) == list(range(40))


def test_what_others_added_is_read_once(tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    from condense.pipeline import results

    path, reads = tmp_path / "results.jsonl", list[Path]()
    monkeypatch.setattr(results, "read_results", lambda one: reads.append(one) or read_results(one))
    held = results.Held(path)
    held.add(result)
    held.add(result)
    held.look()
    assert reads == []
    append_result(path, replace(result, seed=1))
    for _ in range(3):
        held.look()
        held.add(replace(result, seed=1))
        held.add(replace(result, seed=2))
    assert reads == [path]
    assert [run.seed for run in read_results(path)] == [result.seed, 1, 2]
    assert results.Held(path).keys == held.keys


def test_a_line_cut_short_by_a_kill_counts_as_not_done(tmp_path: Path, result: Result) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result)
    with open(path, "a") as file:
        file.write(result.to_json()[:100])
    assert read_results(path) == [result]
    append_result(path, replace(result, seed=9))
    assert [run.seed for run in read_results(path)] == [4, 9]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result)
    before, write_some = path.read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) <= 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_some(handle, data[:-100])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="disk is full"):
        append_result(path, result)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy": 1.5}, "accuracy is 1.5"),
        ({"accuracy": "high"}, "accuracy is 'high', expected float"),
        ({"seed": True}, "seed is True, expected int"),
        ({"losses": ["x"]}, "losses"),
        ({"targets": "both"}, "targets"),
        ({"format": 2}, "format is 2, expected 1"),
        ({"config": {}}, "not the hash of config"),
        ({"colour": 1}, "unknown field colour"),
        ({"seconds": None}, "seconds is None"),
    ],
)
def test_lines_that_are_no_results_are_named(
    tmp_path: Path, result: Result, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(result.to_json() + "\n" + json.dumps({**json.loads(result.to_json()), **change}) + "\n")
    with pytest.raises(ResultError, match=rf"results.jsonl, line 2: .*{words}"):
        read_results(path)


@pytest.mark.parametrize(("line", "words"), [("{", "not JSON"), ("[]", "a JSON list"), ("{}", "lacks field accuracy")])
def test_broken_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ResultError, match=rf"line 1: .*{words}"):
        read_results(path)
    with pytest.raises(CondenseError, match="cannot read results"):
        read_results(tmp_path / "missing.jsonl")


def test_a_failed_run_is_no_result(result: Result) -> None:
    with pytest.raises(ResultError, match="failed run"):
        replace(result, losses=(1.0, math.nan))
