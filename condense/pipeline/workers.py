"""What is done for each kind of job: one function ``(task, inputs' folders, desk, context)`` each.

Workers put the parts together; they hold no algorithm. What they write is the same bytes for the same job.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.config import from_mapping
from condense.data import Data, Split, holdout
from condense.dataset import load
from condense.engine.job import Task
from condense.engine.perform import Desk
from condense.evaluation.measure import measure_real, measure_set
from condense.evaluation.results import Failure
from condense.evaluation.student import StudentRecipe, train_on_real, train_students
from condense.files import canonical_json
from condense.labels import LabelConfig, make_logits, store_labels
from condense.matching import Grown, Growth, grow
from condense.methods import METHODS
from condense.methods.base import Canvas, Method, Precomputed, Rows, SynthesisJob
from condense.pipeline.context import Context
from condense.pipeline.results import keep_failure, keep_result
from condense.shards import SetInfo, image_name, join_rows, read_image_files, shard_slices, take_rows, write_images
from condense.shards import write_set as finish_set
from condense.teachers import ClassStatistics, Dynamics, ExpertRecipe, Experts, Features, save_teacher
from condense.teachers.class_statistics import class_statistics as measure_classes
from condense.teachers.dynamics import log_dynamics
from condense.teachers.experts import train_expert, write_expert
from condense.teachers.features import write_features
from condense.teachers.recipe import TeacherRecipe, train_teacher
from condense.teachers.trained import save_network
from condense.training import Diverged

__all__ = ["WORKERS", "read_rows", "write_rows"]

LEARNED = "learned.json"


def teacher(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Train a teacher on the data set (the squeeze step)."""
    network, info = train_teacher(
        context.data_of(job),
        from_mapping(TeacherRecipe, job.config["recipe"], "teacher"),
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    )
    save_teacher(desk.folder, network, info)


def supplied(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Copy a folder from outside into the store."""
    shutil.copytree(job.where["folder"], desk.folder, dirs_exist_ok=True)


def supplied_images(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Copy the image files of a set from outside into the store."""
    for path in image_files(Path(job.where["folder"])):
        shutil.copyfile(path, desk.folder / path.name)


def features(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Run a teacher over all training images."""
    [one] = context.teachers(inputs)
    write_features(
        desk.folder,
        one,
        context.data_of(job).train.images,
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    )


def dynamics(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Train a network on all training images and log how it learns each of them."""
    log_dynamics(
        context.data_of(job),
        from_mapping(TeacherRecipe, job.config["recipe"], "scoring"),
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    ).write(desk.folder)


def expert(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Train a network on all training images and keep its weights after each epoch."""
    weights = train_expert(
        context.data_of(job),
        from_mapping(ExpertRecipe, job.config["recipe"], "expert"),
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    )
    write_expert(desk.folder, weights)


def class_statistics(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Measure what a teacher's BatchNorm layers are given of each class."""
    [one] = context.teachers(inputs)
    train = context.data_of(job).train
    measure_classes(
        one,
        train.images,
        train.labels,
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    ).write(desk.folder)


def grown_network(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Let a network learn from the training images, keeping snapshots of it."""
    growth, data = from_mapping(Growth, job.config["growth"]), context.data_of(job)
    grow(
        data.train if "without" not in job.config else kept(data.train, job.config["without"]),
        data.spec,
        growth,
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    ).write(desk.folder, growth)


PRECOMPUTED: dict[str, Callable[[Path], Precomputed]] = {"features": Features.read, "dynamics": Dynamics.read}


def known(method: Method, inputs: Sequence[Path]) -> tuple[Sequence[Path], Precomputed]:
    """The folders of the teachers among a block's inputs, and what is precomputed."""
    if method.needs.precomputed == "none":
        return inputs, None
    if method.needs.precomputed == "grown networks":
        return (), tuple(Grown.read(folder) for folder in inputs)
    if method.needs.precomputed == "experts":
        return (), Experts.read(inputs)
    if method.needs.precomputed == "class statistics":
        teachers = len(inputs) // 2
        return inputs[:teachers], tuple(ClassStatistics.read(folder) for folder in inputs[teachers:])
    return inputs[:-1], PRECOMPUTED[method.needs.precomputed](inputs[-1])


def rows(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Synthesise one block of rows. Inputs: teachers, if it needs them, and what is precomputed, if it needs that."""
    method_class = METHODS[job.config["method"]]
    method = method_class(from_mapping(method_class.Config, job.config["settings"]))
    data = context.data_of(job)
    block = SynthesisJob(
        spec=data.spec,
        set_index=job.config["set_index"],
        seed=job.config["seed"],
        slots=tuple(job.config["slots"]),
        classes=tuple(job.config["classes"]),
        ipc=job.config.get("ipc"),
    )
    teachers, precomputed = known(method, inputs)
    train = data.train if "without" not in job.config else kept(data.train, job.config["without"])
    made = method.synthesise(
        block,
        teachers=context.teachers(teachers),
        train=train,
        precomputed=precomputed,
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    )
    write_rows(desk.folder, made, method.canvas)


def kept(train: Split, without: Mapping[str, Any]) -> Split:
    """The training images, those that are held out with a label that no class has: nobody chooses them."""
    _, held = holdout(train.labels, without["fraction"], without["seed"])
    labels = train.labels.copy()
    labels[held] = -1
    return Split(train.images, labels)


def write_rows(folder: Path, rows: Rows, canvas: Canvas) -> None:
    """Keep a block of rows: one file for each array, the canvas if it is not pixels, and what was learnt with them."""
    arrays: dict[str, npt.NDArray[Any]] = {"pixels": rows.pixels, "labels": rows.labels, "slots": rows.slots}
    for name, array in {**arrays, **rows.others}.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    if canvas.name != "pixels":
        (folder / "canvas.json").write_text(canonical_json({"name": canvas.name, "settings": dict(canvas.settings)}))
    write_learned(folder, rows.learned)


def read_rows(folder: Path) -> tuple[Rows, Canvas]:
    """The block that :func:`write_rows` wrote, as memory maps, and its canvas."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    own = {name: arrays.pop(name) for name in ("pixels", "labels", "slots")}
    path = folder / "canvas.json"
    rows = Rows(**own, others=arrays, learned=read_learned(folder))
    return rows, Canvas(**json.loads(path.read_text())) if path.exists() else Canvas("pixels")


def write_learned(folder: Path, learned: Mapping[str, float]) -> None:
    """Keep numbers that were learnt, if there are any."""
    if learned:
        (folder / LEARNED).write_text(canonical_json(dict(learned)))


def read_learned(folder: Path) -> dict[str, float]:
    """What :func:`write_learned` wrote there."""
    path = folder / LEARNED
    return dict(json.loads(path.read_text())) if path.exists() else {}


def images(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Pack blocks of rows into image files, in slot-major order, leaving out slots that are not wanted."""
    blocks, canvases = zip(*(read_rows(path) for path in inputs), strict=True)
    labels = np.concatenate([block.labels for block in blocks])
    slots = np.concatenate([block.slots for block in blocks])
    order = np.lexsort((labels, slots))
    order = order[slots[order] < job.config["ipc"]]
    columns = join_rows([block.columns for block in blocks])
    spec = context.data_of(job).spec
    for index, part in enumerate(shard_slices(len(order), columns["images"][0].nbytes)):
        write_images(
            desk.folder / image_name(index),
            columns=take_rows(columns, order[part]),
            labels=labels[order[part]],
            slots=slots[order[part]],
            spec=spec.to_dict(),
            canvas=canvases[0].name,
            settings=canvases[0].settings,
        )
    write_learned(desk.folder, {name: value for block in blocks for name, value in block.learned.items()})


def labels(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Label every view of every epoch: what the teachers say about exactly what the student will see."""
    config = from_mapping(LabelConfig, job.config["labels"], "labels")
    files = image_files(inputs[0])
    teachers = context.teachers(inputs[1:])
    pixels = np.concatenate([file.decode() for file in read_image_files(files)])
    spec = context.data_of(job).spec
    logits = make_logits(
        pixels,
        teachers,
        spec,
        config,
        compute=context.compute,
        report=desk.report,
        checkpoint=desk.checkpoint,
    )
    names: list[dict[str, Any]] = [{"network": one.info.network, "sha256": one.sha256} for one in teachers]
    if config.weights:
        names = [{**name, "weight": weight} for name, weight in zip(names, config.weights, strict=True)]
    store_labels(desk.folder, logits, config, spec, images=files, teachers=names)


def image_files(folder: Path) -> list[Path]:
    """The image files of an artefact or a set, in order."""
    return sorted(folder.glob("images-*.h5"))


def whole_set(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Put images, labels and what is known of them into one folder. Inputs: images, labels, teachers."""
    for path in (*image_files(inputs[0]), *sorted(inputs[1].glob("labels-*.h5"))):
        shutil.copyfile(path, desk.folder / path.name)
    known, learned = job.config["info"], read_learned(inputs[0])
    more = {"learned": learned} if learned else {}
    teachers = context.teachers(inputs[2:])
    finish_set(
        desk.folder,
        SetInfo(
            name=known["name"],
            spec=context.data_of(job).spec.to_dict(),
            method=known["method"],
            config={**known["config"], **more, "inputs": list(job.inputs)},
            seeds=known["seeds"],
            teachers=[{"network": one.info.network, "sha256": one.sha256} for one in teachers],
            contains_real_images=known["contains_real_images"],
            licence=known["licence"],
        ),
    )


def students(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """Train fresh networks on a set, one (``seed``) or several at once (``seeds``), and measure them.

    Inputs: the teachers, if they have to be asked.
    """
    dataset, teachers = load(job.where["set"]), context.teachers(inputs)
    recipe = from_mapping(StudentRecipe, job.config["recipe"], "student")
    several = job.config.get("seeds")
    seeds = several or [job.config["seed"]]
    common: dict[str, Any] = {"teachers": teachers, "set_index": job.config["set_index"], "compute": context.compute}
    trained = train_students(dataset, recipe, seeds=seeds, report=desk.report, checkpoint=desk.checkpoint, **common)
    data = held_out(context.data_of(job), job.config.get("held_out")) if "data" in job.where else None
    for seed, one in zip(seeds, trained, strict=True):
        whose = seed if several else None
        if isinstance(one, Diverged):
            name = str(dataset.info.method["name"])
            keep_failure(desk.folder, failure_of(name, recipe, job, one, seed), seed=whose)
            continue
        if data is not None:
            result = measure_set(*one, dataset, data, recipe, seed=seed, **common)
            keep_result(desk.folder, result, seed=whose)
        if job.config.get("weights"):
            quick = bool(job.config.get("quick"))
            save_network(desk.folder / "model.safetensors", one[0], dataset.spec, recipe.network, quick=quick)


def held_out(data: Data, part: Mapping[str, Any] | None) -> Data:
    """The data set with that part of its training images in the place of the test images, if there is a part."""
    if part is None:
        return data
    _, held = holdout(data.train.labels, part["fraction"], part["seed"])
    return replace(data, test=Split(data.train.images[held], data.train.labels[held]))


def student_on_real(job: Task, inputs: Sequence[Path], desk: Desk, context: Context) -> None:
    """The same number of the same steps on all training images. Inputs: the teachers, for soft targets."""
    like, data = load(job.where["set"]), context.data_of(job)
    recipe = from_mapping(StudentRecipe, job.config["recipe"], "student")
    teachers = context.teachers(inputs)
    common: dict[str, Any] = {
        "teachers": teachers,
        "seed": job.config["seed"],
        "set_index": job.config["set_index"],
        "compute": context.compute,
    }
    try:
        network, record = train_on_real(
            data,
            like,
            recipe,
            teacher_bn=job.config["teacher_bn"],
            report=desk.report,
            checkpoint=desk.checkpoint,
            **common,
        )
    except Diverged as error:
        keep_failure(desk.folder, failure_of("whole-data", recipe, job, error, job.config["seed"]))
        return
    keep_result(desk.folder, measure_real(network, record, like, data, recipe, **common))


def failure_of(condition: str, recipe: StudentRecipe, job: Task, error: Diverged, seed: int) -> Failure:
    return Failure(
        condition=condition,
        student=recipe.network,
        targets=recipe.targets,
        set_index=job.config["set_index"],
        seed=seed,
        reason=str(error),
    )


Worker = Callable[[Task, Sequence[Path], Desk, Context], None]

WORKERS: dict[str, Worker] = {
    "teacher": teacher,
    "supplied-teacher": supplied,
    "supplied-images": supplied_images,
    "features": features,
    "dynamics": dynamics,
    "expert": expert,
    "class-statistics": class_statistics,
    "grown-network": grown_network,
    "rows": rows,
    "images": images,
    "labels": labels,
    "set": whole_set,
    "student": students,
    "students": students,
    "student-on-real": student_on_real,
}
