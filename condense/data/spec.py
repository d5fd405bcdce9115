"""What is known of a data set besides its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Data", "DatasetSpec", "Split"]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Names, sizes and normalisation of an image data set.

    ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]. ``fingerprint`` is a SHA-256 over the source's
    bytes, the way they were brought to ``height`` x ``width`` x ``channels``, and the normalisation.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_sizes: tuple[int, ...]
    test_sizes: tuple[int, ...]
    fingerprint: str

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels), as stored."""
        return (self.height, self.width, self.channels)

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetSpec:
        fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C), usually a read-only memory map, and labels int64 (N,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A data set, opened: what it was read from (``places``) and where its decoded images lie (``cache``), if known."""

    spec: DatasetSpec
    train: Split
    test: Split
    places: tuple[Path, ...] = ()
    cache: Path | None = None
