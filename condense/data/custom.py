"""``module:callable``: source data from a function of the user's.

The function is called without arguments and returns one of

- a :class:`~condense.data.spec.Data`, used as it is;
- ``(train, test)`` or ``(train, test, classes)``, where each part is either ``(images, labels)``, uint8 (N, H, W) or
  (N, H, W, C) with C of 1 or 3, and N integers; or a dataset in torchvision's style: ``len(part)`` and ``part[i]``
  giving ``(image, label)``, the image a PIL image, a uint8 array (H, W) or (H, W, C), or a tensor (C, H, W), uint8
  or floating in [0, 1].

Classes are named by ``classes``, by the ``classes`` attribute of the training part, or by their numbers. The
images are read on every opening, since nothing else tells whether they changed, and decoded only on the first.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from condense.data.images import UNREADABLE, Geometry, Look, common_geometry, fit, look
from condense.data.source import ArrayImages, Bytes, Contents, Images, Labels, Normalisation, Survey, digest
from condense.data.spec import Data
from condense.errors import DataError
from condense.progress import Report, silent

__all__ = ["CustomSource", "DatasetImages", "checked", "open_custom"]

REPORT_EVERY = 256


@dataclass(frozen=True)
class Part:
    """One split as the user gave it, read once: what it holds, a hash of that, and what its images look like."""

    images: Images
    digest: str
    looks: list[Look]


@dataclass(frozen=True)
class DatasetImages:
    """A torchvision-style dataset. Such datasets need not bear several threads: they are read under a lock."""

    dataset: Any
    labels: Labels
    lock: threading.Lock

    def block(self, start: int, stop: int, geometry: Geometry) -> Bytes:
        return np.stack([self._read(i, geometry) for i in range(start, stop)])

    def _read(self, index: int, geometry: Geometry) -> Bytes:
        with self.lock:
            value = self.dataset[index][0]
        return fit(_as_image(value), geometry)


@dataclass(frozen=True)
class CustomSource:
    """What a user's function returned, checked."""

    name: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    places: tuple[Path, ...] = ()
    published: Normalisation | None = None

    def survey(self, report: Report) -> Survey:
        geometry = common_geometry(self.train.looks + self.test.looks)
        return Survey(digest([self.classes, self.train.digest, self.test.digest]), geometry)

    def contents(self) -> Contents:
        return Contents(self.classes, self.train.images, self.test.images)


def open_custom(name: str, returned: object, report: Report = silent) -> CustomSource | Data:
    """Check what the function called ``name`` returned. Raises :class:`DataError` for anything but the forms above."""
    if isinstance(returned, Data):
        return returned
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise DataError(
            f"{name} returned {type(returned).__name__}; expected Data, (train, test) or (train, test, classes)"
        )
    parts = [
        _open_part(f"{name} ({split})", part, report) for split, part in zip(("train", "test"), returned, strict=False)
    ]
    named = returned[2] if len(returned) == 3 else getattr(returned[0], "classes", None)
    count = 1 + max(int(part.images.labels.max()) for part in parts)
    classes = tuple(str(one) for one in named) if named is not None else tuple(str(i) for i in range(count))
    return CustomSource(name, classes, train=parts[0], test=parts[1])


def checked(name: str, data: Data) -> Data:
    """``data`` as the user's function made it. Raises :class:`DataError` where arrays and spec disagree."""
    spec = data.spec
    for split, sizes in ((data.train, spec.train_sizes), (data.test, spec.test_sizes)):
        images, labels = split.images, split.labels
        expected = (len(labels), *spec.image_shape)
        if images.dtype != np.uint8 or images.shape != expected:
            raise DataError(f"{name} returned images {images.dtype} {images.shape}; its spec says uint8 {expected}")
        counts = tuple(np.bincount(labels, minlength=spec.n_classes).tolist())
        if counts != sizes:
            raise DataError(f"{name} returned class sizes {counts}; its spec says {sizes}")
    if spec.n_classes < 2:
        raise DataError(f"{name} returned {spec.n_classes} classes; expected at least 2")
    if {len(spec.mean), len(spec.std)} != {spec.channels} or min(spec.std) <= 0:
        raise DataError(
            f"{name} returned mean {spec.mean} and std {spec.std}; expected {spec.channels} of each, std above 0"
        )
    return data


def _open_part(what: str, part: Any, report: Report) -> Part:
    opened = _open_arrays(what, *part) if isinstance(part, tuple | list) and len(part) == 2 else None
    if opened is None:
        if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise DataError(f"{what} is {type(part).__name__}; expected (images, labels) or a dataset")
        opened = _open_dataset(what, part, report)
    if not len(opened.images.labels):
        raise DataError(f"{what} is empty; expected at least one image per class")
    return opened


def _open_arrays(what: str, images: Any, labels: Any) -> Part:
    images, labels = np.asarray(images), np.asarray(labels)
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not shaped:
        raise DataError(
            f"{what} has images {images.dtype} {images.shape}; expected uint8 (N, H, W) or (N, H, W, 1 or 3)"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"{what} has labels {labels.dtype} {labels.shape}; expected {len(images)} integers")
    images, labels = np.ascontiguousarray(images), labels.astype(np.int64)
    hashes = [hashlib.sha256(array).hexdigest() for array in (images, labels)]
    seen = Look(images.shape[2], images.shape[1], images.ndim == 4 and images.shape[3] == 3)
    return Part(ArrayImages(images, labels), digest([images.shape, *hashes]), [seen] * len(images))


def _open_dataset(what: str, dataset: Any, report: Report) -> Part:
    count, labels, looks, sha = len(dataset), [], [], hashlib.sha256()
    for index in range(count):
        try:
            value, label = dataset[index]
            image = _as_image(value)
            labels.append(int(label))
            looks.append(look(image))
            sha.update(f"{image.mode} {image.size} {label};".encode() + image.tobytes())
        except (*UNREADABLE, TypeError) as error:
            raise DataError(
                f"item {index} of {what} is no (image, label) that can be read ({error}); mend it"
            ) from None
        if (index + 1) % REPORT_EVERY == 0 or index + 1 == count:
            report(f"reading {what}", index + 1, count)
    return Part(DatasetImages(dataset, np.asarray(labels, np.int64), threading.Lock()), sha.hexdigest(), looks)


def _as_image(value: Any) -> Image.Image:
    """A PIL image of one item. Raises ValueError or TypeError if it is none of the accepted forms."""
    if isinstance(value, Image.Image):
        return value
    is_tensor = hasattr(value, "detach")  # asked this way, torch need not be imported to list data sets
    array = np.asarray(value.detach().cpu()) if is_tensor else np.asarray(value)
    if is_tensor and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype.kind == "f":
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"floats from {array.min():.3g} to {array.max():.3g}, not in [0, 1]; leave out Normalize")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"{array.dtype} values, not uint8")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
