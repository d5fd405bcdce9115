"""The first table: what SRe2L and CDA sets are worth beside random real images, by the same labels and the same steps.

    python benchmarks/decoupled.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --tuned benchmarks/results/tune-fashion-mnist.jsonl \\
        --results benchmarks/results/decoupled-fashion-mnist.jsonl --work runs/decoupled

For one data set: 3 sets of each condition (random real images; SRe2L; CDA from noise; CDA from real images) labelled
by one teacher, 3 students of each network per set, trained with the stored soft labels; random real images also with
hard labels; and the same number of the same steps on all training images. Accuracy of the last step on the test
images. A student takes two steps per epoch of labels. Every finished set and student is kept in the store below --work
and every result is appended to --results at once, so the script can be stopped and started at will. What the jobs cost
goes to a file beside the results.
`python benchmarks/write_results.py` makes docs/results.md of all stored results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from condense.console import drawn
from condense.device import keep_buffers, resolve
from condense.engine.events import finished_jobs
from condense.engine.store import Store
from condense.evaluation.student import StudentRecipe
from condense.pipeline import Context, DataRequest, distill, evaluate
from condense.pipeline import resolve as resolve_recipe
from condense.pipeline.execution import Execution
from condense.training import OptimConfig

CONDITIONS: dict[str, dict[str, Any]] = {
    "sre2l": {"method": "sre2l"},
    "cda-noise": {"method": "cda", "start": "noise"},
    "cda-real": {"method": "cda", "start": "real"},
}
RECOVER: dict[str, Any] = {"steps": 400}
LABELS: dict[str, Any] = {
    "epochs": 600,
    "teacher_bn": "batch",
    "views": {"crop": "resized", "scale": [0.5, 1.0], "mix": "cutmix", "batch_size": 50},
}
STUDENT = StudentRecipe(
    temperature=4.0,
    squared_temperature=True,
    optim=OptimConfig(optimizer="sgd", lr=0.05, weight_decay=5e-4, warmup_steps=40),
)
"""Chosen among AdamW and SGD, two rates each, and with or without CutMix, on training images that were held out, for
random real images of Fashion-MNIST and a ResNet-20; then used for everything."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as condense distill takes it")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True, help="what tune_decoupled.py wrote for this data set")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/decoupled"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=LABELS["epochs"], help="of labels")
    parser.add_argument("--conditions", nargs="*", choices=[*CONDITIONS], default=[*CONDITIONS], metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=["soft", "hard"], help="of random real images")
    parser.add_argument("--students", nargs="+", default=["resnet20", "convnet3-w64-bn"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    keep_buffers()
    request = DataRequest(name=options.data, root=options.data_root)
    with drawn(quiet=False) as report:
        compute = resolve("cpu", "auto", options.threads)
        store = Store(options.work / "store")
        context = Context(store=store, compute=compute, report=report, execution=Execution(workers=options.workers))
        real = made("random", {"method": "random"}, options, context)
        distilled = [
            folder
            for title in options.conditions
            for folder in made(title, {**RECOVER, **best(CONDITIONS[title], options.tuned)}, options, context)
        ]
        common: dict[str, Any] = {
            "data": request,
            "teachers": [options.teacher],
            "student": STUDENT,
            "results": options.results,
        }
        for student in options.students:
            common["students"] = [student]
            evaluate(real, context, seeds=1, targets=["soft"], against=["whole"], only_against=True, **common)
            evaluate(real, context, seeds=options.seeds, targets=options.targets, against=[], **common)
            evaluate([*real, *distilled], context, seeds=options.seeds, targets=["soft"], against=[], **common)
        context.close()
    write_costs(context.store, options.results.with_suffix(".costs.json"))


def made(title: str, settings: dict[str, Any], options: argparse.Namespace, context: Context) -> list[Path]:
    """The sets of one condition."""
    recipe = {
        "data": {"name": options.data, "root": options.data_root},
        "ipc": options.ipc,
        "sets": options.sets,
        "labels": {**LABELS, "epochs": options.epochs},
        **settings,
    }
    out = options.work / options.results.stem / f"ipc{options.ipc}-{title}"
    return distill(resolve_recipe(recipe), context, out=out, teachers=[options.teacher])


def best(condition: dict[str, Any], tuned: Path) -> dict[str, Any]:
    """The condition with the settings that did best on held-out training images."""
    tried = [json.loads(line) for line in tuned.read_text().splitlines()]
    own = [one for one in tried if condition.items() <= one["settings"].items()]
    return dict(max(own, key=lambda one: one["held_out_accuracy"])["settings"])


def write_costs(store: Store, path: Path) -> None:
    """Seconds and peak memory of every job that this store has made."""
    events = finished_jobs(store.root / "runs")
    rows = [{key: event[key] for key in ("kind", "title", "seconds", "peak_memory_bytes")} for event in events]
    rows.sort(key=lambda row: (row["kind"], row["title"]))
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
