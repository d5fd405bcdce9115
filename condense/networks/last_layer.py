"""The last layer of a network, and what it is given: the features of an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from condense.errors import NetworkError
from condense.networks.base import InputShape

__all__ = ["features_seen", "last_layer"]


@torch.no_grad()
def last_layer(name: str, network: nn.Module, shape: InputShape) -> nn.Linear:
    """The linear layer whose output are the logits.

    Found by running zeros through the network, so it serves any network. Raises :class:`NetworkError`, calling it
    ``name``, for one that does not end in a linear layer of flat features.
    """
    calls: list[tuple[nn.Linear, Tensor]] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    training = network.training
    first = next(network.parameters(), torch.empty(0))
    zeros = torch.zeros(2, *shape, device=first.device, dtype=first.dtype)
    with ExitStack() as stack:
        stack.callback(network.train, training)
        for layer in layers:
            handle = layer.register_forward_hook(lambda own, _, out: calls.append((own, out)))
            stack.callback(handle.remove)
        logits = network.eval()(zeros)
    if calls:
        layer, out = calls[-1]
        if out.shape == logits.shape and torch.equal(out.to(logits.dtype), logits):
            return layer
    raise NetworkError(
        f'network "{name}" does not end in a linear layer, so nothing says what its features are; use one that does, '
        "for example resnet20 or convnet3"
    )


@contextmanager
def features_seen(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """A list that holds, after each forward inside, what ``layer`` was given: one tensor (N, d)."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[:] = [given[0].detach()]

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
