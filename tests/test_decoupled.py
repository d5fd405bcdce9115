"""Every decoupled method against a plain loop of its paper, alone and combined, and what the settings promise.

The loops take from the package the networks and what is drawn (views, picks, noise); the rest is written from the
papers: hooks, torchvision's transforms, torch's Adam, float64.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_coresets import fresh_context, request_of
from test_inversion import Interrupted, Memory
from test_methods import do, made, teacher_of
from test_residual import plain_resize
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from condense import load
from condense.canvas import noise_start
from condense.checkpoint import FileCheckpoint, NoCheckpoint, Paused
from condense.config import from_mapping
from condense.data import Data, DatasetSpec, Split
from condense.device import Compute
from condense.engine.job import Job, in_order
from condense.errors import ConfigError, MethodError, TeacherError
from condense.methods import METHODS, SynthesisJob
from condense.methods.parts.committee import CommitteeConfig
from condense.methods.parts.settings import MaskConfig, PerturbConfig, ResidualConfig
from condense.methods.recovery import RecoveryConfig, RecoveryMethod
from condense.pipeline import Context, distill
from condense.pipeline.plans import set_jobs
from condense.pipeline.teachers import teacher_jobs
from condense.progress import silent
from condense.seeding import generator
from condense.selection import pick_random
from condense.teachers import ClassStatistics, Teacher, save_teacher
from condense.teachers.teacher import weights_sha256
from condense.views.recovery import RecoveryViews, recovery_draws

SIZE, CLASSES, SEED, SET = (10, 8), (0, 1, 2), 5, 1
STEPS, ALPHA, LR = 6, 0.05, 0.25
SPEC = DatasetSpec(
    name="tiny",
    classes=("a", "b", "c"),
    channels=2,
    height=SIZE[0],
    width=SIZE[1],
    mean=(0.4, 0.6),
    std=(0.25, 0.3),
    train_sizes=(7, 7, 7),
    test_sizes=(1, 1, 1),
    fingerprint="0" * 64,
)
CROPS = RecoveryViews(crop="resized", scale=(0.08, 1.0), flip=0.5, roll=4)
"""SRe2L++, CV-DD, FADRM, and, of images of this size, NRR-DD and LPLD."""

CURRICULUM = replace(CROPS, schedule="cosine", milestone=1.0)
"""CDA's."""

TRAIN = Split(
    generator(0, "images").integers(0, 256, (21, *SIZE, 2)).astype(np.uint8), np.tile(np.array(CLASSES, np.int64), 7)
)

Loss = Callable[[int, Tensor], Tensor]
"""Of a step and of what is shown at it, (B, C, H, W)."""


# --- networks, starts, and the package's own way ---------------------------------------------------------------------


@cache
def network_of(number: int) -> nn.Module:
    """Of random weights, with the running statistics of a few batches."""
    name = ("resnet8", "convnet2-w4-bn", "convnet2-w6-bn")[number]
    network = teacher_of(SPEC, name, seed=number).network.train().double()
    with torch.no_grad():
        for step in range(3):
            network(torch.randn(16, 2, *SIZE, generator=torch.Generator().manual_seed(step)).double())
    return network.eval()


def teachers_of(*numbers: int) -> list[Teacher]:
    return [Teacher(network_of(number), teacher_of(SPEC).info) for number in numbers]


def job_of(slots: Sequence[int], ipc: int | None = None) -> SynthesisJob:
    return SynthesisJob(spec=SPEC, set_index=SET, seed=SEED, slots=tuple(slots), classes=CLASSES, ipc=ipc)


def real(slots: Sequence[int]) -> Tensor:
    """Random real images, normalised: float64 (slots, classes, C, H, W)."""
    picks = pick_random(TRAIN.labels, CLASSES, slots, seed=SEED, set_index=SET)
    pixels = torch.from_numpy(TRAIN.images[picks].astype(np.float64) / 255).movedim(-1, 2)
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (SPEC.mean, SPEC.std))
    return (pixels - mean) / std


def recovered(
    name: str, settings: dict[str, Any], start: Tensor, slots: Sequence[int], teachers: Sequence[int], **given: Any
) -> Tensor:
    """What the method's own path makes of ``start``: (groups, images, C, H, W), float64."""
    method = made(name, {"alpha_bn": ALPHA, **settings})
    assert isinstance(method, RecoveryMethod)
    options: dict[str, Any] = {
        "precomputed": None,
        "compute": Compute(),
        "report": silent,
        "checkpoint": NoCheckpoint(),
        **given,
    }
    return method.recover(job_of(slots), start, teachers=teachers_of(*teachers), **options).images()


def assert_equal(got: Tensor, wanted: Tensor, start: Tensor) -> None:
    """To 1e-8, after images have moved well away from their start."""
    assert got.dtype == wanted.dtype == torch.float64
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)
    assert (wanted - start).abs().mean() > 0.05


# --- the parts of the papers' programs -------------------------------------------------------------------------------


def seen_by(network: nn.Module, shown: Tensor) -> tuple[Tensor, dict[str, tuple[nn.BatchNorm2d, Tensor]]]:
    """Logits, and what each BatchNorm layer was given, by name in the order of the modules."""
    given: dict[str, Tensor] = {}
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: given.update({name: inputs[0]}))
        for name, layer in layers.items()
    ]
    logits = network(shown)
    for handle in handles:
        handle.remove()
    return logits, {name: (layer, given[name]) for name, layer in layers.items()}


def mean_and_var(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Over images and places, biased."""
    mean = maps.mean((0, 2, 3))
    return mean, ((maps - mean.view(-1, 1, 1)) ** 2).mean((0, 2, 3))


def sre2l_loss(network: nn.Module, shown: Tensor, targets: Tensor, variance: float = 1.0) -> Tensor:
    """Cross-entropy + alpha * sum_l c_l (||mu_l - mu|| + r_var * ||v_l - v||), c_l 10 for the first layer, else 1."""
    logits, layers = seen_by(network, shown)
    distance = torch.zeros((), dtype=shown.dtype)
    for place, (norm, maps) in enumerate(layers.values()):
        mean, var = mean_and_var(maps)
        both = (mean - norm.running_mean).norm() + variance * (var - norm.running_var).norm()
        distance = distance + (10 if place == 0 else 1) * both
    return nn.functional.cross_entropy(logits, targets) + ALPHA * distance


def view_of(x: Tensor, views: RecoveryViews, group: tuple[int, ...], step: int, total: int) -> Tensor:
    """Crop, flip, roll: one draw for the batch."""
    height, width = x.shape[2:]
    drawn = recovery_draws(
        views, SEED, [group], range(step, step + 1), total_steps=total, images=len(x), height=height, width=width
    )
    shown = vision.resized_crop(x, *drawn.boxes[0, 0, 0].tolist(), [height, width], antialias=True)
    shown = vision.hflip(shown) if drawn.flips[0, 0, 0] else shown
    return torch.roll(shown, drawn.rolls[0, 0, 0].tolist(), (2, 3))


def optimised(
    x: Tensor,
    loss: Loss,
    views: RecoveryViews,
    group: tuple[int, ...],
    *,
    steps: range = range(STEPS),
    total: int = STEPS,
    lr: float = LR,
    open_at: Callable[[int, Tensor], Tensor | float] = lambda step, x: 1.0,
) -> Tensor:
    """New Adam, betas (0.5, 0.9), half a cosine over ``total``; updates times ``open_at``; clipping at every step."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=lr, betas=(0.5, 0.9), eps=1e-8)
    for step in steps:
        adam.param_groups[0]["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / total))
        before = x.detach().clone()
        share = open_at(step, before)
        adam.zero_grad()
        loss(step, view_of(x, views, group, step, total)).backward()
        adam.step()
        with torch.no_grad():
            x.copy_(before + share * (x - before))
            for channel, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
                x[:, channel] = x[:, channel].clamp(-mean / std, (1 - mean) / std)
    return x.detach()


def unlearnt(network: nn.Module, shown: Tensor, targets: Tensor, radius: float, steps: int) -> nn.Module:
    """DWA, 2.2 step 3: K normalised steps up the cross-entropy, of the whole length ``radius``."""
    moved = copy.deepcopy(network).requires_grad_(True)
    for _ in range(steps):
        moved.zero_grad()
        nn.functional.cross_entropy(moved(shown), targets).backward()
        length = torch.cat([one.grad.flatten() for one in moved.parameters()]).norm()
        with torch.no_grad():
            for one in moved.parameters():
                one += radius / steps * one.grad / (length + 1e-12)
    return moved.requires_grad_(False)


def mixed(x: Tensor, original: Tensor, size: tuple[int, int], alpha: float) -> Tensor:
    """FADRM, 2.1 step 4: both at the next size, the real image always from full size."""
    return alpha * each_resized(x, size) + (1 - alpha) * each_resized(original, size)


def each_resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.stack([plain_resize(one, size) for one in x.flatten(0, 1)]).view(*x.shape[:2], *size)


def closed_map(network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """Class activation maps in [0, 1], of each image for its own class: (B, 1, H, W)."""
    maps: list[Tensor] = []
    last = network.layer3 if hasattr(network, "layer3") else network.layers
    handle = last.register_forward_hook(lambda module, inputs, output: maps.append(output))
    network(x)
    handle.remove()
    made_of = []
    for image, target in zip(maps[0], targets.tolist(), strict=True):
        weights = network.classifier.weight[target]
        weights = weights.view(-1, 1, 1) if len(weights) == len(image) else weights.view(image.shape)
        large = plain_resize((weights * image).sum(0).clamp(min=0), SIZE)
        made_of.append((large - large.min()) / (large.max() - large.min()) if large.max() > large.min() else 0 * large)
    return torch.stack(made_of)[:, None].detach()


def targets_of(count: int = 1) -> Tensor:
    return torch.tensor(CLASSES * count)


# --- one method after the other --------------------------------------------------------------------------------------


def test_sre2l_plus_from_real_images_with_crops_of_every_size() -> None:
    slots = (0, 3)
    got = recovered("sre2l++", {"steps": STEPS}, real(slots), slots, [0])
    for place, slot in enumerate(slots):
        start = real([slot])[0]
        wanted = optimised(start, lambda _, v: sre2l_loss(network_of(0), v, targets_of()), CROPS, (SET, slot, 0))
        assert_equal(got[place], wanted, start)


def test_cv_dd_pairs_in_order_weighted_by_their_priors() -> None:
    """2.3: slot k has pair k of all pairs, w = softmax(prior / 5), both shown the same view."""
    slots, priors = (0, 1, 2, 4), (60.0, 63.0, 69.0)
    settings = {"steps": STEPS, "committee": {"size": 2, "voting": "prior", "priors": priors}}
    got = recovered("cv-dd", settings, real(slots), slots, [0, 1, 2])
    pairs = list(itertools.combinations(range(3), 2))
    for place, slot in enumerate(slots):
        pair = pairs[slot % 3]
        powers = [math.exp(priors[one] / 5) for one in pair]

        def loss(_: int, shown: Tensor, pair: Sequence[int] = pair, powers: Sequence[float] = powers) -> Tensor:
            losses = [sre2l_loss(network_of(one), shown, targets_of()) for one in pair]
            return sum(power * one for power, one in zip(powers, losses, strict=True)) / sum(powers)

        start = real([slot])[0]
        assert_equal(got[place], optimised(start, loss, CROPS, (SET, slot, 0)), start)


def test_dwa_under_a_teacher_that_unlearnt_the_first_view() -> None:
    """2.2: 12 steps of 0.015 in all, variances 11 times; small images are only rolled."""
    slots, views = (0, 2), RecoveryViews(crop="none", flip=0.0, roll=4)
    got = recovered("dwa", {"steps": STEPS}, real(slots), slots, [0])
    for place, slot in enumerate(slots):
        start = real([slot])[0]
        first = view_of(start, views, (SET, slot, 0), 0, STEPS)
        moved = unlearnt(network_of(0), first, targets_of(), 0.015, 12)
        wanted = optimised(start, lambda _, v, net=moved: sre2l_loss(net, v, targets_of(), 11.0), views, (SET, slot, 0))
        assert_equal(got[place], wanted, start)
        left = optimised(start, lambda _, v: sre2l_loss(network_of(0), v, targets_of(), 11.0), views, (SET, slot, 0))
        assert (wanted - left).abs().max() > 1e-5


def plain_fadrm(slot: int, teachers: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Tensor:
    """2.1: blocks of two steps, Adam anew in each, the rate over all, one teacher a step, in turn."""
    original, total = real([slot])[0], 2 * len(sizes)
    x = each_resized(original, sizes[0])
    for block, size in enumerate(sizes):
        if block:
            x = mixed(x, original, size, 0.5)
        steps = range(2 * block, 2 * block + 2)
        x = optimised(
            x,
            lambda t, shown: sre2l_loss(network_of(teachers[t % len(teachers)]), shown, targets_of()),
            CROPS,
            (SET, slot, 0),
            steps=steps,
            total=total,
        )
    return x


@pytest.mark.parametrize(
    ("name", "teachers", "low"), [("fadrm", [0], 1.0), ("fadrm", [0], 0.8), ("fadrm+", [0, 1, 2], 1.0)]
)
def test_fadrm_four_blocks_with_the_real_image_between_them(name: str, teachers: list[int], low: float) -> None:
    slots, small = (0, 5), (round(low * SIZE[0]), round(low * SIZE[1]))
    settings = {"steps": 8, "residual": {"blocks": 4, "alpha": 0.5, "low": low}}
    got = recovered(name, settings, real(slots), slots, teachers)
    for place, slot in enumerate(slots):
        assert_equal(got[place], plain_fadrm(slot, teachers, [small, SIZE, small, SIZE]), real([slot])[0])


Measured = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance of each class in each layer, by the layer's name: (K, channels)."""


@cache
def measured(number: int, variance: str) -> Measured:
    """Of all training images, in eval mode; ``image``: the mean of the variances within the images of a class."""
    pixels = torch.from_numpy(TRAIN.images.astype(np.float64) / 255).movedim(-1, 1)
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (SPEC.mean, SPEC.std))
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for label in CLASSES:
        images = ((pixels - mean) / std)[torch.from_numpy(TRAIN.labels == label)]
        for name, (_, maps) in seen_by(network_of(number), images)[1].items():
            both = mean_and_var(maps)
            if variance == "image":
                both = both[0], torch.stack([mean_and_var(one[None])[1] for one in maps]).mean(0)
            found.setdefault(name, []).append(both)
    joined = {name: tuple(torch.stack(each).detach() for each in zip(*of, strict=True)) for name, of in found.items()}
    return {name: (mean, var) for name, (mean, var) in joined.items()}


def known(*numbers: int) -> tuple[ClassStatistics, ...]:
    """As the method gets them: layers joined in the order of the modules."""

    def joined(number: int, variance: str, which: int) -> Any:
        return torch.cat([both[which] for both in measured(number, variance).values()], 1).numpy()

    counts = np.bincount(TRAIN.labels)
    return tuple(
        ClassStatistics(joined(one, "class", 0), joined(one, "class", 1), joined(one, "image", 1), counts)
        for one in numbers
    )


def test_edc_half_the_statistics_of_the_classes_smoothed_over_the_steps() -> None:
    """2.3: all images are one batch; statistics are S + s - stop_gradient(s), S <- 0.8 S + 0.2 s, S begins as s."""
    slots, numbers, lr = (0, 1), (0, 1, 2), 0.05
    views = RecoveryViews(crop="resized", scale=(0.5, 1.0), flip=0.5, roll=0)
    start = real(slots).flatten(0, 1)
    targets, running = targets_of(2), {}

    def smoothed(key: Any, value: Tensor) -> Tensor:
        now = value.detach()
        running[key] = 0.8 * running[key] + 0.2 * now if key in running else now
        return running[key] + value - now

    def loss(step: int, shown: Tensor) -> Tensor:
        number = numbers[step % 3]
        logits, layers = seen_by(network_of(number), shown)
        distance = torch.zeros((), dtype=torch.float64)
        for place, (name, (norm, maps)) in enumerate(layers.items()):
            mean, var = (smoothed((number, name, n), one) for n, one in enumerate(mean_and_var(maps)))
            mean_of, var_of = (one[targets].mean(0) for one in measured(number, "image")[name])
            whole = (mean - norm.running_mean).norm() + (var - norm.running_var).norm()
            part = (mean - mean_of).norm() + (var - var_of).norm()
            distance = distance + (10 if place == 0 else 1) * (0.5 * whole + 0.5 * part)
        return nn.functional.cross_entropy(logits, targets) + ALPHA * distance

    got = recovered("edc", {"steps": 8}, real(slots), slots, numbers, precomputed=known(*numbers))
    wanted = optimised(start, loss, views, (SET, 0, 0), steps=range(8), total=8, lr=lr)
    assert_equal(got[0], wanted, start)


def test_lpld_every_class_is_a_batch_with_the_statistics_of_that_class() -> None:
    """2.5: noise; the distance is from mu_c and var_c."""
    slots = (0, 1, 2)
    start = noise_start(SPEC, slots, CLASSES, seed=SEED, set_index=SET).double()
    got = recovered("lpld", {"steps": STEPS}, start, slots, [0], precomputed=known(0))
    for label in CLASSES:
        targets = torch.full((len(slots),), label)

        def loss(_: int, shown: Tensor, label: int = label, targets: Tensor = targets) -> Tensor:
            logits, layers = seen_by(network_of(0), shown)
            distance = torch.zeros((), dtype=torch.float64)
            for place, (name, (_, maps)) in enumerate(layers.items()):
                (mean, var), of = mean_and_var(maps), measured(0, "class")[name]
                both = (mean - of[0][label]).norm() + (var - of[1][label]).norm()
                distance = distance + (10 if place == 0 else 1) * both
            return nn.functional.cross_entropy(logits, targets) + ALPHA * distance

        wanted = optimised(start[:, label], loss, CROPS, (SET, 0, label))
        assert_equal(got[label], wanted, start[:, label])


@pytest.mark.parametrize("every", [0, 2])
def test_nrr_dd_leaves_critical_pixels_as_they_were(every: int) -> None:
    """Stage 2: Adam's update times max(0, eps - C) / eps, C the map of the image for its class."""
    slots, eps = (0, 1), 0.5
    got = recovered("nrr-dd", {"steps": STEPS, "mask": {"eps": eps, "every": every}}, real(slots), slots, [0])
    for place, slot in enumerate(slots):
        start, masks = real([slot])[0], {}

        def open_at(step: int, x: Tensor, masks: dict[int, Tensor] = masks) -> Tensor:
            at = step // every * every if every else 0
            if at not in masks:
                masks[at] = (eps - closed_map(network_of(0), x, targets_of())).clamp(min=0) / eps
            return masks[at]

        def loss(_: int, shown: Tensor) -> Tensor:
            return sre2l_loss(network_of(0), shown, targets_of())

        assert_equal(got[place], optimised(start, loss, CROPS, (SET, slot, 0), open_at=open_at), start)
        closed = (masks[0] == 0).expand_as(start)
        assert 0.05 < closed.double().mean() < 0.95
        always = torch.stack([mask == 0 for mask in masks.values()]).all(0).expand_as(start)
        assert torch.equal(got[place][always], start[always])
        assert len(masks) == (3 if every else 1)
        assert not every or not torch.equal(masks[0], masks[4])


# --- all of it at once -----------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "steps": 8,
    "start": "real",
    "variance": 2.0,
    "class_share": 0.25,
    "moving": 0.5,
    "committee": {"size": 2, "voting": "prior", "priors": (60.0, 63.0, 69.0)},
    "perturb": {"radius": 0.05, "steps": 3},
    "residual": {"blocks": 2, "alpha": 0.6},
    "mask": {"eps": 0.5, "every": 3},
}
"""A committee of perturbed teachers under CDA's curriculum, with a mask, residual mixing, and smoothed statistics of
all images and of classes."""


def everything(turns: bool) -> dict[str, Any]:
    return {**EVERYTHING, "committee": {**EVERYTHING["committee"], "turns": turns}}


def plain_everything(slot: int, *, turns: bool) -> Tensor:
    pair = list(itertools.combinations(range(3), 2))[slot % 3]
    priors = EVERYTHING["committee"]["priors"]
    votes = [math.exp(priors[one] / 5) / sum(math.exp(priors[each] / 5) for each in pair) for one in pair]
    original, group, targets = real([slot])[0], (SET, slot, 0), targets_of()
    first = view_of(original, CURRICULUM, group, 0, 8)
    nets = {one: unlearnt(network_of(one), first, targets, 0.05, 3) for one in pair}
    running: dict[Any, Tensor] = {}
    masks: dict[int, Tensor] = {}

    def smoothed(key: Any, value: Tensor) -> Tensor:
        now = value.detach()
        running[key] = 0.5 * running[key] + 0.5 * now if key in running else now
        return running[key] + value - now

    def by(number: int, shown: Tensor) -> Tensor:
        logits, layers = seen_by(nets[number], shown)
        distance = torch.zeros((), dtype=torch.float64)
        for place, (name, (norm, maps)) in enumerate(layers.items()):
            mean, var = (smoothed((number, name, n), one) for n, one in enumerate(mean_and_var(maps)))
            mean_of, var_of = (one[targets].mean(0) for one in measured(number, "class")[name])
            whole = (mean - norm.running_mean).norm() + 2 * (var - norm.running_var).norm()
            part = (mean - mean_of).norm() + 2 * (var - var_of).norm()
            distance = distance + (10 if place == 0 else 1) * (0.75 * whole + 0.25 * part)
        return nn.functional.cross_entropy(logits, targets) + ALPHA * distance

    def loss(step: int, shown: Tensor) -> Tensor:
        if turns:
            return by(pair[step % 2], shown)
        return votes[0] * by(pair[0], shown) + votes[1] * by(pair[1], shown)

    def open_at(step: int, x: Tensor) -> Tensor:
        at = step // 3 * 3
        if at not in masks:
            maps = sum(closed_map(network_of(one), x, targets) for one in range(3)) / 3
            masks[at] = (0.5 - maps).clamp(min=0) / 0.5
        return masks[at]

    x = optimised(original, loss, CURRICULUM, group, steps=range(4), total=8, open_at=open_at)
    x = mixed(x, original, SIZE, 0.6)
    return optimised(x, loss, CURRICULUM, group, steps=range(4, 8), total=8, open_at=open_at)


def run_everything(slots: Sequence[int], *, turns: bool, **given: Any) -> Tensor:
    return recovered(
        "cda", everything(turns), real(slots), slots, [0, 1, 2], **{"precomputed": known(0, 1, 2), **given}
    )


@pytest.mark.parametrize("turns", [False, True])
def test_everything_at_once_equals_the_plain_loop_and_itself_slot_by_slot(turns: bool) -> None:
    slots = (0, 2, 4)
    got = run_everything(slots, turns=turns)
    for place, slot in enumerate(slots):
        torch.testing.assert_close(run_everything((slot,), turns=turns)[0], got[place], rtol=1e-9, atol=1e-9)
        assert_equal(got[place], plain_everything(slot, turns=turns), real([slot])[0])


@pytest.mark.parametrize("turns", [False, True])
def test_everything_at_once_goes_on_to_the_same_bits(turns: bool) -> None:
    """Wherever it is interrupted: before and after the mask is made anew, between the stages, and again."""
    slots = (0, 1)
    whole = run_everything(slots, turns=turns)
    for stop in range(1, 9):
        memory = Memory(stop)
        with pytest.raises(Interrupted):
            run_everything(slots, turns=turns, checkpoint=memory)
        assert torch.equal(run_everything(slots, turns=turns, checkpoint=memory), whole)
    memory = Memory(2)
    for _ in range(4):
        memory.left = 2
        with pytest.raises(Interrupted):
            run_everything(slots, turns=turns, checkpoint=memory)
    assert torch.equal(run_everything(slots, turns=turns, checkpoint=memory), whole)


def test_everything_at_once_goes_on_from_a_file(tmp_path: Path, tiny_data: Data) -> None:
    """To the same bytes of rows, from the file that jobs leave."""
    method = made("cda", everything(False))
    names = ("resnet8", "convnet2-w4-bn", "convnet2-w8-bn")
    teachers = [teacher_of(tiny_data.spec, name, seed) for seed, name in enumerate(names)]
    statistics = tuple(random_statistics(tiny_data.spec, one) for one in teachers)
    job = SynthesisJob(spec=tiny_data.spec, set_index=0, seed=3, slots=(0, 1), classes=CLASSES)
    given: dict[str, Any] = {"teachers": teachers, "precomputed": statistics}
    whole, stops = do(method, job, tiny_data, **given), 0
    checkpoint = FileCheckpoint(tmp_path / "state", 1e9, stopping=lambda: True)
    while True:
        try:
            resumed = do(method, job, tiny_data, checkpoint=checkpoint, **given)
            break
        except Paused:
            stops += 1
    assert stops == EVERYTHING["steps"]
    np.testing.assert_array_equal(resumed.pixels, whole.pixels)


def random_statistics(spec: DatasetSpec, teacher: Teacher) -> ClassStatistics:
    """As wide as the teacher's."""
    width = sum(layer.num_features for layer in teacher.network.modules() if isinstance(layer, nn.BatchNorm2d))
    mean, *var = generator(0, "statistics").random((3, spec.n_classes, width)).astype(np.float32)
    return ClassStatistics(mean, *var, np.ones(spec.n_classes, np.int64))


# --- what the settings promise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"perturb": PerturbConfig(radius=0.1)},
            "perturb with start=noise makes no sense: teachers would unlearn noise",
        ),
        ({"residual": ResidualConfig(blocks=2)}, "residual with start=noise .* noise would be mixed in again"),
        ({"mask": MaskConfig(eps=0.5)}, "mask with start=noise .* nothing critical to keep; choose another start"),
        (
            {"start": "real", "mask": MaskConfig(eps=0.5), "residual": ResidualConfig(blocks=2, low=0.5)},
            r"mask needs images of one size, but residual.low is below 1; leave one of the two out",
        ),
        (
            {"batch": "class", "committee": CommitteeConfig(size=2)},
            "committee.size chooses teachers slot by slot, but batch=class matches slots together; set committee.size",
        ),
        ({"batch": "all", "committee": CommitteeConfig(size=1)}, "but batch=all matches slots together"),
        (
            {"start": "real", "steps": 3, "residual": ResidualConfig(blocks=4)},
            "steps is 3, fewer than the 4 blocks of residual",
        ),
        ({"moving": 1.0}, "moving must be at least 0 and below 1, got 1.0"),
        ({"class_share": 1.5}, "class_share is 1.5"),
        ({"variance": -1.0}, "variance must be at least 0 and finite"),
        ({"batch": "row"}, 'batch is "row"'),
        ({"class_variance": "none"}, 'class_variance is "none"'),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecoveryConfig(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerturbConfig(radius=-0.1), "perturb.radius must be at least 0 and finite, got -0.1"),
        (lambda: PerturbConfig(radius=math.inf), "perturb.radius must be at least 0 and finite, got inf"),
        (lambda: PerturbConfig(steps=0), "perturb.steps"),
        (lambda: ResidualConfig(blocks=0), "residual.blocks"),
        (lambda: ResidualConfig(alpha=1.1), "residual.alpha"),
        (lambda: ResidualConfig(low=0.0), "residual.low must be above 0 and at most 1, got 0.0"),
        (lambda: MaskConfig(eps=1.5), "mask.eps"),
        (lambda: MaskConfig(every=-1), "mask.every"),
    ],
)
def test_parts_out_of_range_are_refused_when_they_are_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_makes_sense_is_not_refused() -> None:
    """The neighbours of the refusals: every one of them is only about its combination."""
    for settings in (
        {"start": "real", "perturb": {"radius": 0.1}},
        {"start": "median", "residual": {"blocks": 4, "low": 0.5}},
        {"start": "real", "mask": {"eps": 0.5}, "residual": {"blocks": 4}},
        {"perturb": {"radius": 0.0, "steps": 3}, "mask": {"every": 4}},
        {"batch": "class", "committee": {"turns": True}},
        {"steps": 4, "start": "real", "residual": {"blocks": 4}},
    ):
        assert from_mapping(RecoveryConfig, settings)


RECOVERED = [name for name, method in METHODS.items() if issubclass(method, RecoveryMethod)]
QUICK: dict[str, Any] = {"steps": 4}
PAIRS: dict[str, Any] = {**QUICK, "committee": {"size": 2, "priors": (50.0, 60.0, 70.0)}}


@pytest.mark.parametrize("name", [one for one in RECOVERED if made(one).config.batch == "slot"])
def test_a_larger_ipc_keeps_the_slots_there_were(name: str, tiny_data: Data) -> None:
    """Its jobs begin with those of the smaller one, which know nothing of the IPC; so do the bytes."""
    method = made(name, PAIRS if name == "cv-dd" else QUICK)
    small, large = (method.jobs(tiny_data.spec, ipc, 0, 3) for ipc in (2, 7))
    assert large[: len(small)] == small
    assert all(job.ipc is None for job in large)
    teachers = [teacher_of(tiny_data.spec, seed=seed) for seed in range(3)]
    before, after = (
        [do(method, job, tiny_data, teachers=teachers).pixels for job in jobs[:2]] for jobs in (small, large)
    )
    np.testing.assert_array_equal(np.concatenate(before), np.concatenate(after))


@pytest.mark.parametrize("name", ["lpld", "edc"])
def test_where_slots_are_matched_together_jobs_know_the_ipc(name: str, tiny_data: Data) -> None:
    method = made(name, {"job_images": 6})
    for ipc, classes in ((1, [(0, 1, 2)]), (3, [(0, 1), (2,)]), (9, [(0,), (1,), (2,)])):
        jobs = method.jobs(tiny_data.spec, ipc, 0, 3)
        assert [job.classes for job in jobs] == classes
        assert all(job.slots == tuple(range(ipc)) and job.ipc == ipc for job in jobs)


def rows_of(request: Any, context: Context, data: Data, teacher: Path) -> list[Job]:
    makers = teacher_jobs(request, data, context, [teacher])
    return [job for job in in_order(set_jobs(request, data.spec, context, makers, name="set")) if job.kind == "rows"]


@pytest.fixture
def stored(tmp_path: Path, tiny_data: Data) -> Path:
    teacher = teacher_of(tiny_data.spec)
    folder = tmp_path / "teacher"
    info = replace(teacher.info, weights_sha256=weights_sha256(teacher.network), accuracy_heldout=1.0)
    save_teacher(folder, teacher.network, info)
    return folder


def test_memory_that_does_not_suffice_never_cuts_a_batch(tmp_path: Path, tiny_data: Data, stored: Path) -> None:
    """Slots are done apart, or the classes of LPLD, which are its batches; EDC's job is one batch, and stays whole."""
    context = fresh_context(tmp_path / "store", tiny_data)
    wanted = {"dwa": ["slots", "slots"], "lpld": ["classes", "classes"], "edc": ["whole"]}
    for name, cut in wanted.items():
        request = request_of(name, ipc=5, steps=3, **({"committee": {"turns": True}} if name == "edc" else {}))
        *_, job = rows_of(request, context, tiny_data, stored)
        assert (job.groups > 1) == (name != "edc")
        context.store.halve(job.id)
        whole = {"slots": job.config["slots"], "classes": job.config["classes"]}
        parts = [one for one in rows_of(request, context, tiny_data, stored) if one.title.startswith(name)][-len(cut) :]
        for part, axis in zip(parts, cut, strict=True):
            assert [key for key in whole if part.config[key] != whole[key]] == ([] if axis == "whole" else [axis])
        if len(cut) > 1:
            assert [x for part in parts for x in part.config[cut[0]]] == whole[cut[0]]


def test_the_classes_of_lpld_done_apart_are_the_same_images(tmp_path: Path, tiny_data: Data, stored: Path) -> None:
    whole, halved = (fresh_context(tmp_path / store, tiny_data) for store in ("whole", "halved"))
    request = request_of("lpld", ipc=2, steps=3)
    [job] = rows_of(request, halved, tiny_data, stored)
    halved.store.halve(job.id)
    sets = [
        load(distill(request, context, out=tmp_path / f"set{number}", teachers=[stored])[0])
        for number, context in enumerate((whole, halved))
    ]
    assert np.abs(sets[0].images.astype(int) - sets[1].images).mean() < 0.05  # sums differ with the size of a forward
    np.testing.assert_array_equal(sets[0].targets, sets[1].targets)


# --- losses that are lost --------------------------------------------------------------------------------------------

FEW: dict[str, Any] = {"epochs": 2, "views": {"crop": "pad", "batch_size": 4, "group_size": 2}}

ENDLESS = 1e39
"""A weight of the statistics beyond float32: the loss is infinite, and pixels are not numbers."""


@pytest.mark.parametrize("name", ["sre2l++", "dwa"])
def test_a_lost_loss_ends_the_run_and_leaves_nothing(name: str, tmp_path: Path, tiny_data: Data, stored: Path) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    request = request_of(name, ipc=2, steps=4, alpha_bn=ENDLESS, seed=11, labels=FEW)
    with pytest.raises(
        MethodError, match=rf"{name.replace('+', '.')} diverged \(seed 11, set 0, slot 0\).* at step 4; "
    ):
        distill(request, context, out=tmp_path / "set", teachers=[stored])
    assert not (tmp_path / "set").exists()
    for job in rows_of(request, context, tiny_data, stored):
        assert not context.store.has(job.id)
        assert not context.store.checkpoint_path(job.id).exists()
    left = [path for path in context.store.root.rglob("*") if path.is_file() and "runs" not in path.parts]
    assert {path.name for path in left} <= {"manifest.json", "weights.safetensors", "teacher.json"}


@pytest.mark.parametrize(("name", "settings"), [("sre2l++", {}), ("dwa", {}), ("fadrm", {"residual": {"blocks": 2}})])
def test_the_slot_that_was_lost_is_named_and_teachers_stay_as_they_were(name: str, settings: dict[str, Any]) -> None:
    """Here one pixel of one slot is lost at a step, as by a mask that is not a number."""
    slots, [teacher] = (0, 4), teachers_of(0)
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    start = real(slots)
    method = made(name, {"steps": 5, **settings})
    assert isinstance(method, RecoveryMethod)

    class Losing(NoCheckpoint):
        """Looks in at every step, and spoils a pixel of the second slot after the third."""

        steps = 0

        def due(self) -> bool:
            return True

        def save(self, state: dict[str, Tensor]) -> None:
            self.steps += 1
            if self.steps == 3:
                state["values"][1, 0, 0, 0, 0] = math.nan

    with pytest.raises(
        MethodError, match=rf"{name.replace('+', '.')} diverged \(seed 5, set 1, slot 4\).* at step 5; "
    ):
        method.recover(
            job_of(slots),
            start,
            teachers=[teacher],
            precomputed=None,
            compute=Compute(),
            report=silent,
            checkpoint=Losing(),
        )
    assert torch.equal(start, real(slots))
    assert not start.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.state_dict().items())
    assert all(one.grad is None for one in teacher.network.parameters())


def test_perturbing_that_goes_too_far_is_refused() -> None:
    """In several steps by its gradient, in one by the loss of the images."""
    given: tuple[Any, ...] = (real((0,)), (0,), [0])
    with pytest.raises(TeacherError, match=r"no finite gradient .*; lower perturb.radius"):
        recovered("dwa", {"steps": 2, "perturb": {"radius": 1e200, "steps": 3}}, *given)
    with pytest.raises(MethodError, match=r"dwa diverged \(seed 5, set 1, slot 0\)"):
        recovered("dwa", {"steps": 2, "perturb": {"radius": 1e200, "steps": 1}}, *given)


# --- from the start to the rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sre2l++", "cv-dd", "dwa", "edc", "lpld"])
def test_rows_are_what_was_made_of_the_start_rounded(name: str) -> None:
    """In float32, whose rounding is a level here and there; slot by slot, and in a slot class by class."""
    slots, teachers = (0, 1), teachers_of(0, 1, 2) if name in ("cv-dd", "edc") else teachers_of(0)
    settings = {"steps": 2, "lr": 0.02, **({"committee": {"size": 2, "voting": "equal"}} if name == "cv-dd" else {})}
    start = noise_start(SPEC, slots, CLASSES, seed=SEED, set_index=SET).double() if name == "lpld" else real(slots)
    numbers = range(len(teachers))
    given = {"precomputed": known(*numbers) if name in ("edc", "lpld") else None}
    exact = recovered(name, {**settings, "alpha_bn": 0.01}, start, slots, numbers, **given)
    exact = exact.transpose(0, 1) if name == "lpld" else exact.reshape(start.shape)
    mean, std = (torch.tensor(each, dtype=torch.float64).view(-1, 1, 1) for each in (SPEC.mean, SPEC.std))
    wanted = ((exact * std + mean).clamp(0, 1) * 255).round().flatten(0, 1).movedim(1, -1).numpy()
    single = [Teacher(copy.deepcopy(one.network).float(), one.info) for one in teachers]
    method = made(name, {**settings, "alpha_bn": 0.01})
    rows = method.synthesise(
        job_of(slots, len(slots)),
        teachers=single,
        train=TRAIN,
        compute=Compute(),
        report=silent,
        checkpoint=NoCheckpoint(),
        **given,
    )
    assert rows.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert rows.slots.tolist() == [0, 0, 0, 1, 1, 1]
    difference = np.abs(rows.pixels.astype(int) - wanted)
    assert difference.mean() < 0.05
    assert np.median(difference) == 0
