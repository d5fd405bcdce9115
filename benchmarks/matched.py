"""What sets of methods that match are worth: accuracy against seconds of synthesis, by the protocols of their papers.

    python benchmarks/matched.py --data fashion-mnist --conditions benchmarks/conditions/fashion-mnist.yaml \\
        --sets 2 --students 5 --device cuda --workers 8 --limit-s 540
    python benchmarks/matched.py --data fashion-mnist --method dm --ipc 10 --track native:dc --until 0.80 0.83 \\
        --at 100 200 400 800 --set pool=100 augment=none batch_real=128 optimizer=adam lr=0.05 start=k-means

A run is one set of one condition at one IPC. After each of ``at`` networks (of MTT: iterations) the images are stored,
and so many networks are trained on them at once by the track; a line of JSON with what all of them reach at their last
step is appended to ``--out``. Synthesis goes on from its checkpoint below ``--work``, and its seconds are summed;
evaluation does not count, and networks that learn beforehand are counted apart. Rates of these methods do not depend on
the number of networks, so a short run is the beginning of a long one. Conditions are those of a file, or the one of the
arguments; ``random`` and ``k-means`` (images nearest to the centres of pixels, by which the methods may start) take no
steps. Runs are done side by side by ``--workers`` processes, in the order of the file. After ``--limit-s`` seconds all
of them stop and keep their state: the same command does what is missing, and nothing twice.

``--held-out`` tests on that share of the training images, which nothing else sees: for choosing settings. ``--until``
ends a run when the mean accuracy has passed all of these. ``--table`` prints what ``--out`` has for these conditions,
and does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from condense.checkpoint import Checkpoint, FileCheckpoint, Paused
from condense.config import from_mapping, identity, merge, parse_assignments, to_mapping
from condense.data import Data, Split, holdout, open_data
from condense.dataset import load
from condense.device import Compute, keep_buffers, resolve
from condense.evaluation.student import evaluate_student, train_students
from condense.evaluation.tracks import find_track
from condense.files import canonical_json
from condense.labels import store_labels
from condense.matching import Grown, Growth, grow
from condense.methods import METHODS, Method, Rows, SynthesisJob
from condense.methods.base import Precomputed
from condense.methods.matched import real_images
from condense.recipes import at_ipc
from condense.shards import SetInfo, image_name, write_images, write_set
from condense.teachers.experts import ExpertRecipe, Experts, train_expert, write_expert
from condense.training import Diverged

HELD_SEED = 0
BASELINES = ("random", "k-means")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is tried at one IPC: ``set`` of the method, evaluated after each of ``at`` networks or iterations.

    ``published``: what ``source`` prints for it, in percent.
    """

    name: str
    method: str
    ipc: int
    track: str = "native:dsa"
    at: tuple[int, ...] = (0,)
    set: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One set of a condition, and how it is done. ``deadline``: of the clock that all processes share."""

    condition: Condition
    set_index: int
    options: argparse.Namespace
    deadline: float

    def stopping(self) -> bool:
        return time.monotonic() >= self.deadline


# --- conditions ----------------------------------------------------------------------------------------------------


def conditions(options: argparse.Namespace) -> list[Condition]:
    """Those of the file that are asked for, or the one of the arguments."""
    if options.conditions is None:
        name = options.name or " ".join([options.method, *options.set])
        at = (0,) if options.method in BASELINES else tuple(options.at)
        settings = parse_assignments(options.set)
        return [
            Condition(name=name, method=options.method, ipc=ipc, track=options.track, at=at, set=settings)
            for ipc in options.ipc
        ]
    read = yaml.safe_load(options.conditions.read_text(encoding="utf-8"))
    return [
        from_mapping(Condition, at_ipc(one, ipc, one["name"]), one["name"])
        for written in read["conditions"]
        if not options.only or written["name"] in options.only
        for one in combined(written)
        for ipc in one["ipc"]
        if ipc in options.ipc
    ]


def combined(written: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One condition for each combination of what its ``grid`` has, whose settings its name says."""
    plain = {key: value for key, value in written.items() if key != "grid"}
    grid = written.get("grid", {})
    for chosen in itertools.product(*grid.values()):
        settings = dict(zip(grid, chosen, strict=True))
        name = " ".join([plain["name"], *(f"{key}={value}" for key, value in settings.items())])
        yield merge(plain, {"name": name, "set": settings} if settings else {})


def made_method(condition: Condition, steps: int | None = None) -> Method:
    """The method of a condition, for so many networks or iterations."""
    kind = METHODS[condition.method]
    settings: Any = from_mapping(kind.Config, condition.set, condition.name)
    return kind(settings if steps is None else replace(settings, **{counted(condition): steps}))


def counted(condition: Condition) -> str:
    return "iterations" if condition.method == "mtt" else "networks"


def opened(options: argparse.Namespace) -> Data:
    """The data set; with images held out these are the ones to test on."""
    data = open_data(options.data, root=options.data_root)
    if not options.held_out:
        return data
    kept, held = holdout(data.train.labels, options.held_out, HELD_SEED)
    train, test = (Split(np.asarray(data.train.images[one]), data.train.labels[one]) for one in (kept, held))
    sizes = [tuple(np.bincount(one.labels, minlength=data.spec.n_classes).tolist()) for one in (train, test)]
    return Data(replace(data.spec, train_sizes=sizes[0], test_sizes=sizes[1]), train, test)


# --- what is made beforehand ---------------------------------------------------------------------------------------


def parts(condition: Condition, data: Data, seed: int) -> Sequence[Growth | ExpertRecipe]:
    """The trainings that a condition's sets need."""
    if condition.method in BASELINES:
        return ()
    method = made_method(condition)
    return (*method.growths(data.spec, seed), *method.expert_recipes(data.spec, seed))


def part_folder(part: Growth | ExpertRecipe, options: argparse.Namespace, data: Data, compute: Compute) -> Path:
    known = {"part": identity(part), "data": data.spec.to_dict(), "compute": compute.identity()}
    return Path(options.work) / "parts" / name_of(known)


def make_part(part: Growth | ExpertRecipe, options: argparse.Namespace, deadline: float) -> str:
    """Train one of the networks that learn beforehand, unless that is done."""
    compute, data = prepared(options)
    folder = part_folder(part, options, data, compute)
    if folder.exists():
        return f"{folder.name}: there already"
    checkpoint = FileCheckpoint(folder.with_suffix(".checkpoint"), 60.0, lambda: time.monotonic() >= deadline)
    folder.parent.mkdir(parents=True, exist_ok=True)
    timed = Timed(checkpoint)
    common: dict[str, Any] = {"compute": compute, "checkpoint": timed}
    unfinished = folder.with_suffix(".unfinished")
    try:
        if isinstance(part, Growth):
            grown = grow(data.train, data.spec, part, **common)
            unfinished.mkdir(exist_ok=True)
            grown.write(unfinished, part)
        else:
            weights = train_expert(data, part, **common)
            unfinished.mkdir(exist_ok=True)
            write_expert(unfinished, weights)
    except Paused:
        return f"{folder.name}: not done yet"
    (unfinished / "seconds.json").write_text(json.dumps(timed.seconds))
    unfinished.rename(folder)
    checkpoint.path.unlink(missing_ok=True)
    return f"{folder.name}: {timed.seconds:.0f} s"


def taken(condition: Condition, options: argparse.Namespace, data: Data, compute: Compute) -> tuple[Precomputed, float]:
    """What was made beforehand for a condition, and the seconds that this took."""
    wanted = parts(condition, data, options.seed)
    folders = [part_folder(part, options, data, compute) for part in wanted]
    seconds = sum(float(json.loads((folder / "seconds.json").read_text())) for folder in folders)
    if not folders:
        return None, 0.0
    if isinstance(wanted[0], ExpertRecipe):
        return Experts.read(folders), seconds
    return tuple(map(Grown.read, folders)), seconds


# --- one set -------------------------------------------------------------------------------------------------------


class Timed:
    """A checkpoint that also keeps the seconds of synthesis, and is due at step ``last``."""

    def __init__(self, checkpoint: Checkpoint, last: int = -1) -> None:
        self.checkpoint, self.last, self.step = checkpoint, last, 0
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def load(self) -> dict[str, Tensor] | None:
        saved = self.checkpoint.load()
        if saved is not None:
            self.before = float(saved.pop("timed.seconds"))
            self.step = int(saved.get("done", torch.tensor(0)))
        self.started = time.perf_counter()
        return saved

    def due(self) -> bool:
        self.step += 1
        return self.step == self.last or self.checkpoint.due()

    def save(self, state: dict[str, Tensor]) -> None:
        self.checkpoint.save({**state, "timed.seconds": torch.tensor(self.seconds, dtype=torch.float64)})


def prepared(options: argparse.Namespace) -> tuple[Compute, Data]:
    keep_buffers()
    return resolve(options.device, options.precision, options.threads), opened(options)


def do(task: Task) -> str:
    """Synthesise and evaluate one set, as far as time suffices; what became of it."""
    condition, title = task.condition, f"{task.condition.name}, ipc {task.condition.ipc}, set {task.set_index}"
    if task.stopping():
        return f"{title}: not begun"
    compute, data = prepared(task.options)
    run = run_of(task, data, compute)
    said = []
    try:
        beforehand, spent = taken(condition, task.options, data, compute)
        for steps in sorted(condition.at):
            line = found_in(task.options.out, run, steps)
            if line is None:
                rows, seconds = synthesised(task, steps, data, beforehand, compute, name_of(run))
                found = accuracies(rows, task, data, compute, f"{name_of(run)}-{steps}")
                line = {**run, "steps": steps, "seconds": round(seconds, 2), "seconds_beforehand": round(spent, 2)}
                line |= {"accuracies": found, "device": device_name(compute)}
                with open(task.options.out, "a") as file:
                    file.write(json.dumps(line) + "\n")
            mean = statistics.mean(one or 0.0 for one in line["accuracies"])
            said.append(f"{steps}: {100 * mean:.2f} % after {line['seconds']} s")
            if task.options.until and mean >= max(task.options.until):
                break
    except Paused:
        said.append("not done yet")
    return f"{title}: {'; '.join(said)}"


def run_of(task: Task, data: Data, compute: Compute) -> dict[str, Any]:
    """What names a run: all that its lines depend on but for the number of steps."""
    condition, options = task.condition, task.options
    settings: dict[str, Any] = {}
    if condition.method not in BASELINES:
        settings = to_mapping(made_method(condition).config)
        settings.pop(counted(condition))
    return {
        "data": options.data,
        "condition": condition.name,
        "method": condition.method,
        "ipc": condition.ipc,
        "settings": settings,
        "seed": options.seed,
        "set_index": task.set_index,
        "track": find_track(condition.track, data.spec).title,
        "students": options.students,
        "held_out": options.held_out,
        "compute": compute.identity(),
    }


def device_name(compute: Compute) -> str:
    device = compute.torch_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(compute.identity()["hardware"])


def synthesised(
    task: Task, steps: int, data: Data, beforehand: Precomputed, compute: Compute, name: str
) -> tuple[Rows, float]:
    """The rows after so many networks or iterations, and the seconds that they have taken so far."""
    condition, options = task.condition, task.options
    if condition.method in BASELINES:
        start = time.perf_counter()
        return baseline(task, data), time.perf_counter() - start
    method = made_method(condition, steps)
    method.check(data.spec, condition.ipc)
    [job] = method.jobs(data.spec, condition.ipc, task.set_index, options.seed)
    path = Path(options.work) / f"{name}.checkpoint"
    timed = Timed(FileCheckpoint(path, 30.0, task.stopping), method.steps(condition.ipc))
    rows = method.synthesise(
        job,
        teachers=(),
        train=data.train,
        precomputed=beforehand,
        compute=compute,
        report=lambda *_: None,
        checkpoint=timed,
    )
    if compute.torch_device.type == "cuda":
        torch.cuda.synchronize(compute.torch_device)
    return rows, timed.seconds


def baseline(task: Task, data: Data) -> Rows:
    """Real images: random ones, or those nearest to the centres of their class's pixels."""
    condition, classes = task.condition, tuple(range(data.spec.n_classes))
    slots = tuple(range(condition.ipc))
    job = SynthesisJob(
        spec=data.spec, set_index=task.set_index, seed=task.options.seed, slots=slots, classes=classes, ipc=len(slots)
    )
    start = "real" if condition.method == "random" else "k-means"
    chosen = real_images(job, range(condition.ipc), data.train, start)  # type: ignore[arg-type]
    return Rows.of(job, np.ascontiguousarray(chosen.reshape(-1, *data.spec.image_shape)))


def accuracies(rows: Rows, task: Task, data: Data, compute: Compute, name: str) -> list[float | None]:
    """Of students of the set, as it is stored, at their last step; None for one that diverged."""
    options, condition = task.options, task.condition
    track, folder = find_track(condition.track, data.spec), Path(options.work) / f"{name}.set"
    method = METHODS["random"](None) if condition.method in BASELINES else made_method(condition)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = data.spec.to_dict()
    canvas = {"canvas": method.canvas.name, "settings": method.canvas.settings}
    write_images(
        folder / image_name(0), columns=rows.columns, labels=rows.labels, slots=rows.slots, spec=spec, **canvas
    )
    items = len(rows.labels) * int(method.canvas.settings.get("factor", 1)) ** 2
    labels = track.labels(n_items=items, n_classes=data.spec.n_classes, raw_bytes=0, metadata=0)
    nothing = np.zeros((0, 0, data.spec.n_classes), np.float16)
    store_labels(folder, nothing, labels, data.spec, images=[folder / image_name(0)], teachers=[])
    info = SetInfo(
        name=condition.name,
        spec=spec,
        method={"name": condition.method, "revision": method.revision},
        config={"learned": dict(rows.learned)} if rows.learned else {},
        seeds={},
        contains_real_images=method.contains_real_images,
        licence="unknown",
    )
    write_set(folder, info)
    dataset = load(folder)
    checkpoint = FileCheckpoint(Path(options.work) / f"{name}.students", 60.0, task.stopping)
    trained = train_students(
        dataset,
        track.recipe(track.network, track.rate_of(dataset.info, track.student.optim.lr), items),
        seeds=range(options.students),
        set_index=task.set_index,
        compute=compute,
        checkpoint=checkpoint,
    )
    found = [
        None if isinstance(one, Diverged) else evaluate_student(one[0], data, dataset.spec, compute=compute)
        for one in trained
    ]
    shutil.rmtree(folder)
    checkpoint.path.unlink(missing_ok=True)
    return found


# --- lines ---------------------------------------------------------------------------------------------------------


def name_of(known: dict[str, Any]) -> str:
    """A name for files of what is described so."""
    return hashlib.sha256(canonical_json(known).encode()).hexdigest()[:16]


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(text) for text in (path.read_text().splitlines() if path.exists() else []))


def found_in(path: Path, run: dict[str, Any], steps: int) -> dict[str, Any] | None:
    """The line of the same run that was written before, if there is one."""
    plain = json.loads(json.dumps(run))
    same = (one for one in lines_of(path) if one["steps"] == steps and plain.items() <= one.items())
    return next(same, None)


def table(wanted: Sequence[Condition], options: argparse.Namespace) -> str:
    """Means over sets and students, standard deviations over all students of all sets; seconds are means over sets."""
    head = "| condition | IPC | track | steps | sets x students | seconds | accuracy | published |"
    rows = [head, "|" + "---|" * head.count(" |")]
    known = [one for one in lines_of(options.out) if one["held_out"] == options.held_out]
    for condition in wanted:
        own = [one for one in known if (one["condition"], one["ipc"]) == (condition.name, condition.ipc)]
        for steps in sorted({one["steps"] for one in own}):
            lines = [one for one in own if one["steps"] == steps]
            values = [100 * (value or 0.0) for one in lines for value in one["accuracies"]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells = [
                condition.name,
                str(condition.ipc),
                lines[0]["track"],
                str(steps),
                f"{len(lines)} x {len(lines[0]['accuracies'])}",
                f"{statistics.mean(one['seconds'] for one in lines):.0f}",
                f"{statistics.mean(values):.2f} ± {spread:.2f}",
                "" if condition.published is None else f"{condition.published:g}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


# --- all of them ---------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--data-root")
    parser.add_argument("--conditions", type=Path, help="a file of them; without, the one of the next arguments")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of these conditions of the file")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--name")
    parser.add_argument("--method", default="dm", choices=("dc", "dsa", "dm", "idc", "ncfm", "mtt", *BASELINES))
    parser.add_argument("--track", default="native:dsa")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at", type=int, nargs="+", default=[100, 200, 400, 800], help="networks, of MTT iterations")
    parser.add_argument("--until", type=float, nargs="*", default=[], help="accuracies in [0, 1]")
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--held-out", type=float, default=0.0, help="share of the training images to test on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=float("inf"))
    parser.add_argument("--work", type=Path, default=Path("runs/matched"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "matched.jsonl")
    parser.add_argument("--table", action="store_true", help="print what is there, and do nothing")
    return parser.parse_args()


def main() -> None:
    options = parse()
    deadline = time.monotonic() + options.limit_s
    wanted = conditions(options)
    if options.table:
        sys.stdout.write(table(wanted, options))
        return
    for folder in (options.work, options.out.parent):
        folder.mkdir(parents=True, exist_ok=True)
    data = opened(options)
    tasks = [
        Task(condition=condition, set_index=number, options=options, deadline=deadline)
        for number in range(options.sets)
        for condition in wanted
    ]
    for task in tasks:
        if task.condition.method not in BASELINES:
            made_method(task.condition).check(data.spec, task.condition.ipc)
    needs = {id(task): list(parts(task.condition, data, options.seed)) for task in tasks}
    once = list(dict.fromkeys(part for some in needs.values() for part in some))
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        before: list[Future[str]] = [pool.submit(make_part, part, options, deadline) for part in once]
        runs = [pool.submit(do, task) for task in tasks if not needs[id(task)]]
        report(before, deadline)
        runs += [pool.submit(do, task) for task in tasks if needs[id(task)]]
        report(runs, deadline)


def report(futures: Sequence[Future[str]], deadline: float) -> None:
    """Say what became of each, as they end; what has not begun by then is left out."""
    left = deadline - time.monotonic()
    try:
        for future in as_completed(futures, None if left == float("inf") else max(0.0, left)):
            say(future)
    except TimeoutError:
        running = [future for future in futures if not future.done() and not future.cancel()]
        for future in as_completed(running):
            say(future)


def say(future: Future[str]) -> None:
    error = future.exception()
    sys.stdout.write(f"{future.result() if error is None else f'failed: {error}'}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
