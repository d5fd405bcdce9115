"""Recover step: the package's against the plain form of the published programs.

Claim: on a two-core machine with bfloat16 hardware, ResNet-20, Fashion-MNIST, IPC 10 (10 classes), the shipped step
makes at least 2.5 times as many image-steps per second as the plain form, which is float32, NCHW, one IPC index at a
time, a forward hook per BatchNorm layer with separate mean and variance passes, torchvision's crop, a loop over
channels to clip, and an ``.item()`` in each step (SRe2L and CDA, arXiv 2306.13092 and 2311.18838). Both get the same
starts and the same views, and their losses after 100 steps agree: in float64 to 1e-6; in float32 to 1 % in every slot
at a step size of 0.01. At the published step size of 0.25 rounding grows with the steps until single losses differ by a
tenth, also between the plain form and itself in another memory layout; the mean difference over 40 slots is given for
both, with its standard error. Peak memory at IPC 50, 32 px, three channels stays below 2 GB.

    python benchmarks/recover.py                         # 1 minute, on the packaged data set
    python benchmarks/recover.py --data fashion-mnist --teacher DIR --out benchmarks/results/recover.json

Rounds of the contestants alternate, after one round of warm-up each; a round's figure is image-steps per second. The
result has mean, standard deviation and number of rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from condense.canvas import Pixels, noise_start
from condense.checkpoint import NoCheckpoint
from condense.data import DatasetSpec, open_data
from condense.device import Compute, keep_buffers, resolve
from condense.inversion import AdamConfig, Problem, Stage, invert, together
from condense.memory import peak_memory
from condense.methods.base import slot_blocks
from condense.methods.cda import CDA
from condense.methods.recovery import RecoveryConfig
from condense.networks import build
from condense.progress import silent
from condense.teachers import Teacher, TeacherInfo, TeacherRecipe, load_teacher, train_teacher
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import recovery_draws

IPC, SEED, LR, SMALL_LR = 10, 0, 0.25, 0.01
LOSS_STEPS, LOSS_SLOTS, EXACT_SLOTS = 100, 40, 5  # whole blocks of slots


# --- the plain form ------------------------------------------------------------------------------------------------


class StatisticsHook:
    """Distance of one BatchNorm layer's input from its running statistics."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.distance = torch.zeros(())
        layer.register_forward_hook(self.look)

    def look(self, layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        channels = inputs[0].shape[1]
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().view([channels, -1]).var(1, unbiased=False)
        self.distance = torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)


class Plain:
    """The published loop: one IPC index after the other."""

    def __init__(self, network: nn.Module, spec: DatasetSpec, stage: Stage, alpha: float, lr: float = LR) -> None:
        self.network, self.spec, self.stage, self.alpha, self.lr = network, spec, stage, alpha, lr
        self.hooks = [StatisticsHook(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self.dtype = next(network.parameters()).dtype

    def run(self, slots: range, steps: int) -> list[float]:
        """Optimise the images of ``slots``; the last loss of each."""
        return [self.one(slot, steps) for slot in slots]

    def one(self, slot: int, steps: int) -> float:
        spec, classes = self.spec, tuple(range(self.spec.n_classes))
        draws = recovery_draws(
            self.stage.views,
            SEED,
            [(0, slot, 0)],
            range(steps),
            total_steps=steps,
            images=len(classes),
            height=spec.height,
            width=spec.width,
        )
        targets = torch.tensor(classes)
        x = noise_start(spec, (slot,), classes, seed=SEED, set_index=0)[0].to(self.dtype).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=self.lr, betas=(0.5, 0.9), eps=1e-8)
        last = math.nan
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 0.5 * self.lr * (1 + math.cos(math.pi * step / steps))
            shown = vision.resized_crop(x, *draws.boxes[step, 0, 0].tolist(), [spec.height, spec.width], antialias=True)
            shown = vision.hflip(shown) if draws.flips[step, 0, 0] else shown
            shown = torch.roll(shown, draws.rolls[step, 0, 0].tolist(), (2, 3))
            optimiser.zero_grad()
            entropy = nn.functional.cross_entropy(self.network(shown), targets)
            weights = [10.0] + [1.0] * (len(self.hooks) - 1)
            distance = sum(weight * hook.distance for weight, hook in zip(weights, self.hooks, strict=True))
            loss = entropy + self.alpha * distance
            loss.backward()
            optimiser.step()
            last = loss.item()
            for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
                x.data[:, channel] = torch.clamp(x.data[:, channel], -mean / std, (1 - mean) / std)
        return last


# --- the shipped form ----------------------------------------------------------------------------------------------


class Shipped:
    """The package's loop on the blocks of slots that a set is made in, several slots in one forward."""

    def __init__(self, network: nn.Module, spec: DatasetSpec, stage: Stage, compute: Compute, lr: float = LR) -> None:
        self.spec, self.stage, self.compute, self.lr = spec, stage, compute, lr
        self.teacher = TappedNetwork(network)
        self.dtype = next(network.parameters()).dtype

    def run(self, slots: range, steps: int) -> list[float]:
        """Optimise the images of ``slots``; the last loss of each."""
        blocks = slot_blocks(len(slots), RecoveryConfig().job_images // self.spec.n_classes)
        return [loss for block in blocks for loss in self.block(block, steps)]

    def alone(self, slots: range, steps: int) -> list[float]:
        """The same, each slot by itself, so that it has a loss of its own."""
        return [self.block((slot,), steps)[0] for slot in slots]

    def block(self, slots: tuple[int, ...], steps: int) -> list[float]:
        """One job's images; the mean of their last losses, once for each slot."""
        classes = tuple(range(self.spec.n_classes))
        start = noise_start(self.spec, slots, classes, seed=SEED, set_index=0).to(self.dtype)
        canvas = Pixels(start, self.spec)
        problem = Problem(name="cda", seed=SEED, groups=[(0, slot, 0) for slot in slots], targets=classes)
        losses: list[float] = []
        invert(
            canvas,
            (replace(self.stage, steps=steps),),
            together([self.teacher], len(slots)),
            problem,
            compute=self.compute,
            adam=AdamConfig(lr=self.lr),
            report=lambda *given: losses.append(given[3]["loss"]),
        )
        return losses[-1:] * len(slots)


# --- measuring -----------------------------------------------------------------------------------------------------


def rates(contestants: dict[str, Plain | Shipped], rounds: int, steps: int, n_classes: int) -> dict[str, list[float]]:
    """Image-steps per second of each contestant in each round."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant.run(range(IPC), steps)
            if round_:
                found[name].append(IPC * n_classes * steps / (time.perf_counter() - start))
    return found


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values), "n": len(values)}


def memory_of(compute: Compute) -> dict[str, Any]:
    """Peak memory, in bytes, of a process of its own that does a few steps of every job of IPC 50 at 32 px."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        "--threads",
        str(compute.threads),
        "--precision",
        compute.precision,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def memory_child(compute: Compute) -> None:
    spec = DatasetSpec(
        name="32 px",
        classes=tuple(map(str, range(10))),
        channels=3,
        height=32,
        width=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        train_sizes=(50,) * 10,
        test_sizes=(1,) * 10,
        fingerprint="",
    )
    info = TeacherInfo(
        network="resnet20",
        spec=spec,
        accuracy_heldout=None,
        accuracy_test=None,
        epochs=None,
        recipe={},
        origin="trained",
        weights_sha256="",
    )
    network = build("resnet20", channels=3, height=32, width=32, n_classes=10)
    method = CDA(RecoveryConfig(steps=3))
    before = peak_memory()
    for job in method.jobs(spec, 50, 0, SEED):
        method.synthesise(
            job,
            teachers=[Teacher(network.eval(), info)],
            train=None,
            precomputed=None,
            compute=compute,
            report=silent,
            checkpoint=NoCheckpoint(),
        )
    print(json.dumps({"before_jobs": before, "peak": peak_memory(), "ipc": 50, "network": "resnet20"}))


def processor() -> str:
    """The CPU's model name."""
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--teacher", type=Path, help="folder of a trained teacher; without it one is trained for an epoch"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="of the shipped step: auto, float32, bf16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--out", type=Path, help="where to write the result, JSON")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def difference(plain: list[float], other: list[float]) -> dict[str, float]:
    """Mean difference of the losses, relative to the plain mean, with its standard error and the sd of one slot."""
    found = [theirs - mine for mine, theirs in zip(plain, other, strict=True)]
    scale, sd = statistics.mean(plain), statistics.stdev(found)
    values = {"mean": statistics.mean(found), "standard_error": sd / len(found) ** 0.5, "sd": sd}
    return {name: value / scale for name, value in values.items()}


def main() -> None:
    given = arguments()
    compute = resolve("cpu", given.precision, given.threads)
    torch.set_num_threads(given.threads)
    keep_buffers()
    if given.memory:
        memory_child(compute)
        return

    data = open_data(given.data, root=given.data_root)
    if given.teacher is None:
        network, info = train_teacher(data, TeacherRecipe(epochs=1), compute=compute)
        teacher = Teacher(network.eval().requires_grad_(False), info)
    else:
        teacher = load_teacher(given.teacher)
    method = CDA(RecoveryConfig())
    (stage,) = method.stages(data.spec)

    plain_network = build(
        teacher.info.network,
        channels=data.spec.channels,
        height=data.spec.height,
        width=data.spec.width,
        n_classes=data.spec.n_classes,
    ).to(memory_format=torch.contiguous_format)
    plain_network.load_state_dict(teacher.network.state_dict())
    plain_network.eval().requires_grad_(False)
    plain = Plain(copy.deepcopy(plain_network), data.spec, stage, method.config.alpha_bn)
    exact = replace(compute, precision="float32")
    shipped_float32 = Shipped(teacher.network, data.spec, stage, exact)
    contestants: dict[str, Plain | Shipped] = {
        "plain": plain,
        "shipped": Shipped(teacher.network, data.spec, stage, compute),
        "shipped_float32": shipped_float32,
    }

    def plain_as(layout: torch.memory_format, dtype: torch.dtype, lr: float = LR) -> Plain:
        network = copy.deepcopy(plain_network).to(memory_format=layout).to(dtype)
        return Plain(network, data.spec, stage, method.config.alpha_bn, lr)

    found = rates(contestants, given.rounds, given.steps, data.spec.n_classes)
    slots = range(LOSS_SLOTS)
    losses = {name: each.run(slots, LOSS_STEPS) for name, each in contestants.items() if name != "shipped_float32"}
    alone = shipped_float32.alone(slots, LOSS_STEPS)
    other = plain_as(torch.channels_last, torch.float32).run(slots, LOSS_STEPS)
    small = [
        plain_as(torch.contiguous_format, torch.float32, SMALL_LR).run(range(IPC), LOSS_STEPS),
        Shipped(teacher.network, data.spec, stage, exact, SMALL_LR).alone(range(IPC), LOSS_STEPS),
    ]
    wide = [
        statistics.mean(each.run(range(EXACT_SLOTS), LOSS_STEPS))
        for each in (
            plain_as(torch.contiguous_format, torch.float64),
            Shipped(copy.deepcopy(teacher.network).double(), data.spec, stage, exact),
        )
    ]
    result = {
        "benchmark": "recover",
        "data": data.spec.name,
        "teacher": {"network": teacher.info.network, "accuracy_test": teacher.info.accuracy_test},
        "ipc": IPC,
        "image_steps_per_second": {name: summary(values) for name, values in found.items()},
        "times_plain": {
            name: summary([mine / theirs for mine, theirs in zip(found[name], found["plain"], strict=True)])
            for name in ("shipped", "shipped_float32")
        },
        "loss_after_100_steps": {name: statistics.mean(each) for name, each in losses.items()},
        "loss_difference": {
            "float64": abs(wide[1] / wide[0] - 1),
            "float32_small_steps": {
                "lr": SMALL_LR,
                **difference(*small),
                "largest": max(abs(ours / plain - 1) for plain, ours in zip(*small, strict=True)),
            },
            "float32": difference(losses["plain"], alone),
            "plain_in_another_layout_float32": difference(losses["plain"], other),
        },
        "memory": memory_of(compute),
        "settings": {
            "rounds": given.rounds,
            "steps": given.steps,
            "threads": given.threads,
            "precision": compute.precision,
        },
        "processor": processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
