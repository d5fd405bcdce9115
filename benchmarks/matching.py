"""One step of gradient matching: the package's against the plain form of the published programs.

Claim: on a two-core machine with bfloat16 hardware, ConvNet-3 with instance norm, Fashion-MNIST, ten classes, 256 real
images of each: the exact step, which sees the same images and weights, takes at most half the time of the plain form;
with real gradients computed once for each network of a pool it takes at most a fifteenth at IPC 10 and a hundredth at
IPC 1. The plain form is float32, class by class, group norm on NCHW, gradients of gradients by autograd with one graph
for all classes (DC, arXiv 2006.05929). In float32 the gradients of the pixels agree.

    python benchmarks/matching.py            # a few minutes; writes benchmarks/results/matching.json

Rounds of the contestants alternate after one round of warm-up each; ratios are of the same round. Seconds are those of
one processor, so that what else it does counts little. Drawing the network and the images counts, for all; filling the
pool does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.canvas import Pixels, noise_start
from condense.data import Data, open_data
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute, keep_buffers, resolve
from condense.matching import Matching, PixelOptim, Problem, match, network_of
from condense.matching.convnet import Fast
from condense.matching.derivatives import Batch
from condense.matching.distances import row_cosine

SEED, NETWORK = 0, "convnet3-in"


# --- the plain form ------------------------------------------------------------------------------------------------


class PlainNetwork(nn.Module):
    """ConvNet-3 as it is published; names of weights are those of the package's."""

    def __init__(self, channels: int, classes: int, cells: int, padding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for depth in range(3):
            given = 128 if depth else channels
            layers += [nn.Conv2d(given, 128, 3, padding=1 if depth else padding), nn.GroupNorm(128, 128)]
            layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(128 * cells * cells, classes)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.classifier(self.layers(images).flatten(1))
        return made


def plain_distance(mine: list[Tensor], theirs: list[Tensor]) -> Tensor:
    total = torch.zeros(())
    for one, other in zip(mine, theirs, strict=True):
        if one.ndim < 2:
            continue
        one, other = one.flatten(1), other.flatten(1)
        cosine = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 0.000001)
        total = total + (1 - cosine).sum()
    return total


def plain_step(network: nn.Module, pixels: Tensor, real: list[Tensor], optimiser: torch.optim.Optimizer) -> float:
    """``pixels`` (classes, IPC, C, H, W), ``real`` one batch a class."""
    loss = torch.zeros(())
    for label, images in enumerate(real):
        weights = list(network.parameters())
        target = torch.full((len(images),), label)
        theirs = torch.autograd.grad(functional.cross_entropy(network(images), target), weights)
        held = [one.detach().clone() for one in theirs]
        target = torch.full((len(pixels[label]),), label)
        error = functional.cross_entropy(network(pixels[label]), target)
        mine = torch.autograd.grad(error, weights, create_graph=True)
        loss = loss + plain_distance(list(mine), held)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


class Plain:
    """The published loop, with the data in memory as float32 NCHW."""

    def __init__(self, data: Data, ipc: int, batch: int) -> None:
        spec = data.spec
        self.data, self.batch = data, batch
        self.images = normalise(to_pixels(np.asarray(data.train.images)), spec).contiguous(
            memory_format=torch.contiguous_format
        )
        self.members = [np.flatnonzero(np.asarray(data.train.labels) == label) for label in range(spec.n_classes)]
        start = noise_start(spec, tuple(range(ipc)), tuple(range(spec.n_classes)), seed=SEED, set_index=0)
        self.pixels = start.transpose(0, 1).contiguous().requires_grad_()
        self.optimiser = torch.optim.SGD([self.pixels], lr=0.1, momentum=0.5)

    def steps(self, count: int) -> list[float]:
        """Seconds of each of so many steps."""
        return [self.timed() for _ in range(count)]

    def timed(self) -> float:
        start, spec = time.process_time(), self.data.spec
        network = PlainNetwork(spec.channels, spec.n_classes, 4, 3 if spec.channels == 1 else 1)
        real = [self.images[np.random.default_rng(SEED).permutation(one)[: self.batch]] for one in self.members]
        plain_step(network, self.pixels, real, self.optimiser)
        return time.process_time() - start


# --- the shipped form ----------------------------------------------------------------------------------------------


class Clock:
    """A checkpoint that keeps nothing but the time of every step."""

    def __init__(self) -> None:
        self.times = [time.process_time()]

    def load(self) -> None:
        return None

    def due(self) -> bool:
        self.times.append(time.process_time())
        return False

    def save(self, state: dict[str, Tensor]) -> None:
        raise NotImplementedError


class Shipped:
    """The package's loop. With ``pool``, what comes after the step that fills it."""

    def __init__(self, data: Data, ipc: int, batch: int, compute: Compute, pool: int) -> None:
        self.data, self.compute, self.pool = data, compute, pool
        self.classes = tuple(range(data.spec.n_classes))
        start = noise_start(data.spec, tuple(range(ipc)), self.classes, seed=SEED, set_index=0)
        self.canvas = Pixels(start, data.spec)
        self.batch = batch

    def steps(self, count: int) -> list[float]:
        clock = Clock()
        match(
            self.canvas,
            Matching(what="gradients", networks=count + self.pool, batch_real=self.batch, pool=self.pool),
            PixelOptim(lr=0.1),
            problem_of(self.data),
            self.data.train,
            compute=self.compute,
            checkpoint=clock,
        )
        seconds = np.diff(clock.times).tolist()
        return list(seconds[self.pool :])


def problem_of(data: Data) -> Problem:
    classes = tuple(range(data.spec.n_classes))
    return Problem(name="dc", spec=data.spec, seed=SEED, set_index=0, classes=classes, network=NETWORK)


# --- measuring -----------------------------------------------------------------------------------------------------


def compared(data: Data, ipc: int, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of each contestant, and how many times as fast as the plain form each is."""
    computes = {"float32": Compute(), "bf16": resolve("cpu", "auto", 1)}
    contestants: dict[str, Plain | Shipped] = {"plain": Plain(data, ipc, batch)}
    for precision, compute in computes.items():
        if compute.precision == precision:
            contestants[f"exact, {precision}"] = Shipped(data, ipc, batch, compute, 0)
            contestants[f"pooled, {precision}"] = Shipped(data, ipc, batch, compute, 1)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            found = contestant.steps(10 if name.startswith("pooled") else 1)
            if round_:
                seconds[name].append(statistics.mean(found))
    plain = seconds["plain"]
    ratios = {name: [slow / fast for slow, fast in zip(plain, values, strict=True)] for name, values in seconds.items()}
    return {
        "seconds_a_step": {name: summary(values) for name, values in seconds.items()},
        "times_as_fast": {name: summary(values) for name, values in ratios.items() if name != "plain"},
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "sd": round(statistics.stdev(values), 4), "n": len(values)}


def agreement(data: Data) -> float:
    """Greatest difference of the pixels' gradients in float32, relative to the greatest of them, at IPC 2."""
    spec, count = data.spec, data.spec.n_classes
    own = network_of(problem_of(data), 0)
    plain = PlainNetwork(spec.channels, count, 4, 3 if spec.channels == 1 else 1)
    plain.load_state_dict(own.state_dict())
    labels = np.asarray(data.train.labels)
    picks = np.concatenate([np.flatnonzero(labels == label)[:64] for label in range(count)])
    real = normalise(to_pixels(np.asarray(data.train.images)[picks]), spec)
    start = noise_start(spec, (0, 1), tuple(range(count)), seed=SEED, set_index=0).transpose(0, 1).contiguous()
    pixels = start.clone().requires_grad_()
    plain_step(plain, pixels, list(real.contiguous().split(64)), torch.optim.SGD([pixels], lr=0.0))
    fast = Fast(own, linear=True)  # type: ignore[arg-type]
    known = fast.gradients(Batch(real, tuple(range(count)), (64,) * count))
    _, moved = fast.match_gradients(Batch(start.flatten(0, 1), tuple(range(count)), (2,) * count), known, row_cosine)
    assert pixels.grad is not None
    return float((moved.view(start.shape) - pixels.grad).abs().max() / pixels.grad.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root")
    parser.add_argument("--batch-real", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "matching.json")
    options = parser.parse_args()
    keep_buffers()
    torch.set_num_threads(1)
    data = open_data(options.data, root=options.data_root)
    found: dict[str, Any] = {
        "benchmark": "matching",
        "data": options.data,
        "network": NETWORK,
        "batch_real": options.batch_real,
        "largest_relative_difference_of_gradients": agreement(data),
    }
    for ipc in (1, 10):
        found[f"ipc {ipc}"] = compared(data, ipc, options.batch_real, options.rounds)
    found["compute"] = resolve("cpu", "auto", 1).identity()
    text = json.dumps(found, indent=1)
    options.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
