"""Experts: trainings on all real images whose weights are kept after every epoch, for methods that imitate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from condense import seeding
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.pixels import normalise, to_pixels
from condense.data.spec import Data, DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.networks import build
from condense.progress import Report, silent
from condense.training import Batch, Batches, OptimConfig, fit
from condense.views.augment import Augment, augment
from condense.views.plan import step_offsets
from condense.views.render import channels_last

__all__ = [
    "ExpertRecipe",
    "Experts",
    "expert_bytes",
    "expert_length",
    "train_expert",
    "untrained_expert",
    "write_expert",
]

Weights = npt.NDArray[np.float32]
FILE = "weights.npy"


@dataclass(frozen=True, kw_only=True)
class ExpertRecipe:
    """How an expert is trained: gradient descent at a constant learning rate, with cross-entropy.

    The values of MTT (arXiv 2203.11932, and its program): no momentum, no weight decay, one DSA family a batch with
    parameters for each image. Raises :class:`ConfigError` for a value out of range.
    """

    network: str = "convnet3-in"
    epochs: int = 50
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: Augment = "dsa"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of an expert must be at least 1, got {getattr(self, name)}")
        _ = self.optim  # checks lr, momentum and weight_decay

    @property
    def optim(self) -> OptimConfig:
        return OptimConfig(
            lr=self.lr, momentum=self.momentum, nesterov=False, weight_decay=self.weight_decay, schedule="constant"
        )


@dataclass(frozen=True, eq=False)
class Experts:
    """Trajectories: of each expert float32 (epochs + 1, P), its parameters at the start and after each epoch.

    Parameters are in the order of ``named_parameters()``, each row-major. Arrays are memory maps where they were read.
    """

    weights: tuple[Weights, ...]

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def epochs(self) -> int:
        """What all of them have."""
        return min(map(len, self.weights)) - 1

    def at(self, expert: int, epoch: int) -> Tensor:
        """The parameters of one, ``epoch`` epochs after the start: float32 (P,), a copy."""
        return torch.from_numpy(np.array(self.weights[expert][epoch]))

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Experts:
        """What :func:`write_expert` wrote. Raises `MethodError` where that is no trajectory, or where sizes differ."""
        found = tuple(np.load(folder / FILE, mmap_mode="r", allow_pickle=False) for folder in folders)
        for folder, one in zip(folders, found, strict=True):
            if one.ndim != 2 or one.dtype != np.float32 or one.shape[1] != found[0].shape[1]:
                raise MethodError(
                    f"{folder / FILE} holds {one.dtype} {one.shape}; expected float32 (epochs + 1, "
                    f"{found[0].shape[-1]}), the parameters of an expert after each epoch"
                )
        return cls(found)


def train_expert(
    data: Data,
    recipe: ExpertRecipe,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> Weights:
    """Train on all of ``data.train``; the parameters at the start and after each epoch, float32 (epochs + 1, P).

    The result depends on ``data``, ``recipe`` and ``compute`` alone; with a ``checkpoint`` an interrupted run goes on
    bit by bit. Differs from MTT's program in that batches of an epoch differ in size by at most one, where the last is
    smaller there. Raises :class:`condense.training.Diverged`.
    """
    network = expert_network(recipe, data.spec)
    keeper = _Keeper(network, recipe.epochs)
    fit(
        network,
        expert_batches(data, recipe, compute),
        functional.cross_entropy,
        recipe.optim,
        epochs=recipe.epochs,
        steps_per_epoch=expert_length(recipe, len(data.train)),
        compute=compute,
        report=report,
        name=f"expert {recipe.network}",
        checkpoint=checkpoint,
        listener=keeper,
    )
    kept: Weights = keeper.state.numpy()
    return kept


def write_expert(folder: Path, weights: Weights) -> None:
    """Keep a trajectory float32 (epochs + 1, P): one file, to be memory-mapped."""
    np.save(folder / FILE, weights, allow_pickle=False)


def untrained_expert(recipe: ExpertRecipe, spec: DatasetSpec) -> Weights:
    """Something of the size of a trajectory: the network at its start, moved a little at random after each epoch."""
    start = flat_weights(expert_network(recipe, spec)).numpy()
    random = seeding.generator(recipe.seed, "untrained expert")
    moves = 1e-3 * random.standard_normal((recipe.epochs + 1, len(start)), np.float32)
    made: Weights = start + moves
    return made


def flat_weights(network: nn.Module) -> Tensor:
    """All parameters one after the other, float32 (P,), on the CPU."""
    parts = [one.detach().reshape(-1).to("cpu", torch.float32) for one in network.parameters()]
    return torch.cat(parts)


def expert_network(recipe: ExpertRecipe, spec: DatasetSpec) -> nn.Module:
    """The recipe's network, untrained."""
    return build(
        recipe.network,
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        n_classes=spec.n_classes,
        seed=recipe.seed,
    )


def expert_bytes(recipe: ExpertRecipe, spec: DatasetSpec) -> int:
    """What a trajectory takes on disk, but for the head of its file."""
    return 4 * (recipe.epochs + 1) * sum(one.numel() for one in expert_network(recipe, spec).parameters())


def expert_length(recipe: ExpertRecipe, n_images: int) -> int:
    """Steps of an epoch."""
    return len(step_offsets(n_images, recipe.batch_size)) - 1


def expert_batches(data: Data, recipe: ExpertRecipe, compute: Compute) -> Batches:
    """All training images in a random order for each epoch, normalised, then augmented batch by batch."""
    spec, device = data.spec, compute.torch_device
    mean, std = (torch.tensor(each, device=device).view(-1, 1, 1) for each in (spec.mean, spec.std))
    labels, count = np.array(data.train.labels, dtype=np.int64), len(data.train)
    bounds = step_offsets(count, recipe.batch_size)

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        order = seeding.generator(recipe.seed, "expert order", epoch).permutation(count)
        for step in range(first_step, len(bounds) - 1):
            chosen = order[bounds[step] : bounds[step + 1]]
            images = normalise(to_pixels(data.train.images[chosen]).to(device, non_blocking=True), spec)
            draws = seeding.generator(recipe.seed, "expert augmentation", epoch, step)
            changed = channels_last(augment(recipe.augment, images, mean, std, draws))
            yield Batch(changed, torch.from_numpy(labels[chosen]).to(device, non_blocking=True))

    return batches


class _Keeper:
    """Keeps the parameters after each epoch. ``state``: float32 (epochs + 1, P), first those at the start."""

    def __init__(self, network: nn.Module, epochs: int) -> None:
        self.network = network
        start = flat_weights(network)
        self.state = torch.zeros(epochs + 1, len(start))
        self.state[0] = start

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        self.state[epoch + 1] = flat_weights(self.network)
