"""Accuracy against bytes: one distilled set, its labels stored in many ways, students trained on each.

    python benchmarks/codecs.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 --ipc 10 \\
        --results benchmarks/results/codecs-fashion-mnist.jsonl --work runs/codecs

The images are those of CDA from real images (settings chosen on held-out training images); all labels come from the
same views and the same teacher, so the ways of storing them differ in nothing else. Students take the same number of
steps of the same size. Every student's line goes to --results at once, with the bytes of images, of labels and of
everything else that training needs; what has its lines there is not done again, and finished jobs are kept in the store
below --work, so the script can be stopped and started at will. The images of a study that was stopped lie in
`benchmarks/codec-sets` (--images), since another kind of machine would make other ones.
`python benchmarks/write_results.py` makes the table of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from decoupled import CONDITIONS, LABELS, RECOVER, STUDENT, best

from condense.config import from_mapping
from condense.console import drawn
from condense.dataset import load
from condense.device import keep_buffers, resolve
from condense.engine.store import Store
from condense.evaluation.objective import Schedule
from condense.labels import LabelConfig, make_logits, store_labels
from condense.pipeline import Context, DataRequest, distill, evaluate
from condense.pipeline import resolve as resolve_recipe
from condense.pipeline.execution import Execution
from condense.shards import image_name, write_set
from condense.teachers import load_teacher

CODECS: dict[str, dict[str, Any]] = {
    "full": {"codec": "full"},
    "int8": {"codec": "int8"},
    "topk:5": {"codec": "topk:5"},
    "topk:2": {"codec": "topk:2"},
    "distances": {"codec": "distances"},
    "distances, matched": {"codec": "distances"},
    "static": {"codec": "static"},
    "none": {"codec": "none"},
    "full, pool 15": {"codec": "full", "pool": 15},
    "int8, pool 15": {"codec": "int8", "pool": 15},
    "topk:2, pool 15": {"codec": "topk:2", "pool": 15},
    "distances, pool 15": {"codec": "distances", "pool": 15},
    "int8, pool 2": {"codec": "int8", "pool": 2},
    "int8, pool 5": {"codec": "int8", "pool": 5},
    "int8, pool 10": {"codec": "int8", "pool": 10},
    "int8, pool 5, shuffled": {"codec": "int8", "pool": 5, "draw": "shuffled"},
    "int8, pool 10, shuffled": {"codec": "int8", "pool": 10, "draw": "shuffled"},
    "int8, pool 15, shuffled": {"codec": "int8", "pool": 15, "draw": "shuffled"},
    "int8, pool 25, shuffled": {"codec": "int8", "pool": 25, "draw": "shuffled"},
    "int8, pool 100, shuffled": {"codec": "int8", "pool": 100, "draw": "shuffled"},
    "int8, pool 60": {"codec": "int8", "pool": 60},
    "int8, pool 100": {"codec": "int8", "pool": 100},
    "distances, pool 60": {"codec": "distances", "pool": 60},
    "int8, pool 60, decay, calibrated": {"codec": "int8", "pool": 60},
    "int8, pool 15, half hard": {"codec": "int8", "pool": 15},
    "int8, pool 60, half hard": {"codec": "int8", "pool": 60},
    "hard": {"codec": "none"},
}
"""How labels are stored."""


def schedules(epochs: int) -> dict[str, Schedule]:
    """How students of ``epochs`` epochs use them, where not plainly."""
    return {
        "distances, matched": Schedule(objective="match"),
        "int8, pool 60, decay, calibrated": Schedule(decay="step", calibrate=True),
        "int8, pool 15, half hard": Schedule(hard_epochs=epochs // 2),
        "int8, pool 60, half hard": Schedule(hard_epochs=epochs // 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as condense distill takes it")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True, help="what tune_decoupled.py wrote for this data set")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/codecs"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=Path, help="a set whose images to take instead of distilling some")
    parser.add_argument("--variants", nargs="*", choices=[*CODECS], default=[*CODECS])
    options = parser.parse_args()
    keep_buffers()
    with drawn(quiet=False) as report:
        compute = resolve("cpu", "auto", 1)
        store = Store(options.work / "store")
        context = Context(store=store, compute=compute, report=report, execution=Execution(workers=options.workers))
        measure(options, context)
        context.close()


def measure(options: argparse.Namespace, context: Context) -> None:
    request = DataRequest(name=options.data, root=options.data_root)
    spec = context.data(request).spec
    per_epoch = max(1, options.ipc * spec.n_classes // LABELS["views"]["batch_size"])
    base = from_mapping(LabelConfig, {**LABELS, "epochs": options.steps // per_epoch}, "labels")
    recipe = {
        "data": {"name": options.data, "root": options.data_root},
        "ipc": options.ipc,
        "labels": {"codec": "none", "epochs": base.epochs, "views": LABELS["views"]},
        **RECOVER,
        **best(CONDITIONS["cda-real"], options.tuned),
    }
    work = options.work / f"{options.results.stem}-ipc{options.ipc}"
    images: Path = options.images
    if images is None:
        [images] = distill(resolve_recipe(recipe), context, out=work / "images", teachers=[options.teacher])
    logits = all_logits(images, base, options.teacher, context, work / "logits.npy")
    done = {(line["labels"], line["ipc"], line["seed"]) for line in lines_of(options.results)}
    for name in options.variants:
        if all((name, options.ipc, seed) in done for seed in range(options.seeds)):
            continue
        schedule = schedules(base.epochs).get(name, Schedule())
        folder = stored(images, logits, replace(base, **CODECS[name]), options.teacher, work / name)
        soft = name != "hard"
        results = evaluate(
            [folder],
            context,
            students=[options.student],
            seeds=options.seeds,
            targets=["soft" if soft else "hard"],
            against=[],
            data=request,
            teachers=[options.teacher],
            student=replace(STUDENT, epochs=base.epochs, schedule=schedule) if soft else STUDENT,
        )
        for result in results:
            if (name, options.ipc, result.seed) not in done:
                line = {"labels": name, "data": spec.name, "ipc": options.ipc, "seed": result.seed}
                line |= {key: getattr(result, key) for key in ("accuracy", "student", "steps", "seconds")}
                line |= {key: getattr(result, key) for key in ("bytes_images", "bytes_labels", "bytes_other")}
                line |= {"pixel_bytes": load(images).images.nbytes, "classes": spec.n_classes}
                line |= {"compute": dict(result.compute)}
                with open(options.results, "a") as file:
                    file.write(json.dumps(line) + "\n")


def all_logits(
    folder: Path, config: LabelConfig, teacher: Path, context: Context, path: Path
) -> npt.NDArray[np.float16]:
    """Of every view of every epoch, and behind them those of the whole images: float16 (epochs + 1, N, K)."""
    if not path.exists():
        dataset, known = load(folder), [load_teacher(teacher, context.compute.torch_device)]
        made = [
            make_logits(dataset.images, known, dataset.spec, one, compute=context.compute, report=context.report)
            for one in (config, replace(config, codec="static"))
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(made), allow_pickle=False)
    held: npt.NDArray[np.float16] = np.load(path)
    return held


def stored(images: Path, logits: npt.NDArray[np.float16], config: LabelConfig, teacher: Path, folder: Path) -> Path:
    """The set with its labels stored as ``config`` says."""
    if (folder / "set.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = [shutil.copyfile(path, folder / path.name) for path in sorted(images.glob("images-*.h5"))]
    assert files[0].name == image_name(0)
    dataset, known = load(images), load_teacher(teacher, "cpu")
    held = logits[-1:] if config.codec == "static" else logits[: config.n_labelled]
    names = [{"network": known.info.network, "sha256": known.sha256}]
    store_labels(folder, held, config, dataset.spec, images=files, teachers=names)
    write_set(folder, dataset.info)
    return folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
