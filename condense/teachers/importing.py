"""Bringing in weights that were trained elsewhere.

A file from elsewhere is data, never code: ``.safetensors`` holds nothing else, and everything else goes through
torch's weights-only reader. What that reader refuses is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condense.data.spec import Data, DatasetSpec
from condense.data.split import holdout
from condense.device import Compute
from condense.errors import TeacherError, suggest
from condense.files import sha256_file
from condense.networks import build
from condense.progress import Report, silent
from condense.teachers.recipe import measure
from condense.teachers.teacher import TeacherInfo, weights_sha256
from condense.untrusted import read_tensors

__all__ = ["import_teacher", "read_state"]

Weights = dict[str, Tensor]


def import_teacher(
    path: Path | str,
    data: Data,
    *,
    network: str,
    class_names: Sequence[str] | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    holdout_fraction: float = 0.05,
    seed: int = 0,
    compute: Compute,
    report: Report = silent,
) -> tuple[nn.Module, TeacherInfo]:
    """Build ``network`` for ``data``, load the weights in the file ``path``, and measure its accuracy.

    ``class_names``: what the outputs of the foreign weights mean, in order; the rows of the last layer are brought to
    the order of the data set, and classes it does not have are dropped. Without it the order must already be the data
    set's. ``normalisation``: the (mean, std) per channel, of pixels in [0, 1], that the weights were trained with; the
    data set's own by default. ``holdout_fraction`` and ``seed`` choose the training images that are measured beside
    the test set, as for trained teachers; of imported weights nobody knows whether they have seen them.

    Raises :class:`TeacherError` for a file that cannot be read without running code, for weights that do not fit the
    network, and for wrong names or normalisation.
    """
    path = Path(path)
    spec = _with_normalisation(data.spec, normalisation)
    if class_names is not None:
        _check_names(spec.classes, class_names)
    built = build(network, channels=spec.channels, height=spec.height, width=spec.width, n_classes=spec.n_classes)
    weights = _unwrapped(read_state(path), set(built.state_dict()))
    weights = _with_head(weights, built, spec, class_names)
    _load(built, weights, f'{path.name} does not fit network "{network}"')
    _, held = holdout(data.train.labels, holdout_fraction, seed)
    accuracy_heldout, accuracy_test = measure(built, data, held, spec, compute=compute, report=report)
    return built.eval(), TeacherInfo(
        network=network,
        spec=spec,
        accuracy_heldout=accuracy_heldout,
        accuracy_test=accuracy_test,
        epochs=None,
        recipe={
            "file": path.name,
            "file_sha256": sha256_file(path),
            "class_names": None if class_names is None else list(class_names),
            "holdout": holdout_fraction,
            "seed": seed,
        },
        origin="imported",
        weights_sha256=weights_sha256(built),
    )


def read_state(path: Path) -> Any:
    """What a ``.safetensors`` file or a file of ``torch.save`` holds, on the CPU, without running anything in it."""
    return read_tensors(
        path,
        what="weights file",
        error=TeacherError,
        expected="a .safetensors file or a state dict saved by torch.save",
        advice="save network.state_dict() alone, best as .safetensors",
    )


def _with_normalisation(spec: DatasetSpec, given: tuple[Sequence[float], Sequence[float]] | None) -> DatasetSpec:
    if given is None:
        return spec
    mean, std = (tuple(float(value) for value in values) for values in given)
    if len(mean) != spec.channels or len(std) != spec.channels:
        raise TeacherError(
            f"the normalisation has {len(mean)} means and {len(std)} stds, {spec.name} has {spec.channels} channels"
        )
    if not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise TeacherError(f"the normalisation needs finite means and stds above 0, got mean {mean}, std {std}")
    return replace(spec, mean=mean, std=std)


def _check_names(classes: Sequence[str], class_names: Sequence[str]) -> None:
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise TeacherError(f'class name "{twice}" is given twice; expected one name per output, in order')
    for name in classes:
        if name not in class_names:
            raise TeacherError(f'the class names lack "{name}" of the data set; {suggest(name, class_names)}')


def _unwrapped(value: Any, wanted: set[str]) -> Weights:
    """The state dict inside ``value`` whose names fit best, without what wrappers put before the names.

    Of equally good ones the first wins. Entries that do not share the prefix (those of a loss) are left out.
    """
    candidates = [weights for state in _state_dicts(value) for weights in _without_prefixes(state)]
    if not candidates:
        raise TeacherError(
            "the weights file holds no tensors by name; expected a state dict, alone or inside a mapping"
        )
    return max(candidates, key=lambda weights: len(wanted & weights.keys()))


def _state_dicts(value: Any, depth: int = 5) -> Iterator[Weights]:
    if not isinstance(value, Mapping) or depth == 0:  # a pickle may hold itself
        return
    tensors = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
    if tensors:
        yield tensors
    for item in value.values():
        yield from _state_dicts(item, depth - 1)


def _without_prefixes(state: Weights) -> Iterator[Weights]:
    """``state`` itself and, for each dotted beginning of a name in it, the entries below it."""
    yield state
    parts = (name.split(".") for name in state)
    prefixes = dict.fromkeys(".".join(names[:end]) + "." for names in parts for end in range(1, len(names)))
    for prefix in prefixes:
        yield {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _with_head(weights: Weights, network: nn.Module, spec: DatasetSpec, class_names: Sequence[str] | None) -> Weights:
    """The weights with the last layer under the network's name for it and its rows in the data set's order."""
    head = _head(network, spec.n_classes)
    others = {name.rpartition(".")[0] for name in weights.keys() - network.state_dict().keys()}
    if f"{head}.weight" not in weights and len(others) == 1:
        names = {f"{other}.{part}": f"{head}.{part}" for other in others for part in ("weight", "bias")}
        weights = {names.get(name, name): value for name, value in weights.items()}
    if class_names is None:
        return weights
    rows = {name: weights[name] for name in (f"{head}.weight", f"{head}.bias") if name in weights}
    for name, value in rows.items():
        if len(value) != len(class_names):
            raise TeacherError(
                f"{len(class_names)} class names for weights with {len(value)} outputs ({name}); "
                "give one name per output, in order"
            )
    order = torch.tensor([list(class_names).index(name) for name in spec.classes])
    return {**weights, **{name: value[order] for name, value in rows.items()}}


def _head(network: nn.Module, n_classes: int) -> str:
    """Name of the layer that gives the logits: ``classifier``, or else the last one with an output per class."""
    heads = [
        name
        for name, module in network.named_modules()
        if n_classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    ]
    if not heads:
        raise TeacherError(f"the network has no linear layer or convolution with {n_classes} outputs")
    return "classifier" if "classifier" in heads else heads[-1]


def _load(network: nn.Module, weights: Weights, what: str) -> None:
    """Load every weight by name; BatchNorm's step counters, which old files lack, may be missing."""
    own = network.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    other = [
        f"{name} {tuple(weights[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    if any(faults.values()):
        said = "; ".join(f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names)
        raise TeacherError(f"{what}: {said}; name the network the weights were made with")
    infinite = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if infinite:
        raise TeacherError(f"{what}: {len(infinite)} weights are not finite ({_some(infinite)})")
    network.load_state_dict({**own, **weights})


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
