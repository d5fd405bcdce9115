"""Coresets by distance between features: herding, k-center, k-means, moderate.

Features are what the last layer of a teacher is given, of whole training images. Source of the rules: the papers named
in :mod:`condense.selection`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from condense.data.spec import DatasetSpec
from condense.errors import ConfigError, MethodError
from condense.methods.base import Needs, Precomputed
from condense.methods.coreset import Coreset, derived_seed
from condense.selection import herding, k_center, k_means, moderate
from condense.selection.picking import Indices
from condense.selection.table import Matrix
from condense.teachers import Features, TeacherRecipe

__all__ = ["Herding", "KCenter", "KCenterConfig", "KMeans", "KMeansConfig", "Moderate", "VariedConfig"]


class FeatureCoreset(Coreset):
    """Chosen by the features of the first teacher."""

    needs = Needs(teachers="none", real_images=True, precomputed="features")

    def pick(
        self, precomputed: Precomputed, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        if not isinstance(precomputed, Features):
            raise MethodError(f"{self.name} needs the features of a teacher")
        return self.by_features(precomputed.features, members, count, random, set_index)

    @abstractmethod
    def by_features(
        self, features: Matrix, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        """The same of the features of all images, (N, d)."""


@dataclass(frozen=True, kw_only=True)
class VariedConfig:
    """Settings of a method without chance: given the features, there is but one answer."""

    vary: bool = field(
        default=True,
        metadata={"help": "sets after the first by features of a teacher trained for each; else only one set is made"},
    )


class VariedCoreset(FeatureCoreset):
    """Set 0 is chosen by the first teacher; each further set by a network of its own, trained by the recipe of teachers
    with another seed, so that sets are as independent as networks are."""

    Config = VariedConfig
    config: VariedConfig

    @property
    def sets_differ(self) -> bool:
        return self.config.vary

    def network_recipe(
        self, teacher: TeacherRecipe, spec: DatasetSpec, ipc: int, set_index: int, seed: int
    ) -> TeacherRecipe | None:
        if not (self.config.vary and set_index):
            return None
        return replace(teacher, seed=derived_seed(teacher.seed, "feature network", seed, set_index))


class Herding(VariedCoreset):
    """Greedily keep the mean feature of the picked images near that of the class; see `condense.selection.herding`.

    Differs from iCaRL's in taking features as they are, not normalised to length 1.
    """

    name = "herding"
    summary = "real images whose mean feature stays nearest that of the class"
    source = "Welling 2009; iCaRL (CVPR 2017), arXiv 1611.07725"
    revision = 1

    def by_features(
        self, features: Matrix, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        return herding(features, members, count)


class Moderate(VariedCoreset):
    """Images at the median distance from the middle of their class; see `condense.selection.moderate`."""

    name = "moderate"
    summary = "real images neither usual nor odd: at the median distance from the middle of the class"
    source = "Moderate Coreset (ICLR 2023)"
    revision = 1

    def by_features(
        self, features: Matrix, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        return moderate(features, members, count)


Start = Literal["mean", "random"]


@dataclass(frozen=True, kw_only=True)
class KCenterConfig:
    """Settings of k-center. Raises `ConfigError` for a start that does not exist."""

    start: Start = field(
        default="mean",
        metadata={"help": "first image: mean (the nearest to it; of sets after the first a random one), or random"},
    )

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise ConfigError(f'start is "{self.start}"; expected one of {", ".join(get_args(Start))}')


class KCenter(FeatureCoreset):
    """Farthest-first traversal of each class; see `condense.selection.k_center`.

    Sets differ by where they start, which is drawn but for set 0 with ``start=mean``. At few images per class it picks
    outliers and falls below random images: a known weakness of the rule, kept as it is.
    """

    name = "k-center"
    summary = "real images each farthest from those before"
    source = "Sener and Savarese (ICLR 2018), arXiv 1708.00489"
    revision = 1
    Config = KCenterConfig
    config: KCenterConfig

    def by_features(
        self, features: Matrix, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        drawn = set_index > 0 or self.config.start == "random"
        return k_center(features, members, count, start=int(random.integers(len(members))) if drawn else None)


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """Settings of k-means. Raises `ConfigError` for a value out of range."""

    iterations: int = field(default=100, metadata={"help": "most rounds of Lloyd"})

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ConfigError(f"iterations must be at least 0, got {self.iterations}")


class KMeans(FeatureCoreset):
    """The images nearest to the centres of IPC clusters of each class; see `condense.selection.k_means`.

    Sets and seeds differ by the start of k-means++.
    """

    name = "k-means"
    summary = "real images nearest to the centres of as many clusters"
    source = "k-means++ (Arthur and Vassilvitskii 2007), nearest images as in DeepCore, arXiv 2204.08499"
    revision = 1
    nested = False
    Config = KMeansConfig
    config: KMeansConfig

    def by_features(
        self, features: Matrix, members: Indices, count: int, random: np.random.Generator, set_index: int
    ) -> Indices:
        return k_means(features, members, count, random, iterations=self.config.iterations)
