"""Choose the settings of the recover step for `decoupled.py`, on training images that were held out.

    python benchmarks/tune_decoupled.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --results benchmarks/results/tune-fashion-mnist.jsonl --work runs/tune

The same grid of learning rates and BatchNorm weights for every condition: one set each (of another seed than the sets
of the table), one ResNet-20 student of 600 steps, its accuracy on the part of the training images that the teacher was
not trained on. Test images are never looked at. Finished lines are not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from decoupled import CONDITIONS, LABELS, RECOVER, STUDENT

from condense.console import drawn
from condense.data import holdout
from condense.dataset import load
from condense.device import keep_buffers, resolve
from condense.engine.store import Store
from condense.evaluation.student import train_student
from condense.pipeline import Context, DataRequest, distill
from condense.pipeline import resolve as resolve_recipe
from condense.teachers import load_teacher
from condense.training import accuracy, predict

SEED = 1
EPOCHS = 300
GRID = [{"lr": lr, "alpha_bn": alpha} for lr, alpha in itertools.product((0.03, 0.1), (0.01, 0.1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/tune"))
    options = parser.parse_args()
    keep_buffers()
    tried: list[dict[str, Any]] = [{"method": "random"}]
    tried += [{**condition, **settings} for settings in GRID for condition in CONDITIONS.values()]
    done = [json.loads(line)["settings"] for line in lines_of(options.results)]
    with drawn(quiet=False) as report:
        compute = resolve("cpu", "auto", 1)
        context = Context(store=Store(options.work / "store"), compute=compute, report=report)
        for settings in tried:
            if settings not in done:
                line = json.dumps({"settings": settings, "held_out_accuracy": held_out(settings, options, context)})
                with open(options.results, "a") as file:
                    file.write(line + "\n")


def held_out(settings: dict[str, Any], options: argparse.Namespace, context: Context) -> float:
    """Accuracy of one student of one set on training images that nobody was trained on."""
    recipe = {
        "data": {"name": options.data, "root": options.data_root},
        "ipc": 10,
        "seed": SEED,
        "labels": {**LABELS, "epochs": EPOCHS},
        **({} if settings["method"] == "random" else RECOVER),
        **settings,
    }
    name = "-".join(str(value) for value in settings.values())
    out = options.work / options.results.stem / name
    [folder] = distill(resolve_recipe(recipe), context, out=out, teachers=[options.teacher])
    data = context.data(DataRequest(name=options.data, root=options.data_root))
    network, _ = train_student(load(folder), STUDENT, seed=SEED, compute=context.compute, report=context.report)
    recipe_of_teacher = load_teacher(options.teacher).info.recipe
    _, held = holdout(data.train.labels, recipe_of_teacher["holdout"], recipe_of_teacher["seed"])
    logits = predict(network, data.train.images[held], data.spec, compute=context.compute)
    return accuracy(logits, np.asarray(data.train.labels)[held])


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
