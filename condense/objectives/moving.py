"""Batch statistics averaged over the steps, with the gradient of the last (G-VBSM and EDC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from condense.errors import ConfigError
from condense.teachers.taps import Statistics

__all__ = ["MovingStatistics"]

Start = Literal["first", "zero"]


class MovingStatistics:
    """``S <- keep * S + (1 - keep) * s`` for each network, group, layer and statistic s.

    What is then compared with the targets is ``S + s - stop_gradient(s)``: the value of S, the gradient of s. Source:
    G-VBSM (arXiv 2311.17950) and EDC (arXiv 2404.13733), there ``keep`` 0.8 (0.4 on ImageNet). A loop owns one, passes
    every network's statistics through `smooth`, and puts `state` into its checkpoint: objectives stay without state.

    Differs from the programs: each group has averages of its own, which begin with it and end with its job, where
    there one average goes on from batch to batch; and S begins as the first s (``start="zero"``: at 0, as there).

    Raises `ConfigError` for a value out of range.
    """

    def __init__(self, keep: float, groups: int, start: Start = "first") -> None:
        if not 0 <= keep < 1:
            raise ConfigError(f"keep must be in [0, 1), got {keep}")
        if start not in get_args(Start):
            raise ConfigError(f'start is "{start}"; expected one of {", ".join(get_args(Start))}')
        self.keep, self.groups, self.start = keep, groups, start
        self._averages: dict[str, Tensor] = {}
        self._begun: dict[str, Tensor] = {}

    def smooth(self, statistics: Statistics, key: str, places: Tensor | None = None) -> Statistics:
        """``statistics`` of the network ``key`` with averages in their place, which it takes part in.

        ``places``: the numbers, int64, of the groups that were shown; None for all of them.
        """
        now = torch.stack((statistics.mean, statistics.var))
        with torch.no_grad():
            averages, begun = self._of(key, now)
            some = torch.arange(self.groups, device=now.device) if places is None else places
            rate = now.new_ones(len(some), 1).masked_fill_(begun[some].unsqueeze(1), 1 - self.keep)
            kept = averages[:, some].lerp_(now, rate)
            averages.index_copy_(1, some, kept)
            begun.index_fill_(0, some, True)
        mean, var = kept + (now - now.detach())
        return replace(statistics, mean=mean, var=var)

    def state(self) -> dict[str, Tensor]:
        """All averages, by names of their own; for `load`."""
        averages = {f"averages.{key}": value for key, value in self._averages.items()}
        return {**averages, **{f"begun.{key}": value for key, value in self._begun.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for prefix, held in (("averages.", self._averages), ("begun.", self._begun)):
            held.clear()
            held.update({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})

    def _of(self, key: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """A network's averages (2, G, D), and of which groups it has seen something (G,), where ``like`` is."""
        if key not in self._averages:
            self._averages[key] = like.new_zeros(2, self.groups, like.shape[2])
            self._begun[key] = torch.full((self.groups,), self.start == "zero")
        for held in (self._averages, self._begun):
            held[key] = held[key].to(like.device)
        return self._averages[key], self._begun[key]
