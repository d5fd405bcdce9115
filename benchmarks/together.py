"""Students of one set, one by one and at once: how many student-steps a second.

    python benchmarks/together.py --teacher benchmarks/teachers/fashion-mnist-resnet20 --data fashion-mnist

Claims: at IPC 10, on two cores, students that ask a teacher about every view are trained at least 1.5 times as fast at
once as one by one, since the teacher answers once for all; on a GPU, where steps are recorded and run side by side,
students of any kind at least 5 times as fast as one by one, kernel by kernel. Rounds of all forms alternate, after one
of warm-up each; a round's figure is student-steps a second. Random real images, as the track says they are labelled
(`hard`: classes; `teacher`: online). Writes `benchmarks/results/together.json`, or `together-gpu.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from condense import recorded
from condense.console import drawn
from condense.dataset import load
from condense.device import keep_buffers, resolve
from condense.engine.store import Store
from condense.evaluation.student import train_students
from condense.evaluation.tracks import find_track
from condense.pipeline import Context, DataRequest, distill
from condense.pipeline import resolve as resolve_recipe
from condense.teachers import load_teacher

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--students", nargs="+", default=["convnet3-w32-bn", "resnet8", "convnet3-in"])
    parser.add_argument("--count", type=int, default=5, help="students at once")
    parser.add_argument("--steps", type=int, default=20, help="of each student in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/together"))
    options = parser.parse_args()
    keep_buffers()
    with drawn(quiet=False) as report:
        compute = resolve(options.device, "auto", options.threads)
        context = Context(store=Store(options.work / "store"), compute=compute, report=report)
        found: dict[str, Any] = {"benchmark": "together", "ipc": options.ipc, "at_once": options.count, "students": {}}
        for track in ("hard", "teacher"):
            for name in options.students:
                found["students"][f"{name}, {track}"] = compare(track, name, options, context)
    found["compute"] = compute.identity()
    found["versions"] = {"torch": torch.__version__}
    gpu = compute.torch_device.type == "cuda"
    if gpu:
        found["device"] = torch.cuda.get_device_name(compute.torch_device)
    text = json.dumps(found, indent=1)
    (RESULTS / ("together-gpu.json" if gpu else "together.json")).write_text(text + "\n")
    sys.stdout.write(text + "\n")


def compare(name: str, network: str, options: argparse.Namespace, context: Context) -> dict[str, Any]:
    request = DataRequest(name=options.data, root=options.data_root)
    spec = context.data(request).spec
    track = replace(find_track(name, spec), steps=options.steps)
    items = options.ipc * spec.n_classes
    labels = track.labels(n_items=items, n_classes=spec.n_classes, raw_bytes=0, metadata=0)
    recipe = {
        "data": {"name": options.data, "root": options.data_root},
        "method": "random",
        "ipc": options.ipc,
        "labels": {"codec": "none", "epochs": labels.epochs, "views": labels.views.to_dict(), "teacher_bn": "batch"},
    }
    [folder] = distill(
        resolve_recipe(recipe), context, out=options.work / f"{options.data}-{name}", teachers=[options.teacher]
    )
    dataset = load(folder)
    teachers = [load_teacher(options.teacher, context.compute.torch_device)] if track.online else []
    student = track.recipe(network, None, items)
    common: dict[str, Any] = {"teachers": teachers, "compute": context.compute}
    one_by_one = [[seed] for seed in range(options.count)]
    groups = {"one_by_one": one_by_one, "at_once": [list(range(options.count))]}
    gpu = context.compute.torch_device.type == "cuda"
    if gpu:
        groups["one_by_one_recorded"] = one_by_one
    rates: dict[str, list[float]] = {form: [] for form in groups}
    for round_ in range(options.rounds + 1):
        for form, seeds in groups.items():
            plain = patch.object(recorded, "recording", False) if form == "one_by_one" else nullcontext()
            start = time.perf_counter()
            with plain:
                for some in seeds:
                    train_students(dataset, student, seeds=some, **common)
            if gpu:
                torch.cuda.synchronize()
            if round_:
                rates[form].append(options.count * options.steps / (time.perf_counter() - start))
    ratios = [both / one for one, both in zip(rates["one_by_one"], rates["at_once"], strict=True)]
    return {
        "student_steps_per_second": {form: round(statistics.mean(values), 2) for form, values in rates.items()},
        "times": {
            "mean": round(statistics.mean(ratios), 3),
            "sd": round(statistics.stdev(ratios), 3),
            "n": len(ratios),
        },
    }


if __name__ == "__main__":
    main()
