"""INFER: its budget, its compensators against a plain loop, what is stored of them, and labels mixed as logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import LABELS, RECIPE, write
from test_evaluation import data as grey_data
from test_evaluation import teacher as grey_teacher
from test_methods import do, job_of, made, teacher_of
from test_pipeline import LABELS as QUICK_LABELS
from test_pipeline import REQUEST, TEACHER, content, done_jobs, fresh_context
from torch import Tensor, nn
from torchvision.transforms import functional as vision

import condense
from condense.canvas import Compensated, compensated_columns
from condense.checkpoint import NoCheckpoint
from condense.config import identity
from condense.data import Data, DatasetSpec
from condense.dataset import DistilledDataset, mix_logits
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.evaluation import Schedule, train_student
from condense.labels import LabelConfig, make_logits
from condense.methods.infer import Infer, InferConfig
from condense.pipeline import distill, relabel, resolve
from condense.progress import silent
from condense.selection import pick_random
from condense.shards import CANVASES, read_images, verify, write_images
from condense.teachers import Teacher, save_teacher
from condense.teachers.recipe import TeacherRecipe, train_teacher
from condense.views import ViewConfig
from condense.views.recovery import RecoveryViews, recovery_draws

data, teacher = grey_data, grey_teacher

SIDE, CLASSES, STEPS = 9, (0, 1, 2), 5
SPEC = DatasetSpec(
    name="tiny",
    classes=("a", "b", "c"),
    channels=2,
    height=SIDE,
    width=SIDE,
    mean=(0.4, 0.6),
    std=(0.25, 0.3),
    train_sizes=(99, 99, 99),
    test_sizes=(1, 1, 1),
    fingerprint="0" * 64,
)


def classes_of(count: int, **changes: Any) -> DatasetSpec:
    names = tuple(f"class {number}" for number in range(count))
    return replace(SPEC, classes=names, train_sizes=(999,) * count, test_sizes=(1,) * count, **changes)


# The budget

TABLE = [
    (10, 4, 10, 7, 35, 28, 98),
    (10, 4, 50, 35, 175, 140, 490),
    (100, 4, 10, 9, 45, 36, 936),
    (100, 4, 50, 48, 240, 192, 4992),
    (100, 4, 100, 96, 480, 384, 9984),
    (200, 4, 10, 9, 45, 36, 1836),
    (200, 4, 50, 49, 245, 196, 9996),
    (1000, 3, 10, 9, 36, 27, 9027),
    (1000, 3, 50, 49, 196, 147, 49147),
]
"""Classes, networks, IPC; real images of a class, images of a class that train, compensators, images of space."""


@pytest.mark.parametrize(("classes", "networks", "ipc", "kept", "trained", "compensators", "used"), TABLE)
def test_the_budget_is_the_papers(
    classes: int, networks: int, ipc: int, kept: int, trained: int, compensators: int, used: int
) -> None:
    method, spec = Infer(InferConfig(compensators=networks)), classes_of(classes)
    assert method.slots(spec, ipc) == kept == math.floor(ipc / (networks / classes + 1))
    assert kept * CANVASES["compensated"].items_per_row(method.canvas.settings) == trained
    assert (kept * networks, kept * (classes + networks)) == (compensators, used)
    assert used <= ipc * classes < used + classes + networks
    method.check(spec, ipc)
    jobs = method.jobs(spec, ipc, 0, 0)
    assert all(job.classes == tuple(range(classes)) for job in jobs)
    assert sorted({slot for job in jobs for slot in job.slots})[:kept] == list(range(kept))


@pytest.mark.parametrize("unit", ["images", "bytes"])
@pytest.mark.parametrize(("classes", "networks"), [(2, 4), (3, 1), (10, 4), (100, 4)])
def test_a_budget_is_used_and_never_exceeded(unit: str, classes: int, networks: int) -> None:
    method = Infer(InferConfig(compensators=networks, unit=unit))  # type: ignore[arg-type]
    spec, pixels = classes_of(classes, height=32, width=32), 32 * 32 * 2
    for ipc in range(1, 60):
        kept = method.slots(spec, ipc)
        for count, fits in ((kept, True), (kept + 1, False)):
            space = count * (classes + networks)
            if unit == "bytes":
                space = count * (classes * (pixels + 4 * networks) + networks * 2 * pixels) / pixels
            assert (space <= ipc * classes) == fits
        assert kept >= method.slots(spec, ipc - 1)


@pytest.mark.parametrize(("unit", "least"), [("images", 3), ("bytes", 6)])
def test_what_has_no_space_is_refused_with_the_least_that_has(unit: str, least: int) -> None:
    method = Infer(InferConfig(compensators=4, unit=unit))  # type: ignore[arg-type]
    spec = classes_of(2)
    for ipc in range(1, least):
        with pytest.raises(MethodError, match=rf"in an ipc of {ipc} on 2 classes; ask for an ipc of at least {least}$"):
            method.check(spec, ipc)
    method.check(spec, least)
    assert method.slots(spec, least) == 1


def test_the_number_of_teachers_is_the_one_that_was_counted(tiny_data: Data, tmp_path: Path) -> None:
    spec = tiny_data.spec
    method = made("infer", {"compensators": 2, "steps": 1})
    message = "it was given 1 teachers and compensators=2; say --set compensators=1, or give as many teachers"
    with pytest.raises(MethodError, match=message):
        method.check(spec, 2, [teacher_of(spec)])
    with pytest.raises(MethodError, match=message):
        do(method, job_of(spec), tiny_data)
    values = {"data": "tiny", "method": "infer", "ipc": 2, "compensators": 2, "teachers": ["resnet8"]}
    with pytest.raises(MethodError, match=message):
        distill(resolve(values), fresh_context(tmp_path / "store", tiny_data), out=tmp_path / "set")
    assert done_jobs(tmp_path / "store") == []
    method.check(spec, 2, [teacher_of(spec), teacher_of(spec, seed=1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compensators": 0}, "compensators must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"job_images": 0}, "job_images must be at least 1, got 0"),
        ({"lr": 0.0}, r"lr must be above 0 and finite, got 0\.0"),
        ({"alpha_bn": -1.0}, r"alpha_bn must be at least 0 and finite, got -1\.0"),
        ({"first_bn": math.inf}, "first_bn must be at least 0 and finite, got inf"),
        ({"unit": "pixels"}, 'unit is "pixels"; expected one of images, bytes'),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InferConfig(**settings)


# The compensators


def network_of(seed: int) -> nn.Module:
    """Two convolutions with statistics of noise, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 3),
        ).double()  # fmt: skip
        for _ in range(4):
            network.train()(torch.randn(16, 2, SIDE, SIDE, dtype=torch.float64))
    return network.eval().requires_grad_(False)


def held(network: nn.Module) -> Teacher:
    return replace(teacher_of(SPEC), network=network)


def originals_of(slots: tuple[int, ...]) -> Tensor:
    """float64 (slots, classes, C, H, W) in normalised space, of whole levels."""
    stack = [np.random.default_rng(slot).integers(0, 256, (3, 2, SIDE, SIDE)) / 255 for slot in slots]
    mean, std = (np.array(each)[:, None, None] for each in (SPEC.mean, SPEC.std))
    return torch.from_numpy((np.stack(stack) - mean) / std)


def plain_compensator(
    x: Tensor, network: nn.Module, views: RecoveryViews, group: tuple[int, int, int], alpha: float
) -> Tensor:
    """One compensator as the paper has it: a leaf of one image, hooks, torchvision's transforms, torch's Adam."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs: dict[int, Tensor] = {}
    hooks = [
        norm.register_forward_hook(lambda _, given, __, place=place: inputs.update({place: given[0]}))
        for place, norm in enumerate(norms)
    ]
    u = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([u], lr=0.25, betas=(0.5, 0.9), eps=1e-8)
    drawn = recovery_draws(views, 7, [group], range(STEPS), total_steps=STEPS, images=3, height=SIDE, width=SIDE)
    for t in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.25 * 0.5 * (1 + math.cos(math.pi * t / STEPS))
        total = torch.zeros((), dtype=torch.float64)
        shown = torch.stack([image + u[0] for image in x])
        if views.crop == "resized":
            shown = vision.resized_crop(shown, *drawn.boxes[t, 0, 0].tolist(), [SIDE, SIDE], antialias=True)
        shown = vision.hflip(shown) if drawn.flips[t, 0, 0] else shown
        shown = torch.roll(shown, drawn.rolls[t, 0, 0].tolist(), (2, 3))
        logits = network(shown)
        for label in CLASSES:
            total = total - (logits[label, label] - logits[label].exp().sum().log()) / len(CLASSES)
        for place, norm in enumerate(norms):
            a = inputs[place]
            mean = a.sum((0, 2, 3)) / (a.numel() / a.shape[1])
            var = ((a - mean[:, None, None]) ** 2).sum((0, 2, 3)) / (a.numel() / a.shape[1])
            apart = (norm.running_var - var).pow(2).sum().sqrt() + (norm.running_mean - mean).pow(2).sum().sqrt()
            total = total + alpha * (10 if place == 0 else 1) * apart
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    for hook in hooks:
        hook.remove()
    return u.detach()


@pytest.mark.parametrize("views", [{}, {"crop": "resized", "flip": 0.5, "scale": (0.3, 1.0)}])
@pytest.mark.parametrize("number", [0, 2])
def test_compensators_equal_the_plain_loop(number: int, views: dict[str, Any]) -> None:
    """Both slots in one forward, each with views and statistics of its own."""
    method = made("infer", {"steps": STEPS, "compensators": 1, "alpha_bn": 0.3, "views": views})
    assert isinstance(method, Infer)
    job, slots, network = replace(job_of(SPEC), slots=(0, 3), seed=7), (0, 3), network_of(number)
    canvas = Compensated(originals_of(slots), SPEC)
    method.compensate(canvas, held(network), number, job, Compute(), silent, NoCheckpoint())
    [stage] = method.stages(SPEC)
    assert canvas.values.shape == (2, 1, 2, SIDE, SIDE)
    for place, slot in enumerate(slots):
        wanted = plain_compensator(originals_of(slots)[place], network, stage.views, (0, slot, number), 0.3)
        torch.testing.assert_close(canvas.values[place], wanted, rtol=1e-8, atol=1e-8)
        assert wanted.abs().max() > 0.1
    torch.testing.assert_close(canvas.originals, originals_of(slots), rtol=0, atol=0)


def test_views_are_those_published_for_the_size() -> None:
    sizes = {side: replace(SPEC, height=side, width=side) for side in (32, 64, 224)}
    stages = {side: Infer(InferConfig()).stages(spec)[0] for side, spec in sizes.items()}
    assert stages[32].views == RecoveryViews(crop="none", flip=0.0, roll=4)
    assert stages[64].views == RecoveryViews(crop="resized", scale=(0.08, 1.0), flip=0.5, roll=4)
    assert stages[224].views == RecoveryViews(crop="resized", scale=(0.08, 1.0), flip=0.5, roll=32)
    assert stages[32].steps == 1000
    assert str(stages[32].objective) == "cross-entropy + 1 * batch-norm distance (first layer x10)"


def test_what_is_stored_of_a_canvas_one_number_at_a_time() -> None:
    """Whole levels, and none beyond those that change nothing more."""
    originals = originals_of((0, 1))
    random = np.random.default_rng(3).normal(0, 1.5, (2, 2, 1, 2, SIDE, SIDE))
    canvases = [Compensated(originals, SPEC, torch.from_numpy(values)) for values in random]
    columns = compensated_columns(canvases)
    images, uses, kept = columns["images"], columns["uses"], columns["compensators"]
    assert (images.dtype, uses.dtype, kept.dtype) == (np.uint8, np.dtype("<u4"), np.dtype("<i2"))
    assert (images.shape, uses.shape, kept.shape) == ((6, SIDE, SIDE, 2), (6, 2), (4, SIDE, SIDE, 2))
    clipped = 0
    for slot, label, network in np.ndindex(2, 3, 2):
        row = slot * 3 + label
        for y, x, c in np.ndindex(SIDE, SIDE, 2):
            pixel = (float(originals[slot, label, c, y, x]) * SPEC.std[c] + SPEC.mean[c]) * 255
            added = round(random[network, slot, 0, c, y, x] * SPEC.std[c] * 255)
            clipped += abs(added) > 255
            assert images[row, y, x, c] == round(pixel)
            held_level = int(kept[uses[row, network], y, x, c])
            assert held_level == max(-255, min(255, added))
            assert min(255, max(0, round(pixel) + held_level)) == min(255, max(0, round(pixel) + added))
    assert clipped > 0


def test_rows_go_through_a_file_and_come_back_as_sums(tiny_data: Data, tmp_path: Path) -> None:
    """Items: the real image, then its sum with the compensator of each teacher; two teachers, two slots, one file."""
    spec, teachers = tiny_data.spec, [teacher_of(tiny_data.spec, seed=seed) for seed in (0, 1)]
    method = made("infer", {"steps": 4, "compensators": 2})
    rows = do(method, job_of(spec), tiny_data, teachers=teachers)
    path = tmp_path / "images-00000.h5"
    write_images(
        path,
        columns=rows.columns,
        labels=rows.labels,
        slots=rows.slots,
        spec=spec.to_dict(),
        canvas=method.canvas.name,
        settings=method.canvas.settings,
    )
    items = read_images(path, deep=True).decode().reshape(6, 3, 12, 12, 3).astype(int)
    picks = pick_random(tiny_data.train.labels, (0, 1, 2), (0, 1), seed=3, set_index=0).ravel()
    np.testing.assert_array_equal(items[:, 0], tiny_data.train.images[picks])
    for number in (0, 1):
        canvas = Compensated(normalised(tiny_data.train.images[picks].reshape(2, 3, 12, 12, 3), spec), spec)
        method.compensate(canvas, teachers[number], number, job_of(spec), Compute(), silent, NoCheckpoint())  # type: ignore[attr-defined]
        std, mean = (torch.tensor(each).view(3, 1, 1) for each in (spec.std, spec.mean))
        wanted = ((canvas.images() * std + mean).clamp(0, 1) * 255).flatten(0, 1).permute(0, 2, 3, 1).numpy()
        assert np.abs(items[:, 1 + number] - wanted).max() <= 0.5 + 1e-3
    assert (items[:, 1] != items[:, 2]).mean() > 0.5


def normalised(images: np.ndarray, spec: DatasetSpec) -> Tensor:
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
    return (torch.from_numpy(images).permute(0, 1, 4, 2, 3).float() / 255 - mean) / std


def test_one_compensator_is_shared_by_all_classes_and_a_slot_does_not_depend_on_others(tiny_data: Data) -> None:
    teachers = [teacher_of(tiny_data.spec, seed=seed) for seed in (0, 1)]
    method = made("infer", {"steps": 3, "compensators": 2})
    both = do(method, job_of(tiny_data.spec, (1, 2)), tiny_data, teachers=teachers)
    assert both.others["uses"].tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
    alone = do(method, job_of(tiny_data.spec, (2,)), tiny_data, teachers=teachers)
    difference = np.abs(both.others["compensators"][2:].astype(int) - alone.others["compensators"])
    assert difference.mean() < 0.05
    assert np.abs(both.others["compensators"][:2].astype(int) - both.others["compensators"][2:]).mean() > 1
    dyn = do(
        made("infer-dyn", {"steps": 3, "compensators": 2}), job_of(tiny_data.spec, (1, 2)), tiny_data, teachers=teachers
    )
    np.testing.assert_array_equal(dyn.others["compensators"], both.others["compensators"])


class Stopped(Exception):
    pass


class Once:
    """Due at every step; the process dies after ``left`` saves."""

    def __init__(self, left: int) -> None:
        self.state: dict[str, Tensor] | None = None
        self.left = left

    def load(self) -> dict[str, Tensor] | None:
        return None if self.state is None else dict(self.state)

    def due(self) -> bool:
        return self.left > 0

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {key: value.clone() for key, value in state.items()}
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.mark.parametrize("saves", [2, 3, 4, 8])
def test_an_interrupted_job_goes_on_with_the_teacher_it_was_at(saves: int, tiny_data: Data) -> None:
    """Three steps under each of three teachers: in the first, between two, in the second, in the last."""
    given = {"teachers": [teacher_of(tiny_data.spec, seed=seed) for seed in (0, 1, 2)]}
    method, steps = made("infer", {"steps": 3, "compensators": 3}), []
    through = do(method, job_of(tiny_data.spec), tiny_data, **given)
    checkpoint = Once(saves)
    with pytest.raises(Stopped):
        do(method, job_of(tiny_data.spec), tiny_data, checkpoint=checkpoint, **given)

    def report(stage: str, done: int, total: int, figures: object = None, /) -> None:
        steps.append((stage, done, total))

    resumed = do(method, job_of(tiny_data.spec), tiny_data, checkpoint=checkpoint, report=report, **given)
    for name, column in through.columns.items():
        np.testing.assert_array_equal(resumed.columns[name], column)
    assert steps == [("images", done, 9) for done in (3, 6, 9) if done > saves]
    assert method.optimisation_steps == 9


# The whole way


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> list[Path]:
    folders = [tmp_path_factory.mktemp("teachers") / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        save_teacher(folder, *train_teacher(tiny_data, TeacherRecipe(**TEACHER, seed=seed), compute=Compute()))
    return folders


@pytest.mark.parametrize("unit", ["images", "bytes"])
def test_a_set_takes_the_space_that_it_says(unit: str, tmp_path: Path, tiny_data: Data, teachers: list[Path]) -> None:
    """IPC 7 on 3 classes with 2 networks: 4 slots (or 2), from blocks of 1 and 4 slots, in the space of 21 images."""
    values = {
        "data": "tiny",
        "method": "infer",
        "ipc": 7,
        "compensators": 2,
        "steps": 2,
        "unit": unit,
        "labels": {"epochs": 2},
    }
    context = fresh_context(tmp_path / "store", tiny_data)
    [folder] = distill(resolve(values), context, out=tmp_path / "set", teachers=teachers)
    kept, image = {"images": 4, "bytes": 2}[unit], 12 * 12 * 3
    assert verify(folder, "deep").rows == kept * 3
    dataset = condense.load(folder)
    assert len(dataset) == kept * 3 * 3
    assert dataset.info.contains_real_images
    [file] = dataset.files.images
    columns = file.columns
    assert len(columns["compensators"]) == kept * 2
    assert len(columns["images"]) + len(columns["compensators"]) <= 7 * 3
    stored = sum(columns[name].nbytes for name in ("images", "uses", "compensators"))
    assert stored == kept * 3 * (image + 8) + kept * 2 * 2 * image
    assert (stored <= 7 * 3 * image) == (unit == "bytes")
    assert stored <= (folder / "images-00000.h5").stat().st_size < stored + 30 * kept * 3 + 8192
    assert dataset.label_config.codec == "static"
    assert dataset.views == ViewConfig(crop="pad", scale=(0.5, 1.0), mix="mixup", mix_alpha=0.8, batch_size=64)


def test_a_larger_set_begins_with_the_smaller_one_and_dynamic_labels_leave_the_images(
    tmp_path: Path, tiny_data: Data, teachers: list[Path]
) -> None:
    values = {"data": "tiny", "method": "infer", "compensators": 2, "steps": 2, "labels": {"epochs": 2}}
    context = fresh_context(tmp_path / "store", tiny_data)
    small, large = (
        distill(resolve({**values, "ipc": ipc}), context, out=tmp_path / str(ipc), teachers=teachers)[0]
        for ipc in (2, 9)
    )
    first = condense.load(small).images
    np.testing.assert_array_equal(condense.load(large).images[: len(first)], first)
    dyn = {**values, "ipc": 2, "method": "infer-dyn"}
    [dynamic] = distill(resolve(dyn), context, out=tmp_path / "dyn", teachers=teachers)
    again = relabel(small, context, labels={"codec": "full"}, out=tmp_path / "again", teachers=teachers, data=REQUEST)
    for folder in (dynamic, again):
        assert content(folder)["images-00000.h5"] == content(small)["images-00000.h5"]
    assert content(again)["labels-00000.h5"] == content(dynamic)["labels-00000.h5"]


def test_published_labels_are_what_a_recipe_does_not_say() -> None:
    values = {"data": "tiny", "method": "infer", "ipc": 10}
    assert resolve(values).labels == LabelConfig(
        views=ViewConfig(crop="pad", scale=(0.5, 1.0), flip=0.5, mix="mixup", mix_alpha=0.8, batch_size=64),
        epochs=400,
        codec="static",
        teacher_bn="eval",
    )
    dyn = resolve({**values, "method": "infer-dyn", "labels": {"views": {"mix": "cutmix"}}}).labels
    assert (dyn.epochs, dyn.codec, dyn.views.mix, dyn.views.batch_size) == (80, "full", "cutmix", 64)
    assert resolve({**values, "method": "infer-dyn", "compensators": 1}).labels.epochs == 200
    assert resolve(values, quick=True).labels.epochs == 5
    for quick in (True, False):
        request = resolve(values, quick=quick)
        request.method.check_number(len(request.teachers))
    assert resolve({**values, "method": "cda", "labels": QUICK_LABELS}).labels.epochs == QUICK_LABELS["epochs"]
    assert resolve({**values, "method": "cda"}).labels == LabelConfig()


# Labels mixed as logits

MIXED = replace(LABELS, codec="static", views=ViewConfig(crop="pad", pad=2, mix="mixup", mix_alpha=0.8, batch_size=6))


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> DistilledDataset:
    return write(tmp_path_factory.mktemp("sets") / "static", [teacher], MIXED)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def test_mixing_logits_one_by_one() -> None:
    random = np.random.default_rng(0)
    logits, partner, weight = random.normal(size=(5, 4)), random.permutation(5), random.random(5)
    found = mix_logits(*(torch.from_numpy(each) for each in (logits, partner, weight))).numpy()
    for item in range(5):
        wanted = [weight[item] * logits[item, k] + (1 - weight[item]) * logits[partner[item], k] for k in range(4)]
        np.testing.assert_allclose(found[item], wanted, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_static_labels_are_mixed_as_the_student_asks(static: DistilledDataset, temperature: float) -> None:
    """softmax((lam z + (1 - lam) z') / T), or the mixture of softmax(z) and softmax(z') as logits at T."""
    stored = np.asarray(static.files.labels[0].columns["logits"][0], dtype=np.float64)
    apart = 0.0
    for epoch in range(static.epochs):
        drawn = static.plan(epoch)
        ways = [static.epoch(epoch, interpolation=way) for way in ("probabilities", "logits")]  # type: ignore[arg-type]
        for step, (usual, infer) in enumerate(zip(*ways, strict=True)):
            assert usual.logits is not None
            assert infer.logits is not None
            torch.testing.assert_close(usual.images, infer.images, rtol=0, atol=0)
            for place, position in enumerate(range(*drawn.step(step).indices(15))):
                own, other = stored[drawn.order[position]], stored[drawn.order[drawn.partner[position]]]
                lam = drawn.lam[position]
                by_logits = softmax((lam * own + (1 - lam) * other) / temperature)
                by_chance = softmax(np.log(lam * softmax(own) + (1 - lam) * softmax(other)) / temperature)
                for found, wanted in ((infer, by_logits), (usual, by_chance)):
                    got = softmax(found.logits[place].double().numpy() / temperature)
                    np.testing.assert_allclose(got, wanted, atol=1e-6)
                apart = max(apart, float(np.abs(by_logits - by_chance).max()))
    assert apart > 1e-4


def test_a_student_may_ask_for_mixed_logits(static: DistilledDataset, teacher: Teacher, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2)
    asked = replace(recipe, schedule=Schedule(interpolation="logits"))
    usual, infer = (train_student(static, one, seed=0, compute=Compute())[0] for one in (recipe, asked))
    weights = zip(usual.parameters(), infer.parameters(), strict=True)
    assert any((one != other).any() for one, other in weights)
    full = write(tmp_path / "full", [teacher])
    with pytest.raises(ConfigError, match=r"interpolation is logits, but .* labels of mixed views \(codec full\)"):
        train_student(full, asked, seed=0, compute=Compute())
    with pytest.raises(ConfigError, match='interpolation is "logit"; expected one of probabilities, logits'):
        Schedule(interpolation="logit")  # type: ignore[arg-type]
    assert "interpolation" not in identity(recipe)["schedule"]
    assert identity(asked)["schedule"]["interpolation"] == "logits"


def test_static_labels_are_the_mean_of_the_teachers_word_on_whole_images(data: Data, teacher: Teacher) -> None:
    pixels = data.train.images[:9]
    logits = make_logits(pixels, [teacher, teacher], data.spec, MIXED, compute=Compute())
    whole = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.26
    assert logits.shape == (1, 9, 3)
    np.testing.assert_allclose(logits[0], teacher.network(whole).detach().numpy(), atol=2e-3, rtol=2e-3)
