"""A trained network in a file, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import condense
from condense.data import DatasetSpec, open_data
from condense.data.pixels import normalise
from condense.errors import NetworkError
from condense.networks import build
from condense.teachers.trained import save_network


def made(path: Path, name: str = "convnet1-w4-bn") -> tuple[torch.nn.Module, DatasetSpec]:
    spec = open_data("fashion-mini").spec
    network = build(name, channels=1, height=28, width=28, n_classes=10, seed=1).eval()
    save_network(path, network, spec, name)
    return network, spec


def test_it_predicts_from_images_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network, spec = made(path)
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loaded = condense.load_network(path)
    torch.testing.assert_close(loaded(images), network(normalise(images, spec)))
    assert loaded.classes == spec.classes
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(NetworkError, match="does not exist"):
        condense.load_network(path)
    path.write_bytes(b"something else")
    with pytest.raises(NetworkError, match="does not say what network it holds"):
        condense.load_network(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(NetworkError, match="does not say what network it holds"):
        condense.load_network(path)
    spec = open_data("fashion-mini").spec
    known = {"network": "convnet1-w4-bn", "spec": json.dumps(spec.to_dict())}
    save_file({"weight": torch.zeros(2)}, path, metadata=known)
    with pytest.raises(NetworkError, match='weights do not fit network "convnet1-w4-bn"'):
        condense.load_network(path)


def test_a_file_does_not_decide_what_code_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    spec = open_data("fashion-mini").spec
    save_file({"weight": torch.zeros(2)}, path, metadata={"network": "os:system", "spec": json.dumps(spec.to_dict())})
    with pytest.raises(NetworkError, match='holds a "os:system"; say network="os:system" to allow it'):
        condense.load_network(path)
