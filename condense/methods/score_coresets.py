"""Coresets by how a network learnt the images: el2n, forgetting, ccs, cad-prune.

They ask for a *scoring run*: a network trained on all training images, asked about all of them after every epoch. It
is trained by the recipe of teachers but for what the section ``scoring`` says, and shared by all methods that ask for
the same.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from condense.data.spec import DatasetSpec
from condense.errors import ConfigError, MethodError
from condense.methods.base import Needs, Precomputed
from condense.methods.coreset import Coreset, derived_seed
from condense.selection import aum, cad, ccs, el2n, forgetting, largest, smallest, window
from condense.selection.picking import Indices
from condense.selection.scores import Scores
from condense.teachers import Dynamics, TeacherRecipe

__all__ = [
    "CCS",
    "EL2N",
    "CADPrune",
    "CADPruneConfig",
    "CCSConfig",
    "EL2NConfig",
    "Forgetting",
    "ForgettingConfig",
    "ScoringConfig",
]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """The scoring run, where it is not trained as teachers are. Raises `ConfigError` for a value out of range."""

    network: str | None = field(default=None, metadata={"help": "its network; unset: that of the teachers"})
    epochs: int | None = field(
        default=None, metadata={"help": "how long it trains; unset: as teachers do (cad-prune: matched to the student)"}
    )
    vary: bool = field(
        default=True, metadata={"help": "a run of its own for each seed and set; else all are chosen by the same one"}
    )

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"scoring.epochs must be at least 1, got {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Settings that all of these methods have."""

    scoring: ScoringConfig = ScoringConfig()


class ScoreCoreset(Coreset):
    """Chosen by a score of each image, from the log of the scoring run."""

    config: ScoreConfig
    needs = Needs(teachers="none", real_images=True, precomputed="dynamics")

    @abstractmethod
    def choose(self, log: Dynamics, members: Indices, count: int, random: np.random.Generator) -> Indices:
        """``log`` is that of the ``members``."""

    @property
    def sets_differ(self) -> bool:
        return self.config.scoring.vary

    def network_recipe(
        self, teacher: TeacherRecipe, spec: DatasetSpec, ipc: int, set_index: int, seed: int
    ) -> TeacherRecipe | None:
        scoring = self.config.scoring
        own = derived_seed(teacher.seed, "scoring run", seed, set_index) if scoring.vary else teacher.seed
        epochs = scoring.epochs or self.usual_epochs(spec, ipc) or teacher.epochs
        return replace(teacher, network=scoring.network or teacher.network, epochs=epochs, seed=own)

    def usual_epochs(self, spec: DatasetSpec, ipc: int) -> int | None:
        """How long the scoring run is if nobody says; None: as long as a teacher trains."""
        return None

    def pick(
        self, precomputed: Precomputed, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        if not isinstance(precomputed, Dynamics):
            raise MethodError(f"{self.name} needs the log of a scoring run")
        return self.choose(precomputed.of(members), members, count, random)


End = Literal["easy", "hard", "window"]


@dataclass(frozen=True, kw_only=True)
class EL2NConfig(ScoreConfig):
    """Settings of EL2N. Raises `ConfigError` for a value out of range."""

    end: End = field(default="easy", metadata={"help": "which images: easy, hard, or window (see offset)"})
    offset: float = field(
        default=50.0,
        metadata={"help": "of a window: percent of the way from hard to easy; choose it on held-out training images"},
    )
    first: int = field(default=10, metadata={"help": "epochs whose errors are summed, from the first"})

    def __post_init__(self) -> None:
        if self.end not in get_args(End):
            raise ConfigError(f'end is "{self.end}"; expected one of {", ".join(get_args(End))}')
        if not 0 <= self.offset <= 100:
            raise ConfigError(f"offset must be from 0 to 100, got {self.offset}")
        if self.first < 1:
            raise ConfigError(f"first must be at least 1, got {self.first}")


class EL2N(ScoreCoreset):
    """By the norm of the error early in training: the easiest images of each class, the hardest, or a window between.

    The score is the sum over the first ten epochs of one run, as in CCS's code; the original is the mean over ten
    networks at about epoch 20. Hard images are worse than random ones where few are kept, so the easy end is the
    default (as in PCA, arXiv 2502.06434). The published "EL2N-best" takes the window that is best on the test images,
    which nobody should.
    """

    name = "el2n"
    summary = "real images by their error early in training: easy ones, hard ones, or a window"
    source = "Deep Learning on a Data Diet (NeurIPS 2021), arXiv 2107.07075"
    revision = 1
    Config = EL2NConfig
    config: EL2NConfig

    @property
    def nested(self) -> bool:
        return self.config.end != "window"

    def choose(self, log: Dynamics, members: Indices, count: int, random: np.random.Generator) -> Indices:
        scores = el2n(log.error, self.config.first)
        if self.config.end == "window":
            return window(scores, members, count, self.config.offset)
        return _end(self.config.end, scores, members, count)


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig(ScoreConfig):
    """Settings of forgetting. Raises `ConfigError` for an end that does not exist."""

    end: Literal["easy", "hard"] = field(
        default="easy",
        metadata={"help": "which images: easy (never forgotten) or hard (often forgotten, never learnt)"},
    )
    ties: Literal["random", "first"] = field(
        default="random", metadata={"help": "which of equally often forgotten images: random, or the first of the data"}
    )

    def __post_init__(self) -> None:
        for name, known in (("end", ("easy", "hard")), ("ties", ("random", "first"))):
            if getattr(self, name) not in known:
                raise ConfigError(f'{name} is "{getattr(self, name)}"; expected one of {", ".join(known)}')


class Forgetting(ScoreCoreset):
    """By how often training forgot an image; those never learnt count as forgotten most.

    The paper keeps the hard end, which is worse than random images where few are kept; the easy end is the default.
    Counted at the ends of epochs, not batch by batch. Most images are never forgotten and tie, so ties are drawn:
    otherwise all sets would hold much the same images, the first of the data.
    """

    name = "forgetting"
    summary = "real images by how often training forgot them"
    source = "An Empirical Study of Example Forgetting (ICLR 2019), arXiv 1812.05159"
    revision = 1
    Config = ForgettingConfig
    config: ForgettingConfig

    @property
    def sets_differ(self) -> bool:
        return self.config.scoring.vary or self.config.ties == "random"

    def choose(self, log: Dynamics, members: Indices, count: int, random: np.random.Generator) -> Indices:
        scores = forgetting(log.p_true, log.p_other)
        order = random.permutation(len(members)) if self.config.ties == "random" else np.arange(len(members))
        return _end(self.config.end, scores[order], members[order], count)


@dataclass(frozen=True, kw_only=True)
class CCSConfig(ScoreConfig):
    """Settings of CCS. Raises `ConfigError` for a value out of range."""

    beta: float = field(
        default=0.3,
        metadata={"help": "share of the hardest images that is left out; published: 0.3 at 10 % kept, none for fewer, "
                  "where more is better: choose it on held-out training images"},
    )  # fmt: skip
    strata: int = field(default=50, metadata={"help": "most strata of equal width; never more than images per class"})

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ConfigError(f"beta must be in [0, 1), got {self.beta}")
        if self.strata < 1:
            raise ConfigError(f"strata must be at least 1, got {self.strata}")


class CCS(ScoreCoreset):
    """Coverage of all difficulties but the hardest, by AUM; see `condense.selection.ccs`.

    Differs from the paper in working class by class, with no more strata than images per class. Sets and seeds draw
    anew, with ``scoring.vary`` from the strata of another run.
    """

    name = "ccs"
    summary = "real images drawn evenly from all difficulties but the hardest"
    source = "Coverage-centric Coreset Selection (ICLR 2023), arXiv 2210.15809"
    revision = 1
    nested = False
    sets_differ = True
    Config = CCSConfig
    config: CCSConfig

    def choose(self, log: Dynamics, members: Indices, count: int, random: np.random.Generator) -> Indices:
        strata = min(self.config.strata, count)
        return ccs(aum(log.p_true, log.p_other), members, count, random, beta=self.config.beta, strata=strata)


@dataclass(frozen=True, kw_only=True)
class CADPruneConfig(ScoreConfig):
    """Settings of CAD-Prune. Raises `ConfigError` for a value out of range."""

    window: int | None = field(
        default=None, metadata={"help": "J, epochs of a window; published for ImageNet-1K: 6; unset: all but W"}
    )
    windows: int = field(default=2, metadata={"help": "W, windows that are averaged"})
    student_epochs: int = field(
        default=300, metadata={"help": "E, epochs of the student that the scoring run is to match in steps"}
    )

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise ConfigError(f"window must be at least 2, got {self.window}")
        for name in ("windows", "student_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scoring.epochs is not None and self.scoring.epochs < self.least_epochs:
            raise ConfigError(
                f"scoring.epochs is {self.scoring.epochs}; expected at least {self.least_epochs}, the windows' sum "
                f"with windows={self.windows}"
            )

    @property
    def least_epochs(self) -> int:
        """J + W."""
        return (self.window or 2) + self.windows


class CADPrune(ScoreCoreset):
    """The images whose probability still moves most at the end of a run as long as the student's; see
    `condense.selection.cad`.

    K, the epochs of the scoring run, is such that it sees as many images as the student: K * N = E * IPC * C, rounded,
    and at least J + W. So it depends on the IPC, and sets of different IPC are not nested. J is K - W where it is not
    set: on small data sets the published 6 is worse than random images.

    Differs from the paper in the scoring run: it has the recipe of the teachers (SGD, half a cosine over the K epochs)
    and not that of the student compressed to K epochs; give ``scoring.network`` the student's network.
    """

    name = "cad-prune"
    summary = "real images whose probability still moves at the end of a run as long as the student's"
    source = "Rethinking Dataset Distillation: Hard Truths about Soft Labels (CVPR 2026), arXiv 2604.18811"
    revision = 1
    nested = False
    Config = CADPruneConfig
    config: CADPruneConfig
    quick: ClassVar[dict[str, Any]] = {"scoring": {"epochs": 4}}

    def usual_epochs(self, spec: DatasetSpec, ipc: int) -> int | None:
        matched = self.config.student_epochs * ipc * spec.n_classes / sum(spec.train_sizes)
        return max(round(matched), self.config.least_epochs)

    def choose(self, log: Dynamics, members: Indices, count: int, random: np.random.Generator) -> Indices:
        windows = self.config.windows
        scores = cad(log.p_true, window=self.config.window or log.epochs - windows, windows=windows)
        return largest(scores, members, count)


def _end(end: str, scores: Scores, members: Indices, count: int) -> Indices:
    """The hard end is that of the greatest scores."""
    return (largest if end == "hard" else smallest)(scores, members, count)
