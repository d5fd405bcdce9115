"""Networks that were trained on a set, in one file: weights, and what one needs to use them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from condense.data.pixels import normalise
from condense.data.spec import DatasetSpec
from condense.errors import NetworkError
from condense.files import canonical_json
from condense.networks import build
from condense.teachers.teacher import is_foreign

__all__ = ["TrainedNetwork", "load_network", "save_network"]


class TrainedNetwork(nn.Module):
    """Images as they are in a data set -> logits: float (N, C, H, W) in [0, 1], of ``spec``'s size, to float32 (N, K).

    ``classes``: the K names, in order. ``network`` takes images that are normalised by ``spec``. ``quick``: it was
    trained for seconds, to see that all works.
    """

    def __init__(self, network: nn.Module, spec: DatasetSpec, *, quick: bool = False) -> None:
        super().__init__()
        self.network, self.spec, self.classes, self.quick = network, spec, spec.classes, quick

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(normalise(images, self.spec))
        return logits.float()


def save_network(path: Path, network: nn.Module, spec: DatasetSpec, name: str, *, quick: bool = False) -> None:
    """Weights with, as metadata, the network's ``name`` and the data set's spec, as JSON; and a mark if ``quick``."""
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    mark = {"quick": "true"} if quick else {}
    save_file(weights, path, metadata={"network": name, "spec": canonical_json(spec.to_dict()), **mark})


def load_network(path: Path | str, *, network: str | None = None) -> TrainedNetwork:
    """What ``condense train`` wrote, in eval mode on the CPU.

    A network that is somebody's ``module:callable`` is only built when the caller names it in ``network``: a file never
    decides what code is imported. Raises :class:`NetworkError` for a file that is something else, or damaged.
    """
    path = Path(path)
    expected = "expected a file that condense train wrote"
    if not path.is_file():
        raise NetworkError(f"{path} does not exist; {expected}")
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
        name, spec = known["network"], DatasetSpec.from_dict(json.loads(known["spec"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NetworkError(f"{path} does not say what network it holds; {expected}") from error
    if network not in (None, name) or (network is None and is_foreign(name)):
        raise NetworkError(f'{path} holds a "{name}"; say network="{name}" to allow it')
    built = build(name, channels=spec.channels, height=spec.height, width=spec.width, n_classes=spec.n_classes)
    try:
        built.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise NetworkError(f'{path}: its weights do not fit network "{name}" ({reason})') from error
    quick = known.get("quick") == "true"
    return TrainedNetwork(built.to(memory_format=torch.channels_last), spec, quick=quick).eval().requires_grad_(False)
