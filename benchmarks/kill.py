"""Kill a distillation again and again: nothing finished is lost, nothing is done twice, and the result is the same.

    python benchmarks/kill.py [--kills 200] [--work DIR]

Claim: SIGKILL at any moment, to the process that drives the run, to one of its workers or to all of them, loses nothing
that was finished and changes no byte. A reference is made once by `condense distill --workers 1`, undisturbed. Then
come campaigns: the same command with `--workers 2` on a store, a cache and an output folder of their own is killed some
20 times, at moments drawn at random from all that a survey of one run finds (the way to them is `killing/`), and at
last left alone. After each kill every artefact in place is whole, what was finished before is untouched and not begun
again, and no worker goes on; at the end the set verifies, no checkpoint is left, and the set, the artefacts and the
decoded images are those of the reference, byte for byte. Counted are kills in the phase that was asked for. Each
campaign is appended to `benchmarks/results/kill.jsonl` at once, and the script, started again, goes on with the next; a
summary goes to `benchmarks/results/kill.json`. It ends with status 1 at the first fault, and leaves that campaign's
folder as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from killing.kill_points import Order, Victim, as_environment
from PIL import Image

from condense.engine.events import finished_jobs, read_events
from condense.engine.presence import process_identity
from condense.engine.store import Store
from condense.errors import CondenseError
from condense.shards import verify

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "kill.jsonl"
RECIPE: dict[str, Any] = {
    "teacher.network": "convnet2-w8-bn",
    "teacher.epochs": 60,
    "teacher.batch_size": 8,
    "teacher.holdout": 0.1,
    "steps": 400,
    "job_images": 8,
    "labels.epochs": 1200,
}
"""Five slots of four classes in three jobs, two of which have two groups; each job long enough for checkpoints."""

CLASSES = ("blue", "green", "red", "white")
TINTS = ((0, 0, 120), (0, 120, 0), (120, 0, 0), (120, 120, 120))
RUN_S = 180.0
"""A run that takes longer hangs."""

ORPHAN_S = 5.0
"""How long a worker may outlive the process that wants its work."""


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workplace:
    """A distillation's own folder, for its store, its cache and its set; its settings, and seconds per checkpoint."""

    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=lambda: RECIPE)
    checkpoint_every: float = 0.2

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def out(self) -> Path:
        return self.folder / "set"


@dataclass(frozen=True)
class Attempt:
    """How a run ended: its exit status, seconds, and for each order what its mark says, None if it was not reached."""

    code: int
    seconds: float
    hits: tuple[dict[str, Any] | None, ...]


def make_pictures(folder: Path, per_class: int = 30, size: int = 16) -> Path:
    """A folder of noise, each class with more of a colour of its own."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = noise.integers(0, 120, (size, size, 3), dtype=np.uint8)
            pixels += np.array(TINTS[number], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def distil(place: Workplace, pictures: Path, *, workers: int, kill: str | None = None) -> subprocess.Popen[bytes]:
    """Begin the run, as the leader of a process group of its own. ``kill``: the value of ``CONDENSE_KILL``."""
    command = [
        *(sys.executable, "-m", "condense", "distill", "--quiet"),
        *("--data", f"imagefolder:{pictures}", "--method", "cda", "--ipc", "5", "--seed", "1"),
        *("--workers", str(workers), "--threads", "1", "--checkpoint-every", str(place.checkpoint_every)),
        *("--store", str(place.store.root), "--out", str(place.out)),
        *(word for key, value in place.recipe.items() for word in ("--set", f"{key}={value}")),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "CONDENSE_KILL"}
    paths = [str(ROOT)]
    if kill is not None:
        environment["CONDENSE_KILL"] = kill
        paths.append(str(Path(__file__).parent / "killing"))
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "CONDENSE_CACHE": str(place.cache)}
    place.folder.mkdir(parents=True, exist_ok=True)
    with open(place.folder / "said.txt", "ab") as said:
        return subprocess.Popen(
            command, cwd=place.folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """The exit status. Raises TimeoutExpired after `RUN_S` seconds; nothing of the group is left then."""
    try:
        return process.wait(RUN_S)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def attempt(place: Workplace, pictures: Path, orders: Sequence[Order], number: int) -> Attempt:
    """Run number ``number`` of the campaign, with these kills."""
    marks = place.folder / "marks" / str(number)
    marks.mkdir(parents=True)
    began = time.monotonic()
    code = wait_for(distil(place, pictures, workers=2, kill=as_environment(marks, place.store.root, orders)))
    paths = [marks / str(index) for index in range(len(orders))]
    hits = tuple(json.loads(path.read_text()) if path.exists() else None for path in paths)
    return Attempt(code, time.monotonic() - began, hits)


# --- what must hold ------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What was finished after each run of a workplace, and every promise that was broken."""

    place: Workplace
    finished: dict[str, tuple[int, int]] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def look(self, when: str, hits: Sequence[dict[str, Any] | None] = ()) -> None:
        """After a run: is all that was finished still there, untouched, and was none of it begun again?

        ``hits``: the marks of the kills, which say what was finished by then.
        """
        store, records = self.place.store, self.place.store.root / "runs"
        since = dict.fromkeys(self.finished, 0.0)
        for hit in filter(None, hits):
            since = {**dict.fromkeys(hit["finished"], hit["time"]), **since}
        new = {path.name for path in records.glob("*")} - self.runs
        self.faults += [f"{when}: worker {pid} goes on" for pid in orphans(records / name for name in new)]
        for name in sorted(new):
            for event in read_events(records / name):
                if event["event"] == "started" and event["time"] > since.get(event["job"], math.inf):
                    self.faults.append(f"{when}: {event['title']} ({event['job']}) was finished and is begun again")
        self.runs |= new
        marks = {job_id: store.path(job_id) / "manifest.json" for job_id in store.ids()}
        marks |= {f"import {path.parent.name}": path for path in self.place.cache.glob("data/*/about.json")}
        now = {name: identity(path) for name, path in marks.items() if path.exists()}
        for name, before in self.finished.items():
            if now.get(name) != before:
                self.faults.append(f"{when}: {name} was finished and is {'made anew' if name in now else 'gone'}")
        for job_id in store.ids():
            if (fault := store.fault(job_id)) is not None:
                self.faults.append(f"{when}: artefact {job_id} is in place, but {fault}")
        self.finished |= now


def differences(place: Workplace, reference: Workplace) -> list[str]:
    """After the last run: what is not the same bytes as in the reference, was done twice, or is left over."""
    done = Counter(event["job"] for event in finished_jobs(place.store.root / "runs"))
    faults = [f"job {job_id} is done {count} times" for job_id, count in done.items() if count > 1]
    try:
        verify(place.out, "deep")
    except CondenseError as error:
        faults.append(f"the set does not verify: {error}")
    ours, theirs = contents(place), contents(reference)
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    faults += [f"{name} is not that of the reference" for name in names]
    left = [path for path in (place.store.root / "checkpoints").glob("*") if path.suffix != ".tmp"]
    return faults + [f"checkpoint {path.name} is left" for path in left]


def identity(path: Path) -> tuple[int, int]:
    """Tells a file from one that took its place."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def orphans(records: Iterable[Path]) -> Iterator[int]:
    """Processes that worked for runs that are over and go on for `ORPHAN_S` seconds more; they are ended then."""
    end = time.monotonic() + ORPHAN_S
    for log in (path for folder in records for path in folder.glob("*.jsonl") if path.stem.isdigit()):
        while process_identity(int(log.stem)) is not None:
            if time.monotonic() > end:
                yield int(log.stem)
                os.kill(int(log.stem), signal.SIGKILL)
                break
            time.sleep(0.005)


def contents(place: Workplace) -> dict[str, bytes]:
    """Every byte of the artefacts, the decoded images and the set, by names that are the same in every workplace."""
    folders = [(place.store.root, place.store.path(job_id)) for job_id in place.store.ids()]
    folders += [(place.cache, path) for path in place.cache.glob("data/[!.]*")]
    folders += [(place.folder, place.out)]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for root, folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != "about.json"  # which has times
    }


# --- a campaign ----------------------------------------------------------------------------------------------------


@dataclass
class Campaign:
    """What happened to one workplace. ``kills``: each an order, what its mark says, and how its run ended."""

    kills: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def counted(self) -> list[dict[str, Any]]:
        """The kills that came in the phase they were to come in."""
        return [kill for kill in self.kills if kill["hit"] and kill["hit"]["place"] == as_place(kill["order"])]


def as_place(order: dict[str, Any]) -> dict[str, str]:
    return {"phase": order["phase"], "part": order["part"]}


def campaign(place: Workplace, pictures: Path, runs: Sequence[Sequence[Order]]) -> Campaign:
    """Run with these kills, one run after the other, then once undisturbed; after each, look at what must hold.

    A run that is not killed has nothing left for later ones, which are left out.
    """
    found, ledger = Campaign(), Ledger(place)
    for number, orders in enumerate(runs):
        tried = attempt(place, pictures, orders, number)
        found.seconds.append(round(tried.seconds, 2))
        for order, hit in zip(orders, tried.hits, strict=True):
            hit = hit and {**hit, "finished": len(hit["finished"])}
            found.kills.append({"run": number, "order": asdict(order), "hit": hit, "status": tried.code})
        ledger.look(f"run {number}", tried.hits)
        was_killed = orders[-1].victim != "worker" and tried.hits[-1] is not None
        if tried.code != (-signal.SIGKILL if was_killed else 0):
            ledger.faults.append(f"run {number} ended with status {tried.code}")
        if not was_killed:
            break
    code = wait_for(distil(place, pictures, workers=2))
    if code:
        ledger.faults.append(f"the undisturbed run ended with status {code}")
    ledger.look("the undisturbed run")
    found.faults = ledger.faults
    return found


# --- chance --------------------------------------------------------------------------------------------------------

WAY = (
    *(("import", "reading"), ("import", "index"), ("import", "decoding"), ("import", "cache")),
    ("taking up work", "record"),
    *(("teacher epoch", "teacher"), ("checkpoint write", "teacher")) * 2,
    ("artefact write", "teacher"),
    ("taking up work", "claim"),
    *(("recover step", "rows"), ("checkpoint write", "rows")) * 2,
    *(("artefact write", "rows"), ("recover step", "rows"), ("event log", "rows")),
    *(("set assembly", "images"), ("artefact write", "images")),
    *(("relabel", "labels"), ("checkpoint write", "labels")) * 2,
    *(("relabel", "labels"), ("artefact write", "labels")),
    *(("set assembly", "set"), ("artefact write", "set")),
    *(("set assembly", "out"),) * 2,
)
"""Where a campaign kills: phases and their parts, in the order in which the work goes."""

OFTEN = {"record": 2, "claim": 7, "rows": 3}
"""How often a part comes in a run that begins at the beginning, if more than once."""

STEPS = ("teacher epoch", "recover step", "relabel")
MOST = {"checkpoint write": 2, "event log": 3}
"""How many moments to choose from, where what is left of a job may have fewer than a whole one."""

DRIVERS = ("import", "taking up work")
SHORT = (("set assembly", "images"), ("set assembly", "set"))
"""A worker could be done with these before it notices that the driver is dead, and leave nothing for the next kill."""

LONGEST_DELAY_S = 0.03


def survey(place: Workplace, pictures: Path) -> Counter[tuple[str, str, str]]:
    """How often each moment (phase, part, point) comes, each time that its part comes in an undisturbed run."""
    file = place.folder / "moments.txt"
    place.folder.mkdir(parents=True)
    code = wait_for(distil(place, pictures, workers=2, kill=json.dumps({"survey": str(file)})))
    if code:
        raise SystemExit(f"the survey ended with status {code}; see {place.folder / 'said.txt'}")
    moments: Counter[tuple[str, str, str]] = Counter()
    for line in file.read_text().splitlines():
        phase, part, point = line.split("\t")
        moments[phase, part, point] += 1
    return Counter({moment: -(-count // OFTEN.get(moment[1], 1)) for moment, count in moments.items()})


def draw(chance: random.Random, moments: Counter[tuple[str, str, str]]) -> list[list[Order]]:
    """The kills of a campaign, run by run: only the last kill of a run ends it, and at most one comes before."""
    runs: list[list[Order]] = [[]]
    for phase, part in WAY:
        by_driver, is_second = phase in DRIVERS or part == "out", bool(runs[-1])
        victims: list[Victim] = ["group"]
        victims += [] if (phase, part) in SHORT else ["driver"]
        victims += [] if by_driver or is_second else ["worker"]
        runs[-1].append(draw_order(chance, moments, phase, part, victims))
        if runs[-1][-1].victim != "worker":
            runs.append([])
    return [run for run in runs if run]


def draw_order(
    chance: random.Random, moments: Counter[tuple[str, str, str]], phase: str, part: str, victims: Sequence[Victim]
) -> Order:
    """One kill. Of the steps of a loop the first third, since it may go on from a checkpoint."""
    known = {point: count for (a, b, point), count in moments.items() if (a, b) == (phase, part)}
    if phase in STEPS:
        known = {"step": -(-known["step"] // 3)}
    point = chance.choice(sorted(known))
    return Order(
        phase=phase,
        part=part,
        point=point,
        victim=chance.choice(victims),
        countdown=chance.randrange(min(known[point], MOST.get(phase, known[point]))),
        delay_s=round(chance.uniform(0, LONGEST_DELAY_S), 4) if point == "step" else 0.0,
    )


# --- all of it -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="begin campaigns until there are so many")
    parser.add_argument("--campaigns", type=int, default=1000, help="at most so many, with those of earlier runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "condense-kill")
    options = parser.parse_args()
    pictures = make_pictures(options.work / "pictures")
    reference = Workplace(options.work / "reference")
    for folder in (reference.folder, options.work / "survey"):
        shutil.rmtree(folder, ignore_errors=True)
    if code := wait_for(distil(reference, pictures, workers=1)):
        raise SystemExit(f"the reference ended with status {code}; see {reference.folder / 'said.txt'}")
    moments = survey(Workplace(options.work / "survey"), pictures)
    done = [json.loads(line) for line in lines_of(options.results)]
    while len(done) < options.campaigns and summary(done)["kills"] < options.kills:
        number = len(done)
        place = Workplace(options.work / f"campaign-{number}")
        shutil.rmtree(place.folder, ignore_errors=True)
        orders = draw(random.Random(f"{options.seed}/{number}"), moments)
        found = campaign(place, pictures, orders)
        found.faults += differences(place, reference)
        if found.faults:
            (place.folder / "campaign.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
            raise SystemExit("\n".join([f"campaign {number}, in {place.folder}:", *found.faults]))
        done.append({"campaign": number, "seed": options.seed, **asdict(found), **about()})
        with open(options.results, "a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        sys.stdout.write(f"campaign {number}: {len(found.counted)} kills, {summary(done)['kills']} so far\n")
        sys.stdout.flush()
        shutil.rmtree(place.folder)
    text = json.dumps(summary(done), indent=1)
    options.results.with_suffix(".json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def about() -> dict[str, Any]:
    """The machine and the versions."""
    from loading import cpu_name

    versions = {"python": platform.python_version(), **{name: version_of(name) for name in ("torch", "numpy", "h5py")}}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform(), "versions": versions}


def version_of(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counted kills by phase and victim, by where an artefact write was, and what was asked for in vain."""
    found = [Campaign(line["kills"], line["seconds"], line["faults"]) for line in lines]
    counted = [kill for one in found for kill in one.counted]
    asked = [kill for one in found for kill in one.kills]
    phases: dict[str, Counter[str]] = {}
    for kill in counted:
        phases.setdefault(kill["order"]["phase"], Counter())[kill["order"]["victim"]] += 1
    runs = [seconds for one in found for seconds in one.seconds]
    return {
        "benchmark": "kill",
        "campaigns": len(lines),
        "runs": len(runs) + len(lines),
        "kills": len(counted),
        "faults": sum(len(one.faults) for one in found),
        "by_phase_and_victim": {phase: dict(sorted(victims.items())) for phase, victims in sorted(phases.items())},
        "by_victim": tally(kill["order"]["victim"] for kill in counted),
        "artefact_writes": tally(described(kill) for kill in counted if kill["order"]["phase"] == "artefact write"),
        "checkpoint_writes": tally(described(kill) for kill in counted if kill["order"]["phase"] == "checkpoint write"),
        "asked_but_elsewhere": sum(kill["hit"] is not None for kill in asked) - len(counted),
        "asked_but_not_reached": sum(kill["hit"] is None for kill in asked),
        "seconds_in_runs": round(sum(runs), 1),
        **({name: lines[-1][name] for name in ("cpu", "cores", "system", "versions")} if lines else {}),
    }


def described(kill: dict[str, Any]) -> str:
    return f"{kill['order']['part']}, {kill['order']['point']}"


def tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


if __name__ == "__main__":
    main()
