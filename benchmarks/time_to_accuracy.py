"""Seconds of synthesis until a set trains networks to a given accuracy, by the published protocol of DC.

    python benchmarks/time_to_accuracy.py --data fashion-mnist --method dm --ipc 10 --targets 0.80 0.83 \\
        --at 100 200 400 800 --set pool=100 augment=none batch_real=128 optimizer=adam lr=0.05 start=k-means

After each of ``--at`` networks the images are stored, and three networks are trained on them by the track `native:dc`
(301 epochs, no augmentation); the run ends when their mean accuracy on the test images has passed all ``--targets``.
Synthesis goes on from its checkpoint, and its seconds are summed; evaluation does not count. A line of JSON for each
evaluation is appended to ``--out``; the same command again does what is missing. Rates of these methods do not depend
on the number of networks, so a short run is the beginning of a long one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condense.checkpoint import FileCheckpoint
from condense.config import from_mapping, parse_assignments, to_mapping
from condense.console import drawn
from condense.data import Data, open_data
from condense.dataset import load
from condense.device import Compute, keep_buffers, resolve
from condense.evaluation.student import evaluate_student, train_student
from condense.evaluation.tracks import find_track
from condense.files import canonical_json
from condense.labels import store_labels
from condense.methods import METHODS, Method, Rows
from condense.progress import Report
from condense.shards import SetInfo, image_name, write_images, write_set

TRACK, STUDENTS = "native:dc", 3


class Timed:
    """A checkpoint in a file that also keeps the seconds of synthesis, and is due at the last step."""

    def __init__(self, path: Path, last: int) -> None:
        self.file, self.last, self.step = FileCheckpoint(path, every_s=30.0), last, 0
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def load(self) -> dict[str, Tensor] | None:
        saved = self.file.load()
        if saved is not None:
            self.step, self.before = int(saved["done"]), float(saved.pop("seconds"))
        self.started = time.perf_counter()
        return saved

    def due(self) -> bool:
        self.step += 1
        return self.step == self.last or self.file.due()

    def save(self, state: dict[str, Tensor]) -> None:
        self.file.save({**state, "seconds": torch.tensor(self.seconds, dtype=torch.float64)})


def synthesised(
    method: Method, data: Data, options: argparse.Namespace, path: Path, compute: Compute, report: Report
) -> tuple[Rows, float]:
    """The rows after the method's number of networks, and the seconds that they have taken so far."""
    [job] = method.jobs(data.spec, options.ipc, options.set_index, options.seed)
    timed = Timed(path, method.steps(options.ipc))
    rows = method.synthesise(
        job,
        teachers=(),
        train=data.train,
        precomputed=None,
        compute=compute,
        report=report,
        checkpoint=timed,
    )
    return rows, timed.seconds


def accuracies(
    rows: Rows, method: Method, data: Data, options: argparse.Namespace, compute: Compute, report: Report
) -> list[float]:
    """Of students of the set, as it is stored, at their last step."""
    track, folder = find_track(TRACK, data.spec), options.work / "set"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = data.spec.to_dict()
    canvas = {"canvas": method.canvas.name, "settings": method.canvas.settings}
    write_images(
        folder / image_name(0), columns=rows.columns, labels=rows.labels, slots=rows.slots, spec=spec, **canvas
    )
    items = options.ipc * data.spec.n_classes * int(method.canvas.settings.get("factor", 1)) ** 2
    labels = track.labels(n_items=items, n_classes=data.spec.n_classes, raw_bytes=0, metadata=0)
    nothing = np.zeros((0, 0, data.spec.n_classes), np.float16)
    store_labels(folder, nothing, labels, data.spec, images=[folder / image_name(0)], teachers=[])
    info = SetInfo(
        name="time to accuracy",
        spec=spec,
        method={"name": method.name, "revision": method.revision},
        config={},
        seeds={},
        contains_real_images=method.contains_real_images,
        licence="unknown",
    )
    write_set(folder, info)
    dataset, recipe = load(folder), track.recipe(track.network, None, items)
    common: dict[str, Any] = {"set_index": options.set_index, "compute": compute}
    found = []
    for seed in range(STUDENTS):
        network, _ = train_student(dataset, recipe, seed=seed, report=report, **common)
        found.append(evaluate_student(network, data, dataset.spec, compute=compute))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root")
    parser.add_argument("--method", default="dm", choices=("dc", "dsa", "dm", "idc"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at", type=int, nargs="+", default=[100, 200, 400, 800], help="networks")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-index", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-accuracy"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "time-to-accuracy.jsonl")
    options = parser.parse_args()
    keep_buffers()
    options.work.mkdir(parents=True, exist_ok=True)
    compute = resolve(options.device, "auto", options.threads)
    data = open_data(options.data, root=options.data_root)
    kind = METHODS[options.method]
    settings = from_mapping(kind.Config, parse_assignments(options.set))
    run = {
        "data": options.data,
        "method": options.method,
        "ipc": options.ipc,
        "settings": {key: value for key, value in to_mapping(settings).items() if key != "networks"},
        "seed": options.seed,
        "set_index": options.set_index,
        "track": TRACK,
        "compute": compute.identity(),
    }
    checkpoint = options.work / f"{file_name(run)}.checkpoint"
    with drawn(quiet=False) as report:
        for networks in sorted(options.at):
            line = found_in(options.out, run, networks)
            if line is None:
                method = kind(replace(settings, networks=networks))
                method.check(data.spec, options.ipc)
                rows, seconds = synthesised(method, data, options, checkpoint, compute, report)
                found = accuracies(rows, method, data, options, compute, report)
                line = {**run, "networks": networks, "seconds": round(seconds, 2), "accuracies": found}
                with open(options.out, "a") as file:
                    file.write(json.dumps(line) + "\n")
            mean = statistics.mean(line["accuracies"])
            passed = [target for target in options.targets if mean >= target]
            sys.stdout.write(f"{networks} networks, {line['seconds']} s: {100 * mean:.2f} %, passed {passed}\n")
            if len(passed) == len(options.targets):
                return


def file_name(run: dict[str, Any]) -> str:
    """A name for a run's checkpoint."""
    return hashlib.sha256(canonical_json(run).encode()).hexdigest()[:16]


def found_in(path: Path, run: dict[str, Any], networks: int) -> dict[str, Any] | None:
    """The line of the same run that was written before, if there is one."""
    for text in path.read_text().splitlines() if path.exists() else []:
        line: dict[str, Any] = json.loads(text)
        if line["networks"] == networks and all(line.get(key) == value for key, value in run.items()):
            return line
    return None


if __name__ == "__main__":
    main()
