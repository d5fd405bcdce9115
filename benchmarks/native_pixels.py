"""What clipping and rounding cost where pixels are unbounded, as DC, DSA and DM publish them.

    python benchmarks/native_pixels.py --method dc --ipc 1 --networks 1000

A set is made with ``clamp=false``. Its normalised pixels, float32, are written to ``native.safetensors`` in the folder
``--work``; what the package stores of it is clipped to [0, 1] and rounded to uint8. Students of the published protocol
of the method (`native:dc`, or `native:dsa` for DSA) are trained on both forms, with the same initial weights and the
same batches, so that differences are paired. A third set, made with ``clamp=true``, is what the package makes by
default, and is stored as it is but for rounding. A line for each set of images is added to
`benchmarks/results/pixels-native.jsonl`: no claim is made beyond what is measured there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from condense.canvas import Pixels
from condense.checkpoint import NoCheckpoint
from condense.config import from_mapping, parse_assignments, to_mapping
from condense.console import drawn
from condense.data import Data, open_data
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute, keep_buffers, resolve
from condense.evaluation.student import augmented, evaluate_student
from condense.evaluation.tracks import Track, find_track
from condense.methods import METHODS
from condense.methods.matched import MatchedMethod
from condense.networks import build
from condense.progress import Report
from condense.seeding import key
from condense.training import Batch, Diverged, fit_together
from condense.views.plan import plan

TRACKS = {"dc": "native:dc", "dm": "native:dsa", "dsa": "native:dsa"}


def made(
    method: MatchedMethod, data: Data, options: argparse.Namespace, compute: Compute, report: Report
) -> tuple[Pixels, Tensor]:
    """The canvas, and its pixels as they are stored: normalised, float32 (slots, classes, C, H, W)."""
    method.check(data.spec, options.ipc)
    [job] = method.jobs(data.spec, options.ipc, options.set_index, options.seed)
    canvas = method.optimised(
        job, train=data.train, precomputed=None, compute=compute, report=report, checkpoint=NoCheckpoint()
    )
    stored = normalise(to_pixels(canvas.rows()).to(canvas.values.device), data.spec)
    return canvas, stored.view_as(canvas.values)


def accuracies(
    pixels: Tensor, track: Track, data: Data, options: argparse.Namespace, compute: Compute, report: Report
) -> list[float]:
    """Of students at their last step, in percent. ``pixels`` (slots, classes, C, H, W), normalised."""
    spec, items = data.spec, pixels.flatten(0, 1)
    labels = torch.arange(spec.n_classes, device=items.device).repeat(len(pixels))
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width, "n_classes": spec.n_classes}
    students = [
        build(options.student or track.network, **shape, seed=key(seed, "student", options.set_index))
        for seed in range(options.students)
    ]

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        order = plan(track.views, options.seed, epoch, len(items), spec.height, spec.width)
        for step in range(first_step, order.n_steps):
            chosen = torch.from_numpy(order.order[order.step(step)]).to(items.device)
            yield Batch(items[chosen].contiguous(memory_format=torch.channels_last), labels[chosen])

    found = fit_together(
        students,
        augmented(batches, track.student.augment, spec, key(options.seed, "augment", options.set_index)),
        functional.cross_entropy,
        track.student.optim,
        epochs=track.epochs,
        steps_per_epoch=plan(track.views, options.seed, 0, len(items), spec.height, spec.width).n_steps,
        compute=compute,
        report=report,
        names=[f"student {seed}" for seed in range(options.students)],
    )
    for one in found:
        if isinstance(one, Diverged):
            raise one
    return [100 * evaluate_student(network, data, spec, compute=compute) for network in students]


def outside(canvas: Pixels) -> float:
    """The share of pixels that no image can hold."""
    return float(((canvas.values < canvas.low) | (canvas.values > canvas.high)).double().mean())


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 3), "sd": round(statistics.stdev(values), 3), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root")
    parser.add_argument("--method", default="dc", choices=sorted(TRACKS))
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--student", help="their network, if not that of the protocol")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set-index", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/pixels-native"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pixels-native.jsonl")
    options = parser.parse_args()
    keep_buffers()
    compute = resolve(options.device, "auto", options.threads)
    data = open_data(options.data, root=options.data_root)
    track = find_track(TRACKS[options.method], data.spec)
    kind = METHODS[options.method]
    settings = replace(from_mapping(kind.Config, parse_assignments(options.set)), networks=options.networks)
    with drawn(quiet=False) as report:
        forms: dict[str, Tensor] = {}
        canvas, forms["stored"] = made(kind(replace(settings, clamp=False)), data, options, compute, report)  # type: ignore[arg-type]
        forms = {"native": canvas.values, **forms}
        options.work.mkdir(parents=True, exist_ok=True)
        pixels = canvas.values.detach().cpu().contiguous()
        save_file({"images": pixels}, options.work / "native.safetensors", metadata={"axes": "slot, class, C, H, W"})
        _, forms["clamped"] = made(kind(replace(settings, clamp=True)), data, options, compute, report)  # type: ignore[arg-type]
        found = {name: accuracies(one, track, data, options, compute, report) for name, one in forms.items()}
    pairs = {
        name: summary([a - b for a, b in zip(found["native"], found[name], strict=True)])
        for name in ("stored", "clamped")
    }
    line: dict[str, Any] = {
        "benchmark": "native_pixels",
        "data": options.data,
        "method": options.method,
        "ipc": options.ipc,
        "settings": to_mapping(replace(settings, clamp=False)),
        "seed": options.seed,
        "set_index": options.set_index,
        "track": track.name,
        "student": options.student or track.network,
        "share_of_pixels_outside": round(outside(canvas), 4),
        "accuracy": {name: summary(values) for name, values in found.items()},
        "native_less": pairs,
        "compute": compute.identity(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "a") as file:
        file.write(json.dumps(line) + "\n")
    sys.stdout.write(json.dumps(line, indent=1) + "\n")


if __name__ == "__main__":
    main()
