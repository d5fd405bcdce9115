"""The whole family of decoupled methods in one comparison: the same teachers, tracks, students and budget of tuning.

    python benchmarks/family.py teachers --data fashion-mnist --work runs/family
    python benchmarks/family.py tune --data fashion-mnist --work runs/family \\
        --results benchmarks/results/family-fashion-mnist.jsonl
    python benchmarks/family.py table --data fashion-mnist --students resnet20 convnet3-w32-in --work runs/family \\
        --results benchmarks/results/family-fashion-mnist.jsonl
    python benchmarks/family.py ablation --data fashion-mnist --methods cv-dd --work runs/family \\
        --results benchmarks/results/family-fashion-mnist.jsonl
    python benchmarks/family.py gpu --data imagefolder:cifar10-jpeg --committee resnet18 mobilenetv2 shufflenetv2 \\
        --students resnet18 --device cuda --workers 6 --results benchmarks/results/family-gpu.jsonl

Stages. `teachers`: the committee, trained once and kept. `tune`: every method has the same number of candidates
(`GRID`), one set each, of another seed than those of the table and of no image that is held out; students by each
track, measured on the training images that the teachers were not trained on. Random real images have as many draws in
the place of candidates, which says what choosing the best of so many is worth by itself; `coreset` has as many rules of
choosing. `table`: the best of each method, on the test images. `ablation`: one ingredient of the best is changed at a
time (`VARIANTS`). `gpu`: one set of each method with its published settings and one student of each network, and what
it costs. Test images are looked at by `table`, `ablation` and `gpu` only.

All sets are labelled by the track's rule, by the whole committee (``--labellers`` names others). A method of one
teacher has the first of the committee. INFER and INFER+Dyn differ in their labels alone, so on tracks they are one.

Every job is kept in the store below --work, and results are appended as they come: a stage can be stopped at will and
started again, and several processes with other --methods may share store and results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from condense.config import merge
from condense.console import drawn
from condense.data import Data
from condense.dataset import load
from condense.device import gpus_of, keep_buffers, resolve
from condense.engine.events import costs, read_events
from condense.engine.job import Job, in_order
from condense.engine.store import Store
from condense.errors import CondenseError, UnfinishedError
from condense.evaluation.results import Failure
from condense.evaluation.tracks import find_track
from condense.files import canonical_json
from condense.methods import METHODS
from condense.pipeline import Context, DataRequest
from condense.pipeline import resolve as resolve_recipe
from condense.pipeline.execution import Execution
from condense.pipeline.given import Given
from condense.pipeline.plans import plain_name, run_all, set_jobs, teacher_job
from condense.pipeline.priors import with_priors
from condense.pipeline.publish import publish
from condense.pipeline.request import Request
from condense.pipeline.results import measure_all, read_outcomes
from condense.pipeline.teachers import given_teachers
from condense.pipeline.tracks import OnTrack, rate_search
from condense.recipes import load as load_recipe
from condense.recipes import names as recipe_names
from condense.teachers import load_teacher
from condense.teachers.recipe import TeacherRecipe

Settings = Mapping[str, Any]

COMMITTEE = ("resnet20", "convnet3-bn", "mobilenetv2-w25", "shufflenetv2")
TUNE_SEED, TABLE_SEED = 1, 0
SCORER = {"network": "resnet8", "epochs": 8}
"""What rules look at that choose images by how a network learns them."""


def grid(base: Settings, **axes: Sequence[Any]) -> list[dict[str, Any]]:
    """``base`` with every combination of these values."""
    return [{**base, **dict(zip(axes, values, strict=True))} for values in itertools.product(*axes.values())]


NOISE = {"start": "noise", "steps": 1000}
GENTLE = {"start": "real", "steps": 200}
FROM_NOISE = grid(NOISE, lr=(0.1, 0.25), alpha_bn=(0.01, 0.1))
FROM_REAL = grid(GENTLE, lr=(0.01, 0.03), alpha_bn=(0.1, 1.0))
STARTS = grid({"alpha_bn": 0.1}, start=("real", "median"), steps=(100, 500), lr=(0.01, 0.03))
RESIDUAL = grid(
    {"alpha_bn": 0.1, "patches": {"scale": (0.5, 1.0)}}, start=("median", "easy"), steps=(200, 1000), lr=(0.03, 0.1)
)
CRITICAL = ({"scale": (0.25, 1.0)}, {"scale": (0.7, 1.0), "cap": 1.0})
EPS = ({"eps": 0.3}, {"eps": 0.6})

GRID: dict[str, list[dict[str, Any]]] = {
    "random": grid({}, seed=range(TUNE_SEED, TUNE_SEED + 8)),
    "coreset": [
        *({"method": name} for name in ("k-means", "herding", "moderate", "k-center", "forgetting", "cad-prune")),
        *grid({"method": "el2n"}, end=("easy", "window")),
    ],
    "sre2l": [*FROM_NOISE, *FROM_REAL],
    "cda": [*FROM_NOISE, *FROM_REAL],
    "sre2l++": STARTS,
    "cv-dd": STARTS,
    "dwa": grid({"alpha_bn": 0.1}, variance=(2.0, 11.0), steps=(100, 500), lr=(0.01, 0.03)),
    "lpld": [*FROM_NOISE, *FROM_REAL],
    "edc": grid({}, steps=(100, 500), lr=(0.01, 0.05), alpha_bn=(0.01, 0.1)),
    "fadrm": RESIDUAL,
    "fadrm+": RESIDUAL,
    "nrr-dd": grid({"alpha_bn": 0.1, "steps": 200}, patches=CRITICAL, mask=EPS, lr=(0.01, 0.03)),
    "rded": grid({}, pool=(100, 300), scale=((0.25, 1.0), (0.5, 1.0), (0.8, 1.0), (1.0, 1.0))),
    "infer": grid({}, steps=(200, 1000), lr=(0.03, 0.1), alpha_bn=(0.1, 1.0)),
}
"""The candidates of each method: as many for each."""

VARIANTS: dict[str, dict[str, Any]] = {
    "start real": {"start": "real"},
    "start noise": {"start": "noise", "residual": {"blocks": 1}, "perturb": {"radius": 0.0}, "mask": {"eps": 0.0}},
    "one teacher": {"judges": 1, "committee": {"size": 0, "voting": "equal"}},
    "two teachers a slot": {"committee": {"size": 2, "turns": False, "voting": "equal"}},
    "all teachers": {"committee": {"size": 0, "turns": False, "voting": "equal"}},
    "teachers in turns": {"committee": {"size": 0, "turns": True, "voting": "equal"}},
    "perturbed teachers": {"perturb": {"radius": 0.015}},
    "statistics of classes": {"class_share": 0.5},
    "residual in four blocks": {"residual": {"blocks": 4, "alpha": 0.5}},
    "no residual": {"residual": {"blocks": 1}},
    "one step": {"steps": 1, "residual": {"blocks": 1}},
    "a quarter of the steps": {"times": 0.25},
    "four times the steps": {"times": 4},
    "labels by running statistics": {"teacher_bn": "eval"},
    "labels of one teacher": {"labellers": 1},
}
"""What is changed of the best settings of a method, one at a time; what cannot be combined with a method is left out.

``times`` the steps, ``judges``: teachers of the images; ``teacher_bn`` and ``labellers`` are of the labels."""

OF_LABELS = ("teacher_bn", "labellers")
OWN = ("seed", "judges", *OF_LABELS)
"""Settings of a condition that are none of its method."""
PRIOR = {"start": "real", "steps": 100, "lr": 0.03, "alpha_bn": 0.1}
"""With which each teacher makes the set that its prior is measured on: the same for all candidates."""
PRIOR_EPOCHS = 100


def main() -> None:
    options = parse()
    keep_buffers()
    compute = resolve(options.device, options.precision, options.threads)
    with drawn(quiet=False) as report:
        context = Context(
            store=Store(options.work / "store"),
            compute=compute,
            report=report,
            execution=Execution(workers=options.workers, gpus=gpus_of(options.device, compute)),
        )
        try:
            STAGES[options.stage](Study(options, context))
        finally:
            context.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--data", required=True, help="as condense distill takes it")
    parser.add_argument("--data-root")
    parser.add_argument("--methods", nargs="+", default=list(GRID), choices=list(GRID), metavar="NAME")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--committee", nargs="+", default=[*COMMITTEE], help="the first is the one teacher")
    parser.add_argument("--labellers", nargs="+", help="which of them label; all unless told otherwise")
    parser.add_argument("--teachers", type=Path, help="where they are kept; of the stage gpu below --work")
    parser.add_argument("--epochs", type=int, default=12, help="of teachers")
    parser.add_argument("--tracks", nargs="+", default=["budget:1", "hard"])
    parser.add_argument("--students", nargs="+", default=["resnet20"])
    parser.add_argument("--rate", type=float, help="of all students, instead of a search where it is not known")
    parser.add_argument("--sets", type=int, default=3, help="of the table")
    parser.add_argument("--seeds", type=int, default=3, help="students of each set")
    parser.add_argument("--together", type=int, help="students in a job; 1: each alone, also on a GPU")
    parser.add_argument("--steps", type=int, help="most steps of a method, whatever its settings say")
    parser.add_argument("--candidates", type=int, default=8, help="of each method, the first of its grid")
    parser.add_argument("--at-once", type=int, default=1, help="candidates of every method that are made in one go")
    parser.add_argument("--tuned", type=Path, help="what tune wrote; by default beside the results")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/family"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    if options.results is None and options.stage != "teachers":
        parser.error("give --results, the file that results are appended to")
    if options.teachers is None:
        options.teachers = options.work / "teachers" if options.stage == "gpu" else Path(__file__).parent / "teachers"
    return options


@dataclass(frozen=True)
class Condition:
    """A method with these settings, some of which may be `OWN`; ``title`` is its row."""

    title: str
    settings: Settings

    @property
    def key(self) -> str:
        return canonical_json([self.title, self.settings])

    @property
    def of_method(self) -> dict[str, Any]:
        return {key: value for key, value in self.settings.items() if key not in OWN}


@dataclass(frozen=True)
class Made:
    """The sets of a condition, without labels, and the jobs that made them."""

    condition: Condition
    jobs: list[Job]
    sets: list[Given]


@dataclass
class Study:
    """What all stages work with."""

    options: argparse.Namespace
    context: Context

    @cached_property
    def request(self) -> DataRequest:
        return DataRequest(name=self.options.data, root=self.options.data_root)

    @cached_property
    def data(self) -> Data:
        return self.context.data(self.request)

    def folder(self, network: str) -> Path:
        """Where a teacher is kept."""
        return Path(self.options.teachers) / f"{plain_name(self.data.spec)}-{network}"

    @cached_property
    def committee(self) -> tuple[Job, ...]:
        return given_teachers(self.data.spec, [self.folder(network) for network in self.options.committee])

    def labellers(self, settings: Settings) -> tuple[Job, ...]:
        """The teachers that label a condition's sets."""
        if "labellers" in settings:
            return self.committee[: settings["labellers"]]
        known = dict(zip(self.options.committee, self.committee, strict=True))
        return tuple(known[network] for network in self.options.labellers or self.options.committee)

    @cached_property
    def held_out(self) -> dict[str, float]:
        """The part of the training images that no teacher was trained on."""
        recipes = [load_teacher(self.folder(network)).info.recipe for network in self.options.committee]
        parts = {(recipe["holdout"], recipe["seed"]) for recipe in recipes}
        if len(parts) > 1:
            raise SystemExit(f"the teachers hold out different images: {sorted(parts)}")
        [(fraction, seed)] = parts
        return {"fraction": fraction, "seed": seed}

    def judges(self, settings: Settings) -> tuple[Job, ...]:
        """Those of the committee that a method has: all, or the first."""
        many = METHODS[settings["method"]].networks or "committee" in settings
        return self.committee[: settings.get("judges", len(self.committee) if many else 1)]

    def wanted(self, one: Condition, sets: int, seed: int, without: Mapping[str, float] | None) -> Request:
        """A condition as a distillation without labels."""
        recipe = {
            "data": {"name": self.options.data, "root": self.options.data_root},
            "ipc": self.options.ipc,
            "sets": sets,
            "seed": one.settings.get("seed", seed),
            "labels": {"codec": "none"},
            "teacher": SCORER,
            **self.fitted(one.of_method),
        }
        request = replace(resolve_recipe(recipe), without=without)
        request.method.check(self.data.spec, request.ipc)
        if request.method.asks_priors:
            request = replace(request, method=request.method.with_priors(self.priors))
        return request

    def fitted(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings, for this committee and device: on a GPU a step costs as much for one slot as for ten."""
        known = {entry.name for entry in fields(METHODS[settings["method"]].Config)}
        if "steps" in known and self.options.steps:
            usual = METHODS[settings["method"]].Config().steps
            settings = {**settings, "steps": min(self.options.steps, settings.get("steps", usual))}
        if "compensators" in known:
            settings = {**settings, "compensators": len(self.committee)}
        if "blocks" in known and self.context.compute.torch_device.type == "cuda":
            settings = {"blocks": "whole", "job_images": 500, **settings}
        return settings

    @cached_property
    def priors(self) -> tuple[float, ...]:
        """What each of the committee is worth alone, on held-out training images."""
        recipe = {
            "data": {"name": self.options.data, "root": self.options.data_root},
            "ipc": 10,
            "labels": {"codec": "none", "epochs": PRIOR_EPOCHS},
            **self.fitted({"method": "cv-dd", **PRIOR}),
        }
        request = with_priors(resolve_recipe(recipe), self.context, self.committee, name="priors")
        priors: tuple[float, ...] = request.method.config.committee.priors
        return priors

    def track(self, name: str, labellers: tuple[Job, ...]) -> OnTrack:
        """A track at work; ``--rate`` in the place of the rates that are known."""
        track = find_track(name, self.data.spec)
        if self.options.rate and track.rates:
            track = replace(track, known=dict.fromkeys(self.options.students, self.options.rate))
        return OnTrack(track, self.request, self.data, self.context, labellers)


def made(
    study: Study,
    conditions: Sequence[Condition],
    *,
    sets: int,
    seed: int,
    without: Mapping[str, float] | None = None,
) -> list[Made]:
    """The sets of all conditions, in one go."""
    plans = [
        set_jobs(
            study.wanted(one, sets, seed, without),
            study.data.spec,
            study.context,
            study.judges(one.settings),
            name=one.settings["method"],
            labellers=(),
        )
        for one in conditions
    ]
    folders = iter(run_all(lambda: [job for jobs in plans for job in jobs], study.context))
    return [
        Made(one, jobs, [Given(folder, load(folder), index) for index, folder in enumerate(islice(folders, len(jobs)))])
        for one, jobs in zip(conditions, plans, strict=True)
    ]


@dataclass(frozen=True)
class Students:
    """The students of one network of a condition's sets on a track."""

    of: Made
    track: str
    network: str
    rate: float
    labels: list[Job]
    jobs: list[Job]


def students(
    study: Study, sets: Sequence[Made], held_out: dict[str, float] | None = None, seeds: int | None = None
) -> list[Students]:
    """The jobs of the students of all sets on all tracks, the sets being labelled in one go."""
    spots = [
        (name, one, study.track(name, study.labellers(one.condition.settings)))
        for name in study.options.tracks
        for one in sets
    ]
    labels = [at.label_jobs(one.sets, **departures(one.condition)) for _, one, at in spots]
    folders = iter(run_all(lambda: [job for jobs in labels for job in jobs], study.context))
    found = []
    for (name, one, at), jobs in zip(spots, labels, strict=True):
        labelled = [Given(folder, load(folder), index) for index, folder in enumerate(islice(folders, len(jobs)))]
        for network in study.options.students:
            rate = rate_search(study.track(name, study.labellers({})), network).rate
            own = range(seeds or study.options.seeds)
            asked = [
                job
                for each in labelled
                for job in at.of_set(each, network, rate, own, together=study.options.together, held_out=held_out)
            ]
            found.append(Students(one, at.track.title, network, rate, jobs, asked))
    return found


def departures(one: Condition) -> dict[str, Any]:
    """From the labels of a track."""
    return {"teacher_bn": one.settings["teacher_bn"]} if "teacher_bn" in one.settings else {}


def teachers(study: Study) -> None:
    """Train those of the committee that are not there yet."""
    missing = [one for one in study.options.committee if not (study.folder(one) / "teacher.json").exists()]
    recipes = [TeacherRecipe(network=network, epochs=study.options.epochs) for network in missing]
    jobs = [teacher_job(study.request, study.data, recipe, study.context) for recipe in recipes]
    for network, folder in zip(missing, run_all(lambda: jobs, study.context), strict=True):
        publish(folder, study.folder(network))
    for network in study.options.committee:
        info = load_teacher(study.folder(network)).info
        print(f"{network}: held out {info.accuracy_heldout:.4f}, test {info.accuracy_test:.4f}")


def tune(study: Study) -> None:
    """A line for each candidate, track and student, as they come; what has a line is not done again."""
    options = study.options
    path = tuned_path(options)
    done = {identity_of(line) for line in lines_of(path)}
    for first in range(0, options.candidates, options.at_once):
        numbers = range(first, min(first + options.at_once, options.candidates))
        asked = [condition_of(method, GRID[method][number]) for method in options.methods for number in numbers]
        asked = [one for one in asked if not done_already(one, study, done)]
        each_or_all(study, asked, lambda some: tune_some(study, some, path))


def tune_some(study: Study, some: Sequence[Condition], path: Path) -> None:
    sets = made(study, some, sets=1, seed=TUNE_SEED, without=study.held_out)
    asked = students(study, sets, held_out=study.held_out)
    spent = costs(study.context.store.root / "runs")
    waiting = {id(one): {job.id for job in one.jobs} for one in asked}

    def take(job: Job, _outcome: object) -> None:
        for one in asked:
            if job.id in waiting[id(one)]:
                waiting[id(one)].remove(job.id)
                if not waiting[id(one)]:
                    append(path, tuned_line(study, one, spent))

    run_all(lambda: [job for one in asked for job in one.jobs], study.context, finished=take)


def tuned_line(study: Study, one: Students, spent: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    outcomes = [found for job in one.jobs for found in read_outcomes(study.context.store.path(job.id))]
    accuracies = [0.0 if isinstance(found, Failure) else found.accuracy for found in outcomes]
    return {
        **setting_of(study, one.of.condition, one.track, one.network),
        "rate": one.rate,
        "accuracies": accuracies,
        "held_out_accuracy": statistics.mean(accuracies),
        "seconds": {"images": seconds_of(one.of.jobs, spent), "labels": seconds_of(one.labels, spent, ("labels",))},
        "compute": study.context.compute.identity(),
    }


def setting_of(study: Study, one: Condition, track: str, student: str) -> dict[str, Any]:
    """What a line of the tuning is of."""
    return {
        "data": study.data.spec.name,
        "ipc": study.options.ipc,
        "method": one.title,
        "settings": dict(one.settings),
        "track": track,
        "student": student,
        "committee": list(study.options.committee),
        "most_steps": study.options.steps,
    }


IDENTITY = ("data", "ipc", "method", "settings", "track", "student", "committee", "most_steps")


def identity_of(line: Mapping[str, Any]) -> str:
    return canonical_json({key: line[key] for key in IDENTITY})


def done_already(one: Condition, study: Study, done: set[str]) -> bool:
    titles = [find_track(name, study.data.spec).title for name in study.options.tracks]
    return all(
        identity_of(setting_of(study, one, track, student)) in done
        for track in titles
        for student in study.options.students
    )


def condition_of(name: str, candidate: Settings) -> Condition:
    return Condition(name, {**({} if "method" in candidate else {"method": name}), **candidate})


def each_or_all(study: Study, some: Sequence[Condition], do: Callable[[Sequence[Condition]], None]) -> None:
    """All that are not refused, in one go; where that fails, in halves, so that one does not cost the others."""
    some = [one for one in some if allowed(study, one)]
    if not some:
        return
    try:
        do(some)
    except UnfinishedError:
        raise
    except Exception as error:
        middle = len(some) // 2
        if not middle:
            print(f"{some[0].title} {dict(some[0].settings)}: {type(error).__name__}: {error}", file=sys.stderr)
            return
        for half in (some[:middle], some[middle:]):
            each_or_all(study, half, do)


def allowed(study: Study, one: Condition) -> bool:
    try:
        study.wanted(one, 1, TABLE_SEED, None)
    except CondenseError as error:
        print(f"{one.title} {dict(one.settings)}: {error}", file=sys.stderr)
        return False
    return True


def table(study: Study) -> None:
    """The best of each method on each track; sets of random images are drawn by the table's own seed."""
    for name in study.options.tracks:
        narrowed = replace_tracks(study, [name])
        best = [found for method in study.options.methods if (found := best_of(narrowed, method, name))]
        each_or_all(narrowed, best, lambda some, study=narrowed: measure(study, some))


def best_of(study: Study, method: str, track: str) -> Condition | None:
    """The candidate that did best on held-out training images, over all students that were tried, if any was."""
    title = find_track(track, study.data.spec).title
    tried: dict[str, list[float]] = {}
    for line in lines_of(study.options.tuned or tuned_path(study.options)):
        if line["method"] == method and line["track"] == title:
            tried.setdefault(canonical_json(line["settings"]), []).append(line["held_out_accuracy"])
    if method == "random":
        return Condition("random", {"method": "random"})
    if not tried:
        print(f"{method} was not tuned on {title}; run the stage tune", file=sys.stderr)
        return None
    settings = json.loads(max(tried, key=lambda one: statistics.mean(tried[one])))
    return Condition(settings["method"] if method == "coreset" else method, settings)


def measure(study: Study, some: Sequence[Condition]) -> list[Students]:
    """Results on the test images, appended as they come, and what the sets have cost."""
    sets = made(study, some, sets=study.options.sets, seed=TABLE_SEED)
    asked = students(study, sets)
    titled = [(one.of.condition.title, one.track, job) for one in asked for job in one.jobs]
    _, failures = measure_all(titled, study.context, study.options.results)
    for failure in failures:
        print(f"{failure.condition}: {failure.reason}", file=sys.stderr)
    spent, peaks = costs(study.context.store.root / "runs"), device_peaks(study.context.store)
    for one in asked:
        append(study.options.results.with_suffix(".costs.jsonl"), cost_line(study, one, spent, peaks))
    return asked


def cost_line(
    study: Study, one: Students, spent: Mapping[str, Mapping[str, float]], peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Seconds and peak memory of a condition's jobs, the sum over its sets; teachers are not in it."""
    rows = [job for job in in_order(one.of.jobs) if job.kind == "rows"]
    memory = "peak_memory_bytes"
    return {
        **setting_of(study, one.of.condition, one.track, one.network),
        "sets": len(one.of.sets),
        "students": len(one.of.sets) * study.options.seeds,
        "seconds": {
            "images": seconds_of(one.of.jobs, spent),
            "labels": seconds_of(one.labels, spent, ("labels",)),
            "students": seconds_of(one.jobs, spent, ("student", "students")),
        },
        "process_bytes": max((int(spent[job.id][memory]) for job in rows if job.id in spent), default=None),
        "device_bytes": max((peaks[job.id] for job in rows if job.id in peaks), default=None),
        "workers": study.options.workers or 1,
        "compute": study.context.compute.identity(),
    }


IMAGE_KINDS = ("rows", "images", "features", "dynamics", "class-statistics", "teacher")


def seconds_of(
    jobs: Iterable[Job], spent: Mapping[str, Mapping[str, float]], kinds: Sequence[str] = IMAGE_KINDS
) -> float:
    """Of all jobs of these kinds among ``jobs`` and what is below them, as far as it is known."""
    found = [spent[job.id]["seconds"] for job in in_order(jobs) if job.kind in kinds and job.id in spent]
    return round(sum(found), 2)


def device_peaks(store: Store) -> dict[str, int]:
    """The most bytes that a job's tensors took on a GPU, by job."""
    events = [event for folder in (store.root / "runs").glob("*") for event in read_events(folder)]
    told = [event for event in events if "device bytes" in event.get("figures", {})]
    return {event["job"]: int(event["figures"]["device bytes"]) for event in told}


def ablation(study: Study) -> None:
    """Each of --methods at its best on each track, and with one ingredient changed."""
    for name in study.options.tracks:
        narrowed = replace_tracks(study, [name])
        for method in study.options.methods:
            best = best_of(narrowed, method, name)
            if best is not None:
                some = [Condition("random", {"method": "random"}), best, *variants(narrowed, best)]
                each_or_all(narrowed, some, lambda some, study=narrowed: measure(study, some))


def variants(study: Study, best: Condition) -> list[Condition]:
    """What is allowed of `VARIANTS`, and no repetition of the best."""
    found = []
    for title, changes in VARIANTS.items():
        times = changes.get("times", 1)
        changed = merge(best.settings, {key: value for key, value in changes.items() if key != "times"})
        if times != 1:
            changed["steps"] = max(1, round(times * changed["steps"]))
        one = Condition(f"{best.title}: {title}", changed)
        try:
            request = study.wanted(one, 1, TABLE_SEED, None)
        except CondenseError:
            continue
        same = request.method.config == study.wanted(best, 1, TABLE_SEED, None).method.config
        if not same or set(changes) & set(OWN):
            found.append(one)
    return found


def gpu(study: Study) -> None:
    """One set of each method by its published settings, with one student of each network. Teachers are trained first,
    where they are missing."""
    teachers(study)
    study.options.sets = study.options.seeds = 1
    some = [Condition(name, published(name, study.options.ipc)) for name in study.options.methods if name != "coreset"]
    each_or_all(study, some, lambda some: print_costs(measure(study, some), study))


def published(name: str, ipc: int) -> dict[str, Any]:
    """The settings of a method for 32 px: those of its recipe, else its defaults."""
    kept = {entry.name for entry in fields(METHODS[name].Config)}
    found = next((one for one in (f"{name}-cifar10", f"{name}-cifar100") if one in recipe_names()), None)
    values = load_recipe(found).at(ipc) if found else {}
    settings = {key: value for key, value in values.items() if key in kept}
    if "committee" in settings:  # priors are of the authors' teachers
        settings["committee"] = {key: value for key, value in settings["committee"].items() if key != "priors"}
    return {"method": name, **settings}


def print_costs(asked: Sequence[Students], study: Study) -> None:
    lines = lines_of(study.options.results.with_suffix(".costs.jsonl"))[-len(asked) :]
    for line in lines:
        seconds = ", ".join(f"{what} {value:.1f} s" for what, value in line["seconds"].items())
        print(f"{line['method']}, {line['track']}, {line['student']}: {seconds}, {line['device_bytes']} bytes")


def replace_tracks(study: Study, tracks: list[str]) -> Study:
    """The same study on these tracks only."""
    return Study(argparse.Namespace(**{**vars(study.options), "tracks": tracks}), study.context)


def tuned_path(options: argparse.Namespace) -> Path:
    """Where tune writes."""
    path: Path = options.results
    return path.with_name(f"{path.stem}.tuned.jsonl")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, line: Mapping[str, Any]) -> None:
    """One line, whole, also where several processes write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


STAGES: dict[str, Callable[[Study], None]] = {
    "teachers": teachers,
    "tune": tune,
    "table": table,
    "ablation": ablation,
    "gpu": gpu,
}


if __name__ == "__main__":
    main()
