"""NCFM: formulas against plain loops, movers against torch's optimisers, the loop against a plain program."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import condense
from condense import seeding
from condense.canvas import Pixels, Tiles, noise_start
from condense.checkpoint import NoCheckpoint
from condense.config import from_mapping
from condense.data import Data, DatasetSpec, Split
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.engine.job import in_order
from condense.engine.store import Store
from condense.errors import ConfigError, MethodError
from condense.matching import Alike, Grown, Growth, Matching, PixelOptim, Problem, Spectrum, flat_weights, grow, match
from condense.matching import grown as grown_module
from condense.matching import mover as mover_module
from condense.matching.between import cut_and_mixed
from condense.matching.characteristic import FrequencyNetwork, Spectral, discrepancy, waves
from condense.matching.convnet import image_bytes
from condense.matching.grown import Stock, load_flat
from condense.matching.mover import Mover
from condense.methods import METHODS
from condense.networks import build
from condense.pipeline import Context, DataRequest, distill, estimate, resolve
from condense.pipeline.estimate import _Prober
from condense.pipeline.plans import set_jobs
from condense.progress import silent
from condense.training import OptimConfig
from condense.views import augment as views

F64 = torch.float64
TINY = 1e-30
"""For eps of AdamW: what comes of it is not the same where steps are summed, though far below what a pixel holds."""

SPEC = DatasetSpec(
    name="tiny",
    classes=("a", "b", "c"),
    channels=2,
    height=8,
    width=8,
    mean=(0.4, 0.6),
    std=(0.25, 0.3),
    train_sizes=(14, 12, 9),
    test_sizes=(1, 1, 1),
    fingerprint="0" * 64,
)
NETWORK = "convnet2-w6-in"


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(seeding.generator(seed, "test values").standard_normal(shape))


def split() -> Split:
    random = seeding.generator(1, "split")
    labels = np.repeat(np.arange(3), SPEC.train_sizes)
    images = random.integers(0, 256, (len(labels), 8, 8, 2)) // 2 + 40 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


def network_of(seed: int = 0, name: str = NETWORK) -> nn.Module:
    return build(name, channels=2, height=8, width=8, n_classes=3, seed=seed)


def stock_of(members: int = 2, snapshots: int = 2) -> list[Grown]:
    return [
        Grown(NETWORK, np.stack([flat_weights(network_of(10 * n + k)).numpy() for k in range(snapshots)]))
        for n in range(members)
    ]


# --- the discrepancy -----------------------------------------------------------------------------------------------


def plain_value(features: Tensor, frequency: Tensor) -> complex:
    """The characteristic function at one frequency, number by number."""
    total = 0j
    for feature in features:
        length = math.sqrt(sum(float(x) ** 2 for x in feature))
        total += cmath.exp(1j * sum(float(t) * float(x) / length for t, x in zip(frequency, feature, strict=True)))
    return total / len(features)


def plain_discrepancy(mine: Tensor, theirs: Tensor, frequencies: Tensor, amplitude: float, phase: float) -> float:
    """The paper's equations on complex numbers: a difference of sizes, and 2 A B (1 - cosine of the angle between)."""
    total = 0.0
    for frequency in frequencies:
        one, other = plain_value(mine, frequency), plain_value(theirs, frequency)
        angle = cmath.phase(one) - cmath.phase(other)
        turned = max(2 * abs(one) * abs(other) * (1 - math.cos(angle)), 1e-12)
        total += math.sqrt(amplitude * (abs(one) - abs(other)) ** 2 + phase * turned)
    return total / len(frequencies)


@pytest.mark.parametrize(("amplitude", "phase"), [(0.5, 0.5), (1.0, 1.0), (0.0, 2.0), (0.7, 0.0)])
def test_the_discrepancy_is_that_of_complex_numbers(amplitude: float, phase: float) -> None:
    mine, theirs, frequencies = (random_tensor(n, 5, seed=n) for n in (7, 6, 4))
    found = discrepancy(
        waves(mine, [(0, 3), (3, 7)], frequencies), waves(theirs, [(0, 4), (4, 6)], frequencies), amplitude, phase
    )
    for k, (some, others) in enumerate(((mine[:3], theirs[:4]), (mine[3:], theirs[4:]))):
        wanted = plain_discrepancy(some, others, frequencies, amplitude, phase)
        assert float(found[k]) == pytest.approx(wanted, rel=1e-10)
        if amplitude == phase == 1:
            distances = [abs(plain_value(some, t) - plain_value(others, t)) for t in frequencies]
            assert wanted == pytest.approx(np.mean(distances), rel=1e-9)


def test_the_derivative_is_that_of_the_plain_discrepancy() -> None:
    mine, theirs, frequencies = (random_tensor(n, 5, seed=n) for n in (3, 6, 4))
    spectral = Spectral(Spectrum(frequencies=4, scale=7.0), 5, mine, seed=0, set_index=0)
    spectral.begin(0)
    spectral.frequencies = frequencies
    losses, slope = spectral.judge(spectral.of(theirs, [(0, 6)]), [(0, 3)])(mine)
    assert float(losses) == pytest.approx(7 * plain_discrepancy(mine, theirs, frequencies, 0.5, 0.5), rel=1e-10)
    for place in ((0, 0), (1, 3), (2, 4)):
        sides = []
        for step in (1e-6, -1e-6):
            moved = mine.clone()
            moved[place] += step
            sides.append(7 * plain_discrepancy(moved, theirs, frequencies, 0.5, 0.5))
        assert float(slope[place]) == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)


def test_laws_of_the_discrepancy() -> None:
    features, frequencies = random_tensor(6, 5), random_tensor(9, 5, seed=1)
    own = waves(features, [(0, 6)], frequencies)
    assert float(discrepancy(own, own, 0.5, 0.5)) == pytest.approx(math.sqrt(0.5e-12), rel=1e-6)
    shuffled = waves(3 * features.flip(0), [(0, 6)], frequencies)  # lengths do not count
    torch.testing.assert_close(torch.stack(own), torch.stack(shuffled), rtol=1e-12, atol=1e-12)
    smaller, turned = (own[0] * 0.8, own[1] * 0.8), (own[0] * 0.6 - own[1] * 0.8, own[0] * 0.8 + own[1] * 0.6)
    assert float(discrepancy(own, smaller, 0.0, 1.0)) == pytest.approx(1e-6, rel=1e-3)
    assert float(discrepancy(own, smaller, 1.0, 0.0)) > 0.05
    assert float(discrepancy(own, turned, 1.0, 0.0)) < 1e-7
    assert float(discrepancy(own, turned, 0.0, 1.0)) > 0.05


def test_nothing_is_infinite_where_roots_are_taken_of_nothing() -> None:
    zeros = [torch.zeros(1, 3, dtype=F64, requires_grad=True) for _ in range(2)]
    for weights in ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0)):
        found = discrepancy((zeros[0], zeros[1]), (zeros[0].detach(), zeros[1].detach()), *weights)
        assert all(bool(one.isfinite().all()) for one in torch.autograd.grad(found.sum(), zeros))


def plain_frequencies(network: FrequencyNetwork, noise: Tensor) -> Tensor:
    """Three blocks: linear, batch norm, leaky ReLU of slope 0.2 twice and then tanh; the second, 1e-5, is PyTorch's."""
    weights = list(network.parameters())
    made = noise
    for block in range(3):
        weight, bias, scale, shift = weights[4 * block : 4 * block + 4]
        made = made @ weight.T + bias
        made = (made - made.mean(0)) / torch.sqrt(made.var(0, unbiased=False) + 1e-5) * scale + shift
        made = torch.tanh(made) if block == 2 else torch.where(made > 0, made, 0.2 * made)
    return made


def test_the_frequency_network_climbs() -> None:
    """Its step is that of gradient ascent on the losses of all classes that were judged, and makes them greater."""
    like = torch.zeros(1, dtype=F64)
    spectral = Spectral(Spectrum(frequencies=64, learnt=True, lr=0.05, scale=3.0), 5, like, seed=4, set_index=1)
    copy = Spectral(spectral.spectrum, 5, like, seed=4, set_index=1)
    assert spectral.network is not None
    assert copy.network is not None
    mine, theirs = random_tensor(5, 5, seed=1), random_tensor(8, 5, seed=2)
    noise = torch.randn(4, 5, generator=seeding.torch_generator(4, "frequencies", 1, 0)).double()
    before, bounds = [], ([(0, 2), (2, 5)], [(0, 4), (4, 8)])
    for _ in range(3):
        spectral.begin(0)
        wanted = plain_frequencies(copy.network, noise)
        torch.testing.assert_close(spectral.frequencies.detach(), wanted.detach(), rtol=1e-10, atol=1e-10)
        losses, _ = spectral.judge(spectral.of(theirs, bounds[1]), bounds[0])(mine)
        loss = 3 * discrepancy(waves(mine, bounds[0], wanted), waves(theirs, bounds[1], wanted), 0.5, 0.5).sum()
        torch.testing.assert_close(losses.sum(), loss.detach(), rtol=1e-10, atol=1e-10)
        learning = torch.optim.SGD(copy.network.parameters(), lr=0.05, maximize=True)
        learning.zero_grad()
        loss.backward()
        learning.step()
        spectral.ascend()
        before.append(float(loss.detach()))
    for mine_, other in zip(spectral.network.parameters(), copy.network.parameters(), strict=True):
        torch.testing.assert_close(mine_, other, rtol=1e-8, atol=1e-8)
    assert before[0] < before[1] < before[2]


# --- how pixels move -----------------------------------------------------------------------------------------------


def canvas_of(slots: int = 2) -> Pixels:
    return Pixels(noise_start(SPEC, tuple(range(slots)), (0, 1, 2), seed=5, set_index=1).double(), SPEC)


MEAN, STD = (torch.tensor(each, dtype=F64).view(-1, 1, 1) for each in (SPEC.mean, SPEC.std))


@pytest.mark.parametrize("idle", [0, 1, 9])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_without_a_gradient_are_those_of_torch(
    optimizer: Any, idle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pixels in [0, 1], with torch's optimisers, one step after the other; eps is not 0, but nearly."""
    monkeypatch.setattr(mover_module, "EPS", TINY)
    canvas = canvas_of()
    decay = 0.05 if optimizer == "adamw" else 0.0
    mover = Mover(canvas, PixelOptim(optimizer=optimizer, lr=0.02, raw=True, weight_decay=decay, idle=idle))
    raw = (canvas.values * STD + MEAN).requires_grad_()
    torchs: torch.optim.Optimizer = torch.optim.SGD([raw], lr=0.02, momentum=0.5)
    if optimizer == "adamw":
        torchs = torch.optim.AdamW([raw], lr=0.02, weight_decay=0.05, eps=TINY)
    for number in range(4):
        gradient = random_tensor(*raw.shape, seed=number)
        mover.step(canvas.values, gradient)
        raw.grad = gradient / STD  # of pixels in [0, 1]
        torchs.step()
        for _ in range(idle):
            raw.grad = torch.zeros_like(raw)
            torchs.step()
    torch.testing.assert_close(canvas.values * STD + MEAN, raw.detach(), rtol=1e-8, atol=1e-8)


def test_taking_turns_is_near_one_optimiser_that_serves_the_classes_in_turn() -> None:
    """Classes differ only in which step is their first: that counts in the first steps, and then no more."""
    canvas = canvas_of()
    mover = Mover(canvas, PixelOptim(optimizer="adamw", lr=1e-3, idle=2, weight_decay=5e-4))
    raw = (canvas.values * STD + MEAN).requires_grad_()
    torchs = torch.optim.AdamW([raw], lr=1e-3, weight_decay=5e-4)
    start = raw.detach().clone()
    for number in range(60):
        gradient = random_tensor(*raw.shape, seed=number) + 0.5
        mover.step(canvas.values, gradient)
        for label in range(3):
            raw.grad = torch.zeros_like(raw)
            raw.grad[:, label] = gradient[:, label] / STD
            torchs.step()
    moved, wanted = canvas.values * STD + MEAN - start, raw.detach() - start
    assert float((moved - wanted).abs().mean() / wanted.abs().mean()) < 0.05


def test_a_plateau_halves_the_rate_as_torchs_scheduler_does() -> None:
    canvas = canvas_of()
    mover = Mover(canvas, PixelOptim(optimizer="adamw", lr=0.1, patience=3))
    assert mover.plateau is not None
    parameter = nn.Parameter(torch.zeros(1))
    torchs = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torchs, factor=0.5, patience=3)
    random = seeding.generator(3, "losses")
    for number in range(120):
        loss = 2.0 / (1 + number // 30) + 0.1 * random.random()
        mover.see(torch.tensor(loss, dtype=F64))
        scheduler.step(loss)
        assert 0.1 * float(mover.plateau.factor) == pytest.approx(torchs.param_groups[0]["lr"], rel=1e-12)
    assert float(mover.plateau.factor) < 0.01
    before = canvas.values.clone()
    mover.step(canvas.values, torch.ones_like(before))
    moved = ((canvas.values - before) * STD).abs()
    assert float(moved.max()) == pytest.approx(0.1 * float(mover.plateau.factor), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd", "weight_decay": 0.1}, "weight_decay is 0.1, which sgd has none of"),
        ({"optimizer": "adam", "idle": 2}, "adam has no steps without a gradient"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"idle": -1}, "idle must be at least 0, got -1"),
    ],
)
def test_movers_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PixelOptim(lr=1.0, **settings)


# --- networks that learn beforehand --------------------------------------------------------------------------------

GROWTH = Growth(
    network=NETWORK,
    number=3,
    seed=5,
    snapshots=3,
    every=2,
    batch=10,
    optim=OptimConfig(
        lr=0.05, nesterov=False, weight_decay=5e-4, schedule="step", milestones=(2 / 3, 5 / 6), factor=0.2
    ),
    families=("flip", "color"),
    one_of=("crop", "scale", "rotate"),
)


def plain_growth() -> list[Tensor]:
    """SGD with momentum and decay, batches of 10 of three passes of which the incomplete last is left out, CutMix."""
    train = split()
    network = network_of(seeding.key(5, "network of a pool", 3)).double()
    learning = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    found = [flat_weights(network)]
    for place in range(6):
        order = seeding.generator(5, "order of a pool's images", 3, place // 3).permutation(np.arange(35))
        chosen = order[place % 3 * 10 : place % 3 * 10 + 10]
        draws = seeding.generator(5, "step of a pool's network", 3, place)
        last = ("crop", "scale", "rotate")[draws.integers(3)]
        images = normalise(to_pixels(train.images[chosen]), SPEC).double()
        for family in ("flip", "color", last):
            images = getattr(views, family)(images, draws)
        targets = torch.from_numpy(train.labels[chosen])
        learning.param_groups[0]["lr"] = 0.05 * 0.2 ** ((place >= 4) + (place >= 5))
        learning.zero_grad()
        if draws.random() < 0.5:
            step = cut_and_mixed(images, targets, draws)
            assert step.others is not None
            logs = network(step.images).log_softmax(1)
            own, other = (-logs[torch.arange(10), labels].mean() for labels in (step.targets, step.others))
            loss = step.share * own + (1 - step.share) * other
        else:
            loss = -network(images).log_softmax(1)[torch.arange(10), targets].mean()
        loss.backward()
        learning.step()
        if place % 2:
            found.append(flat_weights(network))
    return found


def test_networks_grow_as_a_plain_program_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grown_module, "build", lambda name, **shape: build(name, **shape).double())
    made, wanted = grow(split(), SPEC, GROWTH, compute=Compute()), plain_growth()
    assert made.snapshots.shape == (4, len(wanted[0]))
    for found, one in zip(made.snapshots, wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), one, rtol=1e-8, atol=1e-8)
    assert not np.allclose(made.snapshots[0], made.snapshots[3])


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


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_network_goes_on_growing_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    whole, memory = grow(split(), SPEC, GROWTH, compute=Compute()), Memory(stop)
    with pytest.raises(Interrupted):
        grow(split(), SPEC, GROWTH, compute=Compute(), checkpoint=memory)
    resumed = grow(split(), SPEC, GROWTH, compute=Compute(), checkpoint=memory)
    np.testing.assert_array_equal(resumed.snapshots, whole.snapshots)
    whole.write(tmp_path, GROWTH)
    again = Grown.read(tmp_path)
    np.testing.assert_array_equal(again.snapshots, whole.snapshots)
    assert again.network == NETWORK


def test_networks_do_not_learn_from_images_that_are_held_out() -> None:
    train, held = split(), split()
    held.labels[:5] = -1
    made = grow(held, SPEC, GROWTH, compute=Compute())
    held.images[:5] = 255 - held.images[:5]
    np.testing.assert_array_equal(grow(held, SPEC, GROWTH, compute=Compute()).snapshots, made.snapshots)
    assert not np.array_equal(grow(train, SPEC, GROWTH, compute=Compute()).snapshots, made.snapshots)


def test_networks_are_taken_from_between_their_ends() -> None:
    grown = stock_of(members=3)
    stock, members, shares = Stock(grown, "between", seed=1, set_index=0), set(), []
    for number in range(60):
        member, _, weights = stock.draw(number)
        first, last = (torch.from_numpy(one) for one in grown[member].snapshots)
        share = float(((weights - last) @ (first - last)) / (first - last).square().sum())
        torch.testing.assert_close(weights, share * first + (1 - share) * last, rtol=1e-4, atol=1e-5)
        members.add(member)
        shares.append(share)
    assert members == {0, 1, 2}
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) <= 1


def test_snapshots_are_taken_as_they_are() -> None:
    grown = stock_of(members=2, snapshots=3)
    stock, seen = Stock(grown, "snapshots", seed=1, set_index=0), {}
    for number in range(80):
        member, name, weights = stock.draw(number)
        assert name // 3 == member
        assert torch.equal(weights, torch.from_numpy(grown[member].snapshots[name % 3]))
        seen[name] = weights
    assert sorted(seen) == list(range(6))


def test_weights_go_in_and_out_and_must_fit() -> None:
    for name in (NETWORK, "convnet2-w6-bn"):
        one, other = network_of(1, name), network_of(2, name)
        load_flat(other, flat_weights(one))
        assert torch.equal(flat_weights(other), flat_weights(one))
        images = random_tensor(4, 2, 8, 8).float()
        assert torch.equal(other(images), one(images))
    with pytest.raises(MethodError, match=r"a snapshot has \d+ numbers, but ConvNet has \d+; make the pool again"):
        load_flat(network_of(0, "convnet2-w8-in"), flat_weights(one))


# --- the loop ------------------------------------------------------------------------------------------------------

ALIKE = Alike(families=("color", "crop", "cutout"), one=False)


def changed(images: Tensor, draws: np.random.Generator) -> Tensor:
    """The images of one class, image by image."""
    state, made = draws.bit_generator.state, []
    for image in images:
        draws.bit_generator.state = state
        made.append(views.cutout(views.crop(views.color(image[None], draws), draws), draws))
    return torch.cat(made)


MATCHING = Matching(
    what="characteristic",
    networks=4,
    batch_real=5,
    alike=ALIKE,
    taken="between",
    spectrum=Spectrum(frequencies=32, scale=30.0),
    calibration=2.0,
    first=True,
)
OPTIM = PixelOptim(optimizer="adamw", lr=0.01, weight_decay=0.01, idle=2, patience=1)


def run(matching: Matching = MATCHING, canvas: Pixels | None = None, **given: Any) -> Pixels:
    canvas = canvas or Tiles(canvas_of().values, SPEC, 2)
    problem = Problem(
        name="ncfm", spec=SPEC, seed=5, set_index=1, classes=(0, 1, 2), network=given.pop("network", NETWORK)
    )
    settings: dict[str, Any] = {"clamp": False, "grown": stock_of(), "compute": Compute(), **given}
    match(canvas, matching, settings.pop("optim", OPTIM), problem, split(), **settings)
    return canvas


def enlarged(stored: Tensor) -> Tensor:
    """Mosaics (slots, C, 8, 8) -> their four tiles at full size."""
    halves = [half for row in stored.split(4, 2) for half in row.split(4, 3)]
    return torch.cat([functional.interpolate(half, (8, 8), mode="bilinear") for half in halves])


def plain_ncfm(matching: Matching) -> Tensor:
    """The published algorithm with torch's optimisers; classes move together, then twice without a gradient."""
    train, grown = split(), stock_of()
    real = [normalise(to_pixels(train.images[train.labels == c]), SPEC).double() for c in range(3)]
    raw = (canvas_of().values * STD + MEAN).requires_grad_()
    torchs = torch.optim.AdamW([raw], lr=0.01, weight_decay=0.01, eps=TINY)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torchs, factor=0.5, patience=1)
    network, trained = network_of().double(), network_of().double()
    frequency_network = FrequencyNetwork(24, seeding.torch_generator(5, "frequency network", 1)).double()
    learning = torch.optim.SGD(frequency_network.parameters(), lr=0.001, maximize=True)

    def moved() -> None:
        torchs.step()
        for _ in range(2):
            torchs.zero_grad(set_to_none=False)
            torchs.step()

    for number in range(4):
        draws = seeding.generator(5, "network of a stock", 1, number)
        one, share = grown[draws.integers(2)], draws.random()
        first, last = (torch.from_numpy(each) for each in one.snapshots)
        for net, weights in ((network, share * first + (1 - share) * last), (trained, last)):
            nn.utils.vector_to_parameters(weights.double(), net.parameters())
        noise = torch.randn(
            2 if matching.spectrum.learnt else 32, 24, generator=seeding.torch_generator(5, "frequencies", 1, number)
        ).double()
        frequencies = plain_frequencies(frequency_network, noise) if matching.spectrum.learnt else noise
        total = torch.zeros((), dtype=F64)
        for c in range(3):
            images, others = (
                changed(each, seeding.generator(5, "siamese", 1, number, c))
                for each in (enlarged((raw[:, c] - MEAN) / STD), real[c][:5])
            )
            signs = []
            for batch in (images, others):
                features = network.features(batch)  # type: ignore[operator]
                features = features / features.square().sum(1, keepdim=True).sqrt()
                signs.append(torch.exp(1j * (features @ frequencies.T)).mean(0))
            sizes = [sign.abs() for sign in signs]
            phase = 2 * (sizes[0] * sizes[1] - (signs[0] * signs[1].conj()).real)
            total = total + 30 * (0.5 * (sizes[0] - sizes[1]) ** 2 + 0.5 * phase).sqrt().mean()
        torchs.zero_grad()
        learning.zero_grad()
        total.backward()
        moved()
        if matching.spectrum.learnt:
            learning.step()
        error = torch.zeros((), dtype=F64)
        for c in range(3):
            images = changed(
                enlarged((raw[:, c] - MEAN) / STD), seeding.generator(5, "siamese of calibration", 1, number, c)
            )
            error = error - 2 * trained(images).log_softmax(1)[:, c].mean()
        torchs.zero_grad()
        error.backward()
        moved()
        scheduler.step(float((total + error).detach()))
    return ((raw - MEAN) / STD).detach()


@pytest.mark.parametrize("learnt", [False, True])
def test_the_loop_equals_a_plain_program_of_ncfm(learnt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover_module, "EPS", TINY)
    matching = replace(MATCHING, spectrum=replace(MATCHING.spectrum, learnt=learnt))
    made = run(matching).values
    torch.testing.assert_close(made, plain_ncfm(matching), rtol=1e-8, atol=1e-8)
    assert float((made - canvas_of().values).abs().max()) > 0.05


def test_classes_may_go_through_the_network_one_by_one() -> None:
    eight = 8 * image_bytes(network_of(), 8, 8, synthetic=True, itemsize=8)  # type: ignore[arg-type]
    one = run(replace(MATCHING, memory=eight))
    torch.testing.assert_close(one.values, run().values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_with_the_same_bits(optimizer: Any, learnt: bool, stop: int) -> None:
    def start() -> Pixels:
        return Tiles(canvas_of().values.float(), SPEC, 2)

    matching = replace(MATCHING, spectrum=replace(MATCHING.spectrum, learnt=learnt))
    optim = PixelOptim(optimizer=optimizer, lr=0.01, idle=2, patience=1)
    whole, memory = run(matching, start(), optim=optim).values, Memory(stop)
    with pytest.raises(Interrupted):
        run(matching, start(), optim=optim, checkpoint=memory)
    assert torch.equal(run(matching, start(), optim=optim, checkpoint=memory).values, whole)
    assert not torch.equal(whole, start().values)


def test_the_terms_count() -> None:
    """Without calibration, with random real images, with other frequencies or networks the result is another."""
    first = run().values
    for changed in (
        replace(MATCHING, calibration=0.0),
        replace(MATCHING, first=False),
        replace(MATCHING, spectrum=replace(MATCHING.spectrum, frequencies=33)),
        replace(MATCHING, taken="snapshots"),
    ):
        assert not torch.allclose(run(changed).values, first)


def test_batch_norm_networks_serve() -> None:
    grown = [
        Grown("convnet2-w6-bn", np.stack([flat_weights(network_of(k, "convnet2-w6-bn")).numpy() for k in range(2)]))
    ]
    made = run(network="convnet2-w6-bn", grown=grown).values
    assert bool(made.isfinite().all())


def test_a_stock_is_needed() -> None:
    with pytest.raises(MethodError, match="a pool of networks is asked for, and none is given"):
        run(grown=[])


# --- the method ----------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"networks": 2, "batch_real": 8, "network": "convnet2-w8-in", "pool": 2, "frequencies": 32}


def test_published_settings() -> None:
    method = METHODS["ncfm"](METHODS["ncfm"].Config())
    cifar = replace(
        SPEC, name="cifar10", channels=3, height=32, width=32, train_sizes=(5000,) * 10, classes=("x",) * 10
    )
    matching, optim = method.matching(cifar, 10), method.optim(cifar, 10)  # type: ignore[attr-defined]
    assert (matching.networks, matching.batch_real, matching.first, matching.calibration) == (20_000, 1024, True, 1.0)
    assert matching.spectrum == Spectrum(frequencies=4096, amplitude=0.5, phase=0.5, scale=300.0, learnt=False)
    assert matching.alike == ALIKE
    assert (optim.optimizer, optim.lr, optim.weight_decay, optim.idle) == ("adamw", 1e-3, 5e-4, 9)
    growths = method.growths(cifar, 0)
    assert len(growths) == 20
    assert (growths[0].snapshots, growths[0].every, growths[0].batch) == (1, 60 * 390, 128)
    assert growths[0].families == ("flip", "color")
    assert method.growths(replace(cifar, name="svhn"), 0)[0].families == ("color",)
    assert method.growths(replace(cifar, height=128, width=128), 0)[0].every == 80 * 390
    assert dict(method.canvas.settings) == {"factor": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"pool_epochs": 0}, "pool_epochs must be at least 1, got 0"),
        ({"frequencies": 0}, "frequencies must be at least 1, got 0"),
        ({"frequencies": 16, "frequency_network": True}, "gives one in 16 .* ask for at least 32"),
        ({"amplitude": 0.0, "phase": 0.0}, "one of them above 0, got 0.0 and 0.0"),
        ({"amplitude": -1.0}, "must be at least 0 and finite, .* got -1.0 and 0.5"),
        ({"scale": 0.0}, "scale of the spectrum must be above 0 and finite, got 0.0"),
        ({"calibration": -1.0}, "calibration must be at least 0 and finite, got -1.0"),
        ({"sampling": "last"}, 'sampling is "last"; expected one of first, random'),
        ({"optimizer": "adam"}, 'optimizer is "adam"; expected one of adamw, sgd'),
        ({"augment": "dsa"}, 'augment is "dsa"; expected one of ncfm, none'),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"factor": 0}, "factor must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        METHODS["ncfm"].Config(**settings)


def test_what_is_missing_is_said(tiny_data: Data) -> None:
    method = METHODS["ncfm"](from_mapping(METHODS["ncfm"].Config, SHORT))
    [job] = method.jobs(tiny_data.spec, 2, 0, 3)
    given: dict[str, Any] = {"compute": Compute(), "report": silent, "checkpoint": NoCheckpoint()}
    with pytest.raises(MethodError, match="ncfm needs networks that learnt from the training images"):
        method.synthesise(job, teachers=(), train=tiny_data.train, precomputed=None, **given)


CPU = Compute()
POOLS = {
    "ncfm": {**SHORT, "pool_epochs": 1},
    "idc": {
        "networks": 1,
        "matches": 3,
        "train_images": 64,
        "batch_real": 8,
        "network": "convnet2-w8-in",
        "pool": 2,
        "pool_snapshots": 2,
        "augment": "none",
    },
}


def context_of(store: Path, data: Data) -> Context:
    return Context(store=Store(store), compute=CPU, opened={DataRequest(name="tiny"): data})


def request_of(name: str, **changes: Any) -> Any:
    return resolve({"data": "tiny", "method": name, "ipc": 1, **POOLS[name], **changes})


@pytest.mark.parametrize("name", sorted(POOLS))
def test_networks_are_jobs_that_sets_share(name: str, tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    folders = distill(request_of(name, sets=2), context, out=tmp_path / "sets")
    kinds = [event["kind"] for event in finished_jobs(tmp_path / "store" / "runs")]
    assert [kinds.count(kind) for kind in ("grown-network", "rows", "set", "teacher")] == [2, 2, 2, 0]
    first, second = (condense.load(folder) for folder in folders)
    assert len(first) == 12  # four tiles a row
    assert not np.array_equal(first.images, second.images)
    distill(request_of(name, ipc=2), context, out=tmp_path / "more")
    kinds = [event["kind"] for event in finished_jobs(tmp_path / "store" / "runs")]
    assert kinds.count("grown-network") == 2


@pytest.mark.parametrize("name", sorted(POOLS))
def test_a_plan_knows_the_networks(name: str, tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    request = request_of(name)
    said = estimate(request, context, probe=False)
    assert [kind.kind for kind in said.kinds] == ["grown-network", "rows", "images", "labels", "set"]
    assert said.kinds[0].jobs == 2
    growth = request.method.growths(tiny_data.spec, request.seed)[0]
    assert said.kinds[0].steps == 2 * growth.snapshots * growth.every
    jobs = in_order(set_jobs(request, tiny_data.spec, context, (), name="set"))
    below = [job for job in jobs if job.kind == "grown-network"]
    with _Prober(request, context, tiny_data, jobs) as prober:
        prober._have(below[0])
        shown = Grown.read(prober.scratch.store.path(below[0].id))
    assert shown.snapshots.shape[0] == growth.snapshots + 1
    assert len({job.id for job in below}) == 2


def test_images_that_are_held_out_make_other_networks(tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    ids = []
    for without in (None, {"fraction": 0.1, "seed": 0}):
        request = replace(request_of("ncfm"), without=without)
        jobs = in_order(set_jobs(request, tiny_data.spec, context, (), name="set"))
        ids.append({job.id for job in jobs if job.kind == "grown-network"})
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 4
