"""Evaluating on a track: sets get the track's labels, baselines too, and students its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from condense.data import Data
from condense.dataset import load
from condense.engine.job import Job
from condense.errors import MethodError
from condense.evaluation.results import Failure, RateSearch
from condense.evaluation.tracks import Track
from condense.labels.relabel import LabelConfig
from condense.methods import METHODS
from condense.pipeline.baselines import chosen_sets, real_job
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.given import Given
from condense.pipeline.plans import relabelled_job, run_all, set_jobs, students_jobs
from condense.pipeline.request import Request
from condense.pipeline.results import read_outcomes
from condense.shards import set_bytes
from condense.teachers.recipe import TeacherRecipe

__all__ = ["OnTrack", "rate_search"]

SEARCH_IPC = 10
SEARCH_SEED = 1
SEARCH_STUDENTS = 2
HOLDOUT = {"fraction": 0.1, "seed": 0}
"""Of the training images; the same that a teacher's recipe holds out by default."""
SPARE = 512
"""Bytes by which a set's `set.json` may grow when the set is labelled anew."""


@dataclass(frozen=True)
class OnTrack:
    """One track at work on one data set. ``teachers`` label, and choose images where a baseline needs them to."""

    track: Track
    request: DataRequest
    data: Data
    context: Context
    teachers: tuple[Job, ...]

    @property
    def labellers(self) -> tuple[Job, ...]:
        """Nobody labels for hard targets."""
        return self.teachers if self.track.targets == "soft" else ()

    def labels(self, rows: int, items: int, metadata: int) -> LabelConfig:
        spec = self.data.spec
        pixels = spec.height * spec.width * spec.channels
        return self.track.labels(
            n_items=items, n_classes=spec.n_classes, raw_bytes=rows * pixels, metadata=metadata + SPARE
        )

    def labels_of(self, one: Given) -> LabelConfig:
        """How a given set, and what is chosen to stand beside it, is labelled."""
        files = one.dataset.files
        return self.labels(files.n_rows, files.n_items, set_bytes(files).other)

    def labelled(self, given: Sequence[Given]) -> list[Given]:
        """The same images with the track's labels."""
        jobs = self.label_jobs(given)
        folders = run_all(lambda: jobs, self.context, what="sets with the labels of the track")
        return [Given(folder, load(folder), one.index) for folder, one in zip(folders, given, strict=True)]

    def label_jobs(self, given: Sequence[Given], **departures: Any) -> list[Job]:
        """The jobs of that; ``departures``: settings of the labels that are not to be the track's."""
        return [
            relabelled_job(
                one.path,
                one.dataset.info,
                replace(self.labels_of(one), **departures),
                self.labellers,
                self.context,
                self.request,
            )
            for one in given
        ]

    def chosen(self, name: str, given: Sequence[Given]) -> list[Given]:
        """Real images chosen by a method, with the track's labels."""
        return chosen_sets(
            name, given, self.labels_of, self.request, self.data, self.context, self.teachers, self.labellers
        )

    def students(
        self, sets: Sequence[tuple[str, Given]], network: str, rate: float, seeds: int, together: int | None
    ) -> list[tuple[str, Job]]:
        """``seeds`` students of each set, with the names of their conditions."""
        return [
            (condition, job)
            for condition, one in sets
            for job in self.of_set(one, network, rate, range(seeds), together=together)
        ]

    def whole(self, like: Sequence[Given], network: str, rate: float, seeds: int) -> list[tuple[str, Job]]:
        """Students of all training images, in the steps that students of ``like`` take."""
        first = {one.index: one for one in reversed(like)}
        recipe = {index: self.track.recipe(network, rate, len(one.dataset)) for index, one in first.items()}
        return [
            ("whole data", real_job(one, recipe[index], seed, self.context, self.request, self.labellers))
            for index, one in first.items()
            for seed in range(seeds)
        ]

    def of_set(
        self,
        one: Given,
        network: str,
        rate: float,
        seeds: Sequence[int],
        *,
        together: int | None = None,
        held_out: dict[str, float] | None = None,
    ) -> list[Job]:
        """The jobs of the students of one set."""
        return students_jobs(
            one.path,
            self.track.recipe(network, self.track.rate_of(one.dataset.info, rate), len(one.dataset)),
            seeds,
            one.index,
            self.context,
            self.request,
            teachers=self.labellers if self.track.online else (),
            together=together,
            held_out=held_out,
        )


def rate_search(at: OnTrack, network: str) -> RateSearch:
    """The learning rate of a network on a track: that of the protocol, the known one, or the best on held-out images.

    Random real images (10 per class) that are not held out are labelled as the track says, and students of each rate
    are tested on the held-out training images; a rate that diverges once is out; of equally good ones the least wins.
    """
    track = at.track
    if not track.rates:
        return RateSearch(track=track.title, network=network, rate=track.student.optim.lr)
    if network in track.known:
        return RateSearch(track=track.title, network=network, rate=track.known[network])
    tried = tried_rates(at, network)
    whole = {rate: sum(found) / len(found) for rate, found in tried.items() if None not in found}  # type: ignore[arg-type]
    if not whole:
        raise MethodError(
            f"{network} diverged with every learning rate of track {track.title}; "
            "use precision float32 or another network"
        )
    best = max(whole, key=lambda rate: (whole[rate], -rate))
    return RateSearch(track=track.title, network=network, rate=best, tried=whole)


def tried_rates(at: OnTrack, network: str) -> dict[float, list[float | None]]:
    """Rate -> accuracies on held-out training images, None for a run that diverged."""
    spec, labels = at.data.spec, at.labels
    ipc = min(SEARCH_IPC, max(1, min(spec.train_sizes) // 2))
    method = METHODS["random"](METHODS["random"].Config(holdout=HOLDOUT["fraction"], holdout_seed=int(HOLDOUT["seed"])))
    count = ipc * spec.n_classes
    like = Request(
        data=at.request,
        method=method,
        ipc=ipc,
        seed=SEARCH_SEED,
        teacher=TeacherRecipe(),
        labels=labels(count, count, 8 * SPARE),
    )
    [folder] = run_all(
        lambda: set_jobs(like, spec, at.context, at.labellers, name="random", labellers=at.labellers),
        at.context,
        what="jobs for the search",
    )
    one = Given(folder, load(folder), 0)
    jobs = {rate: at.of_set(one, network, rate, range(SEARCH_STUDENTS), held_out=HOLDOUT) for rate in at.track.rates}
    students = [job for group in jobs.values() for job in group]
    made = iter(run_all(lambda: students, at.context, what="students of the search"))
    outcomes = {rate: [one for _ in group for one in read_outcomes(next(made))] for rate, group in jobs.items()}
    return {
        rate: [None if isinstance(one, Failure) else one.accuracy for one in group] for rate, group in outcomes.items()
    }
