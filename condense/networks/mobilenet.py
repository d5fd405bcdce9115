"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) in the form used for small images.

As in CV-DD (arXiv 2501.07575): stem and second stage of stride 1, plain ReLU, no dropout, and a projection (1x1
convolution and batch norm) as shortcut where a block of stride 1 changes the channels. Above 64 px the stem and the
second stage have their usual stride of 2; the rest is the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from condense.networks.base import InputShape, Network, conv_norm, global_average, kaiming

__all__ = ["MobileNetV2"]

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride of the first block above 64 px (table 2)."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; a shortcut beside blocks of stride 1."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.layers = nn.Sequential(
            conv_norm(in_channels, inner, 1),
            conv_norm(inner, inner, stride=stride, groups=inner),
            conv_norm(inner, out_channels, 1, relu=False),
        )
        self.has_shortcut = stride == 1
        project = self.has_shortcut and in_channels != out_channels
        self.project = conv_norm(in_channels, out_channels, 1, relu=False) if project else None

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.layers(maps)
        if not self.has_shortcut:
            return out
        return out.add_(maps if self.project is None else self.project(maps))


class MobileNetV2(Network):
    """Features are (N, 1280) at width 1; with another width all layers have as many times the channels."""

    def __init__(self, shape: InputShape, n_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(32, width)
        layers: list[nn.Module] = [conv_norm(shape.channels, channels, stride=1 if shape.is_small else 2)]
        for number, (expansion, full, depth, stride) in enumerate(_STAGES):
            first = 1 if number == 1 and shape.is_small else stride
            for index in range(depth):
                step = first if index == 0 else 1
                layers.append(InvertedResidual(channels, scaled(full, width), expansion=expansion, stride=step))
                channels = scaled(full, width)
        last = scaled(1280, width)
        self.layers = nn.Sequential(*layers, conv_norm(channels, last, 1))
        self.classifier = nn.Linear(last, n_classes)
        kaiming(self)

    def features(self, images: Tensor) -> Tensor:
        return global_average(self.layers(images))


def scaled(channels: int, width: float) -> int:
    """So many times the channels, in whole eights, and no fewer than 90 % of that (the paper's rule).

    >>> [scaled(channels, 0.25) for channels in (16, 24, 96, 1280)]
    [8, 8, 24, 320]
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
