"""Several networks of one architecture trained as one: their weights are stacked, and each step runs all of them.

On a GPU the steps of small networks cost launches, not arithmetic, and a stack of S launches as many kernels as one. On
a CPU there is nothing to gain; there, networks that share batches take turns (:func:`condense.training.fit_together`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

__all__ = ["Stack", "stackable"]


class Stack(nn.Module):
    """S networks of one architecture: images (n, C, H, W) -> logits (S, n, K), as each would give by itself.

    Parameters and buffers are those of the networks with a first dimension of S, under their names, with dots as
    slashes. ``scatter`` puts them back.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = list(networks)  # a plain list: their weights are not this module's
        weights, buffers = stack_module_state(self.members)
        for name, value in weights.items():
            self.register_parameter(slashed(name), nn.Parameter(value.detach().clone()))
        for name, value in buffers.items():
            self.register_buffer(slashed(name), value.detach().clone())
        self._shape = [copy.deepcopy(self.members[0]).to("meta")]  # in a list, so that it is no part of this module

    def forward(self, images: Tensor) -> Tensor:
        self._shape[0].train(self.training)
        weights: dict[str, Tensor] = {dotted(name): value for name, value in self.named_parameters()}
        buffers = {dotted(name): value for name, value in self.named_buffers()}
        made: Tensor = vmap(self._one, in_dims=(0, 0, None), randomness="same")(weights, buffers, images)
        return made

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        made: Tensor = functional_call(self._shape[0], (weights, buffers), (images,))
        return made

    @torch.no_grad()
    def scatter(self) -> None:
        """Give every network its weights and buffers."""
        held = {dotted(name): value for name, value in self.state_dict().items()}
        for number, network in enumerate(self.members):
            for name, value in network.state_dict().items():
                value.copy_(held[name][number])


def slashed(name: str) -> str:
    """Names of parameters hold no dots."""
    return name.replace(".", "/")


def dotted(name: str) -> str:
    return name.replace("/", ".")


def stackable(networks: Sequence[nn.Module], images: Tensor) -> bool:
    """Whether these networks, in training mode, run as a stack on such images, and as fast as a stack should."""
    kinds = {tuple((name, tuple(value.shape)) for name, value in one.state_dict().items()) for one in networks}
    if len(networks) < 2 or len(kinds) != 1:
        return False
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # of an operation that would be run for one network after the other
            Stack(networks).train()(images[:2])
    except (RuntimeError, NotImplementedError, ValueError, UserWarning):
        return False
    return True
