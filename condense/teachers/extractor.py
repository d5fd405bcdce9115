"""What the last layer of a network sees of images, and that layer itself.

Features are in float32, whatever the precision of training: two networks are compared by them, not raced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.networks.base import InputShape
from condense.networks.last_layer import features_seen, last_layer
from condense.progress import Report, silent
from condense.teachers.teacher import Teacher

__all__ = ["Extractor", "extractor_of"]

BLOCK = 500


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network and its last linear layer. Made by :func:`extractor_of`."""

    teacher: Teacher
    compute: Compute
    layer: nn.Linear

    @property
    def size(self) -> int:
        """D, the number of features."""
        return self.layer.in_features

    def features(self, images: npt.NDArray[np.uint8], report: Report = silent) -> npt.NDArray[np.float32]:
        """Images uint8 (N, H, W, C), as stored, normalised as the network expects -> float32 (N, D)."""
        return np.concatenate([np.empty((0, self.size), dtype=np.float32), *self.blocks(images, report)])

    def blocks(self, images: npt.NDArray[np.uint8], report: Report = silent) -> Iterator[npt.NDArray[np.float32]]:
        """The same, 500 images at a time; ``images`` may be a memory map."""
        for start in range(0, len(images), BLOCK):
            some = images[start : start + BLOCK]
            yield self._block(some)
            report("features", start + len(some), len(images))

    @torch.no_grad()
    def _block(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self.compute.applied(), features_seen(self.layer) as seen:
            pixels = to_pixels(images).to(self.compute.torch_device)
            self.teacher.network(normalise(pixels, self.teacher.info.spec))
        made: npt.NDArray[np.float32] = seen[0].float().cpu().numpy()
        return made

    def logits(self, features: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """What the last layer makes of features (n, D): float64 (n, K)."""
        weight = self.layer.weight.detach().double().cpu().numpy()
        made = features.astype(np.float64) @ weight.T
        return np.asarray(made if self.layer.bias is None else made + self.layer.bias.detach().double().cpu().numpy())


def extractor_of(teacher: Teacher, compute: Compute) -> Extractor:
    """The network with its last linear layer found. Raises :class:`NetworkError` for one that ends in none."""
    spec = teacher.info.spec
    shape = InputShape(spec.channels, spec.height, spec.width)
    return Extractor(teacher, compute, last_layer(teacher.info.network, teacher.network, shape))
