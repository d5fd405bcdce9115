"""ConvNet-D, the network of the dataset condensation papers (DC, arXiv 2006.05929; DSA, arXiv 2102.08259).

D blocks of 3x3 convolution with bias, norm, ReLU and 2x2 average pooling, then one linear layer on the flattened
maps. Width 128; weights keep PyTorch's default initialisation, as there.

Sides that 2**D does not divide are zero-padded by the first convolution up to the next multiple, so that pooling
drops no pixels. For one-channel 28 px images and D = 3 this is the papers' padding of 3, which makes 28 px 32; they
do not pad other images, whose sides their pooling divides.
"""

from __future__ import annotations

import re
from typing import TypedDict

from torch import Tensor, nn

from condense.errors import NetworkError
from condense.networks.base import InputShape, Network
from condense.networks.instance_norm import InstanceNorm

__all__ = ["ConvNet", "convnet_settings"]

_NAME = re.compile(r"convnet([1-9]\d?)(?:-w([1-9]\d{0,4}))?(?:-(in|bn|none))?")


class ConvNetSettings(TypedDict):
    """Blocks, channels, and "in", "bn" or "none"."""

    depth: int
    width: int
    norm: str


def convnet_settings(name: str) -> ConvNetSettings | None:
    """What ``convnetD[-wW][-in|-bn|-none]`` asks for, ``None`` for any other name.

    >>> convnet_settings("convnet3")
    {'depth': 3, 'width': 128, 'norm': 'bn'}
    """
    parts = _NAME.fullmatch(name)
    return ConvNetSettings(depth=int(parts[1]), width=int(parts[2] or 128), norm=parts[3] or "bn") if parts else None


class ConvNet(Network):
    """See the module. Features are the flattened maps (N, width * h * w).

    ``norm`` is "bn" (batch norm), "in" (instance norm with weights: a group norm of one channel per group) or "none".
    Raises ``NetworkError`` when ``depth`` halvings leave nothing of the image.
    """

    def __init__(self, shape: InputShape, n_classes: int, *, depth: int, width: int, norm: str) -> None:
        super().__init__()
        _check_depth(shape, depth)
        cells = [-(-side // 2**depth) for side in (shape.height, shape.width)]
        missing = [cell * 2**depth - side for cell, side in zip(cells, (shape.height, shape.width), strict=True)]
        layers: list[nn.Module] = []
        for index in range(depth):
            channels, padding = (width, (1, 1)) if index else (shape.channels, tuple(1 + -(-m // 2) for m in missing))
            layers += [nn.Conv2d(channels, width, 3, padding=padding), *_norm(norm, width)]
            layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * cells[0] * cells[1], n_classes)

    def features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps.flatten(1)


def _check_depth(shape: InputShape, depth: int) -> None:
    side = min(shape.height, shape.width)
    if side < 2**depth:
        raise NetworkError(
            f"convnet{depth} halves the image {depth} times and needs sides of at least {2**depth} px, got "
            f"{shape.height} x {shape.width}; the deepest that fits is convnet{side.bit_length() - 1}"
        )


def _norm(kind: str, width: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [nn.BatchNorm2d(width) if kind == "bn" else InstanceNorm(width)]
