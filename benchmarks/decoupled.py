"""The first table: what SRe2L and CDA sets are worth beside random real images, by the same labels and the same steps.

    python benchmarks/decoupled.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --results benchmarks/results/decoupled-fashion-mnist.jsonl --work runs/decoupled

For one data set: 3 sets of each condition (SRe2L; CDA from noise; CDA from real images; random real images) labelled
by one teacher, 3 students of each network per set, trained with the stored soft labels and with hard labels on the
same views for the same number of steps, and the same number of steps on all training images. Accuracy of the last
step on the test images. Every finished set and student is kept in the store below --work and every result is appended
to --results, so the script can be stopped and started at will. At the end it prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from condense.cli.progress import drawn
from condense.device import keep_buffers, resolve
from condense.engine.store import Store
from condense.evaluate.results import read_results
from condense.evaluate.student import StudentRecipe
from condense.pipeline import Context, DataRequest, distill, evaluate
from condense.pipeline import resolve as resolve_recipe
from condense.report import markdown, rows_of
from condense.training import OptimConfig

CONDITIONS: dict[str, dict[str, Any]] = {
    "sre2l": {"method": "sre2l"},
    "cda-noise": {"method": "cda", "start": "noise"},
    "cda-real": {"method": "cda", "start": "real"},
}
STUDENTS = ("resnet20", "convnet3-bn")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/decoupled"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--students", nargs="+", default=STUDENTS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    keep_buffers()
    request = DataRequest(name=options.data, root=options.data_root)
    started = time.monotonic()
    with drawn(quiet=False) as report:
        context = Context(
            store=Store(options.work / "store"), compute=resolve("cpu", "auto", options.threads), report=report
        )
        name = context.data(request).spec.name.replace(":", "-")
        folders = []
        for title, settings in CONDITIONS.items():
            recipe = {
                "data": {"name": options.data, "root": options.data_root},
                "ipc": options.ipc,
                "sets": options.sets,
                "labels": LABELS,
                **RECOVER,
                **settings,
            }
            out = options.work / name / f"ipc{options.ipc}-{title}"
            folders += distill(resolve_recipe(recipe), context, out=out, teachers=[options.teacher])
        evaluate(
            folders,
            context,
            students=options.students,
            seeds=options.seeds,
            against=("random", "whole"),
            data=request,
            teachers=[options.teacher],
            student=STUDENT,
            results=options.results,
        )
    print(markdown(rows_of(read_results(options.results))))
    print(f"{time.monotonic() - started:.0f} s in this run", file=sys.stderr)


RECOVER: dict[str, Any] = {"steps": 500}
LABELS: dict[str, Any] = {
    "epochs": 400,
    "teacher_bn": "batch",
    "views": {"crop": "resized", "scale": [0.5, 1.0], "mix": "cutmix", "batch_size": 50},
}
STUDENT = StudentRecipe(optim=OptimConfig(optimizer="adamw", lr=4e-3, weight_decay=0.01, decay_norms=False))

if __name__ == "__main__":
    main()
