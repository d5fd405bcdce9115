"""How a network learnt each training image: the log of a training, for methods that choose images by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.spec import Data
from condense.device import Compute
from condense.progress import Report, silent
from condense.teachers.recipe import TeacherRecipe, fit_recipe, length_of, network_of
from condense.training import each_block

__all__ = ["Dynamics", "log_dynamics"]

NAMES = ("p_true", "p_other", "error")


@dataclass(frozen=True, eq=False)
class Dynamics:
    """After each epoch, for each image: float16 (epochs, N).

    ``p_true``: the probability of its class. ``p_other``: the greatest of the other classes. ``error``: the norm of the
    probabilities less the one-hot class.
    """

    p_true: npt.NDArray[np.float16]
    p_other: npt.NDArray[np.float16]
    error: npt.NDArray[np.float16]

    @property
    def epochs(self) -> int:
        return len(self.p_true)

    def of(self, members: npt.NDArray[np.int64]) -> Dynamics:
        """Those of some images."""
        return Dynamics(*(getattr(self, name)[:, members] for name in NAMES))

    def write(self, folder: Path) -> None:
        for name in NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def read(cls, folder: Path) -> Dynamics:
        """What :meth:`write` wrote, as memory maps."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES))


def log_dynamics(
    data: Data,
    recipe: TeacherRecipe,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> Dynamics:
    """Train the recipe's network on all of ``data.train`` (``holdout`` is not held out), looking at all images after
    each epoch: whole, in eval mode.

    With a ``checkpoint`` an interrupted run goes on to the same bytes; a look is not interrupted.
    """
    network = network_of(recipe, data.spec)
    count = len(data.train)
    epochs, _ = length_of(recipe, count)
    watcher = _Watcher(network, data, epochs, compute)
    fit_recipe(
        network,
        data,
        np.arange(count),
        recipe,
        name="scoring run",
        compute=compute,
        report=report,
        checkpoint=checkpoint,
        listener=watcher,
    )
    return Dynamics(*watcher.state.numpy())


class _Watcher:
    """Looks at all training images at the end of each epoch. ``state``: float16 (3, epochs, N), by `NAMES`."""

    def __init__(self, network: nn.Module, data: Data, epochs: int, compute: Compute) -> None:
        self.network, self.data, self.compute = network, data, compute
        self.labels = torch.from_numpy(np.array(data.train.labels, dtype=np.int64))
        self.state = torch.zeros(len(NAMES), epochs, len(data.train), dtype=torch.float16)

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        def take(first: int, outputs: Tensor) -> None:
            some = slice(first, first + len(outputs))
            self.state[:, epoch, some] = _seen(outputs.cpu(), self.labels[some]).to(torch.float16)

        each_block(self.network, self.data.train.images, self.data.spec, take, compute=self.compute)


def _seen(logits: Tensor, labels: Tensor) -> Tensor:
    """By `NAMES`: (3, n) of logits (n, K). The others' probabilities are summed, not taken from 1, for precision."""
    p = logits.double().softmax(1)
    own = labels[:, None]
    p_true = p.gather(1, own)[:, 0]
    others = p.scatter(1, own, 0.0)
    error = (others.square().sum(1) + others.sum(1).square()).sqrt()
    return torch.stack([p_true, others.amax(1), error])
