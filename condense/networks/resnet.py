"""Residual networks (He et al. 2016, arXiv 1512.03385).

ResNet-8/20/32/56 are the paper's CIFAR networks (section 4.2): widths 16, 32, 64, parameter-free shortcuts (its
option A), which cost no convolution and add no batch norms. They keep the same layers at every image size.

ResNet-18/50 have four stages and projection shortcuts (option B). Up to 64 px they take the small stem used
throughout the field, a 3x3 convolution of stride 1 without pooling; above, the standard 7x7 one of stride 2 and a
3x3 max pooling. The bottleneck of ResNet-50 puts its stride on the 3x3 convolution, as torchvision does.

Parameters have torchvision's names, but for ``classifier`` (there ``fc``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from condense.networks.base import InputShape, Network, conv, conv_norm, global_average, kaiming

__all__ = ["ResNet", "cifar_resnet", "resnet18", "resnet50"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the new channels, half of them on each side."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution and a batch norm."""
    return conv_norm(in_channels, out_channels, 1, stride=stride, relu=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(maps)))))
        return F.relu_(out.add_(maps if self.downsample is None else self.downsample(maps)))


class Bottleneck(nn.Module):
    """1x1 to ``width``, 3x3, 1x1 to four times ``width``, beside a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = downsample

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu_(self.bn1(self.conv1(maps)))
        out = F.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu_(out.add_(maps if self.downsample is None else self.downsample(maps)))


class ResNet(Network):
    """A stem and stages of blocks; each stage but the first halves the maps. Features are (N, last width)."""

    def __init__(
        self,
        stem: tuple[nn.Conv2d, nn.Module],
        n_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        widths: Sequence[int],
        depths: Sequence[int],
        shortcut: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1, self.maxpool = stem
        channels = self.conv1.out_channels
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages: list[str] = []
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if index == 0 and number > 1 else 1
                out = width * block.expansion
                changes = stride > 1 or channels != out
                blocks.append(block(channels, width, stride, shortcut(channels, out, stride) if changes else None))
                channels = out
            self.stages.append(f"layer{number}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.classifier = nn.Linear(channels, n_classes)
        kaiming(self)

    def features(self, images: Tensor) -> Tensor:
        maps: Tensor = self.maxpool(F.relu_(self.bn1(self.conv1(images))))
        for stage in self.stages:
            maps = self.get_submodule(stage)(maps)
        return global_average(maps)


def cifar_resnet(shape: InputShape, n_classes: int, *, depth: int) -> ResNet:
    """ResNet-``depth`` for CIFAR, ``depth`` = 6 n + 2: three stages of n basic blocks."""
    stem = (conv(shape.channels, 16), nn.Identity())
    depths = ((depth - 2) // 6,) * 3
    return ResNet(stem, n_classes, block=BasicBlock, widths=(16, 32, 64), depths=depths, shortcut=PadShortcut)


def _stem(shape: InputShape) -> tuple[nn.Conv2d, nn.Module]:
    if shape.is_small:
        return conv(shape.channels, 64), nn.Identity()
    return conv(shape.channels, 64, 7, stride=2), nn.MaxPool2d(3, 2, 1)


def resnet18(shape: InputShape, n_classes: int) -> ResNet:
    """Four stages of two basic blocks."""
    widths = (64, 128, 256, 512)
    return ResNet(_stem(shape), n_classes, block=BasicBlock, widths=widths, depths=(2, 2, 2, 2), shortcut=projection)


def resnet50(shape: InputShape, n_classes: int) -> ResNet:
    """Four stages of 3, 4, 6, 3 bottlenecks."""
    widths = (64, 128, 256, 512)
    return ResNet(_stem(shape), n_classes, block=Bottleneck, widths=widths, depths=(3, 4, 6, 3), shortcut=projection)
