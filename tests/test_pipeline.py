"""The parts put together: what is kept, what is refused, and that an interruption changes nothing."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import condense
from condense.api import Machine
from condense.checkpoint import FileCheckpoint
from condense.data import Data
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.engine.status import status_of
from condense.engine.store import Store
from condense.errors import ConfigError, DataError, MethodError, OutputError, ShardError, TeacherError
from condense.evaluation.student import StudentRecipe
from condense.labels.relabel import LabelConfig
from condense.pipeline import Context, DataRequest, distill, evaluate, relabel, resolve, train, train_teacher
from condense.pipeline.request import request_of
from condense.report import rows_of
from condense.shards import read_set, verify
from condense.teachers import save_teacher
from condense.teachers.recipe import TeacherRecipe
from condense.teachers.recipe import train_teacher as trained
from condense.training import OptimConfig

REQUEST = DataRequest(name="tiny")
TEACHER = {"network": "convnet2-w8-bn", "epochs": 2, "min_steps": 40, "batch_size": 16, "pad": 1}
LABELS = {"epochs": 3, "views": {"batch_size": 4, "mix": "cutmix"}}
RECIPE: dict[str, Any] = {
    "data": "tiny",
    "method": "cda",
    "ipc": 2,
    "steps": 6,
    "teacher": TEACHER,
    "labels": LABELS,
}


@pytest.fixture
def context(tmp_path: Path, tiny_data: Data) -> Context:
    return fresh_context(tmp_path / "store", tiny_data)


def fresh_context(store: Path, data: Data) -> Context:
    """A process of its own, as far as the pipeline can tell."""
    return Context(store=Store(store), compute=Compute(), opened={REQUEST: data})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    network, info = trained(tiny_data, TeacherRecipe(**TEACHER), compute=Compute())
    save_teacher(folder, network, info)
    return folder


def make(context: Context, out: Path, *teachers: Path, **changes: Any) -> Path:
    [folder] = distill(resolve({**RECIPE, **changes}), context, out=out, teachers=teachers)
    return folder


def content(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def done_jobs(store: Path) -> list[str]:
    """Titles of the finished jobs, in order."""
    return [event["title"] for event in finished_jobs(store / "runs")]


def test_a_set_is_made_whole_and_can_be_used(context: Context, tmp_path: Path) -> None:
    folder = make(context, tmp_path / "set")
    assert verify(folder, "deep").rows == 2 * 3
    dataset = condense.load(folder)
    assert dataset.targets == [0, 1, 2, 0, 1, 2]
    assert dataset.epochs == 3
    assert dataset.info.method == {"name": "cda", "revision": 2}
    assert dataset.info.teachers[0]["network"] == "convnet2-w8-bn"
    assert not dataset.info.contains_real_images


@pytest.mark.parametrize("codec", ["int8", "topk:1", "distances", "static", "none"])
def test_every_codec_goes_the_whole_way(
    context: Context, tmp_path: Path, tiny_data: Data, teacher: Path, codec: str
) -> None:
    """Distilled, verified, evaluated beside random images labelled alike, and trained on, all from what was stored."""
    pool = 1 if codec in ("static", "none") else 2
    folder = make(context, tmp_path / "set", teacher, labels={**LABELS, "codec": codec, "pool": pool})
    assert verify(folder, "deep").epochs == 3
    common: dict[str, Any] = {"students": ["convnet2-w8-bn"], "seeds": 1, "data": REQUEST, "student": STUDENT}
    ours, random = evaluate([folder], context, targets=["soft"], against=["random"], **common)
    assert ours.bytes_labels == pytest.approx(random.bytes_labels, abs=50)
    assert (ours.bytes_other > (folder / "set.json").stat().st_size) == (codec == "none")
    assert ours.config == random.config
    recipe = replace(STUDENT, network="convnet2-w8-bn")
    made = train(folder, context, recipe=recipe, out=tmp_path / "model.safetensors", data=REQUEST)
    assert made.accuracy == ours.accuracy
    if codec == "none":
        empty = fresh_context(tmp_path / "empty", tiny_data)
        with pytest.raises(TeacherError, match="give their folders with --teacher"):
            train(folder, empty, recipe=recipe, out=tmp_path / "other.safetensors", data=REQUEST)
        again = train(
            folder, empty, recipe=recipe, out=tmp_path / "other.safetensors", data=REQUEST, teachers=[teacher]
        )
        assert again.accuracy == made.accuracy


def test_all_its_runs_say_where_the_set_will_be(context: Context, tmp_path: Path) -> None:
    """Also that of its teachers, so that the status of the set has them."""
    make(context, tmp_path / "set")
    status = status_of(context.store, tmp_path / "set")
    assert (status.known, status.state) == (2, "ended")


def test_sets_that_differ_in_their_labels_are_rows_of_their_own(
    context: Context, tmp_path: Path, teacher: Path
) -> None:
    """Whatever their order, each with its own bytes and with random real images of its own labels beside it."""
    full = make(context, tmp_path / "full", teacher)
    small = relabel(full, context, labels={"codec": "topk:1"}, out=tmp_path / "small", data=REQUEST)
    common: dict[str, Any] = {"students": ["convnet2-w8-bn"], "seeds": 1, "data": REQUEST, "student": STUDENT}
    alone = [evaluate([one], context, targets=["soft"], against=["random"], **common) for one in (full, small)]
    for paths in ([full, small], [small, full]):
        rows = {row.condition: row for row in rows_of(evaluate(paths, context, targets=["soft"], **common))}
        assert len(rows) == 4
        for codec, (ours, random) in zip(("full", "topk:1"), alone, strict=True):
            mine, beside = rows[f"cda [codec {codec}]"], rows[f"random [codec {codec}]"]
            assert (mine.summary.mean, mine.label_bytes) == (ours.accuracy, ours.bytes_labels)
            assert (beside.summary.mean, mine.baseline) == (random.accuracy, beside.condition)


@pytest.mark.parametrize("codec", ["topk:3", "topk:9"])
def test_labels_that_cannot_be_stored_are_refused_before_any_work(context: Context, tmp_path: Path, codec: str) -> None:
    folder = make(context, tmp_path / "set")
    before = done_jobs(context.store.root)
    with pytest.raises(ConfigError, match=f'codec is "{codec}", but the data set has 3 classes'):
        relabel(folder, context, labels={"codec": codec}, out=tmp_path / "other", data=REQUEST)
    with pytest.raises(ConfigError, match="3 classes"):
        make(context, tmp_path / "new", labels={**LABELS, "codec": codec})
    assert done_jobs(context.store.root) == before


def test_the_same_command_again_does_nothing(context: Context, tmp_path: Path, tiny_data: Data) -> None:
    first = content(make(context, tmp_path / "set"))
    jobs = len(done_jobs(context.store.root))
    again = fresh_context(context.store.root, tiny_data)
    assert content(make(again, tmp_path / "set")) == first
    assert content(make(again, tmp_path / "elsewhere")) == first
    assert len(done_jobs(context.store.root)) == jobs


def test_another_store_gives_the_same_bytes(context: Context, tmp_path: Path, tiny_data: Data) -> None:
    other = fresh_context(tmp_path / "other store", tiny_data)
    assert content(make(context, tmp_path / "a")) == content(make(other, tmp_path / "b"))


def test_raising_ipc_keeps_the_images(context: Context, tmp_path: Path, teacher: Path) -> None:
    small = condense.load(make(context, tmp_path / "2", teacher, ipc=2))
    before = done_jobs(context.store.root)
    large = condense.load(make(context, tmp_path / "6", teacher, ipc=6))
    np.testing.assert_array_equal(large.images[: 2 * 3], small.images)
    made = done_jobs(context.store.root)[len(before) :]
    assert [title for title in made if "slots" in title] == ["cda, set 0, slots 5 to 9"]


def test_sets_are_independent_and_do_not_depend_on_their_number(
    context: Context, tmp_path: Path, teacher: Path
) -> None:
    folders = distill(resolve({**RECIPE, "sets": 2}), context, out=tmp_path / "sets", teachers=[teacher])
    assert [folder.name for folder in folders] == ["set-0", "set-1"]
    first, second = (condense.load(folder).images for folder in folders)
    assert not np.array_equal(first, second)
    alone = condense.load(make(context, tmp_path / "alone", teacher))
    np.testing.assert_array_equal(alone.images, first)


def test_a_killed_run_goes_on_to_the_same_bytes(
    context: Context, tmp_path: Path, tiny_data: Data, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(make(context, tmp_path / "whole", teacher))
    store = tmp_path / "killed store"
    monkeypatch.setattr(FileCheckpoint, "due", lambda self: True)
    saves = 0
    save = FileCheckpoint.save

    def save_and_die(self: FileCheckpoint, state: Any) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(FileCheckpoint, "save", save_and_die)
    for _ in range(50):
        try:
            resumed = make(fresh_context(store, tiny_data), tmp_path / "resumed", teacher)
            break
        except KeyboardInterrupt:
            continue
    assert saves > 3
    assert content(resumed) == whole
    assert list((store / "checkpoints").iterdir()) == []
    assert list((store / "tmp").iterdir()) == []


def test_a_damaged_artefact_is_made_again(context: Context, tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    whole = content(make(context, tmp_path / "whole", teacher))
    for pixels in context.store.root.glob("*/*/pixels.npy"):
        pixels.write_bytes(pixels.read_bytes()[:-1] + b"\0")
    for damaged in context.store.root.glob("*/*/images-00000.h5"):
        damaged.unlink()
    again = make(fresh_context(context.store.root, tiny_data), tmp_path / "again", teacher)
    assert content(again) == whole


def test_a_full_disk_leaves_finished_work(
    context: Context, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree

    def full(source: Path, target: Path, **options: Any) -> Any:
        if ".tmp" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target, **options)

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OutputError, match="the disk is full; finished work is kept"):
        make(context, tmp_path / "set", teacher)
    assert not (tmp_path / "set").exists()
    jobs = len(done_jobs(context.store.root))
    monkeypatch.setattr(shutil, "copytree", copy)
    make(context, tmp_path / "set", teacher)
    assert len(done_jobs(context.store.root)) == jobs


def test_a_set_half_copied_by_a_killed_process_is_removed_after_a_while(
    context: Context, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.files.STALE_S", 0.0)
    for name in ("set", "other"):
        (tmp_path / f".{name}.1234.abcd.tmp").mkdir()
    make(context, tmp_path / "set", teacher)
    assert not (tmp_path / ".set.1234.abcd.tmp").exists()
    assert (tmp_path / ".other.1234.abcd.tmp").exists()


def test_every_loop_uses_the_threads_it_was_given(tmp_path: Path, tiny_data: Data) -> None:
    """Sums depend on their number, which enters the ids of jobs; and more than asked for would wait for each other."""
    used: dict[str, set[int]] = {}

    def report(stage: str, done: int, total: int, figures: Mapping[str, float] = {}) -> None:
        used.setdefault(stage.split(" ")[0], set()).add(torch.get_num_threads())

    context = Context(
        store=Store(tmp_path / "store"), compute=Compute(threads=3), report=report, opened={REQUEST: tiny_data}
    )
    folder = make(context, tmp_path / "set")
    evaluate([folder], context, students=["convnet2-w8-bn"], seeds=1, data=REQUEST, against=(), student=STUDENT)
    for loop in ("steps", "images", "labels"):
        assert used[loop] == {3}, loop
    assert torch.get_num_threads() == 1


# What is refused, and that nothing was done


def test_a_folder_with_something_else_is_left_alone(context: Context, tmp_path: Path, teacher: Path) -> None:
    folder = make(context, tmp_path / "set", teacher)
    before = content(folder)
    with pytest.raises(OutputError, match="holds a different set"):
        make(context, folder, teacher, steps=7)
    assert content(folder) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(OutputError, match="holds other files"):
        make(context, tmp_path / "photos", teacher)
    with pytest.raises(OutputError, match="is a file"):
        make(context, tmp_path / "photos" / "cat.png", teacher)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ipc": 0}, ConfigError, "ipc must be at least 1, got 0"),
        ({"ipc": -3}, ConfigError, "ipc must be at least 1, got -3"),
        ({"sets": 0}, ConfigError, "sets must be at least 1"),
        ({"method": "srel"}, ConfigError, 'did you mean "sre2l"'),
        ({"method": "random", "steps": 3}, ConfigError, 'method random has no setting "steps"'),
        ({"stepz": 3}, ConfigError, 'did you mean "steps"'),
        ({"labels": {"epoch": 3}}, ConfigError, 'there is no setting "labels.epoch"; did you mean "epochs"'),
        ({"ipc": 41, "start": "real"}, MethodError, "has 40"),
        ({"teacher": {"network": "convnet2-in"}}, TeacherError, "has none; choose one with batch norm"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    context: Context, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")) as caught:
        make(context, tmp_path / "set", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()
    assert done_jobs(context.store.root) == []


def test_a_teacher_for_other_classes_is_refused(
    context: Context, tmp_path: Path, tiny_data: Data, teacher: Path
) -> None:
    renamed = replace(tiny_data, spec=replace(tiny_data.spec, classes=tuple(reversed(tiny_data.spec.classes))))
    with pytest.raises(TeacherError, match="order"):
        make(fresh_context(context.store.root, renamed), tmp_path / "set", teacher)
    assert done_jobs(context.store.root) == []


def test_a_recipe_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="says no method; give --method"):
        resolve({"data": "tiny", "ipc": 1})


def test_recipes_say_all_that_options_say() -> None:
    flat = resolve({**RECIPE, "size": 24, "normalisation": "published"})
    assert (flat.data.size, flat.data.normalisation) == (24, "published")
    assert resolve({**RECIPE, "data": {"name": "tiny", "size": 24}}).data.size == 24
    with pytest.raises(ConfigError, match='says no method; it says "methode"'):
        resolve({"data": "tiny", "ipc": 1, "methode": "cda"})


# Using sets


def test_the_functions_take_data_that_is_open(tmp_path: Path, tiny_data: Data) -> None:
    machine = Machine(device="cpu", precision="float32", threads=1, store=tmp_path / "store")
    common: dict[str, Any] = {"data": tiny_data, "machine": machine, "quiet": True}
    settings = {"steps": 6, "teacher": TEACHER, "labels": LABELS}
    [folder] = condense.distill(method="cda", ipc=2, out=tmp_path / "set", settings=settings, **common)
    results = condense.evaluate([folder], students=["convnet2-w8-bn"], quick=True, targets=["soft"], **common)
    assert [result.condition for result in results] == ["cda", "random"]
    outcome = condense.train(folder, student="convnet2-w8-bn", out=tmp_path / "model.safetensors", **common)
    assert outcome.accuracy is not None
    new = condense.relabel(folder, out=tmp_path / "new", labels={"epochs": 2}, **common)
    assert condense.load(new).epochs == 2
    assert (condense.train_teacher(settings=TEACHER, **common) / "teacher.json").exists()


def test_a_folder_of_sets_is_evaluated_whole(context: Context, tmp_path: Path, teacher: Path) -> None:
    distill(resolve({**RECIPE, "sets": 2}), context, out=tmp_path / "sets", teachers=[teacher])
    results = evaluate(
        [tmp_path / "sets"], context, students=["convnet2-w8-bn"], seeds=1, targets=["hard"], data=REQUEST, against=()
    )
    assert [result.set_index for result in results] == [0, 1]


STUDENT = StudentRecipe(network="convnet2-w8-bn", optim=OptimConfig(optimizer="adamw", lr=1e-3))


def test_random_images_get_the_same_labels_and_students_the_same_start(
    context: Context, tmp_path: Path, teacher: Path
) -> None:
    folder = make(context, tmp_path / "set", teacher)
    results = evaluate(
        [folder],
        context,
        students=["convnet2-w8-bn"],
        seeds=2,
        targets=["soft"],
        against=["random", "whole"],
        data=REQUEST,
        student=STUDENT,
        results=tmp_path / "results.jsonl",
    )
    assert [(result.condition, result.seed) for result in results] == [
        (condition, seed) for condition in ("cda", "random", "whole data") for seed in (0, 1)
    ]
    assert len({result.config_sha256 for result in results}) == 1
    assert len({result.steps for result in results}) == 1
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6
    again = evaluate(
        [folder],
        context,
        students=["convnet2-w8-bn"],
        seeds=2,
        targets=["soft"],
        against=["random", "whole"],
        data=REQUEST,
        student=STUDENT,
        results=tmp_path / "results.jsonl",
    )
    assert [result.accuracy for result in again] == [result.accuracy for result in results]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6


def test_evaluation_needs_the_teachers_that_labelled(
    context: Context, tmp_path: Path, tiny_data: Data, teacher: Path
) -> None:
    folder = make(context, tmp_path / "set", teacher)
    elsewhere = fresh_context(tmp_path / "empty store", tiny_data)
    common: dict[str, Any] = {"students": ["convnet2-w8-bn"], "seeds": 1, "targets": ["soft"], "data": REQUEST}
    with pytest.raises(TeacherError, match="give their folders with --teacher"):
        evaluate([folder], elsewhere, **common)
    other = train_teacher(REQUEST, TeacherRecipe(**{**TEACHER, "seed": 9}), context, out=tmp_path / "other")
    with pytest.raises(TeacherError, match="other teachers"):
        evaluate([folder], elsewhere, teachers=[other], **common)
    assert len(evaluate([folder], elsewhere, teachers=[teacher], student=STUDENT, **common)) == 2


def test_conditions_of_one_method_are_told_apart(context: Context, tmp_path: Path, teacher: Path) -> None:
    folders = [make(context, tmp_path / start, teacher, start=start) for start in ("noise", "real")]
    results = evaluate(
        folders, context, students=["convnet2-w8-bn"], seeds=1, targets=["hard"], data=REQUEST, student=STUDENT
    )
    assert [result.condition for result in results] == ["cda (start noise)", "cda (start real)", "random"]


def test_relabelling_changes_only_what_is_said(context: Context, tmp_path: Path, teacher: Path) -> None:
    folder = make(context, tmp_path / "set", teacher, labels={**LABELS, "pool": 2})
    before = condense.load(folder).label_config
    new = relabel(folder, context, labels={"codec": "int8"}, out=tmp_path / "new", data=REQUEST)
    assert condense.load(new).label_config == replace(before, codec="int8")
    with pytest.raises(ConfigError, match='there is no setting "codek"; did you mean "codec"'):
        relabel(folder, context, labels={"codek": "int8"}, out=tmp_path / "other", data=REQUEST)


def test_relabelling_never_touches_the_images(context: Context, tmp_path: Path, teacher: Path) -> None:
    folder = make(context, tmp_path / "set", teacher)
    before = content(folder)
    new = relabel(folder, context, labels=LabelConfig(epochs=5), out=tmp_path / "new", teachers=[teacher], data=REQUEST)
    assert content(folder) == before
    assert (new / "images-00000.h5").read_bytes() == before["images-00000.h5"]
    assert condense.load(new).epochs == 5
    stored = relabel(folder, context, labels=LabelConfig(epochs=5), out=tmp_path / "stored", data=REQUEST)
    assert (stored / "labels-00000.h5").read_bytes() == (new / "labels-00000.h5").read_bytes()


def test_training_gives_the_network(context: Context, tmp_path: Path, teacher: Path) -> None:
    from safetensors import safe_open

    folder = make(context, tmp_path / "set", teacher)
    outcome = train(folder, context, recipe=STUDENT, out=tmp_path / "net" / "model.safetensors", data=REQUEST)
    assert outcome.accuracy is not None
    with safe_open(outcome.path, "pt") as file:
        assert file.metadata()["network"] == "convnet2-w8-bn"
        assert json.loads(file.metadata()["spec"])["name"] == read_set(folder).info.spec["name"]
    assert train(folder, context, recipe=STUDENT, out=tmp_path / "blind.safetensors").accuracy is None


def test_a_set_of_other_data_is_refused(context: Context, tmp_path: Path, tiny_data: Data, teacher: Path) -> None:
    folder = make(context, tmp_path / "set", teacher)
    spec = replace(tiny_data.spec, classes=("x", "y", "z"))
    context.opened[DataRequest(name="other")] = replace(tiny_data, spec=spec)
    with pytest.raises(DataError, match='class 0 is "'):
        evaluate([folder], context, students=["convnet2-w8-bn"], data=DataRequest(name="other"))
    with pytest.raises(ShardError):
        evaluate([tmp_path / "nothing"], context, students=["convnet2-w8-bn"], data=REQUEST)


def test_a_set_remembers_how_its_images_were_wanted(context: Context, tmp_path: Path, teacher: Path) -> None:
    info = read_set(make(context, tmp_path / "set", teacher)).info
    info = replace(info, config={**info.config, "data": {"name": "imagefolder:x", "size": 24, "channels": 1}})
    wanted = request_of(info, DataRequest(name="imagefolder:photos"))
    assert (wanted.name, wanted.size, wanted.channels) == ("imagefolder:photos", 24, 1)
    assert request_of(info, DataRequest(name="imagefolder:photos", size=16)).size == 16
    with pytest.raises(ConfigError, match="--data"):
        request_of(info)
