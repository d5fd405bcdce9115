"""What happens to a network between two matches: it is trained, on synthetic or on real images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.device import Compute
from condense.matching.real import RealImages
from condense.recorded import Recorded
from condense.seeding import generator
from condense.views.augment import Augment, Family, augment, color, crop, cut_and_mix, cutout, flip, rotate, scale
from condense.views.render import channels_last

__all__ = ["OnReal", "OnSynthetic", "Step", "Training"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step's images (n, C, H, W) and targets (n,); if mixed, also others and the share of ``targets``."""

    images: Tensor
    targets: Tensor
    others: Tensor | None = None
    share: float = 1.0

    def tensors(self) -> tuple[Tensor, ...]:
        """What :func:`loss_of` takes besides logits, after the images."""
        if self.others is None:
            return self.images, self.targets
        shares = torch.tensor([self.share, 1 - self.share], dtype=self.images.dtype)
        return self.images, self.targets, self.others, shares.to(self.images.device, non_blocking=True)


def loss_of(logits: Tensor, targets: Tensor, others: Tensor | None = None, shares: Tensor | None = None) -> Tensor:
    """Cross-entropy; with ``others`` the sum of both, each times its share."""
    own = functional.cross_entropy(logits, targets)
    if others is None or shares is None:
        return own
    return shares[0] * own + shares[1] * functional.cross_entropy(logits, others)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the steps are drawn by and from. ``items``: the synthetic images (n, C, H, W), and their classes (n,)."""

    seed: int
    set_index: int
    items: Tensor
    targets: Tensor
    real: RealImages
    mean: Tensor
    std: Tensor


class Training(Protocol):
    """A way to train; ``optimiser`` makes the optimiser of a fresh network."""

    def optimiser(self, network: nn.Module) -> torch.optim.SGD: ...

    def steps(self, number: int, around: Around) -> Iterator[Step]:
        """Those behind match ``number``."""


@dataclass(frozen=True, kw_only=True)
class OnSynthetic:
    """DC's and DSA's: ``epochs`` passes over the synthetic set, by plain gradient descent.

    ``augment``: one family a batch, with parameters for each image, as DSA trains its networks.
    """

    epochs: int
    batch: int = 256
    lr: float = 0.01
    augment: Augment = "none"

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(network.parameters(), lr=self.lr)

    def steps(self, number: int, around: Around) -> Iterator[Step]:
        for epoch in range(self.epochs):
            draws = generator(around.seed, "epoch on synthetic images", around.set_index, number, epoch)
            order = torch.from_numpy(draws.permutation(len(around.items))).to(around.items.device, non_blocking=True)
            for chosen in order.split(self.batch):
                images = augment(self.augment, around.items[chosen], around.mean, around.std, draws)
                yield Step(images, around.targets[chosen])


@dataclass(frozen=True, kw_only=True)
class OnReal:
    """IDC's: so many batches of real images that ``images`` have been seen, with CutMix.

    Batches are consecutive in a random order of all images that goes on from match to match. Each image is changed by
    ``families``, with parameters of its own.
    """

    images: int
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    cutmix: float = 0.5
    families: tuple[Family, ...] = ("color", "crop")

    def optimiser(self, network: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def steps(self, number: int, around: Around) -> Iterator[Step]:
        positions = np.concatenate(list(around.real.members.values()))
        labels = np.repeat(list(around.real.members), [len(one) for one in around.real.members.values()])
        batch = min(self.batch, len(positions))
        count, a_pass = -(-self.images // batch), len(positions) // batch
        before, order = -1, positions[:0]
        for place in range(number * count, (number + 1) * count):
            if place // a_pass != before:
                before = place // a_pass
                order = generator(around.seed, "order of real images", around.set_index, before).permutation(
                    len(positions)
                )
            chosen = order[place % a_pass * batch :][:batch]
            draws = generator(around.seed, "step on real images", around.set_index, place)
            images = each_changed(around.real.at(positions[chosen]), self.families, draws)
            targets = torch.from_numpy(labels[chosen]).to(images.device, non_blocking=True)
            yield cut_and_mixed(images, targets, draws) if draws.random() < self.cutmix else Step(images, targets)


def each_changed(images: Tensor, families: tuple[Family, ...], draws: np.random.Generator) -> Tensor:
    """Normalised images, each changed by all ``families`` with parameters of its own."""
    operations = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}
    for family in families:
        images = operations[family](images, draws)
    return images


def cut_and_mixed(images: Tensor, targets: Tensor, draws: np.random.Generator) -> Step:
    """:func:`~condense.views.augment.cut_and_mix` of images, with both targets."""
    mixed, partner, share = cut_and_mix(images, draws)
    return Step(mixed, targets, targets[partner], share)


class Trainer:
    """A network with its optimiser, trained between matches. State can be taken out and put back bit by bit.

    On a GPU steps are recorded (:mod:`condense.recorded`).
    """

    def __init__(self, network: nn.Module, training: Training, compute: Compute) -> None:
        self.network, self.training, self.compute = network, training, compute
        self.optimiser = training.optimiser(network)
        self.recorded = Recorded(compute.torch_device)

    def begin(self) -> None:
        """Forget all steps: the network has got other weights."""
        for held in self.optimiser.state.values():
            if held.get("momentum_buffer") is not None:
                held["momentum_buffer"].zero_()

    def advance(self, number: int, around: Around) -> None:
        self.network.train()
        for step in self.training.steps(number, around):
            self.recorded("step", self._take, *step.tensors())
        self.optimiser.zero_grad(set_to_none=True)

    def _take(self, images: Tensor, *wanted: Tensor) -> tuple[()]:
        self.optimiser.zero_grad(set_to_none=True)
        with self.compute.autocast():
            logits = self.network(channels_last(images))
        loss_of(logits.to(images.dtype), *wanted).backward()
        self.optimiser.step()
        return ()

    def state(self) -> dict[str, Tensor]:
        held = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                held[f"momentum.{name}"] = momentum
        return held

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave, with the strides of the weights."""
        for name, value in self.network.state_dict().items():
            value.copy_(state[f"network.{name}"])
        for name, parameter in self.network.named_parameters():
            if f"momentum.{name}" in state:
                held = self.optimiser.state[parameter]
                held.setdefault("momentum_buffer", torch.empty_like(parameter)).copy_(state[f"momentum.{name}"])
