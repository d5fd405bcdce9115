"""What the decoupled methods cost beside SRe2L: seconds per image-step, and memory, at equal steps.

    python benchmarks/decoupled_cost.py --out benchmarks/results/decoupled-cost.json    # some minutes on one core
    python benchmarks/decoupled_cost.py --smoke                                         # seconds; figures mean nothing

Expected of a method is what SRe2L takes under the same networks for as many images and steps: one teacher's is that of
SRe2L; a committee's the sum of its members', each by the share of slots and steps at which it is asked; DWA's that of
SRe2L with one slot at a time, since slots with teachers of their own share no forward; INFER's, which optimises as many
images with each teacher, the sum of SRe2L's under all of them. `times_expected` is what the
method takes over that, round by round, after one round of warm-up: mean, standard deviation and number of rounds.
Optimisation is timed, with what comes before its first step (masks, and perturbations, which take as long whatever
--steps says: published methods take 1000 to 4000), not what images start as, whose seconds per image stand
apart. Networks are not trained, which costs the same; their running statistics are those of real images.

Memory is the peak of a process of its own for each method, and the bytes that it grew by from before the job;
`times_largest_member` is that growth over the growth under SRe2L with the greediest of its networks alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condense.canvas import Compensated, noise_start
from condense.checkpoint import NoCheckpoint
from condense.config import from_mapping
from condense.data import Data, open_data
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute, keep_buffers, resolve
from condense.memory import peak_memory
from condense.methods import METHODS
from condense.methods.base import Precomputed, SynthesisJob
from condense.methods.infer import Infer
from condense.methods.parts.committee import teacher_weights
from condense.methods.recovery import RecoveryMethod
from condense.networks import build
from condense.progress import silent
from condense.starts import PatchConfig, StartJob, begin
from condense.teachers import Teacher, TeacherInfo
from condense.teachers.class_statistics import class_statistics

SEED = 0
COMMITTEE = ("resnet20", "convnet3-bn", "mobilenetv2", "shufflenetv2")


@dataclass(frozen=True)
class Contestant:
    """A method with these settings, under these networks. ``slots``: how many are done at once; None: all."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    networks: tuple[str, ...] = ("resnet20",)
    slots: int | None = None


def contestants(networks: Sequence[str]) -> dict[str, Contestant]:
    """SRe2L under each network and a slot at a time, and the methods; a single teacher is the first of ``networks``."""
    one, all_of_them = (networks[0],), tuple(networks)
    votes = {"size": 2, "voting": "equal"}
    return {
        **{f"sre2l, {name}": Contestant("sre2l", networks=(name,)) for name in networks},
        "sre2l, slot by slot": Contestant("sre2l", networks=one, slots=1),
        **{name: Contestant(name, networks=one) for name in ("sre2l++", "cda", "dwa", "fadrm", "nrr-dd", "lpld")},
        **{name: Contestant(name, networks=all_of_them) for name in ("edc", "fadrm+")},
        "cv-dd": Contestant("cv-dd", {"committee": votes}, all_of_them),
        "infer": Contestant("infer", {"compensators": len(all_of_them)}, all_of_them),
    }


@dataclass
class Bench:
    """Everything that contestants share: data, networks, and how much they do."""

    data: Data
    compute: Compute
    ipc: int
    steps: int

    def __post_init__(self) -> None:
        self.teachers: dict[str, Teacher] = {}
        self.known: dict[str, Any] = {}
        self.starts: dict[str, torch.Tensor] = {}

    def teacher(self, name: str) -> Teacher:
        if name not in self.teachers:
            self.teachers[name] = untrained(name, self.data, self.compute)
        return self.teachers[name]

    def method(self, one: Contestant) -> RecoveryMethod | Infer:
        kind = METHODS[one.method]
        made = kind(from_mapping(kind.Config, {"steps": self.steps, **one.settings}))
        assert isinstance(made, RecoveryMethod | Infer)
        return made

    def runs(self, one: Contestant) -> int:
        """How often all images are optimised: INFER does so once with each teacher."""
        return len(one.networks) if one.method == "infer" else 1

    def precomputed(self, one: Contestant) -> Precomputed:
        """The statistics of classes, of a few images: what they are costs nothing."""
        if self.method(one).needs.precomputed == "none":
            return None
        few = self.data.train.images[:200], self.data.train.labels[:200]
        for name in one.networks:
            if name not in self.known:
                self.known[name] = class_statistics(self.teacher(name), *few, compute=self.compute)
        return tuple(self.known[name] for name in one.networks)

    def jobs(self, one: Contestant) -> list[SynthesisJob]:
        """All slots in one job, as with ``job_images`` large enough, or in several."""
        spec, at_once = self.data.spec, one.slots or self.ipc
        return [
            SynthesisJob(
                spec=spec,
                set_index=0,
                seed=SEED,
                slots=tuple(range(first, min(first + at_once, self.ipc))),
                classes=tuple(range(spec.n_classes)),
                ipc=self.ipc,
            )
            for first in range(0, self.ipc, at_once)
        ]

    def started(self, one: Contestant) -> tuple[float, torch.Tensor]:
        """Seconds, and what all slots begin as: (slots, classes, C, H, W)."""
        method, spec = self.method(one), self.data.spec
        slots, classes = tuple(range(self.ipc)), tuple(range(spec.n_classes))
        job = StartJob(spec=spec, set_index=0, seed=SEED, slots=slots, classes=classes)
        teachers = [self.teacher(each) for each in one.networks]
        begun = time.perf_counter()
        made = begin(start_of(method), job, self.data.train, teachers, PATCHES, compute=self.compute)
        return time.perf_counter() - begun, made

    def optimise(self, one: Contestant, start: torch.Tensor) -> float:
        """Seconds for all slots and steps."""
        method, precomputed = self.method(one), self.precomputed(one)
        teachers, jobs = [self.teacher(name) for name in one.networks], self.jobs(one)
        begun = time.perf_counter()
        for job in jobs:
            mine = start[list(job.slots)]
            common: dict[str, Any] = {"compute": self.compute, "report": silent, "checkpoint": NoCheckpoint()}
            if isinstance(method, Infer):
                originals = mine.to(self.compute.torch_device)
                for number, teacher in enumerate(teachers):
                    method.compensate(Compensated(originals, job.spec), teacher, number, job, **common)
            else:
                method.recover(job, mine, teachers=teachers, precomputed=precomputed, **common)
        if self.compute.torch_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    def expected(self, name: str, one: Contestant, seconds: Mapping[str, float]) -> float:
        """What SRe2L takes for as much, from its ``seconds`` under each network."""
        if name == "dwa":
            return seconds["sre2l, slot by slot"]
        method = self.method(one)
        if isinstance(method, Infer):
            return sum(seconds[f"sre2l, {network}"] for network in one.networks)
        config = method.config.committee
        asked = teacher_weights(config, len(one.networks), range(self.ipc), seed=SEED, set_index=0) > 0
        shares = asked / asked.sum(0) if config.turns else asked
        alone = [seconds[f"sre2l, {network}"] for network in one.networks]
        return float(np.mean(shares, axis=1) @ alone)


PATCHES = PatchConfig(floor=0.0)
"""Untrained networks take few patches for their class, so none is refused for that."""


def start_of(method: RecoveryMethod | Infer) -> str:
    """What its images begin as; INFER's are real ones, which stay."""
    return "real" if isinstance(method, Infer) else str(method.config.start)


def untrained(name: str, data: Data, compute: Compute) -> Teacher:
    """With the running statistics of some real images."""
    spec = data.spec
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    network = build(name, **shape, n_classes=spec.n_classes).train()
    with torch.no_grad():
        for first in range(0, 640, 64):
            network(normalise(to_pixels(data.train.images[first : first + 64]), spec))
    info = TeacherInfo(
        network=name,
        spec=spec,
        accuracy_heldout=None,
        accuracy_test=None,
        epochs=None,
        recipe={},
        origin="trained",
        weights_sha256="",
    )
    return Teacher(network.eval().requires_grad_(False).to(compute.torch_device), info)


def measured(bench: Bench, all_of_them: Mapping[str, Contestant], rounds: int) -> dict[str, Any]:
    """Seconds per image-step of every contestant and what it takes over what is expected of it."""
    starts = {name: bench.started(one) for name, one in all_of_them.items()}
    found: list[dict[str, float]] = []
    for round_ in range(rounds + 1):
        seconds = {name: bench.optimise(one, starts[name][1]) for name, one in all_of_them.items()}
        found += [seconds] if round_ else []
    images = bench.ipc * bench.data.spec.n_classes
    return {
        name: {
            "networks": list(one.networks),
            "seconds_per_image_step": summary([each[name] / images / bench.steps / bench.runs(one) for each in found]),
            "times_expected": summary([each[name] / bench.expected(name, one, each) for each in found]),
            "start": start_of(bench.method(one)),
            "start_seconds_per_image": starts[name][0] / images,
        }
        for name, one in all_of_them.items()
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "sd": spread, "n": len(values)}


def memory_of(name: str, given: argparse.Namespace) -> dict[str, int]:
    """Of a process of its own that optimises for a few steps."""
    command = [sys.executable, __file__, "--memory", name]
    for option in ("data", "device", "precision", "threads", "ipc"):
        command += [f"--{option}", str(getattr(given, option))]
    command += ["--networks", *given.networks]
    command += ["--data-root", str(given.data_root)] if given.data_root else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def memory_child(bench: Bench, one: Contestant) -> dict[str, int]:
    """Peaks in bytes: of the process before the job, and with it; on a GPU of what was allocated there.

    From noise, whatever the method starts from: to look for a start takes memory of its own.
    """
    gpu = bench.compute.torch_device.type == "cuda"

    def peak() -> int:
        return torch.cuda.max_memory_allocated() if gpu else peak_memory()

    spec = bench.data.spec
    start = noise_start(spec, tuple(range(bench.ipc)), tuple(range(spec.n_classes)), seed=SEED, set_index=0)
    for name in one.networks:
        bench.teacher(name)
    bench.precomputed(one)
    before = peak()
    bench.optimise(one, start)
    return {"before_job": before, "peak": peak(), "grew_by": peak() - before}


def with_memory(
    found: dict[str, Any], all_of_them: Mapping[str, Contestant], given: argparse.Namespace
) -> dict[str, Any]:
    """``found`` with the memory of every contestant."""
    peaks = {name: memory_of(name, given) for name in all_of_them}
    for name, one in all_of_them.items():
        largest = max(peaks[f"sre2l, {network}"]["grew_by"] for network in one.networks)
        found[name]["memory"] = {**peaks[name], "times_largest_member": peaks[name]["grew_by"] / max(1, largest)}
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--networks", nargs="+", default=[*COMMITTEE], help="of committees; the first is the one teacher"
    )
    parser.add_argument("--methods", nargs="*", help="only these, and what they are compared with")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="of each method in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto", help="auto, float32, bf16")
    parser.add_argument("--smoke", action="store_true", help="few images, steps and rounds: only that it runs")
    parser.add_argument("--out", type=Path, help="where to write the result, JSON")
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.smoke:
        given.ipc, given.steps, given.rounds = 2, 4, 2
    return given


def main() -> None:
    given = arguments()
    compute = resolve(given.device, given.precision, given.threads)
    torch.set_num_threads(given.threads)
    keep_buffers()
    data, all_of_them = open_data(given.data, root=given.data_root), contestants(given.networks)
    if given.memory is not None:
        print(json.dumps(memory_child(Bench(data, compute, given.ipc, steps=4), all_of_them[given.memory])))
        return
    if given.methods is not None:
        all_of_them = {name: one for name, one in all_of_them.items() if one.method in (*given.methods, "sre2l")}
    found = measured(Bench(data, compute, given.ipc, given.steps), all_of_them, given.rounds)
    result = {
        "benchmark": "decoupled-cost",
        "data": data.spec.name,
        "image": list(data.spec.image_shape),
        "settings": {"ipc": given.ipc, "steps": given.steps, "rounds": given.rounds, "smoke": given.smoke},
        "methods": with_memory(found, all_of_them, given),
        "compute": compute.identity(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
