"""What the package's own networks share: the shape of their input, their two halves, their initial weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["InputShape", "Network", "batchnorm_layers", "conv", "conv_norm", "global_average", "kaiming"]

LARGEST_SMALL_SIDE = 64
"""Images with no longer side keep their resolution through the first layers (CIFAR and Tiny-ImageNet practice)."""


class InputShape(NamedTuple):
    """Shape of one image as networks see it."""

    channels: int
    height: int
    width: int

    @property
    def is_small(self) -> bool:
        """Whether a network takes its small stem (stride 1, no pooling) instead of the one made for 224 px."""
        return max(self.height, self.width) <= LARGEST_SMALL_SIDE


class Network(nn.Module):
    """``forward(images) == classifier(features(images))``.

    Images are normalised floats (N, C, H, W), best with channels-last strides; features are (N, D); logits are
    (N, classes), float32 also under autocast to a half precision (and float64 for a float64 network). In training
    mode networks with batch norm need at least two images per forward.
    """

    classifier: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to what the classifier sees, (N, D)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits.float() if logits.itemsize < 4 else logits


def conv(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution for use before a batch norm: "same" padding (odd kernels), no bias."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, unless ``relu`` is false, ReLU."""
    layers = [conv(in_channels, out_channels, kernel, stride=stride, groups=groups), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def global_average(maps: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C)."""
    return maps.mean((2, 3))


def kaiming(network: nn.Module) -> None:
    """Convolution weights from N(0, 2 / fan_out) (He et al. 2015, arXiv 1502.01852), as in torchvision.

    All else keeps PyTorch's defaults: norms start at one and zero, linear layers uniform in +-1/sqrt(fan_in).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def batchnorm_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The network's 2-d batch norms in the order of their registration, the one nearest the image first."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
