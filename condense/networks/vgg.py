"""VGG-11 with batch norm (Simonyan and Zisserman 2015, arXiv 1409.1556) and one linear layer, as used for CIFAR.

The convolutions have no bias, which a batch norm would remove. Max pooling rounds sides up, so that images below
32 px keep at least one pixel; the global average then takes what is left.
"""

from __future__ import annotations

from torch import Tensor, nn

from condense.networks.base import InputShape, Network, conv_norm, global_average, kaiming

__all__ = ["VGG11"]

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(Network):
    """Eight 3x3 convolutions with five max poolings between and after them; features are (N, 512)."""

    def __init__(self, shape: InputShape, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape.channels
        for widths in _STAGES:
            for width in widths:
                layers.append(conv_norm(channels, width))
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, n_classes)
        kaiming(self)

    def features(self, images: Tensor) -> Tensor:
        return global_average(self.layers(images))
