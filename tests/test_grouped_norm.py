"""Many BatchNorm groups in one forward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from condense.networks import build
from condense.networks.grouped_norm import Grouped


@pytest.mark.parametrize("name", ["resnet8", "convnet2-w8-bn", "mobilenetv2"])
def test_groups_in_one_forward_are_those_of_separate_forwards(name: str) -> None:
    network = build(name, channels=3, height=16, width=16, n_classes=4, seed=1).double()
    images = torch.randn(9, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(network).eval()
    for layer in plain.modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
    with torch.no_grad():
        expected = torch.cat([plain(part) for part in images.split([4, 3, 2])])
        made = Grouped(network)(images, [4, 3, 2])
        torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(Grouped(network)(images), plain(images), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(made, Grouped(network)(images, [3, 3, 3]))


def test_dropout_is_off_and_running_statistics_stay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten()).train()
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(4, 1, 5, 5)
    wrapped = Grouped(network)
    assert torch.equal(wrapped(images, [2, 2]), wrapped(images, [2, 2]))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training
    assert Grouped(nn.BatchNorm2d(1))(images, [2, 2]).shape == images.shape
