"""What every kind of source data offers to the cache: a survey without decoding, then blocks of decoded images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from condense.data.images import Geometry, fit
from condense.files import canonical_json
from condense.progress import Report

__all__ = ["ArrayImages", "Contents", "Images", "Normalisation", "Source", "Survey", "digest"]

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Survey:
    """What is known before decoding: a digest of the source's bytes and the size the images come in."""

    digest: str
    geometry: Geometry


class Images(Protocol):
    """The images of one split, decoded a block at a time, from several threads at once."""

    @property
    def labels(self) -> Labels:
        """int64 (N,)."""

    def block(self, start: int, stop: int, geometry: Geometry) -> Bytes:
        """Images ``start`` to ``stop`` as uint8 (n, H, W, C). Raises :class:`DataError` naming one it cannot read."""


@dataclass(frozen=True)
class Contents:
    """The classes in order and the two splits."""

    classes: tuple[str, ...]
    train: Images
    test: Images


class Source(Protocol):
    """A data set as it lies on disk."""

    @property
    def name(self) -> str:
        """What it is called: enters the spec, so no absolute path."""

    @property
    def places(self) -> tuple[Path, ...]:
        """The files or folders it is read from."""

    @property
    def published(self) -> Normalisation | None:
        """The constants the literature uses for it, if there are any."""

    def survey(self, report: Report) -> Survey:
        """Digest and geometry. Decodes nothing it can do without."""

    def contents(self) -> Contents:
        """The splits, ready to be decoded."""


@dataclass(frozen=True)
class ArrayImages:
    """Images that are in memory already: uint8 (N, H, W) or (N, H, W, C) with C of 1 or 3, labels int64 (N,)."""

    images: Bytes
    labels: Labels

    def block(self, start: int, stop: int, geometry: Geometry) -> Bytes:
        images = self.images[start:stop]
        if images.ndim == 3:
            images = images[..., None]
        if images.shape[1:] == geometry.shape:
            return images
        squeezed = images[..., 0] if images.shape[-1] == 1 else images
        return np.stack([fit(Image.fromarray(np.ascontiguousarray(image)), geometry) for image in squeezed])


def digest(parts: object) -> str:
    """SHA-256 of the canonical JSON of ``parts``."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
