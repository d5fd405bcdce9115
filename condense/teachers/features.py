"""What the last layer of a network sees of images, and that layer itself.

Features are in float32, whatever the precision of training: two networks are compared by them, not raced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.errors import NetworkError
from condense.networks import Network
from condense.progress import Report, silent
from condense.teachers.teacher import Teacher

__all__ = ["Extractor", "extractor_of"]

BLOCK = 500


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network, cut before its last linear layer. Made by :func:`extractor_of`."""

    teacher: Teacher
    compute: Compute
    before: Callable[[Tensor], Tensor]
    """Normalised images (N, C, H, W) -> features (N, D)."""
    weight: npt.NDArray[np.float64]
    """Of the last layer, (K, D); ``bias`` is (K,)."""
    bias: npt.NDArray[np.float64]

    @property
    def size(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def features(self, images: npt.NDArray[np.uint8], report: Report = silent) -> npt.NDArray[np.float32]:
        """Images uint8 (N, H, W, C), as stored, normalised as the network expects -> float32 (N, D)."""
        return np.concatenate([np.empty((0, self.size), dtype=np.float32), *self.blocks(images, report)])

    @torch.no_grad()
    def blocks(self, images: npt.NDArray[np.uint8], report: Report = silent) -> Iterator[npt.NDArray[np.float32]]:
        """The same, 500 images at a time; ``images`` may be a memory map."""
        device, spec = self.compute.torch_device, self.teacher.info.spec
        for start in range(0, len(images), BLOCK):
            with self.compute.applied():
                pixels = to_pixels(images[start : start + BLOCK]).to(device)
                made = self.before(normalise(pixels, spec)).float().cpu().numpy()
            yield made
            report("features", start + len(pixels), len(images))

    def logits(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """What the last layer makes of features (n, D): float64 (n, K)."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)


def extractor_of(teacher: Teacher, compute: Compute) -> Extractor:
    """The network cut before its last linear layer.

    Of the package's own networks by their ``features``; of others by the input of the linear layer that was registered
    last. Raises :class:`NetworkError` for a network whose logits are not what such a layer makes of (N, D).
    """
    network = teacher.network
    before: Callable[[Tensor], Tensor]
    if isinstance(network, Network) and isinstance(network.classifier, nn.Linear):
        before, layer = network.features, network.classifier
    else:
        layer = _last_linear(network, teacher.info.network)
        before = _input_of(layer, network)
        _check_last(before, layer, teacher)
    weight = layer.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu().numpy()
    return Extractor(teacher, compute, before, weight, bias)


def _last_linear(network: nn.Module, name: str) -> nn.Linear:
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise NetworkError(f'network "{name}" has no linear layer, so nothing says what its features are; {ADVICE}')
    return layers[-1]


def _input_of(layer: nn.Linear, network: nn.Module) -> Callable[[Tensor], Tensor]:
    def before(images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            network(images)
        finally:
            hook.remove()
        return seen[-1] if seen else images.new_empty(0)

    return before


@torch.no_grad()
def _check_last(before: Callable[[Tensor], Tensor], layer: nn.Linear, teacher: Teacher) -> None:
    """On two images: the layer must see (2, D) and make the logits of it."""
    spec = teacher.info.spec
    pixels = torch.rand(2, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    images = pixels.to(layer.weight.device)
    seen = before(images)
    if seen.shape != (2, layer.in_features) or not torch.allclose(layer(seen), teacher.network(images), atol=1e-4):
        name = teacher.info.network
        raise NetworkError(
            f'the logits of network "{name}" are not what its last linear layer makes of one vector per image, '
            f"so nothing says what its features are; {ADVICE}"
        )


ADVICE = "use another network, for example resnet8 or convnet3-bn"
