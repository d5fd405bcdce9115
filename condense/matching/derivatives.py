"""What the matching loop asks of a network: gradients and mean features of classes, and how pixels change them.

Two forms with one result. :class:`condense.matching.convnet.Fast` is for ConvNets without batch norm. :class:`Plain`
is for any network: class by class, gradients of gradients by autograd, as the papers' programs do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.device import Compute
from condense.errors import MethodError
from condense.matching.distances import Distance
from condense.networks import Network, batchnorm_layers
from condense.views.render import channels_last

__all__ = ["Batch", "Derivatives", "Gradients", "Judge", "Plain", "matched_means"]

Gradients = list[Tensor]
"""For each layer that is compared the gradients of K classes' mean cross-entropies: (K, *shape of the weight)."""

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Features (N, D), without a graph -> the losses of K classes (K,), and the derivative of their sum in the features."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Normalised ``images`` (N, C, H, W), class by class: ``sizes[k]`` of them, at least one, are of ``labels[k]``."""

    images: Tensor
    labels: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def bounds(self) -> Iterator[tuple[int, int]]:
        """Where each class begins and ends."""
        return pairwise(accumulate(self.sizes, initial=0))

    def per_image(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The label of each image (N,), and its weight in the mean of its class (N, 1)."""
        sizes = torch.tensor(self.sizes)
        labels = torch.tensor(self.labels).repeat_interleave(sizes)
        weights = (1 / sizes.to(dtype)).repeat_interleave(sizes)[:, None]
        return tuple(one.to(self.images.device, non_blocking=True) for one in (labels, weights))  # type: ignore[return-value]


class Derivatives(Protocol):
    """What a network says of a batch. Images and weights keep their dtype, which is that of all results."""

    def gradients(self, batch: Batch) -> Gradients:
        """Of the classes' mean cross-entropies, without a graph."""

    def match_gradients(self, batch: Batch, real: Gradients, distance: Distance) -> tuple[Tensor, Tensor]:
        """The distance of each class's gradients from ``real`` (K,), and its gradient in the images (N, C, H, W)."""

    def means(self, batch: Batch) -> Tensor:
        """The mean features of each class (K, D)."""

    def match_means(self, batch: Batch, real: Tensor) -> tuple[Tensor, Tensor]:
        """The squared distance of each class's mean features from ``real`` (K,), and its gradient in the images."""

    def features(self, batch: Batch) -> Tensor:
        """Of each image (N, D), without a graph."""

    def match_features(self, batch: Batch, judge: Judge) -> tuple[Tensor, Tensor]:
        """What ``judge`` says of the features, with the gradient in the images."""


class Plain:
    """Class by class, by autograd. ``linear``: whether gradients of layers with two-dimensional weights count.

    ``network`` is in the mode it is to be used in. Networks with batch norm in training mode see all of a batch at
    once where features are asked for.
    """

    def __init__(self, network: nn.Module, compute: Compute, *, linear: bool) -> None:
        self.network, self.compute = network, compute
        least = 2 if linear else 3
        self.weights = [one for one in network.parameters() if one.ndim >= least]
        if not self.weights:
            raise MethodError(f"{type(network).__name__} has no layer whose gradients could be compared")

    def gradients(self, batch: Batch) -> Gradients:
        found = [
            self._of_class(batch.images[start:stop], label, graph=False)
            for label, (start, stop) in zip(batch.labels, batch.bounds, strict=True)
        ]
        return [torch.stack(layer).detach() for layer in zip(*found, strict=True)]

    def match_gradients(self, batch: Batch, real: Gradients, distance: Distance) -> tuple[Tensor, Tensor]:
        losses, moved = [], []
        for number, (label, (start, stop)) in enumerate(zip(batch.labels, batch.bounds, strict=True)):
            images = batch.images[start:stop].detach().requires_grad_()
            mine = self._of_class(images, label, graph=True)
            wanted = [layer[number] for layer in real]
            pairs = [distance(*(rows(each.detach())[None] for each in pair)) for pair in zip(mine, wanted, strict=True)]
            losses.append(torch.stack([loss[0] for loss, _ in pairs]).sum())
            towards = [slope.view(one.shape) for (_, slope), one in zip(pairs, mine, strict=True)]
            moved.append(torch.autograd.grad(mine, images, towards)[0])
        return torch.stack(losses), torch.cat(moved)

    def means(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return class_means(self._features(batch), batch)

    def match_means(self, batch: Batch, real: Tensor) -> tuple[Tensor, Tensor]:
        images = batch.images.detach().requires_grad_()
        shown = Batch(images, batch.labels, batch.sizes)
        found = class_means(self._features(shown), batch)
        losses, slope = matched_means(found.detach(), real)
        return losses, torch.autograd.grad(found, images, slope)[0]

    def features(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._features(batch)

    def match_features(self, batch: Batch, judge: Judge) -> tuple[Tensor, Tensor]:
        images = batch.images.detach().requires_grad_()
        found = self._features(Batch(images, batch.labels, batch.sizes))
        losses, slope = judge(found.detach())
        return losses, torch.autograd.grad(found, images, slope)[0]

    def _of_class(self, images: Tensor, label: int, *, graph: bool) -> tuple[Tensor, ...]:
        with self.compute.autocast():
            logits = self.network(channels_last(images))
        targets = torch.full((len(images),), label, device=images.device)
        loss = functional.cross_entropy(logits.to(images.dtype), targets)
        return torch.autograd.grad(loss, self.weights, create_graph=graph)

    def _features(self, batch: Batch) -> Tensor:
        """(N, D); class by class, unless images share statistics."""
        if not isinstance(self.network, Network):
            raise MethodError(
                f"nothing says what the features of {type(self.network).__name__} are; use one of the package's own "
                "networks, for example convnet3-in"
            )
        sizes = [len(batch.images)] if batchnorm_layers(self.network) else list(batch.sizes)
        with self.compute.autocast():
            parts = [self.network.features(channels_last(part)) for part in batch.images.split(sizes)]
        return torch.cat(parts).to(batch.images.dtype)


def rows(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def class_means(features: Tensor, batch: Batch) -> Tensor:
    """Features (N, D) -> (K, D)."""
    return torch.stack([features[start:stop].mean(0) for start, stop in batch.bounds])


def matched_means(found: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances of mean features (K, D), (K,), and their derivative in ``found``.

    DM, arXiv 2110.04181, equation 5.
    """
    difference = found - real
    return difference.square().sum(1), 2 * difference
