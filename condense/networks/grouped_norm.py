"""BatchNorm that normalises several batches in one forward, each with its own statistics."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Grouped", "GroupedBatchNorm"]


class GroupedBatchNorm(nn.Module):
    """Stands in for ``norm``: consecutive images share the statistics of their group; none are remembered.

    ``sizes``: how many images each group has; empty for one group of all. The kernels see the same numbers as when
    every group is a forward of its own, so what comes out differs by what convolutions round otherwise in larger
    batches.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.sizes: Sequence[int] = ()

    def forward(self, maps: Tensor) -> Tensor:
        parts = maps.split(list(self.sizes)) if self.sizes else (maps,)
        return torch.cat(
            [F.batch_norm(part, None, None, self.weight, self.bias, True, 0.0, self.eps) for part in parts]
        )


class Grouped(nn.Module):
    """A copy of ``network`` in eval mode but for its BatchNorm layers, which take the statistics of the batch.

    Called with images and the sizes of their groups: logits as each group would get in a forward of its own, in one
    (CV-DD, arXiv 2501.07575, labels so). Dropout is off, running statistics stay as they are. On one core as fast as
    group after group for ResNet-20 and ConvNet-3-BN, 1.1 times for MobileNetV2, 2.0 times for ShuffleNetV2 (8 images a
    group); on a GPU it saves a launch per group and layer.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.norms: list[GroupedBatchNorm] = []
        for name, layer in list(self.network.named_modules()):
            if isinstance(layer, _BatchNorm):
                self.norms.append(GroupedBatchNorm(layer))
                if name:
                    self.network.set_submodule(name, self.norms[-1])
                else:
                    self.network = self.norms[-1]

    def forward(self, images: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        for norm in self.norms:
            norm.sizes = sizes
        made: Tensor = self.network(images)
        return made
