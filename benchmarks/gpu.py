"""What a step costs on a GPU, as kernels that Python asks for one by one and as a recording of them.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json    # two minutes on one GPU

Random images of CIFAR-10's shape, 10 classes, IPC 10; networks are not trained, which costs the same. Each job is run
once to warm up and then ``--rounds`` times, with recordings (see `condense/recorded.py`) and without them by turns.
A figure is milliseconds for each step of an inversion, or for each match with the training between matches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from decoupled_cost import untrained

from condense import recorded
from condense.checkpoint import NoCheckpoint
from condense.config import from_mapping
from condense.data import Data, DatasetSpec, Split
from condense.device import Compute, resolve
from condense.methods import METHODS, SynthesisJob
from condense.progress import silent

SIDE, CLASSES, IPC, IMAGES = 32, 10, 10, 600


@dataclass(frozen=True)
class Contestant:
    """A method with ``settings``, in which ``steps`` steps are taken; ``network``: of its teacher, if it has one."""

    method: str
    steps: int
    settings: dict[str, Any] = field(default_factory=dict)
    network: str | None = None


CONTESTANTS = {
    "sre2l, resnet18": Contestant("sre2l", 200, {"steps": 200}, "resnet18"),
    "sre2l, resnet20": Contestant("sre2l", 200, {"steps": 200}, "resnet20"),
    "dwa, resnet18": Contestant("dwa", 200, {"steps": 200}, "resnet18"),
    "dc": Contestant("dc", 40, {"networks": 4}),
    "dsa": Contestant("dsa", 40, {"networks": 4}),
    "dm": Contestant("dm", 200, {"networks": 200}),
    "idc": Contestant("idc", 100, {"networks": 1, "matches": 100}),
}


def spec_of() -> DatasetSpec:
    return DatasetSpec(
        name="random images",
        classes=tuple(map(str, range(CLASSES))),
        channels=3,
        height=SIDE,
        width=SIDE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        train_sizes=(IMAGES,) * CLASSES,
        test_sizes=(1,) * CLASSES,
        fingerprint="",
    )


def seconds_of(one: Contestant, compute: Compute) -> float:
    spec = spec_of()
    labels = np.arange(CLASSES).repeat(IMAGES)
    draws = np.random.default_rng(0)
    train = Split(draws.integers(0, 256, (len(labels), SIDE, SIDE, 3)).astype(np.uint8), labels)
    method = METHODS[one.method](from_mapping(METHODS[one.method].Config, one.settings))
    slots, classes = tuple(range(IPC)), tuple(range(CLASSES))
    job = SynthesisJob(spec=spec, set_index=0, seed=0, slots=slots, classes=classes, ipc=IPC)
    teachers = [untrained(one.network, Data(spec, train, train), compute)] if one.network else []
    start = time.perf_counter()
    method.synthesise(
        job,
        teachers=teachers,
        train=train,
        precomputed=None,
        compute=compute,
        report=silent,
        checkpoint=NoCheckpoint(),
    )
    if compute.torch_device.type == "cuda":
        torch.cuda.synchronize(compute.torch_device)
    return time.perf_counter() - start


def measured(one: Contestant, compute: Compute, rounds: int) -> dict[str, Any]:
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for recording, found in spent.items():
            with patch.object(recorded, "recording", recording):
                seconds = seconds_of(one, compute)
            if number:
                found.append(1000 * seconds / one.steps)
    ratios = [plain / own for own, plain in zip(spent[True], spent[False], strict=True)]
    return {"ms_per_step": summary(spent[True]), "ms_not_recorded": summary(spent[False]), "times": summary(ratios)}


def summary(values: Sequence[float]) -> dict[str, float]:
    spread = {"sd": round(statistics.stdev(values), 3)} if len(values) > 1 else {}
    return {"mean": round(statistics.mean(values), 3), **spread, "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    compute = resolve(given.device)
    found = {name: measured(CONTESTANTS[name], compute, given.rounds) for name in given.only}
    result = {"benchmark": "gpu", "ipc": IPC, "steps": found, "compute": compute.identity()}
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
