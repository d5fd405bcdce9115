"""Matching: the written-out derivatives against loops with double backward, the loop against plain programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import condense
from condense import matching as package
from condense import seeding
from condense.api import Machine
from condense.canvas import Pixels, Tiles, mosaic, noise_start, real_start
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import from_mapping, identity
from condense.data import Data, DatasetSpec, Split
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.errors import CondenseError, ConfigError, DataError, MethodError, NetworkError
from condense.matching import (
    Alike,
    Grown,
    Matching,
    OnReal,
    OnSynthetic,
    PixelOptim,
    Problem,
    flat_weights,
    grow,
    match,
)
from condense.matching import between as between_module
from condense.matching.convnet import Fast, has_fast_form, image_bytes
from condense.matching.derivatives import Batch, Plain
from condense.matching.distances import DISTANCES, row_cosine
from condense.matching.grown import Stock
from condense.matching.loop import network_of
from condense.matching.real import RealImages
from condense.methods import METHODS, Method, Rows, SynthesisJob
from condense.methods.dc import published
from condense.methods.idc import published_lr
from condense.networks import build
from condense.progress import silent
from condense.shards.tiles import decode_tiles
from condense.views import augment as views

F64 = torch.float64


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(seeding.generator(seed, "test values").standard_normal(shape))


# --- distances -----------------------------------------------------------------------------------------------------


def plain_distance(name: str, a: Tensor, b: Tensor) -> Tensor:
    """One class, one layer, element by element."""
    total = torch.zeros((), dtype=F64)
    for one, other in zip(a, b, strict=True):
        if name == "row-cosine":
            if not one.any():  # where a unit is never open; a square root has no slope at 0
                total = total + 1 - (one * other).sum() / 1e-6
                continue
            norms = torch.sqrt((one * one).sum()) * torch.sqrt((other * other).sum())
            total = total + 1 - (one * other).sum() / (norms + 1e-6)
        else:
            for x, y in zip(one, other, strict=True):
                total = total + ((x - y) ** 2 if name == "mse" else abs(x - y))
    return total


@pytest.mark.parametrize("name", sorted(DISTANCES))
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_distances_and_their_derivatives(name: str, scale: float) -> None:
    """Small gradients, too, where the 1e-6 of the cosine counts."""
    mine, real = (scale * random_tensor(3, 5, 4, seed=seed) for seed in (0, 1))
    losses, slopes = DISTANCES[name](mine, real)
    for k in range(3):
        one = mine[k].clone().requires_grad_()
        wanted = plain_distance(name, one, real[k])
        torch.testing.assert_close(losses[k], wanted.detach(), rtol=1e-12, atol=1e-12)
        (slope,) = torch.autograd.grad(wanted, one)
        torch.testing.assert_close(slopes[k], slope, rtol=1e-10, atol=1e-10)


def test_the_cosine_of_known_rows() -> None:
    losses, _ = row_cosine(
        torch.tensor([[[3.0, 4.0], [1.0, 0.0]]], dtype=F64), torch.tensor([[[4.0, 3.0], [0.0, 2.0]]])
    )
    assert float(losses[0]) == pytest.approx(1 - 24 / (25 + 1e-6) + 1, abs=1e-12)


def test_rows_of_zeros_have_a_finite_derivative() -> None:
    zeros, real = torch.zeros(1, 2, 3, dtype=F64), random_tensor(1, 2, 3)
    losses, slopes = row_cosine(zeros, real)
    assert float(losses[0]) == 2
    torch.testing.assert_close(slopes, -real / 1e-6)


# --- derivatives of networks ---------------------------------------------------------------------------------------

NETWORKS = [
    pytest.param("convnet2-w8-in", 1, 10, 12, id="grey, sides that halving does not divide"),
    pytest.param("convnet3-w6-in", 3, 16, 8, id="colour"),
    pytest.param("convnet2-w5-none", 2, 9, 9, id="no norm, pooling drops a row"),
    pytest.param("convnet1-w4-in", 1, 28, 28, id="one block"),
]
SIZES, LABELS = (2, 1, 4), (0, 2, 3)


def network_like(name: str, channels: int, height: int, width: int) -> nn.Module:
    """With weights and shifts of norms that are not one and zero."""
    network = build(name, channels=channels, height=height, width=width, n_classes=4).double()
    with torch.no_grad():
        for number, one in enumerate(network.parameters()):
            if one.ndim == 1:
                one += 0.3 * random_tensor(*one.shape, seed=number)
    return network


def batches(channels: int, height: int, width: int) -> tuple[Batch, Batch]:
    """Synthetic images, and real ones of the same classes."""
    images, real = (random_tensor(count, channels, height, width, seed=count) for count in (sum(SIZES), 10))
    return Batch(images, LABELS, SIZES), Batch(real, LABELS, (3, 5, 2))


def by_class(batch: Batch) -> Iterator[tuple[int, Tensor]]:
    start = 0
    for label, size in zip(batch.labels, batch.sizes, strict=True):
        yield label, batch.images[start : start + size]
        start += size


def weights_of(network: nn.Module, least: int) -> list[nn.Parameter]:
    return [one for one in network.parameters() if one.ndim >= least]


def loss_of(network: nn.Module, images: Tensor, label: int) -> Tensor:
    """The mean of -log softmax, written out."""
    logits = network(images)
    return torch.stack([-(row[label] - row.exp().sum().log()) for row in logits]).mean()


@pytest.mark.parametrize("name", sorted(DISTANCES))
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("network", "channels", "height", "width"), NETWORKS)
@pytest.mark.parametrize("form", ["fast", "plain"])
def test_pixels_move_as_by_double_backward_class_by_class(
    form: str, network: str, channels: int, height: int, width: int, linear: bool, name: str
) -> None:
    net = network_like(network, channels, height, width)
    synthetic, real = batches(channels, height, width)
    made: Fast | Plain
    if form == "fast":
        assert has_fast_form(net)
        made = Fast(net, linear=linear, piece=4)  # type: ignore[arg-type]
    else:
        made = Plain(net, Compute(), linear=linear)
    known = made.gradients(real)
    losses, moved = made.match_gradients(synthetic, known, DISTANCES[name])
    weights, wanted = weights_of(net, 2 if linear else 3), []
    for k, ((label, images), (_, others)) in enumerate(zip(by_class(synthetic), by_class(real), strict=True)):
        theirs = torch.autograd.grad(loss_of(net, others, label), weights)
        for layer, found in zip(theirs, known, strict=True):
            torch.testing.assert_close(found[k], layer, rtol=1e-10, atol=1e-10)
        images = images.clone().requires_grad_()
        mine = torch.autograd.grad(loss_of(net, images, label), weights, create_graph=True)
        pairs = zip(mine, theirs, strict=True)
        distance = torch.stack([plain_distance(name, a.flatten(1), b.flatten(1)) for a, b in pairs]).sum()
        torch.testing.assert_close(losses[k], distance.detach(), rtol=1e-9, atol=1e-9)
        wanted.append(torch.autograd.grad(distance, images)[0])
    torch.testing.assert_close(moved, torch.cat(wanted), rtol=1e-10, atol=1e-10)
    assert float(moved.abs().max()) > 1e-3


@pytest.mark.parametrize(("network", "channels", "height", "width"), NETWORKS)
@pytest.mark.parametrize("form", ["fast", "plain"])
def test_means_move_pixels_as_class_by_class(form: str, network: str, channels: int, height: int, width: int) -> None:
    net = network_like(network, channels, height, width)
    synthetic, real = batches(channels, height, width)
    made: Any = Fast(net, linear=True, piece=4) if form == "fast" else Plain(net, Compute(), linear=True)  # type: ignore[arg-type]
    known = made.means(real)
    losses, moved = made.match_means(synthetic, known)
    wanted = []
    for k, ((_, images), (_, others)) in enumerate(zip(by_class(synthetic), by_class(real), strict=True)):
        images = images.clone().requires_grad_()
        mean = net.features(others).mean(0).detach()  # type: ignore[operator]
        torch.testing.assert_close(known[k], mean, rtol=1e-10, atol=1e-10)
        distance = ((net.features(images).mean(0) - mean) ** 2).sum()  # type: ignore[operator]
        torch.testing.assert_close(losses[k], distance.detach(), rtol=1e-10, atol=1e-10)
        wanted.append(torch.autograd.grad(distance, images)[0])
    torch.testing.assert_close(moved, torch.cat(wanted), rtol=1e-10, atol=1e-10)


def test_half_precision_is_near() -> None:
    net = build("convnet3-in", channels=1, height=28, width=28, n_classes=4)
    synthetic, real = (replace(one, images=one.images.float()) for one in batches(1, 28, 28))
    exact, half = (Fast(net, linear=True, half=half) for half in (False, True))  # type: ignore[arg-type]
    known = exact.gradients(real)
    (loss, moved), (near_loss, near) = (one.match_gradients(synthetic, known, row_cosine) for one in (exact, half))
    torch.testing.assert_close(loss, near_loss, rtol=0.02, atol=0)
    assert float(functional.cosine_similarity(moved.flatten(), near.flatten(), 0)) > 0.99
    assert near.dtype == torch.float32


def test_only_convnets_without_batch_norm_have_a_fast_form() -> None:
    shape = {"channels": 1, "height": 16, "width": 16, "n_classes": 2}
    assert has_fast_form(build("convnet2-w8-in", **shape))
    assert has_fast_form(build("convnet2-w8-none", **shape))
    assert not has_fast_form(build("convnet2-w8-bn", **shape))
    assert not has_fast_form(build("resnet8", **shape))


# --- siamese augmentation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", views.FAMILIES)
def test_a_siamese_change_is_the_operation_with_one_parameter(family: views.Family) -> None:
    """Each image as if it were a batch of itself, by the operation that students are trained with."""
    images = random_tensor(5, 3, 8, 12)
    for seed in range(6):
        seen = views.siamese(images, [family], [seeding.generator(seed, "draws")], [5])
        operation = getattr(views, family)
        alone = [operation(image[None], seeding.generator(seed, "draws")) for image in images]
        torch.testing.assert_close(seen, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", views.FAMILIES)
def test_siamese_changes_are_differentiable(family: views.Family) -> None:
    images = random_tensor(2, 2, 4, 5).requires_grad_()
    draws = lambda: seeding.generator(2, "draws")  # noqa: E731
    assert torch.autograd.gradcheck(lambda given: views.siamese(given, [family], [draws()], [2]), images)


def changed(alike: Alike, images: Tensor, draws: np.random.Generator) -> Tensor:
    """The images of one class, image by image: the family or all of them, by the operations of students."""
    families = [alike.families[draws.integers(len(alike.families))]] if alike.one else alike.families
    state, made = draws.bit_generator.state, []
    for image in images:
        draws.bit_generator.state = state
        one = image[None]
        for family in families:
            one = (views.rotate_some if family == "rotate" else getattr(views, family))(one, draws)
        made.append(one)
    return torch.cat(made)


@pytest.mark.parametrize("one", [True, False])
def test_classes_change_together_as_one_by_one(one: bool) -> None:
    """Of different sizes, each by its own generator."""
    alike, sizes = Alike(families=views.FAMILIES, one=one), (3, 1, 5, 2)
    images = random_tensor(11, 3, 8, 12)
    for step in range(12):
        keys = [(step, k) for k in range(4)]
        batch = alike(Batch(images, (0, 1, 2, 3), sizes), [seeding.generator(0, "draws", *key) for key in keys])
        parts = [
            changed(alike, part, seeding.generator(0, "draws", *key))
            for part, key in zip(images.split(sizes), keys, strict=True)
        ]
        torch.testing.assert_close(batch.images, torch.cat(parts), rtol=1e-12, atol=1e-12)
        assert (batch.labels, batch.sizes) == ((0, 1, 2, 3), sizes)


def test_real_and_synthetic_images_of_a_class_change_alike() -> None:
    """The same picture does, whatever else is in its batch; of one class and step, and not of others."""
    picture = random_tensor(1, 3, 12, 12)
    alike = Alike(families=views.FAMILIES, one=True)
    real, synthetic = (torch.cat([picture, random_tensor(count, 3, 12, 12, seed=count)]) for count in (3, 7))
    seen = []
    for number in range(40):
        first, second = (
            alike(Batch(images, (0,), (len(images),)), [seeding.generator(1, "siamese", number)]).images
            for images in (real, synthetic)
        )
        assert torch.equal(first[0], second[0])
        seen.append(first[0])
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) > 25


# --- tiles ---------------------------------------------------------------------------------------------------------


def spec_of(side: int = 12, channels: int = 3, sizes: tuple[int, ...] = (40, 40, 40)) -> DatasetSpec:
    return DatasetSpec(
        name="tiny",
        classes=tuple(f"class {n}" for n in range(len(sizes))),
        channels=channels,
        height=side,
        width=side,
        mean=(0.4, 0.6, 0.5)[:channels],
        std=(0.25, 0.3, 0.2)[:channels],
        train_sizes=sizes,
        test_sizes=(1,) * len(sizes),
        fingerprint="0" * 64,
    )


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_tiles_are_what_stored_rows_decode_to(factor: int) -> None:
    spec = spec_of()
    random = seeding.generator(0, "bytes").integers(0, 256, (2, 3, 12, 12, 3), dtype=np.uint8)
    canvas = Tiles(real_start(random, spec).double(), spec, factor)
    rows = canvas.rows()
    np.testing.assert_array_equal(rows, random.reshape(6, 12, 12, 3))
    stored = decode_tiles({"images": rows}, (12, 12, 3), {"factor": factor}, slice(None))
    levels = (canvas.images() * canvas.std + canvas.mean) * 255
    seen = levels.unflatten(0, (factor * factor, 2)).permute(1, 2, 0, 4, 5, 3).reshape(stored.shape).numpy()
    assert np.abs(seen - stored).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(np.floor(seen + 0.5 + 1e-5), stored)


def test_tiles_are_bilinear_enlargements_and_every_pixel_is_reached() -> None:
    spec, values = spec_of(), random_tensor(2, 3, 3, 12, 12)
    canvas = Tiles(values, spec, 3)
    images = canvas.images().view(9, 2, 3, 3, 12, 12)
    for tile in range(9):
        down, across = 4 * (tile // 3), 4 * (tile % 3)
        small = values[..., down : down + 4, across : across + 4].flatten(0, 1)
        wanted = functional.interpolate(small, (12, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(images[tile].flatten(0, 1), wanted, rtol=1e-12, atol=1e-12)
    given = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(canvas.decode(given).sum(), given)
    assert float(slope.min()) > 0


def test_a_mosaic_holds_the_images_it_is_made_of() -> None:
    small = random_tensor(8, 3, 2, 6, 6)
    large = small.repeat_interleave(2, 3).repeat_interleave(2, 4)
    made = mosaic(large, 2)
    assert made.shape == (2, 3, 2, 12, 12)
    torch.testing.assert_close(made[1, 2, :, 6:, :6], small[2 * 2 + 1, 2])


# --- the loop ------------------------------------------------------------------------------------------------------


def split_of(spec: DatasetSpec) -> Split:
    random = seeding.generator(1, "split")
    labels = np.repeat(np.arange(spec.n_classes), spec.train_sizes)
    images = random.integers(0, 256, (len(labels), *spec.image_shape)) // 2 + 40 * labels[:, None, None, None] % 128
    return Split(images.astype(np.uint8), labels)


def problem_of(spec: DatasetSpec, network: str = "convnet2-w6-in") -> Problem:
    return Problem(name="dc", spec=spec, seed=5, set_index=1, classes=tuple(range(spec.n_classes)), network=network)


def canvas_of(spec: DatasetSpec, slots: int = 2) -> Pixels:
    classes = tuple(range(spec.n_classes))
    return Pixels(noise_start(spec, tuple(range(slots)), classes, seed=5, set_index=1).double(), spec)


def run(spec: DatasetSpec, matching: Matching, **given: Any) -> Pixels:
    canvas = given.pop("canvas", None) or canvas_of(spec)
    network = given.pop("network", "convnet2-w6-in")
    optim = given.pop("optim", PixelOptim(lr=0.5))
    match(canvas, matching, optim, problem_of(spec, network), split_of(spec), **{"compute": Compute(), **given})
    return canvas


DC_TRAINING = OnSynthetic(epochs=2, batch=4, lr=0.1)


def dc_matching(**changes: Any) -> Matching:
    return Matching(
        **{"what": "gradients", "networks": 2, "matches": 3, "training": DC_TRAINING, "batch_real": 5, **changes}
    )


def plain_dc(spec: DatasetSpec, alike: Alike | None) -> Tensor:
    """DC's algorithm with torch's optimisers, class by class, gradients of gradients, one graph for all classes."""
    problem, train, start = problem_of(spec), split_of(spec), canvas_of(spec)
    real = RealImages(train, spec, problem.classes, start.values)
    pixels = start.values.clone().requires_grad_()
    optimiser = torch.optim.SGD([pixels], lr=0.5, momentum=0.5)
    for k in range(2):
        network = network_of(problem, k).double()
        learning = torch.optim.SGD(network.parameters(), lr=0.1)
        for t in range(3):
            number, total = 3 * k + t, torch.zeros((), dtype=F64)
            for c in problem.classes:
                images, others = pixels[:, c], real.draw([c], 5, "real batch", 1, number, seed=5).images
                if alike is not None:
                    images, others = (
                        changed(alike, each, seeding.generator(5, "siamese", 1, number, c)) for each in (images, others)
                    )
                weights = weights_of(network, 2)
                theirs = torch.autograd.grad(loss_of(network, others, c), weights)
                mine = torch.autograd.grad(loss_of(network, images, c), weights, create_graph=True)
                pairs = zip(mine, theirs, strict=True)
                total = total + sum(plain_distance("row-cosine", a.flatten(1), b.flatten(1)) for a, b in pairs)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            if t == 2:
                break
            items = pixels.detach().transpose(0, 1).flatten(0, 1)
            targets = torch.tensor(problem.classes).repeat_interleave(len(pixels))
            for epoch in range(2):
                order = seeding.generator(5, "epoch on synthetic images", 1, number, epoch).permutation(len(items))
                for chosen in (order[:4], order[4:]):
                    learning.zero_grad()
                    functional.cross_entropy(network(items[chosen]), targets[chosen]).backward()
                    learning.step()
    return pixels.detach()


@pytest.mark.parametrize("augmented", [False, True])
def test_the_loop_equals_a_plain_program_of_dc(augmented: bool) -> None:
    spec = spec_of(8, 2)
    alike = Alike(families=views.FAMILIES, one=True) if augmented else None
    made = run(spec, dc_matching(alike=alike), clamp=False).values
    torch.testing.assert_close(made, plain_dc(spec, alike), rtol=1e-8, atol=1e-8)
    assert float((made - canvas_of(spec).values).abs().max()) > 0.01


def test_the_loop_equals_a_plain_program_of_dm() -> None:
    spec = spec_of(8, 1)
    problem, train, alike = problem_of(spec), split_of(spec), Alike(families=("scale", "crop"), one=True)
    pixels = canvas_of(spec).values.clone().requires_grad_()
    real, optimiser = RealImages(train, spec, (0, 1, 2), pixels), torch.optim.SGD([pixels], lr=0.5, momentum=0.5)
    for number in range(4):
        network, total = network_of(problem, number).double(), torch.zeros((), dtype=F64)
        for c in range(3):
            images, others = (
                changed(alike, each, seeding.generator(5, "siamese", 1, number, c))
                for each in (pixels[:, c], real.draw([c], 5, "real batch", 1, number, seed=5).images)
            )
            total += (network.features(images).mean(0) - network.features(others).mean(0)).square().sum()  # type: ignore[operator]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    made = run(spec, Matching(what="features", networks=4, batch_real=5, alike=alike), clamp=False).values
    torch.testing.assert_close(made, pixels.detach(), rtol=1e-8, atol=1e-8)


def test_the_loop_equals_a_plain_program_of_idc() -> None:
    """Squared distances of convolutions' gradients, a rate of pixels in [0, 1], networks that learn from real ones."""
    spec = spec_of(8, 2)
    problem, train, start = problem_of(spec), split_of(spec), canvas_of(spec).values
    canvas, training = Tiles(start, spec, 2), OnReal(images=12, batch=6, cutmix=0.5)
    alike = Alike(families=("color", "crop", "cutout"), one=False)
    real, network = RealImages(train, spec, problem.classes, start), network_of(problem, 0).double()
    learning = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    std = torch.tensor(spec.std, dtype=F64).view(-1, 1, 1)
    pixels = start.clone()
    for number in range(3):
        moved = torch.zeros_like(pixels)
        for c in problem.classes:
            stored = pixels[:, c].clone().requires_grad_()
            halves = [half for row in stored.split(4, 2) for half in row.split(4, 3)]
            images = torch.cat([functional.interpolate(half, (8, 8), mode="bilinear") for half in halves])
            others = real.draw([c], 5, "real batch", 1, number, seed=5).images
            images, others = (
                changed(alike, each, seeding.generator(5, "siamese", 1, number, c)) for each in (images, others)
            )
            weights = weights_of(network, 3)
            theirs = torch.autograd.grad(loss_of(network, others, c), weights)
            mine = torch.autograd.grad(loss_of(network, images, c), weights, create_graph=True)
            distance = sum((a - b).square().sum() for a, b in zip(mine, theirs, strict=True))
            moved[:, c] = torch.autograd.grad(distance, stored)[0]
        pixels = pixels - 0.02 * moved / std**2
        around = between_module.Around(seed=5, set_index=1, items=pixels, targets=pixels, real=real, mean=std, std=std)
        for step in training.steps(number, around):
            learning.zero_grad()
            between_module.loss_of(network(step.images), *step.tensors()[1:]).backward()
            learning.step()
    matching = dc_matching(networks=1, distance="mse", linear=False, training=training, alike=alike)
    made = run(spec, matching, canvas=canvas, clamp=False, optim=PixelOptim(lr=0.02, momentum=0.0, raw=True)).values
    torch.testing.assert_close(made, pixels, rtol=1e-8, atol=1e-8)
    assert float((made - start).abs().max()) > 0.01


@pytest.mark.parametrize("what", ["gradients", "features"])
def test_classes_may_go_through_the_network_one_by_one(what: Any) -> None:
    spec = spec_of(8, 2)
    matching = dc_matching() if what == "gradients" else Matching(what="features", networks=3, batch_real=5)
    network = build("convnet2-w6-in", channels=2, height=8, width=8, n_classes=3)
    one = image_bytes(network, 8, 8, synthetic=True, itemsize=8)  # type: ignore[arg-type]
    torch.testing.assert_close(
        run(spec, replace(matching, memory=2 * one)).values, run(spec, matching).values, rtol=1e-9, atol=1e-9
    )


def test_a_pool_of_as_many_networks_uses_each_real_side_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one network the pool is that network with its one batch, at every step."""
    spec, drawn = spec_of(8, 2), []
    draw = RealImages.draw
    monkeypatch.setattr(RealImages, "draw", lambda self, *a, **b: drawn.append(a) or draw(self, *a, **b))  # type: ignore[func-returns-value]
    made = run(spec, dc_matching(networks=4, matches=1, pool=1), clamp=False).values
    assert len(drawn) == 1
    problem, pixels = problem_of(spec), canvas_of(spec).values
    real, momentum = RealImages(split_of(spec), spec, (0, 1, 2), pixels), torch.zeros_like(pixels)
    plain = Plain(network_of(problem, 0).double(), Compute(), linear=True)
    images = [draw(real, [c], 5, "real batch of a pool", 1, 0, seed=5).images for c in range(3)]
    known = plain.gradients(Batch(torch.cat(images), (0, 1, 2), (5, 5, 5)))
    for _ in range(4):
        shown = Batch(pixels.transpose(0, 1).flatten(0, 1), (0, 1, 2), (2, 2, 2))
        _, moved = plain.match_gradients(shown, known, row_cosine)
        momentum = 0.5 * momentum + moved.unflatten(0, (3, 2)).transpose(0, 1)
        pixels = pixels - 0.5 * momentum
    torch.testing.assert_close(made, pixels, rtol=1e-8, atol=1e-8)


def stock_of(spec: DatasetSpec, members: int = 2, snapshots: int = 3) -> list[Grown]:
    """Networks as if they had learnt: each snapshot has weights of its own."""
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width, "n_classes": spec.n_classes}
    seeds = [[10 * member + number for number in range(snapshots)] for member in range(members)]
    made = [[build("convnet2-w6-in", **shape, seed=seed) for seed in some] for some in seeds]
    return [Grown("convnet2-w6-in", np.stack([flat_weights(one).numpy() for one in some])) for some in made]


POOLED = dc_matching(networks=5, matches=1, training=None, distance="mse", linear=False, taken="snapshots")


@pytest.mark.parametrize("augmented", [False, True])
def test_the_loop_equals_a_plain_program_of_idc_with_a_pool(augmented: bool) -> None:
    """A snapshot for each step; where nothing changes images, it has one real batch for good."""
    spec = spec_of(8, 2)
    problem, grown, start = problem_of(spec), stock_of(spec), canvas_of(spec).values
    alike = Alike(families=("color", "crop", "cutout"), one=False) if augmented else None
    real, network = RealImages(split_of(spec), spec, problem.classes, start), network_of(problem, 0).double()
    weights, pixels, names = weights_of(network, 3), start.clone(), []
    for number in range(5):
        draws = seeding.generator(5, "network of a stock", 1, number)
        member, snapshot = int(draws.integers(2)), int(draws.integers(3))
        names.append(3 * member + snapshot)
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(grown[member].snapshots[snapshot]).double(), network.parameters()
        )
        moved = torch.zeros_like(pixels)
        for c in problem.classes:
            images = pixels[:, c].clone().requires_grad_()
            if alike is None:
                shown, others = images, real.draw([c], 5, "real batch of a pool", 1, names[-1], seed=5).images
            else:
                others = real.draw([c], 5, "real batch", 1, number, seed=5).images
                shown, others = (
                    changed(alike, each, seeding.generator(5, "siamese", 1, number, c)) for each in (images, others)
                )
            theirs = torch.autograd.grad(loss_of(network, others, c), weights)
            mine = torch.autograd.grad(loss_of(network, shown, c), weights, create_graph=True)
            distance = sum((a - b).square().sum() for a, b in zip(mine, theirs, strict=True))
            moved[:, c] = torch.autograd.grad(distance, images)[0]
        pixels = pixels - 0.5 * moved
    optim = PixelOptim(lr=0.5, momentum=0.0)
    made = run(spec, replace(POOLED, alike=alike), grown=grown, clamp=False, optim=optim).values
    torch.testing.assert_close(made, pixels, rtol=1e-8, atol=1e-8)
    assert len(set(names)) < len(names)
    assert float((made - start).abs().max()) > 0.01


@pytest.mark.parametrize(("keep", "held"), [(2**30, 4), (0, 0), (15_000, 1), (25_000, 2)])
def test_real_gradients_that_do_not_fit_are_computed_again(
    keep: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same pixels. A snapshot has 10,368 bytes of gradients; the first that come are kept."""
    spec, drawn, draw = spec_of(8, 2), [], RealImages.draw
    grown, wanted = stock_of(spec, snapshots=2), replace(POOLED, networks=20)
    whole = run(spec, wanted, grown=grown).values
    monkeypatch.setattr(RealImages, "draw", lambda self, *a, **b: drawn.append(a) or draw(self, *a, **b))  # type: ignore[func-returns-value]
    assert torch.equal(run(spec, replace(wanted, keep=keep), grown=grown).values, whole)
    names = [Stock(grown, "snapshots", seed=5, set_index=1).draw(number)[1] for number in range(20)]
    first = list(dict.fromkeys(names))[:held]
    assert len(drawn) == held + sum(name not in first for name in names)


class Interrupted(Exception):
    pass


class Memory:
    """A checkpoint that is always due and, once, ends the run after ``stop`` saves."""

    def __init__(self, stop: int) -> None:
        self.state: dict[str, Tensor] | None = None
        self.left = stop

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        self.left -= 1
        if self.left == 0:
            raise Interrupted


IDC_MATCHING = dc_matching(
    training=OnReal(images=12, batch=6), linear=False, alike=Alike(families=("color", "crop", "cutout"), one=False)
)
RESUMED = [
    pytest.param(dc_matching(), "sgd", id="dc"),
    pytest.param(IDC_MATCHING, "sgd", id="idc"),
    pytest.param(Matching(what="features", networks=6, batch_real=5, pool=2), "adam", id="pool"),
    pytest.param(replace(POOLED, networks=6), "adamw", id="snapshots"),
]


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(("matching", "optimizer"), RESUMED)
def test_a_resumed_run_ends_with_the_same_bits(matching: Matching, optimizer: Any, stop: int) -> None:
    spec = spec_of(8, 2)

    def start() -> Pixels:
        return Tiles(canvas_of(spec).values.float(), spec, 2)

    optim = PixelOptim(lr=0.05, optimizer=optimizer)
    grown = stock_of(spec)
    whole = run(spec, matching, canvas=start(), optim=optim, grown=grown).values
    memory = Memory(stop)
    with pytest.raises(Interrupted):
        run(spec, matching, canvas=start(), optim=optim, checkpoint=memory, grown=grown)
    resumed = run(spec, matching, canvas=start(), optim=optim, checkpoint=memory, grown=grown).values
    assert torch.equal(resumed, whole)
    assert not torch.equal(whole, start().values)


def test_networks_of_a_run_are_trained_and_then_replaced() -> None:
    """Without training in between the result is another, and so it is with another network."""
    spec = spec_of(8, 2)
    results = [
        run(spec, one).values
        for one in (dc_matching(), dc_matching(training=None), dc_matching(networks=6, matches=1, training=None))
    ]
    assert all(not torch.equal(results[a], results[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("clamp", [True, False])
def test_pixels_stay_valid_if_they_are_to(clamp: bool) -> None:
    spec = spec_of(8, 2)
    canvas = run(spec, dc_matching(), clamp=clamp, optim=PixelOptim(lr=5.0))
    outside = (canvas.values < canvas.low - 1e-9) | (canvas.values > canvas.high + 1e-9)
    assert bool(outside.any()) != clamp


def test_a_rate_of_pixels_counts_in_pixels() -> None:
    """A step in [0, 1], normalised, is the gradient there over the standard deviation squared."""
    spec, matching = spec_of(8, 2), dc_matching(networks=1, matches=1)
    start = canvas_of(spec).values
    plain, raw = (
        run(spec, matching, clamp=False, optim=PixelOptim(lr=0.1, raw=raw)).values - start for raw in (False, True)
    )
    std = torch.tensor(spec.std, dtype=F64).view(-1, 1, 1)
    torch.testing.assert_close(raw, plain / std**2, rtol=1e-9, atol=1e-12)


def test_divergence_names_seed_and_step() -> None:
    canvas = canvas_of(spec_of(8, 2))
    canvas.values[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(MethodError, match=r"dc diverged \(seed 5, set 1\): .* not finite at step 6; lower lr"):
        run(spec_of(8, 2), dc_matching(), canvas=canvas)


@pytest.mark.parametrize("network", ["convnet2-w6-bn", "resnet8"])
@pytest.mark.parametrize("what", ["gradients", "features"])
def test_other_networks_take_the_plain_form_and_say_so(network: str, what: Any) -> None:
    said: list[str] = []
    matching = dc_matching(what=what, networks=1, matches=2 if what == "gradients" else 1)
    canvas = run(spec_of(8, 2), matching, network=network, report=lambda stage, *_: said.append(stage))
    assert said[0] == f"no fast form for {network}: class by class, which is slow"
    assert bool(canvas.values.isfinite().all())


def test_batch_norm_settles_before_gradients_are_matched() -> None:
    """On 16 real images of each class, once a step, and then keeps what it has seen of them."""
    spec = spec_of(8, 2)
    problem, pixels = problem_of(spec, "convnet2-w6-bn"), canvas_of(spec).values
    real = RealImages(split_of(spec), spec, (0, 1, 2), pixels)
    network = network_of(problem, 0).double()
    for number in range(2):
        with torch.no_grad():
            network.train()(
                torch.cat([real.draw([c], 16, "images for batch norm", 1, number, seed=5).images for c in range(3)])
            )
        network.eval()
        moved = torch.zeros_like(pixels)
        for c in range(3):
            images, weights = pixels[:, c].clone().requires_grad_(), weights_of(network, 2)
            theirs = torch.autograd.grad(
                loss_of(network, real.draw([c], 5, "real batch", 1, number, seed=5).images, c), weights
            )
            mine = torch.autograd.grad(loss_of(network, images, c), weights, create_graph=True)
            pairs = zip(mine, theirs, strict=True)
            distance = sum(plain_distance("row-cosine", a.flatten(1), b.flatten(1)) for a, b in pairs)
            moved[:, c] = torch.autograd.grad(distance, images)[0]
        pixels = pixels - 0.5 * moved
    matching = dc_matching(networks=1, matches=2, training=None)
    optim = PixelOptim(lr=0.5, momentum=0.0)
    made = run(spec, matching, network="convnet2-w6-bn", clamp=False, optim=optim).values
    torch.testing.assert_close(made, pixels, rtol=1e-8, atol=1e-8)


def test_a_network_is_not_trained_after_its_last_match(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    monkeypatch.setattr(between_module.Trainer, "advance", lambda self, number, around: trained.append(number))
    run(spec_of(8, 2), dc_matching())
    assert trained == [0, 1, 3, 4]


def test_batch_norm_sees_all_classes_at_once_where_features_are_matched() -> None:
    spec = spec_of(8, 2)
    problem, pixels = problem_of(spec, "convnet2-w6-bn"), canvas_of(spec).values.clone().requires_grad_()
    real = RealImages(split_of(spec), spec, (0, 1, 2), pixels)
    network = network_of(problem, 0).double()
    others = torch.cat([real.draw([c], 5, "real batch", 1, 0, seed=5).images for c in range(3)])
    wanted = network.features(others).detach()  # type: ignore[operator]
    found = network.features(pixels.transpose(0, 1).flatten(0, 1))  # type: ignore[operator]
    total = sum((found[2 * c : 2 * c + 2].mean(0) - wanted[5 * c : 5 * c + 5].mean(0)).square().sum() for c in range(3))
    (slope,) = torch.autograd.grad(total, pixels)
    made = run(spec, Matching(what="features", networks=1, batch_real=5), network="convnet2-w6-bn", clamp=False).values
    torch.testing.assert_close(made, (pixels - 0.5 * slope).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(3, 40), (7, 1, 30, 2), (9,) * 60])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_classes_serve(sizes: tuple[int, ...], channels: int) -> None:
    """Two or many, of different sizes, smaller than the batch, grey or not."""
    spec = spec_of(8, channels, sizes)
    canvas = run(spec, dc_matching(networks=1, matches=2, batch_real=8), network="convnet1-w4-in")
    assert canvas.rows().shape == (2 * len(sizes), 8, 8, channels)
    assert not torch.equal(canvas.values, canvas_of(spec).values)


def test_real_batches_are_distinct_images_of_the_class() -> None:
    spec = spec_of(8, 3, (7, 30, 12))
    train = split_of(spec)
    real = RealImages(train, spec, (0, 1, 2), torch.zeros(1, dtype=F64))
    own = normalise(to_pixels(train.images), spec).double()
    for label, count in ((0, 7), (1, 9), (2, 9)):
        drawn = real.draw([label], 9, "real batch", 0, 4, seed=1).images
        assert len(drawn) == count
        places = [int((own == one).flatten(1).all(1).nonzero()) for one in drawn]
        assert len(set(places)) == count
        assert (train.labels[places] == label).all()
    assert not torch.equal(*(real.draw([1], 9, "real batch", 0, step, seed=1).images for step in (0, 1)))


def test_a_class_without_images_is_refused() -> None:
    spec = spec_of(8, 3, (5, 5, 5))
    train = Split(split_of(spec).images[:10], split_of(spec).labels[:10])
    with pytest.raises(DataError, match='class "class 2" of tiny has no training images to match'):
        RealImages(train, spec, (0, 1, 2), torch.zeros(1))


def test_cutmix_weights_targets_by_the_area_that_is_left() -> None:
    marked = torch.arange(6.0)[:, None, None, None].expand(6, 1, 10, 8).contiguous()
    shares = set()
    for number in range(40):
        step = between_module.cut_and_mixed(marked, torch.arange(6), seeding.generator(number, "draws"))
        assert step.others is not None
        for image, own, other in zip(step.images, step.targets, step.others, strict=True):
            assert set(image.unique().tolist()) <= {float(own), float(other)}
            if own != other:
                assert float((image == own).double().mean()) == pytest.approx(step.share)
        shares.add(step.share)
        logits = random_tensor(6, 6, seed=number)
        plain = sum(
            -step.share * row.log_softmax(0)[own] - (1 - step.share) * row.log_softmax(0)[other]
            for row, own, other in zip(logits, step.targets, step.others, strict=True)
        )
        torch.testing.assert_close(between_module.loss_of(logits, *step.tensors()[1:]), plain / 6)
    assert min(shares) < 0.5
    assert max(shares) > 0.9


def test_a_pass_over_real_images_takes_each_once() -> None:
    spec = spec_of(8, 1, (8, 8))
    real = RealImages(split_of(spec), spec, (0, 1), torch.zeros(1, dtype=F64))
    around = between_module.Around(
        seed=0,
        set_index=0,
        items=torch.empty(0),
        targets=torch.empty(0),
        real=real,
        mean=torch.zeros(1, 1, 1),
        std=torch.ones(1, 1, 1),
    )
    training = OnReal(images=4, batch=4, cutmix=0.0, families=())
    seen = torch.cat([step.images for number in range(4) for step in training.steps(number, around)])
    assert len(seen.flatten(1).unique(dim=0)) == 16
    again = torch.cat([step.images for number in range(4, 8) for step in training.steps(number, around)])
    assert len(again.flatten(1).unique(dim=0)) == 16
    assert not torch.equal(seen, again)


# --- methods -------------------------------------------------------------------------------------------------------

SHORT = {"networks": 1, "batch_real": 8, "network": "convnet2-w8-in"}


def method_of(name: str, **settings: Any) -> Method:
    return METHODS[name](from_mapping(METHODS[name].Config, {**SHORT, **settings}))


def do(method: Method, data: Data, job: SynthesisJob, checkpoint: Checkpoint = NoCheckpoint()) -> Rows:
    return method.synthesise(
        job,
        teachers=(),
        train=data.train,
        precomputed=None,
        compute=Compute(),
        report=silent,
        checkpoint=checkpoint,
    )


@pytest.mark.parametrize("name", ["dc", "dsa", "dm", "idc"])
def test_a_set_is_one_job_and_a_part_of_it_the_same_slots(name: str, tiny_data: Data) -> None:
    settings = {} if name == "dm" else {"matches": 2}
    method = method_of(name, **settings)
    [job] = method.jobs(tiny_data.spec, 4, 0, 3)
    assert (job.slots, job.classes, job.ipc) == ((0, 1, 2, 3), (0, 1, 2), 4)
    whole, half = do(method, tiny_data, job), do(method, tiny_data, replace(job, slots=(2, 3)))
    np.testing.assert_array_equal(half.pixels, whole.pixels[6:])
    np.testing.assert_array_equal(half.slots, whole.slots[6:])


def test_a_pool_of_idc_learns_as_its_networks_do() -> None:
    """As many steps as between the matches of one network, and as many matches in all; off unless it is asked for."""
    spec = spec_of(32)
    method = METHODS["idc"](from_mapping(METHODS["idc"].Config, {"pool": 3, "networks": 7}))
    growths = method.growths(spec, 4)
    assert [growth.number for growth in growths] == [0, 1, 2]
    assert (growths[0].snapshots, growths[0].every) == (20, -(-99 * 32 // 20))
    assert method.needs.precomputed == "grown networks"
    matching = method.matching(spec, 1)  # type: ignore[attr-defined]
    assert (matching.networks, matching.matches, matching.training) == (700, 1, None)
    assert not matching.keeps_real_sides
    published = METHODS["idc"](METHODS["idc"].Config())
    assert published.needs.precomputed == "none"
    assert published.growths(spec, 4) == ()
    assert not set(identity(published.config)) & {"pool", "pool_snapshots", "pool_memory", "augment"}


def test_a_network_of_idcs_pool_is_one_that_learnt_between_matches() -> None:
    """Its optimiser and its changes are those of the networks that learn while images are matched."""
    spec, short = spec_of(8, 2), {"network": "convnet2-w6-in", "pool": 1, "matches": 3, "train_images": 128}
    method = METHODS["idc"](from_mapping(METHODS["idc"].Config, {**short, "pool_snapshots": 2, "cutmix": 0.0}))
    [growth] = method.growths(spec, 4)
    training = replace(METHODS["idc"](METHODS["idc"].Config()).matching(spec, 1).training, cutmix=0.0)  # type: ignore[attr-defined]
    assert (growth.batch, growth.families, growth.one_of) == (training.batch, training.families, ())
    made = grow(split_of(spec), spec, growth, compute=Compute())
    shape = {"channels": 2, "height": 8, "width": 8, "n_classes": 3}
    network = build("convnet2-w6-in", **shape, seed=seeding.key(4, "network of a pool", 0))
    learning = training.optimiser(network)
    train, everything = split_of(spec), np.arange(120)
    for place in range(4):
        order = seeding.generator(4, "order of a pool's images", 0, place).permutation(everything)[:64]
        draws = seeding.generator(4, "step of a pool's network", 0, place)
        images = between_module.each_changed(normalise(to_pixels(train.images[order]), spec), ("color", "crop"), draws)
        learning.zero_grad()
        functional.cross_entropy(network(images), torch.from_numpy(train.labels[order])).backward()
        learning.step()
    torch.testing.assert_close(made.at(2), flat_weights(network), rtol=1e-4, atol=1e-6)


def test_unbounded_pixels_are_clipped_and_rounded_where_they_are_stored(tiny_data: Data) -> None:
    method = method_of("dm", clamp=False, lr=1e4, augment="none")
    [job] = method.jobs(tiny_data.spec, 2, 0, 3)
    given: dict[str, Any] = {"compute": Compute(), "report": silent, "checkpoint": NoCheckpoint()}
    canvas = method.optimised(job, train=tiny_data.train, precomputed=None, **given)  # type: ignore[attr-defined]
    levels = 255 * (canvas.values * canvas.std + canvas.mean)
    assert float(levels.max()) > 260
    assert float(levels.min()) < -5
    wanted = levels.clamp(0, 255).round().flatten(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(do(method, tiny_data, job).pixels, wanted.astype(np.uint8))


def test_k_means_starts_from_different_real_images(tiny_data: Data) -> None:
    method = method_of("dm", start="k-means", lr=1e-9)
    [job] = method.jobs(tiny_data.spec, 5, 0, 3)
    rows = do(method, tiny_data, job)
    for pixels, label in zip(rows.pixels, rows.labels, strict=True):
        own = tiny_data.train.images[tiny_data.train.labels == label].astype(int)
        assert np.abs(own - pixels).max((1, 2, 3)).min() <= 1
    assert len(np.unique(rows.pixels, axis=0)) == 15


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_idc_stores_tiles(factor: int, tiny_data: Data) -> None:
    """A job of no steps to speak of holds, tile by tile, real images made small."""
    method = method_of("idc", factor=factor, matches=1, lr=1e-12)
    [job] = method.jobs(tiny_data.spec, 2, 0, 3)
    rows = do(method, tiny_data, job)
    assert method.canvas.name == ("pixels" if factor == 1 else "tiles")
    assert dict(method.canvas.settings) == ({} if factor == 1 else {"factor": factor})
    side = 12 // factor
    own = tiny_data.train.images.reshape(120, side, factor, side, factor, 3).mean((2, 4))
    tile = rows.pixels[4, -side:, :side]
    assert np.abs(own[tiny_data.train.labels == rows.labels[4]] - tile).max((1, 2, 3)).min() <= 0.51


def test_published_loops() -> None:
    assert [published(ipc) for ipc in (1, 5, 10, 19, 20, 50, 200)] == [
        (1, 1),
        (1, 1),
        (10, 50),
        (10, 50),
        (20, 25),
        (50, 10),
        (50, 10),
    ]
    dc = METHODS["dc"](METHODS["dc"].Config())
    matching = dc.matching(spec_of(), 10)  # type: ignore[attr-defined]
    assert (matching.networks, matching.matches, matching.training.epochs) == (1000, 10, 50)
    assert (matching.distance, matching.linear, matching.batch_real) == ("row-cosine", True, 256)
    cifar, fashion = spec_of(32), replace(spec_of(28, 1), name="fashion-mnist")
    assert published_lr(cifar, 10) == pytest.approx(5e-3)
    assert published_lr(fashion, 1) == pytest.approx(1e-5 * (28 / 32) ** 2)
    assert published_lr(replace(fashion, name="mnist"), 50) == pytest.approx(5e-4)
    assert published_lr(spec_of(224), 20) == pytest.approx(6e-3)
    idc = METHODS["idc"](METHODS["idc"].Config())
    large, small = idc.matching(cifar, 10), idc.matching(fashion, 10)  # type: ignore[attr-defined]
    assert (large.distance, large.training.images) == ("mse", 2000)
    assert (small.distance, small.training.images, small.linear) == ("l1", 500, False)
    dsa = METHODS["dsa"](METHODS["dsa"].Config())
    assert "flip" in dsa.matching(cifar, 1).alike.families  # type: ignore[attr-defined]
    assert "flip" not in dsa.matching(replace(cifar, name="svhn"), 1).alike.families  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "ipc", "kind", "message"),
    [
        ("dsa", {}, 41, MethodError, r'needs 41 real images per class, but class "rows" of tiny has 40'),
        ("dm", {"network": "convnet4-in"}, 1, NetworkError, "convnet4 halves the image 4 times .* at least 16 px"),
        ("idc", {"factor": 5}, 1, MethodError, "idc: factor is 5, which does not divide images of 12 x 12"),
        (
            "dc",
            {"network": "convnet2-in", "step_memory": 1},
            10,
            MethodError,
            r"dc needs about \d+ MB for the 10 synthetic images of one class, and step_memory is 1; raise it to \d+",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    name: str, settings: dict[str, Any], ipc: int, kind: type[CondenseError], message: str, tiny_data: Data
) -> None:
    method = method_of(name, **settings)
    with pytest.raises(kind, match=message):
        method.check(tiny_data.spec, ipc)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dc", {"networks": 0}, "networks must be at least 1, got 0"),
        ("dc", {"matches": 0}, "matches must be at least 1, got 0"),
        ("dc", {"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ("dc", {"pool": 3}, "pool is 3: its networks' gradients .* set matches=1 with it"),
        ("dm", {"pool": 3}, "pool is 3: what its networks say .* set augment=none with it"),
        ("dsa", {"pool": 3, "matches": 1}, "set augment=none with it"),
        ("dm", {"pool": -1, "augment": "none"}, "pool must be at least 0, got -1"),
        ("dm", {"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        ("dm", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("idc", {"cutmix": 2.0}, "cutmix is 2.0; expected a probability"),
        ("idc", {"factor": 0}, "factor must be at least 1, got 0"),
        ("idc", {"pool": 3, "matches": 1}, "pool is 3, but with matches=1 networks do not learn between steps"),
        ("idc", {"pool": -1}, "pool must be at least 0, got -1"),
        ("idc", {"pool_snapshots": 0}, "pool_snapshots must be at least 1, got 0"),
        ("idc", {"augment": "dsa"}, 'augment is "dsa"; expected one of idc, none'),
        ("idc", {"lr": -1.0}, "lr must be above 0 and finite, got -1.0"),
        ("dc", {"step_memory": 0}, "step_memory must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        METHODS[name].Config(**settings)


def test_unknown_choices_are_refused() -> None:
    for name, settings in (
        ("dc", {"distance": "l2"}),
        ("dc", {"start": "black"}),
        ("dm", {"augment": "dsq"}),
        ("dm", {"optimizer": "lion"}),
    ):
        with pytest.raises(ConfigError, match=r'is "[a-z0-9]+"; expected one of'):
            METHODS[name].Config(**settings)


def test_public_names_are_there() -> None:
    assert all(hasattr(package, name) for name in package.__all__)


def test_a_set_of_matched_images_has_classes_for_labels_and_trains_no_teacher(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"network": "convnet2-w4-in"}
    given: dict[str, Any] = {"data": "fashion-mini", "method": "dm", "ipc": 1, "quick": True, "settings": settings}
    machine = Machine(store=tmp_path / "store")
    [folder] = condense.distill(**given, out=tmp_path / "set", machine=machine)
    dataset = condense.load(folder)
    assert dataset.only_hard
    assert not dataset.info.teachers
    kinds = {event["kind"] for event in finished_jobs(tmp_path / "store" / "runs")}
    assert kinds == {"rows", "images", "labels", "set"}
