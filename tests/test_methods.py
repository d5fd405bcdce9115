"""Every method of the table, and the laws all of them keep."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from condense import seeding
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import from_mapping, to_mapping
from condense.data import Data, DatasetSpec, Split
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.errors import CondenseError, ConfigError, MethodError, TeacherError
from condense.matching import Grown, Growth, flat_weights
from condense.methods import METHODS, Method, Rows, SynthesisJob
from condense.methods.base import Precomputed, slot_blocks
from condense.methods.cda import CDA
from condense.methods.recovery import RecoveryConfig, ViewChanges
from condense.methods.sre2l import SRe2L
from condense.networks import batchnorm_layers, build
from condense.progress import silent
from condense.selection import pick_random
from condense.teachers import ClassStatistics, Dynamics, Experts, Features, Teacher, TeacherInfo
from condense.teachers.experts import untrained_expert
from condense.views.recovery import RecoveryViews

SHORT: dict[str, Any] = {"networks": 2, "matches": 2, "epochs": 1, "batch_real": 8, "network": "convnet2-w8-in"}
SMALL_IDC: dict[str, Any] = {
    "networks": 2,
    "matches": 2,
    "train_images": 16,
    "batch_real": 8,
    "network": "convnet2-w8-in",
    "lr": 1.0,
}
SMALL_NCFM: dict[str, Any] = {
    "networks": 2,
    "batch_real": 8,
    "frequencies": 32,
    "pool": 2,
    "network": "convnet2-w8-in",
}

SMALL_MTT: dict[str, Any] = {
    "experts": {"count": 2, "epochs": 2},
    "iterations": 2,
    "student_steps": 2,
    "ahead": 1,
    "max_start": 2,
    "network": "convnet2-w8-in",
}

SMALL: dict[str, list[dict[str, Any]]] = {
    "sre2l": [{"steps": 3}, {"steps": 3, "start": "real"}],
    "cda": [{"steps": 3}, {"steps": 3, "start": "real"}],
    "dc": [SHORT, {**SHORT, "start": "real"}, {**SHORT, "matches": 1, "pool": 2, "optimizer": "adam"}],
    "dsa": [SHORT],
    "dm": [
        {"networks": 3, "batch_real": 8, "network": "convnet2-w8-in"},
        {"networks": 3, "batch_real": 8, "network": "convnet2-w8-in", "factor": 2},
    ],
    "idc": [
        {**SMALL_IDC, "factor": 2},
        {**SMALL_IDC, "factor": 1, "start": "noise"},
        {**SMALL_IDC, "pool": 2, "pool_snapshots": 2, "augment": "none"},
    ],
    "ncfm": [SMALL_NCFM, {**SMALL_NCFM, "frequency_network": True, "calibration": 0, "optimizer": "sgd", "factor": 1}],
    "mtt": [SMALL_MTT, {**SMALL_MTT, "start": "noise", "batch_student": 4, "optimizer": "adam", "lr": 0.05}],
    "sre2l++": [{"steps": 3}],
    "cv-dd": [
        {"steps": 3, "committee": {"size": 1, "priors": [50]}},
        {"steps": 3, "committee": {"size": 0, "voting": "equal"}},
    ],
    "dwa": [{"steps": 3}],
    "lpld": [{"steps": 3}],
    "edc": [{"steps": 3}],
    "fadrm": [{"steps": 8}, {"steps": 8, "residual": {"blocks": 4, "low": 0.75}}],
    "fadrm+": [{"steps": 8}],
    "nrr-dd": [{"steps": 3}, {"steps": 3, "mask": {"eps": 0.3, "every": 2}}],
    "rded": [{}, {"factor": 2, "crops": 4, "arrangement": "random"}],
    "infer": [{"steps": 3, "compensators": 1}, {"steps": 3, "compensators": 1, "unit": "bytes"}],
    "infer-dyn": [{"steps": 3, "compensators": 1}],
    "random": [{}],
    "herding": [{}],
    "k-center": [{}, {"start": "random"}],
    "k-means": [{}, {"iterations": 0}],
    "moderate": [{}],
    "el2n": [{}, {"end": "hard"}, {"end": "window", "offset": 30}],
    "forgetting": [{}, {"end": "hard", "ties": "first"}],
    "ccs": [{}, {"beta": 0.5, "strata": 2}],
    "cad-prune": [{}, {"window": 3, "windows": 1}],
}
"""Settings of seconds for every method: a new one needs a row here."""

CASES = [pytest.param(name, settings, id=f"{name}-{n}") for name in SMALL for n, settings in enumerate(SMALL[name])]


def made(name: str, settings: dict[str, Any] | None = None) -> Method:
    method = METHODS[name]
    return method(from_mapping(method.Config, settings or {}))


def teacher_of(spec: DatasetSpec, network: str = "resnet8", seed: int = 0) -> Teacher:
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width, "n_classes": spec.n_classes}
    info = TeacherInfo(
        network=network,
        spec=spec,
        accuracy_heldout=None,
        accuracy_test=None,
        epochs=None,
        recipe={},
        origin="trained",
        weights_sha256="0" * 64,
    )
    return Teacher(build(network, **shape, seed=seed).eval().requires_grad_(False), info)


def known_of(method: Method, job: SynthesisJob, count: int) -> Precomputed:
    """Features or a log as of a network of the job's own set and seed."""
    random = seeding.generator(job.seed, "what a network knows", job.set_index)
    if method.needs.precomputed == "features":
        return Features(*(random.standard_normal((count, d)).astype(np.float16) for d in (6, 3)))
    if method.needs.precomputed == "class statistics":
        width = sum(layer.num_features for layer in batchnorm_layers(teacher_of(job.spec).network))
        mean, *var = random.standard_normal((3, 3, width)).astype(np.float32)
        return (ClassStatistics(mean, *(np.abs(one) for one in var), np.full(3, count // 3)),)
    if method.needs.precomputed == "experts":
        recipes = method.expert_recipes(job.spec, job.seed)
        return Experts(tuple(untrained_expert(recipe, job.spec) for recipe in recipes))
    if method.needs.precomputed == "dynamics":
        return Dynamics(*(random.random((8, count)).astype(np.float16) for _ in range(3)))
    if method.needs.precomputed == "grown networks":
        return tuple(grown_of(job.spec, growth) for growth in method.growths(job.spec, job.seed))
    return None


def grown_of(spec: DatasetSpec, growth: Growth) -> Grown:
    """As if it had learnt: each snapshot is another network."""
    seeds = range(100 * growth.number, 100 * growth.number + growth.snapshots + 1)
    networks = [teacher_of(spec, growth.network, seed).network for seed in seeds]
    return Grown(growth.network, np.stack([flat_weights(network).numpy() for network in networks]))


def do(method: Method, job: SynthesisJob, data: Data, **given: Any) -> Rows:
    settings: dict[str, Any] = {
        "teachers": [teacher_of(data.spec)],
        "train": data.train,
        "precomputed": known_of(method, job, len(data.train)),
        "compute": Compute(),
        "report": silent,
        "checkpoint": NoCheckpoint(),
        **given,
    }
    return method.synthesise(job, **settings)


def job_of(spec: DatasetSpec, slots: tuple[int, ...] = (0, 1), set_index: int = 0, seed: int = 3) -> SynthesisJob:
    return SynthesisJob(spec=spec, set_index=set_index, seed=seed, slots=slots, classes=(0, 1, 2), ipc=3)


def test_the_table_is_whole() -> None:
    assert sorted(METHODS) == sorted(SMALL)
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.source
        assert method.revision >= 1
        assert method.__doc__
        assert made(name, dict(method.quick)).config
        for field in dataclasses.fields(method.Config):
            assert dataclasses.is_dataclass(getattr(method.Config(), field.name)) or field.metadata["help"]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_settings_go_to_json_and_back(name: str, settings: dict[str, Any]) -> None:
    config = made(name, settings).config
    assert from_mapping(METHODS[name].Config, to_mapping(config)) == config


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_rows_are_slot_major_uint8_and_the_same_bytes_every_time(
    name: str, settings: dict[str, Any], tiny_data: Data
) -> None:
    method = made(name, settings)
    rows, again = (do(method, job_of(tiny_data.spec), tiny_data) for _ in range(2))
    assert rows.pixels.dtype == np.uint8
    assert rows.pixels.shape == (6, 12, 12, 3)
    assert rows.pixels.flags.c_contiguous
    assert rows.labels.dtype == rows.slots.dtype == np.int64
    assert rows.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert rows.slots.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(rows.pixels, again.pixels)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_sets_and_seeds_differ(name: str, settings: dict[str, Any], tiny_data: Data) -> None:
    method = made(name, settings)
    jobs = [job_of(tiny_data.spec, set_index=index, seed=seed) for index, seed in ((0, 3), (1, 3), (0, 4))]
    first, *others = (do(method, job, tiny_data).pixels for job in jobs)
    for other in others:
        assert (first != other).mean() > 0.5


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_slots_do_not_depend_on_their_company(name: str, settings: dict[str, Any], tiny_data: Data) -> None:
    """Rounding of sums may differ with the size of a forward, by a level here and there."""
    method = made(name, settings)
    if getattr(method.config, "batch", "slot") != "slot":
        pytest.skip("its slots are matched together")
    whole = do(method, job_of(tiny_data.spec, (0, 1, 2)), tiny_data).pixels
    alone = do(method, job_of(tiny_data.spec, (2,)), tiny_data).pixels
    difference = np.abs(whole[6:].astype(int) - alone)
    assert difference.mean() < 0.05


def test_block_bounds() -> None:
    assert list(slot_blocks(1, 100)) == [(0,)]
    assert [(block[0], block[-1] + 1) for block in slot_blocks(35, 100)] == [
        (0, 1),
        (1, 5),
        (5, 10),
        (10, 20),
        (20, 30),
        (30, 40),
    ]
    assert [(block[0], block[-1] + 1) for block in slot_blocks(7, 3)] == [(0, 1), (1, 4), (4, 5), (5, 8)]
    assert list(slot_blocks(3, 1)) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 10, 100])
def test_raising_ipc_keeps_earlier_blocks(most: int) -> None:
    longest = list(slot_blocks(60, most))
    for ipc in range(1, 60):
        blocks = list(slot_blocks(ipc, most))
        assert blocks == longest[: len(blocks)]
        covered = [slot for block in blocks for slot in block]
        assert covered == list(range(len(covered)))
        assert ipc <= len(covered) < ipc + max(len(block) for block in blocks)
        assert all(len(block) <= most for block in blocks)


@pytest.mark.parametrize("classes", [2, 3, 100, 250])
def test_raising_ipc_keeps_earlier_jobs(classes: int, tiny_data: Data) -> None:
    spec = replace(
        tiny_data.spec, classes=tuple(map(str, range(classes))), train_sizes=(99,) * classes, test_sizes=(1,) * classes
    )
    method = made("sre2l", {"job_images": 300})
    jobs = method.jobs(spec, 20, 1, 7)
    for ipc in range(1, 20):
        assert method.jobs(spec, ipc, 1, 7) == jobs[: len(method.jobs(spec, ipc, 1, 7))]
    for job in jobs:
        assert (job.set_index, job.seed) == (1, 7)
        assert len(job.classes) <= 100
        assert len(job.slots) * len(job.classes) <= 300
    done = [(slot, label) for job in jobs for slot in job.slots for label in job.classes]
    assert len(done) == len(set(done))
    assert {(slot, label) for slot in range(20) for label in range(classes)} <= set(done)


def test_published_views(tiny_data: Data) -> None:
    sizes = {side: replace(tiny_data.spec, height=side, width=side) for side in (32, 64, 224)}
    assert SRe2L(RecoveryConfig()).published_views(sizes[32]) == RecoveryViews(crop="none", flip=0.0, roll=4)
    assert SRe2L(RecoveryConfig()).published_views(sizes[64]) == RecoveryViews(roll=4)
    assert SRe2L(RecoveryConfig()).published_views(sizes[224]) == RecoveryViews(roll=32)
    assert CDA(RecoveryConfig()).published_views(sizes[32]) == RecoveryViews(schedule="cosine", roll=4)
    changed = made("cda", {"views": {"roll": 2, "scale": [0.5, 1.0]}})
    assert isinstance(changed, CDA)
    assert changed.stages(sizes[32])[0].views == RecoveryViews(schedule="cosine", roll=2, scale=(0.5, 1.0))


def test_a_real_start_is_near_the_real_image_and_noise_is_not(tiny_data: Data) -> None:
    real = do(made("random"), job_of(tiny_data.spec), tiny_data).pixels.astype(int)
    for start, near in (("real", True), ("noise", False)):
        method = made("sre2l", {"steps": 1, "lr": 0.001, "start": start})
        pixels = do(method, job_of(tiny_data.spec), tiny_data).pixels
        assert (np.abs(pixels - real).max() <= 1) == near
        assert method.contains_real_images == near
        assert method.needs.real_images == near


def test_several_teachers_are_heard(tiny_data: Data) -> None:
    one, other = (teacher_of(tiny_data.spec, seed=seed) for seed in (0, 1))
    results = [
        do(made("sre2l", {"steps": 3}), job_of(tiny_data.spec), tiny_data, teachers=teachers).pixels
        for teachers in ([one], [other], [one, other])
    ]
    assert all((results[a] != results[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_teacher_is_fed_by_its_own_normalisation(tiny_data: Data) -> None:
    """A teacher that takes pixels in [0, 1] and normalises them itself is the same teacher."""
    spec = tiny_data.spec
    usual = teacher_of(spec)
    raw = replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3)

    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = usual.network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            mean, std = (pixels.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
            return self.network((pixels - mean) / std)

    other = Teacher(Normalising(), replace(usual.info, spec=raw))
    wanted, got = (
        do(made("cda", {"steps": 5}), job_of(spec), tiny_data, teachers=[one]).pixels for one in (usual, other)
    )
    assert np.abs(wanted.astype(int) - got).mean() < 0.1


def test_longer_recovery_lowers_the_loss(tiny_data: Data) -> None:
    losses: list[float] = []

    def report(stage: str, done: int, total: int, figures: Any = None) -> None:
        losses.append(figures["loss"])

    teacher = teacher_of(tiny_data.spec)
    for _ in range(30):  # running statistics of real images
        teacher.network.train()(normalise(to_pixels(tiny_data.train.images), tiny_data.spec))
    teacher.network.eval()
    for steps in (1, 100):
        method = made("sre2l", {"steps": steps, "alpha_bn": 0.1})
        do(method, job_of(tiny_data.spec), tiny_data, teachers=[teacher], report=report)
    assert losses[-1] < 0.7 * losses[0]


def test_random_picks_are_distinct_nested_real_images(tiny_data: Data) -> None:
    labels = tiny_data.train.labels
    picks = pick_random(labels, (0, 1, 2), range(40), seed=0, set_index=0)
    assert (labels[picks] == [0, 1, 2]).all()
    assert len(np.unique(picks)) == 120
    np.testing.assert_array_equal(pick_random(labels, (2, 1), (5, 0), seed=0, set_index=0), picks[[5, 0]][:, [2, 1]])
    assert (pick_random(labels, (0, 1, 2), range(40), seed=0, set_index=1) != picks).mean() > 0.9
    shuffled = np.random.Generator(np.random.Philox(1)).permutation(len(labels))
    assert (labels[shuffled][pick_random(labels[shuffled], (1,), range(40), seed=0, set_index=0)] == 1).all()


def test_random_rows_are_the_real_images(tiny_data: Data) -> None:
    rows = do(made("random"), job_of(tiny_data.spec), tiny_data, teachers=[])
    for pixels, label in zip(rows.pixels, rows.labels, strict=True):
        same = (tiny_data.train.images == pixels).all((1, 2, 3))
        assert tiny_data.train.labels[same].tolist() == [label]


def test_ipc_may_be_the_size_of_the_smallest_class(tiny_data: Data) -> None:
    """Though the block that holds the last slot goes further."""
    spec = replace(tiny_data.spec, train_sizes=(7, 40, 40))
    keep = np.r_[:7, 40:120]
    data = Data(spec, Split(tiny_data.train.images[keep], tiny_data.train.labels[keep]), tiny_data.test)
    method = made("random")
    method.check(spec, 7)
    rows = [do(method, job, data) for job in method.jobs(spec, 7, 0, 0)]
    first = np.concatenate([row.pixels[(row.labels == 0) & (row.slots < 7)] for row in rows])
    assert len(np.unique(first, axis=0)) == 7


@pytest.mark.parametrize("ipc", [0, -3])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_ipc_below_one_is_refused(name: str, ipc: int, tiny_data: Data) -> None:
    with pytest.raises(MethodError, match=f"ipc must be at least 1, got {ipc}"):
        made(name).check(tiny_data.spec, ipc)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_ipc_above_the_smallest_class_is_refused_where_real_images_are_needed(
    name: str, settings: dict[str, Any], tiny_data: Data
) -> None:
    method, spec = made(name, settings), replace(tiny_data.spec, train_sizes=(40, 8, 40))
    method.check(spec, 8)
    most = next(ipc for ipc in range(8, 40) if method.slots(spec, ipc + 1) > 8)
    method.check(spec, most)
    if not method.needs.real_images:
        method.check(spec, 9)
        return
    message = f'needs 9 real images per class, but class "columns" of tiny has 8; ask for an ipc of at most {most}$'
    with pytest.raises(MethodError, match=message):
        method.check(spec, most + 1)


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_teachers_that_cannot_serve_are_refused(name: str, tiny_data: Data) -> None:
    method, spec = made(name), tiny_data.spec
    method.check(spec, 1, [teacher_of(spec)])
    cases: list[tuple[list[Teacher], type[CondenseError], str]] = [
        ([], MethodError, "needs at least one teacher and was given none"),
        ([teacher_of(spec), teacher_of(spec, "convnet2-w8-in")], TeacherError, "convnet2-w8-in has none"),
    ]
    for teachers, kind, message in cases:
        with pytest.raises(kind, match=message):
            method.check(spec, 1, teachers)
        with pytest.raises(kind, match=message):
            do(method, job_of(spec), tiny_data, teachers=teachers)


@pytest.mark.parametrize(("name", "settings"), [("random", {}), ("sre2l", {"start": "real"}), ("herding", {})])
def test_missing_real_images_are_refused(name: str, settings: dict[str, Any], tiny_data: Data) -> None:
    with pytest.raises(MethodError, match="needs the training images"):
        do(made(name, settings), job_of(tiny_data.spec), tiny_data, train=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_classes": 0}, "batch_classes must be at least 1, got 0"),
        ({"job_images": -1}, "job_images must be at least 1, got -1"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        ({"alpha_bn": -0.1}, "alpha_bn must be at least 0 and finite, got -0.1"),
        ({"start": "black"}, 'start is "black"; known: critical, easy'),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecoveryConfig(**settings)


def test_bad_views_are_refused_when_they_are_made() -> None:
    with pytest.raises(ConfigError, match="flip is 2"):
        ViewChanges(flip=2)
    with pytest.raises(ConfigError, match=r'no setting "views\.rol"; did you mean "roll"'):
        made("cda", {"views": {"rol": 1}})


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_an_interrupted_job_goes_on_to_the_same_bytes(name: str, tiny_data: Data) -> None:
    class Once:
        state: dict[str, torch.Tensor] | None = None

        def load(self) -> dict[str, torch.Tensor] | None:
            return self.state

        def due(self) -> bool:
            return self.state is None

        def save(self, state: dict[str, torch.Tensor]) -> None:
            self.state = {key: value.clone() for key, value in state.items()}
            raise Stopped

    checkpoint: Checkpoint = Once()
    method = made(name, {"steps": 4})
    with pytest.raises(Stopped):
        do(method, job_of(tiny_data.spec), tiny_data, checkpoint=checkpoint)
    resumed = do(method, job_of(tiny_data.spec), tiny_data, checkpoint=checkpoint)
    np.testing.assert_array_equal(resumed.pixels, do(method, job_of(tiny_data.spec), tiny_data).pixels)
