"""Sets beside random real images, in the features of a network that did not make them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.config import from_mapping, merge
from condense.data import Data, DatasetSpec
from condense.dataset import DistilledDataset
from condense.errors import ConfigError, DataError, TeacherError
from condense.evaluation.diversity import SCORES, Diversity, RealClass, Score, SetDiversity, scores_of
from condense.evaluation.student import check_same_data
from condense.evaluation.vendi import mean_cosine
from condense.files import disk_errors, write_atomic
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.given import opened_sets
from condense.pipeline.plans import run_all, set_hash, teacher_job
from condense.pipeline.request import request_of
from condense.pipeline.teachers import build_for
from condense.seeding import key
from condense.selection import pick_random
from condense.teachers import Teacher, check_teacher, load_teacher
from condense.teachers.extractor import Extractor, extractor_of
from condense.teachers.recipe import TeacherRecipe, length_of

__all__ = ["diversity", "other_network"]

Floats = npt.NDArray[np.float32]
Values = dict[str, float | None]

EXTRACTORS = ("resnet8", "convnet3-w64-bn", "vgg11")
"""Networks that look at sets by default; the first of a family that no teacher of the sets is of."""
BRIEF_EPOCHS, LEAST_STEPS = 3, 200
"""Enough to see the classes, and far from convergence, where the gradients of easy images are noise."""


def diversity(
    paths: Sequence[Path],
    context: Context,
    *,
    data: DataRequest | None = None,
    teacher: Path | None = None,
    network: str | None = None,
    settings: Mapping[str, Any] | None = None,
    draws: int = 20,
    seed: int = 0,
    allow_maker: bool = False,
    out: Path | None = None,
) -> Diversity:
    """Measure, class by class, how diverse sets are and how much of the real classes they cover.

    paths: folders of sets, or folders holding ``set-0``, ``set-1``, ...
    data: the real images; by default what the sets say they were made of.
    teacher: the folder of a trained network that looks at the images. Without it one is trained briefly, or found
        trained in the store: ``network``, by default of another architecture than the teachers of the sets.
    settings: how it is trained, by the names of :class:`TeacherRecipe`, over a few epochs of the usual.
    draws: sets of random real images, of as many of each class, that stand beside.
    allow_maker: accept a network that a set names as its teacher; otherwise :class:`TeacherError`.
    out: a ``.json`` file for the result.
    """
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    if out is not None and out.suffix != ".json":
        raise ConfigError(f'--out is "{out}"; expected a name that ends in .json')
    if teacher is not None and settings:
        raise ConfigError(
            f"settings of a training ({', '.join(settings)}) were given, but {teacher} is trained already"
        )
    sets = [(one.path, one.dataset) for one in opened_sets(paths)]
    request = request_of(sets[0][1].info, data)
    opened = context.data(request)
    for path, dataset in sets:
        check_same_data(dataset.spec, opened.spec)
        check_sizes(path, dataset, opened)
    seen_by = looking(sets, opened, request, context, teacher, network, settings or {})
    makers = [path for path, dataset in sets if seen_by.sha256 in hashes(dataset)]
    if makers and not allow_maker:
        raise TeacherError(
            f"network {seen_by.info.network} ({seen_by.sha256[:12]}) is a teacher of {makers[0]}, which was made to "
            "please it; take another, with --network or --teacher, or say --allow-maker"
        )
    study = Study(extractor_of(seen_by, context.compute), opened, draws, seed, context)
    found = Diversity(
        data=opened.spec.name,
        network=seen_by.info.network,
        network_sha256=seen_by.sha256,
        network_accuracy=seen_by.info.accuracy_test,
        is_maker=bool(makers),
        draws=draws,
        seed=seed,
        sets=study.measure(sets),
    )
    if out is not None:
        write_atomic(out, found.to_json().encode())
    return found


def check_sizes(path: Path, dataset: DistilledDataset, data: Data) -> None:
    """Raises :class:`DataError` if there are no more real images than the set has, in some class."""
    mine, real = (counts_of(labels, data.spec) for labels in (dataset.targets, data.train.labels))
    for label, name in enumerate(data.spec.classes):
        if 0 < mine[label] >= real[label]:
            raise DataError(
                f'{path} has {mine[label]} images of class "{name}" and {data.spec.name} has {real[label]}: nothing to '
                "compare with; expected fewer than there are real ones"
            )


def counts_of(labels: npt.ArrayLike, spec: DatasetSpec) -> tuple[int, ...]:
    """Images of each class."""
    return tuple(np.bincount(np.asarray(labels, dtype=np.int64), minlength=spec.n_classes).tolist())


def hashes(dataset: DistilledDataset) -> list[str]:
    """Of the teachers that a set names."""
    return [teacher["sha256"] for teacher in dataset.info.teachers]


def looking(
    sets: Sequence[tuple[Path, DistilledDataset]],
    data: Data,
    request: DataRequest,
    context: Context,
    teacher: Path | None,
    network: str | None,
    settings: Mapping[str, Any],
) -> Teacher:
    """The network that looks at the images: supplied, or trained by the store's rules."""
    device = context.compute.torch_device
    if teacher is not None:
        supplied = load_teacher(teacher, device, network=network)
        check_teacher(supplied.info, data.spec, min_accuracy=0.0)
        return supplied
    names = [known["network"] for _, dataset in sets for known in dataset.info.teachers]
    usual = {"network": other_network(names)}
    given = merge(merge(usual, settings), {"network": network} if network is not None else {})
    recipe = from_mapping(TeacherRecipe, given, "teacher")
    recipe = recipe if recipe.epochs is not None else brief(recipe, len(data.train))
    build_for(data.spec, recipe.network)
    [folder] = run_all(lambda: [teacher_job(request, data, recipe, context)], context)
    trained = load_teacher(folder, device, network=recipe.network)
    check_teacher(trained.info, data.spec)
    return trained


def other_network(names: Sequence[str]) -> str:
    """A network of another family than those called ``names``.

    >>> other_network(["resnet20"]), other_network(["convnet3-w128-bn"]), other_network([])
    ('convnet3-w64-bn', 'resnet8', 'resnet8')
    """
    families = {family(name) for name in names}
    return next((name for name in EXTRACTORS if family(name) not in families), EXTRACTORS[0])


def family(name: str) -> str:
    """The letters that a network's name begins with, wherever it is from."""
    own = name.rpartition(":")[2]
    return own[: next((place for place, sign in enumerate(own) if not sign.isalpha()), len(own))]


def brief(recipe: TeacherRecipe, n_images: int) -> TeacherRecipe:
    """The recipe with few epochs: 3, or of a small data set as many as 200 steps take."""
    steps = length_of(recipe, max(1, round(n_images * (1 - recipe.holdout))))[1]
    return replace(recipe, epochs=max(BRIEF_EPOCHS, -(-LEAST_STEPS // steps)))


@dataclass(frozen=True)
class Study:
    """Real images, a network, and what is drawn."""

    extractor: Extractor
    data: Data
    draws: int
    seed: int
    context: Context

    def measure(self, sets: Sequence[tuple[Path, DistilledDataset]]) -> tuple[SetDiversity, ...]:
        """Class by class, so that the features of one class are in memory at a time."""
        spec = self.data.spec
        counts = [counts_of(dataset.targets, spec) for _, dataset in sets]
        features = [self.extractor.features(dataset.images) for _, dataset in sets]
        tallies = [_Tally() for _ in sets]
        with self.real_features() as (real, centre):
            for label in range(spec.n_classes):
                theirs = real[self.data.train.labels == label]
                whole = {"cosine": mean_cosine(theirs), "cosine_centred": mean_cosine(theirs, centre)}
                made: dict[int, tuple[RealClass, list[Values]]] = {}
                for (_, dataset), count, seen, tally in zip(sets, counts, features, tallies, strict=True):
                    n = count[label]
                    if n == 0:
                        tally.add(None, [{}] * self.draws, {}, 0)
                        continue
                    if n not in made:
                        made[n] = self.beside(theirs, centre, label, n)
                    own = seen[np.asarray(dataset.targets) == label]
                    known, random = made[n]
                    tally.add(scores_of(own, self.extractor.logits(own), label, known), random, whole, known.k)
                self.context.report("classes", label + 1, spec.n_classes)
        return tuple(
            SetDiversity(
                path=str(path),
                name=dataset.info.name,
                method=str(dataset.info.method["name"]),
                set_sha256=set_hash(path),
                images_per_class=count,
                neighbours=tuple(tally.neighbours),
                scores=tally.scores(),
            )
            for (path, dataset), count, tally in zip(sets, counts, tallies, strict=True)
        )

    @contextmanager
    def real_features(self) -> Iterator[tuple[Floats, npt.NDArray[np.float64]]]:
        """Those of all training images, float32 (N, D), in a temporary file; and their mean."""
        train = self.data.train
        with tempfile.TemporaryDirectory(prefix="condense-") as folder:
            path = Path(folder) / "features"
            with disk_errors(path), open(path, "wb") as file:
                for block in self.extractor.blocks(train.images, self.context.report):
                    file.write(block.tobytes())
            real = np.memmap(path, dtype=np.float32, mode="r", shape=(len(train), self.extractor.size))
            yield real, real.mean(0, dtype=np.float64)

    def beside(
        self, features: Floats, centre: npt.NDArray[np.float64], label: int, n: int
    ) -> tuple[RealClass, list[Values]]:
        """All real images of a class, and the scores of ``n`` of them in each draw."""
        real = RealClass.of(features, centre, n, key(self.seed, "cells of a class", label))
        logits = self.extractor.logits(features)
        random = []
        for draw in range(self.draws):
            places = drawn_places(len(features), label, n, self.seed, draw)
            random.append(scores_of(features[places], logits[places], label, real, places))
        return real, random


def drawn_places(size: int, label: int, n: int, seed: int, draw: int) -> npt.NDArray[np.int64]:
    """Places of ``n`` random images in a class of ``size``, without repetition."""
    labels = np.full(size, label)
    return pick_random(labels, [label], range(n), seed=key(seed, "diversity"), set_index=draw)[:, 0]


@dataclass
class _Tally:
    """What is known of a set so far, class by class."""

    own: list[Mapping[str, float | None]] = field(default_factory=list)
    random: list[Sequence[Values]] = field(default_factory=list)
    whole: list[Values] = field(default_factory=list)
    neighbours: list[int] = field(default_factory=list)

    def add(self, own: Values | None, random: Sequence[Values], whole: Values, k: int) -> None:
        self.own.append(own or {})
        self.random.append(random)
        self.whole.append(whole)
        self.neighbours.append(k)

    def scores(self) -> dict[str, Score]:
        draws = list(zip(*self.random, strict=True))
        return {
            name: Score.of(
                [values.get(name) for values in self.own],
                [[values.get(name) for values in draw] for draw in draws],
                [values.get(name) for values in self.whole],
            )
            for name in SCORES
        }
