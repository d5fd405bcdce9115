"""ShuffleNetV2 of width 0.5 (Ma et al. 2018, arXiv 1807.11164), the width CV-DD (arXiv 2501.07575) uses.

Up to 64 px the stem is a 3x3 convolution of stride 1; above, the paper's: stride 2 and a 3x3 max pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condense.networks.base import InputShape, Network, conv_norm, global_average, kaiming

__all__ = ["ShuffleNetV2"]


def _depthwise(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    """3x3 depthwise without ReLU, then 1x1."""
    depthwise = conv_norm(in_channels, in_channels, stride=stride, groups=in_channels, relu=False)
    return [depthwise, conv_norm(in_channels, out_channels, 1)]


class Unit(nn.Module):
    """Two branches of half the channels each, interleaved at the end.

    With stride 1 the first branch is the first half of the input as it is; with stride 2 both see all of it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(*_depthwise(in_channels, half, stride)) if stride > 1 else None
        seen = in_channels if stride > 1 else half
        self.right = nn.Sequential(conv_norm(seen, half, 1), *_depthwise(half, half, stride))

    def forward(self, maps: Tensor) -> Tensor:
        if self.left is None:
            left, right = maps.chunk(2, dim=1)
        else:
            left, right = self.left(maps), maps
        return nn.functional.channel_shuffle(torch.cat((left, self.right(right)), dim=1), 2)


class ShuffleNetV2(Network):
    """Stages of 4, 8, 4 units with 48, 96, 192 channels; features are (N, 1024)."""

    def __init__(self, shape: InputShape, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(shape.channels, 24, stride=1 if shape.is_small else 2)]
        if not shape.is_small:
            layers.append(nn.MaxPool2d(3, 2, 1))
        channels = 24
        for width, depth in ((48, 4), (96, 8), (192, 4)):
            for index in range(depth):
                layers.append(Unit(channels, width, stride=2 if index == 0 else 1))
                channels = width
        self.layers = nn.Sequential(*layers, conv_norm(channels, 1024, 1))
        self.classifier = nn.Linear(1024, n_classes)
        kaiming(self)

    def features(self, images: Tensor) -> Tensor:
        return global_average(self.layers(images))
