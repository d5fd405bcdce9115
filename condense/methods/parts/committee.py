"""Which teachers judge which slot, and how much each of them counts (CV-DD, arXiv 2501.07575)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from condense.errors import ConfigError, MethodError
from condense.inversion import Member, Teachers
from condense.seeding import generator
from condense.teachers.taps import TappedNetwork
from condense.views.config import check_choice, check_integer

__all__ = ["CommitteeConfig", "committee", "softmax", "teacher_weights"]

Choice = Literal["in-order", "random", "best"]
Voting = Literal["equal", "prior"]


@dataclass(frozen=True, kw_only=True)
class CommitteeConfig:
    """Who judges a slot. Raises `ConfigError` for a value out of range.

    CV-DD takes pairs, in order at IPC 10, at random at IPC 50, and the best at IPC 1; its ``priors`` are accuracies on
    test images, which here are estimated on held-out training images unless they are given.
    """

    size: int = field(default=0, metadata={"help": "teachers that judge a slot; 0: all of them"})
    choice: Choice = field(
        default="in-order",
        metadata={
            "help": "which of all combinations of that size: each in turn (in-order), one drawn per slot (random), or "
            "that of the greatest priors (best)"
        },
    )
    turns: bool = field(default=False, metadata={"help": "one teacher per step, in turn, instead of all at every step"})
    voting: Voting = field(
        default="equal", metadata={"help": "weights within a combination: equal, or softmax(prior / temperature)"}
    )
    temperature: float = field(default=5.0, metadata={"help": "of voting, in percent of accuracy"})
    label_temperature: float = field(
        default=10.0, metadata={"help": "of the weights with which all teachers label, in percent of accuracy"}
    )
    priors: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "percent of images that students get right which each teacher alone has made a set for; unset: "
            "estimated on held-out training images"
        },
    )

    def __post_init__(self) -> None:
        check_integer("committee.size", self.size, 0)
        check_choice("committee.choice", self.choice, get_args(Choice))
        check_choice("committee.voting", self.voting, get_args(Voting))
        for name in ("temperature", "label_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"committee.{name} must be above 0 and finite, got {getattr(self, name)}")
        if not all(0 <= prior <= 100 for prior in self.priors):
            raise ConfigError(f"committee.priors are {list(self.priors)}; expected percentages from 0 to 100")

    @property
    def asks_priors(self) -> bool:
        """Whether priors are needed and not given."""
        return not self.priors and (self.voting == "prior" or (self.choice == "best" and self.size > 0))

    def check(self, n_teachers: int, name: str) -> None:
        """Raises `MethodError` for a number of teachers that this committee cannot be made of."""
        if n_teachers < self.size:
            raise MethodError(
                f"{name} has committees of {self.size} teachers, but there {_are(n_teachers)}; give more with "
                f"--teacher, name their networks under teachers, or set committee.size={n_teachers}"
            )
        if self.priors and len(self.priors) != n_teachers:
            raise ConfigError(
                f"committee.priors has {len(self.priors)} numbers, but there {_are(n_teachers)}; give one for each, in "
                "the order of the teachers"
            )


def _are(teachers: int) -> str:
    return "is 1 teacher" if teachers == 1 else f"are {teachers} teachers"


def softmax(values: Sequence[float], temperature: float) -> npt.NDArray[np.float64]:
    """Weights exp(v / temperature), scaled to sum to one."""
    powers = np.exp((np.asarray(values, dtype=np.float64) - max(values)) / temperature)
    scaled: npt.NDArray[np.float64] = powers / powers.sum()
    return scaled


def combination(config: CommitteeConfig, n_teachers: int, *, seed: int, set_index: int, slot: int) -> tuple[int, ...]:
    """The teachers of a slot, by their numbers."""
    if config.size in (0, n_teachers):
        return tuple(range(n_teachers))
    if config.choice == "best":
        ranked = sorted(range(n_teachers), key=lambda one: (-config.priors[one], one))
        return tuple(sorted(ranked[: config.size]))
    every = list(itertools.combinations(range(n_teachers), config.size))
    if config.choice == "in-order":
        return every[slot % len(every)]
    return every[int(generator(seed, "committee", set_index, slot).integers(len(every)))]


def teacher_weights(
    config: CommitteeConfig, n_teachers: int, slots: Sequence[int], *, seed: int, set_index: int
) -> npt.NDArray[np.float64]:
    """How much each teacher counts in each slot: (teachers, slots), 0 where it is not asked; columns sum to one."""
    weights = np.zeros((n_teachers, len(slots)))
    for column, slot in enumerate(slots):
        chosen = list(combination(config, n_teachers, seed=seed, set_index=set_index, slot=slot))
        equal = config.voting == "equal"
        share = softmax([0.0 if equal else config.priors[one] for one in chosen], config.temperature)
        weights[chosen, column] = share
    return weights


def committee(networks: Sequence[TappedNetwork], weights: npt.NDArray[np.float64], *, turns: bool) -> Teachers:
    """The teachers of every step. With ``turns`` each group's teachers take the steps one after the other, alone."""
    if not turns:
        asked = [(number, network, weights[number]) for number, network in enumerate(networks)]
        members = [Member(network, tuple(row), str(number)) for number, network, row in asked if row.any()]
        return lambda _: members
    order = [np.flatnonzero(column) for column in weights.T]
    period = math.lcm(*(len(one) for one in order))
    rounds = []
    for step in range(period):
        now = np.array([one[step % len(one)] for one in order])
        asked = [(number, network, (now == number).astype(float)) for number, network in enumerate(networks)]
        rounds.append([Member(network, tuple(row), str(number)) for number, network, row in asked if row.any()])
    return lambda step: rounds[step % period]
