"""Diversity and coverage: closed forms, brute force, and the command that puts a set beside real images."""

from __future__ import annotations

import itertools
import json
import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from test_cli import refused, run
from torch import Tensor, nn

import condense
from condense.api import Machine
from condense.data import Data, DatasetSpec
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.engine.store import Store
from condense.errors import ConfigError, DataError, NetworkError, TeacherError
from condense.evaluation import coverage as coverage_module
from condense.evaluation.coverage import (
    cells_hit,
    cells_of,
    coverage,
    covering_radius,
    density,
    facility_location,
    neighbour_radii,
)
from condense.evaluation.diversity import SCORES, RealClass, Score, SetDiversity, neighbours, scores_of
from condense.evaluation.vendi import g_vendi, mean_cosine, unit, vendi, vendi_of_kernel
from condense.networks import build
from condense.pipeline import Context, DataRequest, distill, diversity, resolve
from condense.pipeline.diversity import brief, drawn_places, other_network
from condense.report import rows_of_scores
from condense.teachers import Teacher, TeacherInfo, TeacherRecipe, load_teacher
from condense.teachers.extractor import extractor_of
from condense.training import predict

CPU = Compute()
SMALL = {"network": "convnet2-w8-bn", "epochs": 10, "batch_size": 16, "pad": 1}


def drawn(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, size))


# Vendi score


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize(("n", "s"), [(2, 0.3), (5, 0.9), (7, 0.0)])
def test_equicorrelated_kernels_in_closed_form(order: float, n: int, s: float) -> None:
    values = np.array([(1 + (n - 1) * s) / n, *[(1 - s) / n] * (n - 1)])
    if order == 1:
        expected = math.exp(-(values * np.log(values)).sum())
    elif order == math.inf:
        expected = 1 / values.max()
    else:
        expected = ((values**order).sum()) ** (1 / (1 - order))
    kernel = np.full((n, n), s) + (1 - s) * np.eye(n)
    assert vendi_of_kernel(kernel, order) == pytest.approx(expected, rel=1e-9)
    assert vendi(np.linalg.cholesky(kernel), order) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "features", [np.array([[3.0, 0], [3, 0], [0, 0.1]]), np.array([[1.0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 7, 0]])]
)
def test_two_equal_and_one_orthogonal(features: np.ndarray) -> None:
    assert vendi(features) == pytest.approx(1.8899, abs=1e-4)
    assert vendi(features, 2) == pytest.approx(1.8)
    assert vendi(features, math.inf) == pytest.approx(1.5)


def test_the_example_of_the_published_code() -> None:
    points = np.array([0.0, 0, 10, 10, 20, 20])
    assert vendi_of_kernel(np.exp(-np.abs(points[:, None] - points))) == pytest.approx(2.9999, abs=1e-4)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_laws_of_the_vendi_score(order: float) -> None:
    features = drawn(6, 9)
    score = vendi(features, order)
    assert vendi(np.repeat(features, 3, axis=0), order) == pytest.approx(score)  # duplicates of all change nothing
    wide = np.column_stack([drawn(20, 5), np.zeros((20, 30))])
    assert vendi(wide, order) == pytest.approx(vendi(wide[:, :5], order), rel=1e-6)  # n x n and D x D
    assert vendi(features * np.arange(1, 7)[:, None], order) == pytest.approx(score)
    assert vendi(features.astype(np.float32), order) == pytest.approx(score, rel=1e-5)
    assert vendi(np.ones((4, 3)), order) == pytest.approx(1)
    assert vendi(np.eye(5), order) == pytest.approx(5)


def test_higher_orders_count_fewer() -> None:
    scores = [vendi(drawn(8, 4), order) for order in (0.5, 1, 2, 5, math.inf)]
    assert all(one > other for one, other in itertools.pairwise(scores))
    for order in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected a number above 0"):
            vendi(drawn(3, 2), order)


def test_an_image_without_features_is_named() -> None:
    with pytest.raises(DataError, match="gives 1 of 3 images no features"):
        vendi(np.array([[1.0, 0], [0, 0], [0, 1]]))
    with pytest.raises(DataError, match="2 of 2 images no features"):
        unit(np.array([[np.nan, 0], [0, 0]]))


# Cosine similarity


def test_mean_cosine_against_all_pairs() -> None:
    features = drawn(7, 5) + 1
    centre = np.arange(5) / 5
    for moved, shift in ((features, None), (features - centre, centre)):
        pairs = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in itertools.combinations(moved, 2)]
        assert mean_cosine(features, shift) == pytest.approx(np.mean(pairs))
    assert mean_cosine(features[:1]) is None
    assert mean_cosine(np.ones((3, 2))) == pytest.approx(1)


# G-Vendi


@pytest.mark.parametrize("n", [9, 60])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_of_the_last_layer_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch, n: int, soft: bool) -> None:
    """9 images: n x n; 60: 4 classes x (6 + 1) squared. The reference differentiates each image's loss."""
    monkeypatch.setattr("condense.evaluation.vendi.BLOCK", 16)
    features = torch.from_numpy(drawn(n, 6)).relu()
    layer = nn.Linear(6, 4).double()
    targets: Tensor = torch.from_numpy(drawn(n, 4, 1)).softmax(1) if soft else torch.arange(n) % 4
    gradients = []
    for row, target in zip(features, targets, strict=True):
        loss = nn.functional.cross_entropy(layer(row[None]), target[None])
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, layer.parameters())]))
    rows = torch.stack(gradients).numpy()
    logits = layer(features).detach().numpy()
    for order in (1.0, 2.0, math.inf):
        assert g_vendi(logits, features.numpy(), targets.numpy(), order) == pytest.approx(vendi(rows, order), rel=1e-9)


def test_gradients_of_many_images_take_the_smaller_form() -> None:
    tracemalloc.start()
    try:
        g_vendi(drawn(3000, 3), np.abs(drawn(3000, 4)), np.zeros(3000, int))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6 < 3000**2 * 8


def test_gradients_of_images_that_are_all_but_sure() -> None:
    """Where softmax rounds to one the direction is still that of the other classes."""
    logits = np.array([[60.0, 1, 0], [60, 1, 0], [60, 0, 40]])
    assert g_vendi(logits, np.ones((3, 2)), np.zeros(3, int)) == pytest.approx(
        g_vendi(logits - [55, 0, 0], np.ones((3, 2)), np.zeros(3, int)), rel=1e-9
    )


# Coverage


def naive(real: np.ndarray, synthetic: np.ndarray, k: int) -> dict[str, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))

    radii = [sorted(distance(r, o) for j, o in enumerate(real) if j != i)[k - 1] for i, r in enumerate(real)]
    inside = [[distance(r, s) <= radius + 1e-9 for s in synthetic] for r, radius in zip(real, radii, strict=True)]
    return {
        "coverage": sum(map(any, inside)) / len(real),
        "density": sum(map(sum, inside)) / (k * len(synthetic)),
        "radius": max(min(distance(r, s) for s in synthetic) for r in real),
        "facility": float(
            np.mean([max(r @ s / np.linalg.norm(r) / np.linalg.norm(s) for s in synthetic) for r in real])
        ),
        "last": radii[-1],
    }


@pytest.mark.parametrize("block", [1, 50, 10**6])
@pytest.mark.parametrize("k", [1, 5])
def test_coverage_against_brute_force(monkeypatch: pytest.MonkeyPatch, block: int, k: int) -> None:
    """The synthetic images include copies of real ones, which lie on the borders of their neighbours' balls."""
    monkeypatch.setattr(coverage_module, "BLOCK", block)
    real = drawn(40, 3) + np.array([5, 0, 0])
    synthetic = np.concatenate([drawn(4, 3, 1) + np.array([5, 1, 0]), real[:3]])
    expected = naive(real, synthetic, k)
    radii = neighbour_radii(real, k)
    assert coverage(real, synthetic, radii) == pytest.approx(expected["coverage"])
    assert density(real, synthetic, radii, k) == pytest.approx(expected["density"])
    assert covering_radius(real, synthetic) == pytest.approx(expected["radius"])
    assert facility_location(real, synthetic) == pytest.approx(expected["facility"])
    assert radii[-1] == pytest.approx(expected["last"])


def test_real_images_have_density_one_and_noise_none() -> None:
    real, other, noise = drawn(2000, 4), drawn(2000, 4, 1), 30 + drawn(50, 4, 2)
    radii = neighbour_radii(real, 5)
    assert density(real, other, radii, 5) == pytest.approx(1, abs=0.1)
    assert coverage(real, other, radii) == pytest.approx(0.97, abs=0.03)
    assert density(real, noise, radii, 5) == coverage(real, noise, radii) == 0


def test_no_matrix_of_all_real_images_is_held() -> None:
    real = drawn(6000, 4)
    tracemalloc.start()
    try:
        neighbour_radii(real, 5)
        coverage(real, real, np.ones(6000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120e6 < 6000**2 * 8


@pytest.mark.parametrize("k", [0, 10, 11])
def test_neighbours_that_are_not_there(k: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 9"):
        neighbour_radii(drawn(10, 2), k)


def test_cells_are_the_clusters() -> None:
    centres = np.array([[0.0, 0], [50, 0], [0, 50], [50, 50]])
    real = np.concatenate([centre + drawn(30, 2, i) for i, centre in enumerate(centres)])
    cells = cells_of(real, 4, seed=3)
    means = [real[i * 30 : (i + 1) * 30].mean(0) for i in range(4)]
    assert sorted(map(tuple, cells.round(9))) == sorted(map(tuple, np.round(means, 9)))
    np.testing.assert_array_equal(cells, cells_of(real, 4, seed=3))
    assert cells_hit(cells, centres[:1] + drawn(5, 2)) == 0.25
    assert cells_hit(cells, centres[[0, 0, 3]]) == 0.5
    assert cells_hit(cells, centres) == 1
    assert np.isfinite(cells_of(np.ones((5, 2)), 3, seed=0)).all()  # all alike: two cells stay empty
    with pytest.raises(ValueError, match="expected 1 to 120"):
        cells_of(real, 121, seed=0)


def test_every_cell_is_the_mean_of_what_it_holds() -> None:
    real = drawn(300, 2)
    cells = cells_of(real, 6, seed=1)
    nearest = ((real[:, None] - cells) ** 2).sum(2).argmin(1)
    np.testing.assert_allclose(cells, [real[nearest == cell].mean(0) for cell in range(6)])


def test_neighbours_grow_as_the_set_shrinks() -> None:
    assert [neighbours(6000, n) for n in (1, 10, 1000, 5000)] == [5999, 600, 6, 5]
    assert neighbours(3, 2) == 2


# Classes


def test_scores_of_a_class() -> None:
    features, logits = np.abs(drawn(50, 6)), drawn(50, 3)
    centre = np.full(6, 0.5)
    real = RealClass.of(features, centre, 4, seed=0)
    own, theirs = np.abs(drawn(4, 6, 5)), drawn(4, 3, 6)
    scores = scores_of(own, theirs, 2, real)
    assert list(scores) == list(SCORES)
    rows = unit(features)
    radii = neighbour_radii(rows, 13)
    assert real.k == 13
    assert scores == pytest.approx(
        {
            "cosine": mean_cosine(own),
            "cosine_centred": mean_cosine(own, centre),
            "vendi": vendi(own),
            "vendi_2": vendi(own, 2),
            "vendi_inf": vendi(own, math.inf),
            "g_vendi": g_vendi(theirs, own, np.full(4, 2)),
            "facility_location": facility_location(rows, own),
            "covering_radius": covering_radius(rows, unit(own)),
            "coverage": coverage(rows, unit(own), radii),
            "density": density(rows, unit(own), radii, 13),
            "cells_hit": cells_hit(cells_of(rows, 4, 0), unit(own)),
        }
    )
    places = np.array([0, 7, 9, 30])
    drawn_scores = scores_of(features[places], logits[places], 2, real, places)
    left = np.setdiff1d(np.arange(50), places)
    assert drawn_scores["facility_location"] == pytest.approx(facility_location(rows[left], rows[places]))
    assert drawn_scores["density"] == pytest.approx(density(rows[left], rows[places], radii[left], 13))


def test_one_image_has_no_diversity() -> None:
    real = RealClass.of(np.abs(drawn(20, 6)), np.zeros(6), 1, seed=0)
    scores = scores_of(np.abs(drawn(1, 6, 1)), drawn(1, 3), 0, real)
    known = {name for name, value in scores.items() if value is not None}
    assert known == {"facility_location", "covering_radius", "coverage", "density"}


def test_scores_are_means_over_classes_and_draws() -> None:
    score = Score.of([0.2, None, 0.4], [[0.1, None, 0.3], [0.3, None, 0.5]], [None, 0.5, 0.7])
    assert (score.of_set, score.random, score.whole) == pytest.approx((0.3, 0.3, 0.6))
    assert score.random_sd == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert score.per_class == (0.2, None, 0.4)
    assert Score.of([None], [[None]], [None]) == Score(
        of_set=None, random=None, random_sd=None, whole=None, per_class=(None,)
    )
    assert Score.of([1.0], [[0.5]], [None]).random_sd is None


def test_rows_of_a_table() -> None:
    known = Score(of_set=1.5, random=2.0, random_sd=0.25, whole=0.5, per_class=(1.5,))
    single = Score(of_set=None, random=2.0, random_sd=None, whole=None, per_class=(None,))
    one = SetDiversity(
        path="set",
        name="set",
        method="cda",
        set_sha256="00",
        images_per_class=(2,),
        neighbours=(5,),
        scores={"vendi": known, "cells_hit": single},
    )
    assert rows_of_scores(one)[1:] == [
        ["Vendi score", "1.500", "2.000 ± 0.250", "-2.0", "0.500"],
        ["cells hit", "-", "2.000", "-", "-"],
    ]


# Features


class Foreign(nn.Module):
    """Not one of the package's; ``after`` is applied to what the linear layer gives."""

    def __init__(self, after: Callable[[Tensor], Tensor] = lambda logits: logits, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, 3, bias=bias)
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.head(self.body(images).relu().mean((2, 3))))


class Everywhere(Foreign):
    """The last linear layer sees every pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).permute(0, 2, 3, 1)).mean((1, 2))


def teacher_of(network: nn.Module, spec: DatasetSpec) -> Teacher:
    info = TeacherInfo(
        network="theirs",
        spec=spec,
        accuracy_heldout=None,
        accuracy_test=None,
        epochs=None,
        recipe={},
        origin="imported",
        weights_sha256="",
    )
    return Teacher(network.eval().requires_grad_(False), info)


@pytest.mark.parametrize("name", ["convnet2-w8-in", "resnet8", "vit", "theirs", "theirs without bias"])
def test_the_last_layer_makes_the_logits_of_the_features(name: str, tiny_data: Data) -> None:
    spec = tiny_data.spec
    network: nn.Module = Foreign(bias=name == "theirs")
    if "theirs" not in name:
        network = build(name, channels=3, height=12, width=12, n_classes=3)
    extractor = extractor_of(teacher_of(network, spec), CPU)
    images = tiny_data.train.images[:70]
    features = extractor.features(images)
    assert (features.shape, features.dtype) == ((70, extractor.size), np.float32)
    expected = predict(network, images, spec, compute=CPU).numpy()
    np.testing.assert_allclose(extractor.logits(features), expected, atol=1e-4)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_features_come_in_blocks_and_in_float32(tiny_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_of(build("resnet8", channels=3, height=12, width=12, n_classes=3), tiny_data.spec)
    images = tiny_data.train.images[:30]
    whole = extractor_of(teacher, CPU).features(images)
    monkeypatch.setattr("condense.teachers.extractor.BLOCK", 7)
    extractor = extractor_of(teacher, Compute(precision="bf16"))
    assert [len(block) for block in extractor.blocks(images)] == [7, 7, 7, 7, 2]
    np.testing.assert_allclose(extractor.features(images), whole, atol=1e-5)
    assert extractor.features(images[:0]).shape == (0, 64)


@pytest.mark.parametrize("network", [Foreign(lambda logits: logits.relu() - 1), Everywhere(), nn.Conv2d(3, 3, 12)])
def test_networks_without_a_last_linear_layer_are_refused(network: nn.Module, tiny_data: Data) -> None:
    with pytest.raises(NetworkError, match="nothing says what its features are; use one that does"):
        extractor_of(teacher_of(network, tiny_data.spec), CPU)


# Sets


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Context:
    store = Store(tmp_path_factory.mktemp("diversity") / "store")
    return Context(store=store, compute=CPU, opened={DataRequest(name="tiny"): tiny_data})


@pytest.fixture(scope="module")
def sets(context: Context, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random real images, 4 and 1 per class, labelled by one teacher."""
    made = []
    for ipc in (4, 1):
        values: dict[str, Any] = {"data": "tiny", "method": "random", "ipc": ipc, "teacher": SMALL}
        request = resolve({**values, "labels": {"epochs": 1, "views": {"batch_size": 3}}})
        made += distill(request, context, out=tmp_path_factory.mktemp("sets") / f"ipc{ipc}")
    return made


LOOK: dict[str, Any] = {"data": DataRequest(name="tiny"), "settings": {**SMALL, "seed": 5}}


def test_a_set_beside_real_images(context: Context, sets: list[Path], tiny_data: Data, tmp_path: Path) -> None:
    found = diversity([sets[0]], context, **LOOK, draws=3, out=tmp_path / "found.json")
    [one] = found.sets
    assert (found.network, found.is_maker, found.draws, one.images_per_class) == ("convnet2-w8-bn", False, 3, (4, 4, 4))
    assert found.network_accuracy is not None
    assert one.neighbours == (10, 10, 10)
    [folder] = {path for path in context.store.root.rglob("teacher.json") if found.network_sha256 in hash_of(path)}
    extractor = extractor_of(load_teacher(folder.parent), CPU)
    real, dataset = extractor.features(tiny_data.train.images), condense.load(sets[0])
    own, centre = extractor.features(dataset.images), real.astype(float).mean(0)
    per_class = [mean_cosine(own[np.array(dataset.targets) == label], centre) for label in range(3)]
    score = one.scores["cosine_centred"]
    assert score.per_class == pytest.approx(per_class)
    assert score.of_set == pytest.approx(np.mean(np.array(per_class, dtype=float)))
    theirs = [real[tiny_data.train.labels == label] for label in range(3)]
    whole = [mean_cosine(rows, centre) or 0.0 for rows in theirs]
    assert score.whole == pytest.approx(np.mean(whole))
    draws = [
        np.mean([mean_cosine(rows[drawn_places(40, c, 4, 0, i)], centre) or 0.0 for c, rows in enumerate(theirs)])
        for i in range(3)
    ]
    assert score.random == pytest.approx(np.mean(draws))
    assert score.random_sd == pytest.approx(np.std(draws, ddof=1))
    assert one.scores["vendi"].whole is None
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["sets"][0]["scores"]["vendi"]["of_set"] == one.scores["vendi"].of_set
    assert values["network_sha256"] == found.network_sha256


def hash_of(path: Path) -> str:
    return load_teacher(path.parent).sha256


def test_several_sets_one_network_and_no_second_training(context: Context, sets: list[Path]) -> None:
    first = diversity(sets, context, **LOOK, draws=3)
    jobs = len(list(finished_jobs(context.store.root / "runs")))
    assert diversity(sets, context, **LOOK, draws=3) == first
    assert len(list(finished_jobs(context.store.root / "runs"))) == jobs
    four, one = first.sets
    alone = diversity(sets[:1], context, **LOOK, draws=3).sets[0]
    assert alone == four  # a set's numbers do not depend on the others
    assert (one.images_per_class, one.scores["vendi"].of_set, one.scores["vendi"].random) == ((1, 1, 1), None, None)
    assert one.scores["coverage"].of_set is not None
    assert one.scores["cosine"].whole is not None
    other = diversity(sets[:1], context, **LOOK, draws=3, seed=1).sets[0]
    assert other.scores["vendi"].of_set == four.scores["vendi"].of_set
    assert other.scores["vendi"].random != four.scores["vendi"].random


def test_random_real_images_are_like_random_real_images(context: Context, sets: list[Path]) -> None:
    [one] = diversity(sets[:1], context, **LOOK, draws=40).sets
    distances = [
        abs(score.of_set - score.random) / score.random_sd
        for score in one.scores.values()
        if score.of_set is not None and score.random is not None and score.random_sd
    ]
    assert len(distances) == len(SCORES)
    assert max(distances) < 4


def test_draws_are_different_images_of_the_class() -> None:
    for draw in range(5):
        assert len(set(drawn_places(40, 1, 30, 0, draw).tolist())) == 30
    one, other = drawn_places(40, 1, 4, 0, 0), drawn_places(40, 1, 4, 0, 1)
    assert one.tolist() != other.tolist()
    assert one.tolist() != drawn_places(40, 1, 4, 1, 0).tolist()
    assert one.tolist() != drawn_places(40, 2, 4, 0, 0).tolist()


def test_the_teacher_of_a_set_does_not_judge_it(context: Context, sets: list[Path]) -> None:
    request, settings = DataRequest(name="tiny"), SMALL
    with pytest.raises(TeacherError, match=r"network convnet2-w8-bn \(\w{12}\) is a teacher of .*ipc4.*--allow-maker"):
        diversity(sets[:1], context, data=request, settings=settings, draws=1)
    allowed = diversity(sets[:1], context, data=request, settings=settings, draws=1, allow_maker=True)
    assert allowed.is_maker
    sha = condense.load(sets[0]).info.teachers[0]["sha256"]
    [maker] = {path.parent for path in context.store.root.rglob("teacher.json") if hash_of(path) == sha}
    with pytest.raises(TeacherError, match="is a teacher of"):
        diversity(sets[:1], context, data=request, teacher=maker, draws=1)
    same = diversity(sets[:1], context, data=request, teacher=maker, draws=1, allow_maker=True)
    assert same == allowed


def test_the_usual_network_is_of_another_family() -> None:
    assert other_network(["resnet20"]) == other_network(["torchvision:resnet18"]) == "convnet3-w64-bn"
    assert other_network(["convnet3-w128-bn"]) == other_network([]) == other_network(["timm:vit_tiny"]) == "resnet8"
    assert other_network(["resnet18", "convnet4-in"]) == "vgg11"
    assert other_network(["resnet18", "convnet4-in", "vgg11"]) == "resnet8"


def test_the_usual_training_is_brief() -> None:
    assert brief(TeacherRecipe(), 50_000).epochs == 3
    assert brief(TeacherRecipe(batch_size=10), 100).epochs == 20  # 95 images are 10 steps


def test_what_cannot_be_measured_is_refused(context: Context, sets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="draws must be at least 1, got 0"):
        diversity(sets, context, **LOOK, draws=0)
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.json"):
        diversity(sets, context, **LOOK, out=tmp_path / "x.txt")
    with pytest.raises(ConfigError, match=r"network, epochs, .*is trained already"):
        diversity(sets, context, **LOOK, teacher=tmp_path)
    request = resolve({"data": "tiny", "method": "random", "ipc": 40, "teacher": SMALL, "labels": {"epochs": 1}})
    [all_of_them] = distill(request, context, out=tmp_path / "all")
    with pytest.raises(DataError, match='all has 40 images of class "rows" and tiny has 40: nothing to compare with'):
        diversity([all_of_them], context, **LOOK)
    wild = {**SMALL, "epochs": 1, "optim": {"lr": 1e-9, "warmup_steps": 0}}
    with pytest.raises(TeacherError, match="the teacher's accuracy on tiny is"):
        diversity(sets, context, data=DataRequest(name="tiny"), settings=wild)


def test_evaluate_prints_accuracies_by_class(mini: Path) -> None:
    words = ("evaluate", "set", "--student", "convnet1-w8-bn", "--quick", "--threads", 1, "--quiet", "--per-class")
    text = run(*words, "--targets", "hard").stdout
    before, _, table = text.partition("convnet1-w8-bn, hard targets (quick), IPC 2: accuracy in percent\n")
    assert "T-shirt/top" not in before
    assert re.search(r"^class +random$", table, re.MULTILINE)
    assert re.search(r"^T-shirt/top +\d+\.\d\d$", table, re.MULTILINE)
    assert max(map(len, table.splitlines())) <= 80


# The command


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of the embedded data, on disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    brief = ("--set", "teacher.network=convnet2-w8-bn", "--set", "teacher.epochs=1", "--set", "labels.epochs=1")
    data = ("--data", "fashion-mini", "--method", "random", "--ipc", 2, "--threads", 1)
    run("distill", *data, *brief, "--quiet", "--out", "set")
    return tmp_path / "set"


QUICK = ("--network", "convnet1-w8-bn", "--set", "epochs=2", "--threads", 1, "--quiet", "--draws", 2)


def test_the_command_prints_a_table_writes_json_and_refuses_in_one_line(mini: Path) -> None:
    text = run("diversity", "set", *QUICK, "--out", "found.json").stdout
    assert "seen by  convnet1-w8-bn (" in text
    assert "beside   2 draws of as many random real images" in text
    assert "images   2 per class" in text
    assert re.search(r"^Vendi score +1\.\d{3} +1\.\d{3} ± 0\.\d{3} +[+-]\d+\.\d +-$", text, re.MULTILINE)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert [line for line in text.splitlines() if line.startswith(tuple(SCORES.values()))]
    assert json.loads((mini.parent / "found.json").read_text())["network"] == "convnet1-w8-bn"
    machine = Machine(threads=1)
    again = condense.diversity([mini], network="convnet1-w8-bn", settings={"epochs": 2}, draws=2, machine=machine)
    written, returned = (json.loads(one) for one in ((mini.parent / "found.json").read_text(), again.to_json()))
    assert written["sets"][0]["scores"] == returned["sets"][0]["scores"]
    headings, *rows = rows_of_scores(again.sets[0])
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    assert Console(width=200).measure(table).maximum <= 80

    for words, said in (
        (["set", "--draws", 0], "draws must be at least 1"),
        (["set", "--out", "found.txt"], "ends in .json"),
        (["nowhere"], "nowhere"),
        (["set", "--network", "resnet9"], 'unknown network "resnet9"'),
        (["set", "--teacher", "set"], "set is not a teacher"),
        (["set", "--set", "epoch=3"], "epoch"),
        (["set", "--teacher", "set", "--set", "epochs=3"], "is trained already"),
        (["set", "--data", "no-such-data"], "no-such-data"),
        (["set", "--network", "convnet2-w8-bn", "--set", "epochs=1"], "is a teacher of set"),
        (["set", "--draws", "many"], "Invalid value for '--draws'"),
    ):
        assert said in refused("diversity", *words, "--threads", 1, "--quiet")
