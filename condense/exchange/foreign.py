"""What other projects publish: images and labels from a folder, an array file or a file of tensors, as they are.

Nothing is converted here (see :mod:`condense.exchange.convert`), and nothing in a file is ever run.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.folders import FileImages, class_folders, note_others
from condense.data.images import UNREADABLE, Geometry, look, open_image
from condense.data.spec import DatasetSpec
from condense.errors import DataError, suggest
from condense.files import sha256_file
from condense.progress import Report
from condense.untrusted import read_tensors

__all__ = ["Foreign", "Labels", "read_foreign"]

Array = npt.NDArray[Any]

BLOCK = 64
LEAST_PROBABILITY = 1e-8  # its logarithm is far within float16
FORMS = "a folder of images per class, or a .npz, .safetensors, .pt or .pth file"
NAMES = {
    "images": ("images", "image", "data", "x"),
    "labels": ("labels", "label", "targets", "y"),
    "probabilities": ("probabilities",),
    "logits": ("logits",),
}
"""What the arrays of a file may be called."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """``hard``: one number an image, (N,), as found. ``soft``: logits float32 (N, K). At least one of them."""

    hard: Array | None = None
    soft: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """``images`` (N, ...) as found, and their labels, if they are in the same place.

    ``classes``: what the labels mean, if the source says; ``sha256`` of what was read, by its role.
    """

    images: Array
    labels: Labels | None = None
    classes: tuple[str, ...] | None = None
    sha256: Mapping[str, str]


def read_foreign(source: Path, labels: Path | None, spec: DatasetSpec, report: Report) -> Foreign:
    """Read ``source`` and, if the labels are to be those of a file of their own, ``labels``.

    ``spec``: the data set whose images and classes these should be. The result has labels. Raises :class:`DataError`.
    """
    if source.is_dir():
        if labels is not None:
            raise DataError(f"{source} is a folder, where the classes are folders; --labels goes with files of arrays")
        return read_folder(source, spec, report)
    found = read_file(source)
    if labels is not None:
        return replace(found, labels=read_labels(labels), sha256={**found.sha256, "labels": sha256_file(labels)})
    if found.labels is None:
        raise DataError(f"{source} holds no labels; give their file with --labels")
    return found


def read_folder(source: Path, spec: DatasetSpec, report: Report) -> Foreign:
    """Image files in a folder per class, below ``source`` or its ``train``; ``classes.json`` may say which is which."""
    folder = source / "train" if (source / "train").is_dir() else source
    folders, files, others = class_folders(folder)
    note_others(others, folder, report)
    names = class_names(source, folders)
    for name in names:
        if name not in spec.classes:
            raise DataError(f'{source} has the class "{name}", {spec.name} has not; {suggest(name, spec.classes)}')
    geometry = Geometry(height=spec.height, width=spec.width, channels=spec.channels)
    images = np.empty((len(files.paths), *spec.image_shape), dtype=np.uint8)
    for start in range(0, len(images), BLOCK):
        stop = min(start + BLOCK, len(images))
        for path in files.paths[start:stop]:
            check_picture(path, spec)
        images[start:stop] = files.block(start, stop, geometry)
        report("reading images", stop, len(images))
    numbers = np.array([spec.classes.index(name) for name in names], dtype=np.int64)
    return Foreign(
        images=images, labels=Labels(hard=numbers[files.labels]), sha256={"images": folder_sha256(folder, files)}
    )


def class_names(source: Path, folders: Sequence[str]) -> list[str]:
    """The class that each folder holds: its name, unless ``classes.json`` says otherwise."""
    path = source / "classes.json"
    if not path.is_file():
        return list(folders)
    try:
        known = {entry["folder"]: str(entry["class"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
        return [known[name] for name in folders]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path} does not say which class each folder holds ({error}); expected a list of {{"class", "folder"}}'
        ) from None


def check_picture(path: str, spec: DatasetSpec) -> None:
    """Raises :class:`DataError` unless the picture has the data set's size, and no colour where that has none."""
    try:
        with open_image(path) as image:
            seen = look(image)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
    if (seen.height, seen.width) != (spec.height, spec.width):
        raise DataError(
            f"{path} has {seen.width} x {seen.height} pixels, the images of {spec.name} {spec.width} x {spec.height}; "
            "open the data set with the size of these with --size"
        )
    if seen.colour and spec.channels == 1:
        raise DataError(f"{path} has colour, the images of {spec.name} are grey; open the data set with --channels 3")


def folder_sha256(folder: Path, files: FileImages) -> str:
    """One hash over the names and hashes of all files, in their order."""
    lines = [f"{Path(path).relative_to(folder).as_posix()} {sha256_file(Path(path))}" for path in files.paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_file(path: Path) -> Foreign:
    """The arrays of one file, by what they are."""
    held, sha256 = read_any(path), {"images": sha256_file(path)}
    classes = classes_in(path, held)
    if isinstance(held, Mapping) and isinstance(held.get("data"), list):
        held = held["data"]
    if isinstance(held, Mapping):
        images = named(held, "images")
        if images is None:
            raise DataError(f"{path} holds no images: found {some(held)}; expected {' or '.join(NAMES['images'])}")
        return Foreign(images=images, labels=named_labels(held, path), classes=classes, sha256=sha256)
    while isinstance(held, list | tuple) and len(held) == 1:
        held = held[0]  # one experiment of a list
    arrays = held if isinstance(held, list | tuple) else [held]
    if not arrays or not all(is_array(one) for one in arrays):
        raise DataError(
            f"{path} holds {type(held).__name__}{f' of {len(held)}' if hasattr(held, '__len__') else ''}; "
            "expected a tensor of images, a pair of images and labels, or a dict of them"
        )
    arrays = [as_array(one) for one in arrays]
    if len(arrays) == 2 and arrays[0].ndim > arrays[1].ndim:
        return Foreign(images=arrays[0], labels=labels_of(arrays[1], path), sha256=sha256)
    if len({array.shape for array in arrays}) > 1:
        raise DataError(f"{path} holds {len(arrays)} tensors of different shapes; expected images of one shape")
    return Foreign(images=np.stack(arrays) if len(arrays) > 1 else arrays[0], sha256=sha256)


def read_any(path: Path) -> Any:
    """What a file holds: arrays or tensors, alone, in a list, or by name."""
    if path.suffix not in (".npz", ".safetensors", ".pt", ".pth"):
        what = "there is nothing" if not path.exists() else f'the file ends in "{path.suffix}"'
        raise DataError(f"{path} cannot be imported: {what}; expected {FORMS}")
    if path.suffix == ".npz":
        return read_npz(path)
    return read_tensors(
        path,
        what="file",
        error=DataError,
        expected=FORMS,
        advice="save plain tensors: torch.save({'images': images, 'labels': labels}, path)",
    )


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a ``.npz`` file; one that needs unpickling is refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({str(error) or type(error).__name__}); save plain arrays") from None


def classes_in(path: Path, held: Any) -> tuple[str, ...] | None:
    """The names of the classes, where the file carries them as our own exports do."""
    if path.suffix == ".npz" and "classes" in held:
        return tuple(map(str, np.ravel(held["classes"])))
    if path.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = (file.metadata() or {}).get("condense")
    try:
        names = json.loads(about)["classes"] if about is not None else None
        return None if names is None else tuple(map(str, names))
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path}: its metadata are no JSON object with classes; get the file again") from None


def named(held: Mapping[Any, Any], role: str) -> Array | None:
    """The array that has one of the names of ``role``."""
    return next((as_array(held[name]) for name in NAMES[role] if is_array(held.get(name))), None)


def named_labels(held: Mapping[Any, Any], path: Path) -> Labels | None:
    """Classes, soft labels, or both."""
    labels, probabilities, logits = (named(held, role) for role in ("labels", "probabilities", "logits"))
    soft = None if logits is None else logits.astype(np.float32)
    if soft is None and probabilities is not None:
        soft = logits_of(probabilities)
    if labels is None:
        return None if soft is None else Labels(soft=soft)
    return labels_of(labels, path) if soft is None else replace(labels_of(labels, path), soft=soft)


def read_labels(path: Path) -> Labels:
    """The labels of a file that holds them alone, or by name."""
    held = read_any(path)
    found = named_labels(held, path) if isinstance(held, Mapping) else None
    if found is None and not is_array(held):
        raise DataError(f"{path} holds no labels; expected one array of them")
    return found or labels_of(as_array(held), path)


def labels_of(array: Array, path: Path) -> Labels:
    """Whole numbers (N,) are classes; numbers (N, K) are probabilities if every row is, and logits otherwise."""
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
        distribution = array.min(initial=0) >= 0 and np.allclose(array.sum(axis=1, dtype=np.float64), 1, atol=1e-3)
        return Labels(soft=logits_of(array) if distribution else array.astype(np.float32))
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size != len(array):
        raise DataError(
            f"the labels in {path} are {array.dtype} {array.shape}; expected whole numbers (N,) or soft labels (N, K)"
        )
    return Labels(hard=array.reshape(-1))


def logits_of(probabilities: Array) -> npt.NDArray[np.float32]:
    """Their logarithm, float32 (N, K); of nothing, that of :data:`LEAST_PROBABILITY`."""
    logits: npt.NDArray[np.float32] = np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY)).astype(
        np.float32
    )
    return logits


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or type(value).__module__ == "torch"


def as_array(value: Any) -> Array:
    """An array or a tensor as an array; bfloat16, which NumPy lacks, as float32."""
    if isinstance(value, np.ndarray):
        return value
    tensor = value.detach()
    array: Array = (tensor.float() if tensor.dtype.is_floating_point and tensor.itemsize < 4 else tensor).numpy()
    return array


def some(held: Mapping[Any, Any]) -> str:
    names = [str(name) for name in list(held)[:5]]
    return ", ".join(names) + (", ..." if len(held) > 5 else "") if names else "nothing"
