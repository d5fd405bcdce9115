"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from condense.errors import NetworkError, suggest
from condense.networks.base import InputShape, Network
from condense.networks.convnet import ConvNet, convnet_settings
from condense.networks.foreign import foreign
from condense.networks.mobilenet import MobileNetV2
from condense.networks.resnet import cifar_resnet, resnet18, resnet50
from condense.networks.shufflenet import ShuffleNetV2
from condense.networks.vgg import VGG11
from condense.networks.vit import ViT
from condense.seeding import torch_generator

__all__ = ["NETWORKS", "NETWORK_FORMS", "NetworkEntry", "NetworkRow", "build", "describe"]

SMALLEST_SIDE = 8
"""Shortest side, in pixels, that the package's own networks accept."""


@dataclass(frozen=True)
class NetworkEntry:
    """One named network: a line about it, and what makes it for an input shape and a number of classes."""

    summary: str
    make: Callable[[InputShape, int], Network]


NETWORKS: dict[str, NetworkEntry] = {
    "convnet3-bn": NetworkEntry(
        "ConvNet: 3 blocks of convolution, batch norm, ReLU, average pooling; width 128",
        partial(ConvNet, depth=3, width=128, norm="bn"),
    ),
    "convnet3-in": NetworkEntry(
        "the same with instance norm, the usual network of DC, DSA, DM, MTT",
        partial(ConvNet, depth=3, width=128, norm="in"),
    ),
    "resnet8": NetworkEntry("CIFAR ResNet, widths 16/32/64, 1 block per stage", partial(cifar_resnet, depth=8)),
    "resnet20": NetworkEntry("CIFAR ResNet, widths 16/32/64, 3 blocks per stage", partial(cifar_resnet, depth=20)),
    "resnet32": NetworkEntry("CIFAR ResNet, widths 16/32/64, 5 blocks per stage", partial(cifar_resnet, depth=32)),
    "resnet56": NetworkEntry("CIFAR ResNet, widths 16/32/64, 9 blocks per stage", partial(cifar_resnet, depth=56)),
    "resnet18": NetworkEntry("ResNet-18, small stem up to 64 px", resnet18),
    "resnet50": NetworkEntry("ResNet-50, small stem up to 64 px", resnet50),
    "mobilenetv2": NetworkEntry("MobileNetV2 for small images", MobileNetV2),
    "mobilenetv2-w25": NetworkEntry("the same with a quarter of the channels", partial(MobileNetV2, width=0.25)),
    "shufflenetv2": NetworkEntry("ShuffleNetV2 of width 0.5, small stem up to 64 px", ShuffleNetV2),
    "vgg11": NetworkEntry("VGG-11 with batch norm and one linear layer", VGG11),
    "vit": NetworkEntry("vision transformer, 6 layers of dimension 192, no batch norm", ViT),
}

NETWORK_FORMS: dict[str, str] = {
    "convnetD[-wW][-bn|-in|-none]": "ConvNet of depth D and width W (128) with batch (default), instance or no norm",
    "torchvision:NAME": "any classification network of torchvision.models, untrained",
    "timm:NAME": "any network of timm, untrained (pip install 'condense-dd[timm]')",
    "module:callable": "your own: called with channels, height, width, n_classes; returns a torch.nn.Module",
}
"""Names that are not literal."""


def build(name: str, *, channels: int, height: int, width: int, n_classes: int, seed: int = 0) -> nn.Module:
    """A fresh network in training mode, on the CPU, float32, convolution weights in channels-last memory format.

    ``name`` is a key of ``NETWORKS`` or has one of the ``NETWORK_FORMS``. It takes normalised images (N, ``channels``,
    ``height``, ``width``) and returns logits (N, ``n_classes``). Initial weights depend on ``seed`` alone; the state
    of torch's global generators is left as it was.

    Raises ``NetworkError`` for an unknown name, an image the network cannot take, or a foreign network that is
    missing, cannot be made, or does not return such logits.
    """
    shape = InputShape(channels, height, width)
    _check_sizes(shape, n_classes)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.set_rng_state(torch_generator(seed, "initial weights").get_state())
        network = foreign(name, shape, n_classes) if ":" in name else _own(name, shape, n_classes)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class NetworkRow:
    """A network as listed: ``parameters`` is the number of trainable values for the shape asked about."""

    name: str
    parameters: int
    summary: str


def describe(*, channels: int, height: int, width: int, n_classes: int) -> list[NetworkRow]:
    """A row for every entry of ``NETWORKS``, at the cost of no weights."""
    shape = InputShape(channels, height, width)
    _check_sizes(shape, n_classes)
    with torch.device("meta"):
        counts = {name: _count(_own(name, shape, n_classes)) for name in NETWORKS}
    return [NetworkRow(name, counts[name], entry.summary) for name, entry in NETWORKS.items()]


def _own(name: str, shape: InputShape, n_classes: int) -> Network:
    if min(shape.height, shape.width) < SMALLEST_SIDE:
        raise NetworkError(
            f"{name} needs sides of at least {SMALLEST_SIDE} px, got {shape.height} x {shape.width}; enlarge the images"
        )
    if name in NETWORKS:
        return NETWORKS[name].make(shape, n_classes)
    settings = convnet_settings(name)
    if settings is None:
        raise NetworkError(f'unknown network "{name}"; {suggest(name, [*NETWORKS, *NETWORK_FORMS])}')
    return ConvNet(shape, n_classes, **settings)


def _check_sizes(shape: InputShape, n_classes: int) -> None:
    for what, value in (*shape._asdict().items(), ("n_classes", n_classes)):
        if value < 1:
            raise NetworkError(f"{what} of a network must be at least 1, got {value}")


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
