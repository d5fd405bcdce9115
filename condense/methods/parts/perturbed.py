"""Directed weight adjustment as a hook of the inversion loop (DWA, arXiv 2409.17612)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense.canvas import Canvas
from condense.inversion import Hooks, Problem, Stage, Teachers
from condense.methods.parts.committee import committee
from condense.methods.parts.settings import PerturbConfig
from condense.teachers.perturb import perturb
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryDraws, apply_recovery, recovery_draws

__all__ = ["Perturbed"]

Weights = npt.NDArray[np.float64]


class Perturbed(Hooks):
    """Every group has teachers of its own, moved up the loss of the group's first images as the first step shows them.

    ``weights``: of each of ``networks`` in each group, (teachers, groups); ``tap`` makes copies of them, told which is
    whose, give their statistics. Memory holds a copy of each teacher for every group that it judges.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        weights: Weights,
        tap: Callable[[Sequence[nn.Module], Sequence[int]], list[TappedNetwork]],
        stages: Sequence[Stage],
        problem: Problem,
        config: PerturbConfig,
        *,
        turns: bool,
    ) -> None:
        self.networks, self.weights, self.tap, self.stages, self.problem = networks, weights, tap, stages, problem
        self.config, self.turns = config, turns

    def prepare(self, canvas: Canvas, teachers: Teachers) -> Teachers:
        images = canvas.images()
        shown = apply_recovery(images, self._first_draws(images), 0)
        targets = torch.tensor(self.problem.targets, device=images.device).expand(len(shown), -1)
        owners, judged = (places.tolist() for places in np.nonzero(self.weights))
        moved = [
            perturb(
                self.networks[teacher], shown[group], targets[group], radius=self.config.radius, steps=self.config.steps
            )
            for teacher, group in zip(owners, judged, strict=True)
        ]
        alone = np.zeros((len(moved), len(shown)))
        alone[np.arange(len(moved)), judged] = self.weights[owners, judged]
        return committee(self.tap(moved, owners), alone, turns=self.turns)

    def _first_draws(self, images: Tensor) -> RecoveryDraws:
        return recovery_draws(
            self.stages[0].views,
            self.problem.seed,
            self.problem.groups,
            range(1),
            total_steps=sum(stage.steps for stage in self.stages),
            images=images.shape[1],
            height=images.shape[3],
            width=images.shape[4],
        ).to(images.device)
