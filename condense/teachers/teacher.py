"""A trained network with everything that says what it is for, and the folder it is stored in.

A teacher's folder holds ``weights.safetensors`` and ``teacher.json``. The JSON carries the hash of the weights and a
hash of itself, is written last, and so marks the folder as complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from condense.data.spec import DatasetSpec
from condense.errors import NetworkError, OutputError, TeacherError
from condense.files import canonical_json, write_atomic
from condense.networks import batchnorm_layers, build

__all__ = ["Teacher", "TeacherInfo", "check_teacher", "load_teacher", "save_teacher", "weights_sha256"]

WEIGHTS, INFO = "weights.safetensors", "teacher.json"
FORMAT, VERSION = "condense-teacher", 1


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """What is known of a teacher besides its weights.

    ``spec`` is that of the data set it was trained or imported for, with the mean and std *this teacher* expects:
    imported weights keep their own. The order of ``spec.classes`` is the order of the outputs. Accuracies are fractions
    on a part of the training set and on the test set, None where not measured; a trained teacher has not seen the
    held-out part, of imported weights nobody knows.
    """

    network: str
    spec: DatasetSpec
    accuracy_heldout: float | None
    accuracy_test: float | None
    epochs: int | None
    recipe: dict[str, Any]
    origin: Literal["trained", "imported"]
    weights_sha256: str

    @property
    def sha256(self) -> str:
        """Hash of what decides the logits: weights, network, input, normalisation, class order."""
        spec = self.spec
        decides = [self.weights_sha256, self.network, spec.image_shape, spec.mean, spec.std, spec.classes]
        return _sha256(canonical_json(decides).encode())

    def to_dict(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "spec": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TeacherInfo:
        return cls(**{**values, "spec": DatasetSpec.from_dict(values["spec"])})


@dataclass(frozen=True)
class Teacher:
    """A frozen network in eval mode, and what it is."""

    network: nn.Module
    info: TeacherInfo

    @property
    def sha256(self) -> str:
        return self.info.sha256

    def logits(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised by ``info.spec``, to float32 logits (N, classes)."""
        logits: Tensor = self.network(images)
        return logits.float()


def weights_sha256(network: nn.Module) -> str:
    """Hex SHA-256 of the network's weights as they are stored."""
    return _sha256(_weights(network))


def save_teacher(folder: Path | str, network: nn.Module, info: TeacherInfo) -> None:
    """Write the folder; the same teacher twice is fine.

    Raises :class:`OutputError` when another teacher is there or the folder cannot be written.
    """
    folder = Path(folder)
    weights = _weights(network)
    if _sha256(weights) != info.weights_sha256:
        raise ValueError("info.weights_sha256 is not the hash of the network's weights")
    values = info.to_dict()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": _sha256(canonical_json(values).encode()),
        "info": values,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if (folder / INFO).exists() and (folder / INFO).read_bytes() != text.encode():
        raise OutputError(f"{folder} holds another teacher; choose another folder or remove this one")
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / INFO, text.encode())


def load_teacher(folder: Path | str, device: torch.device | str = "cpu", *, network: str | None = None) -> Teacher:
    """Read a folder written by :func:`save_teacher`, check its hashes, and build the network on ``device``.

    A network that is somebody's ``module:callable`` is only built when the caller names it again in ``network``: a
    file never decides what code is imported. Raises :class:`TeacherError` for a folder that is not a teacher's, is
    damaged, or was written by a newer version.
    """
    folder = Path(folder)
    info = _read_info(folder)
    if network not in (None, info.network) or (network is None and is_foreign(info.network)):
        raise TeacherError(
            f'teacher {folder} is a "{info.network}", not a "{network}"; give the network it was made with'
            if network is not None
            else f'teacher {folder} needs code of its own, "{info.network}"; name that network yourself to allow it'
        )
    weights = _read_bytes(folder, WEIGHTS)
    if _sha256(weights) != info.weights_sha256:
        raise TeacherError(f"teacher {folder} is damaged: {WEIGHTS} does not have the hash in {INFO}; make it again")
    spec = info.spec
    try:
        built = build(
            info.network, channels=spec.channels, height=spec.height, width=spec.width, n_classes=spec.n_classes
        )
        built.load_state_dict(load(weights))
    except (NetworkError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise TeacherError(f'teacher {folder}: its weights do not fit network "{info.network}" ({reason})') from error
    return Teacher(built.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False), info)


def check_teacher(
    info: TeacherInfo,
    spec: DatasetSpec,
    *,
    min_accuracy: float | None = None,
    needs_batchnorm: bool = False,
    network: nn.Module | None = None,
) -> None:
    """Refuse, with :class:`TeacherError`, a teacher that cannot teach this data set.

    Refused are: other classes, the same classes in another order, images of another size, an accuracy (the lower of
    those measured) below ``min_accuracy``, and, with ``needs_batchnorm``, a ``network`` without running statistics.
    The default ``min_accuracy`` asks for clearly better than chance: twice chance, but at most chance + 0.1 (so 0.2
    for ten classes, 0.6 for two). The normalisation may differ: a teacher is fed by its own.
    """
    _check_classes(info, spec)
    if info.spec.image_shape != spec.image_shape:
        raise TeacherError(
            f"the teacher takes images of {_shape(info.spec)}, {spec.name} has {_shape(spec)}; "
            "train a teacher on this data set or open the data at the teacher's size"
        )
    _check_accuracy(info, spec, min_accuracy)
    if needs_batchnorm:
        if network is None:
            raise ValueError("needs_batchnorm needs the network")
        if not any(layer.running_mean is not None for layer in batchnorm_layers(network)):
            raise TeacherError(
                f"teacher {info.network} has no BatchNorm layers with running statistics, which the method needs; "
                "use one that has, such as resnet20 or convnet3-bn"
            )


def _check_classes(info: TeacherInfo, spec: DatasetSpec) -> None:
    theirs, ours = info.spec.classes, spec.classes
    if set(theirs) != set(ours):
        unknown = [name for name in ours if name not in set(theirs)] or [
            name for name in theirs if name not in set(ours)
        ]
        raise TeacherError(
            f"the teacher is for other classes ({len(theirs)}, from {info.spec.name}) than {spec.name} ({len(ours)}): "
            f'"{unknown[0]}" is not in both; use a teacher of this data set'
        )
    if theirs != ours:
        at = next(i for i, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
        raise TeacherError(
            f'the teacher has the classes of {spec.name} in another order: output {at} is "{theirs[at]}", expected '
            f'"{ours[at]}"; import its weights again with their class names in their own order'
        )


def _check_accuracy(info: TeacherInfo, spec: DatasetSpec, min_accuracy: float | None) -> None:
    measured = [value for value in (info.accuracy_heldout, info.accuracy_test) if value is not None]
    floor = min(2 / spec.n_classes, 1 / spec.n_classes + 0.1) if min_accuracy is None else min_accuracy
    if not measured:
        raise TeacherError("the accuracy of the teacher was never measured; import or train it again")
    if min(measured) < floor:
        raise TeacherError(
            f"the teacher's accuracy on {spec.name} is {min(measured):.1%}, expected at least {floor:.1%}; train it "
            "longer, or import its weights again with the right class names and normalisation"
        )


def _read_info(folder: Path) -> TeacherInfo:
    if not (folder / INFO).is_file():
        raise TeacherError(f"{folder} is not a teacher: it has no {INFO}; expected a folder made by condense teacher")
    damaged = TeacherError(f"teacher {folder} is damaged: {INFO} was altered or cut short; make it again")
    try:
        document = json.loads(_read_bytes(folder, INFO))
    except ValueError:
        raise damaged from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TeacherError(f"{folder} is not a teacher: {INFO} does not have format {FORMAT}")
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise TeacherError(
            f"teacher {folder} has version {version}, this condense reads up to version {VERSION}; upgrade condense"
        )
    try:
        if version != VERSION or _sha256(canonical_json(document["info"]).encode()) != document["sha256"]:
            raise damaged
        return TeacherInfo.from_dict(document["info"])
    except (KeyError, TypeError, ValueError):
        raise damaged from None


def _read_bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise TeacherError(f"teacher {folder} cannot be read: {name}: {error.strerror}") from None


def is_foreign(network: str) -> bool:
    prefix, colon, _ = network.partition(":")
    return bool(colon) and prefix not in ("torchvision", "timm")


def _shape(spec: DatasetSpec) -> str:
    return f"{spec.height}x{spec.width} with {spec.channels} channels"


def _weights(network: nn.Module) -> bytes:
    """Row-major copies: the bytes depend on values alone, and tied weights, which the format refuses, come twice."""
    state = network.state_dict()
    return bytes(
        save({name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()})
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
