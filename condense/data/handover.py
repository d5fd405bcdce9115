"""An opened data set for another process of the same machine: its images as files, its spec as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from condense.data.spec import Data, DatasetSpec, Split

__all__ = ["reopen", "shelve"]

SPLITS = ("train", "test")


def shelve(data: Data, folder: Callable[[], Path]) -> Path:
    """A folder from which `reopen` has the images: their cache, or else ``folder()``, where they are written now."""
    if data.cache is not None:
        return data.cache
    made = folder()
    made.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        split: Split = getattr(data, name)
        np.save(made / f"{name}_images.npy", split.images, allow_pickle=False)
        np.save(made / f"{name}_labels.npy", split.labels, allow_pickle=False)
    return made


def reopen(spec: DatasetSpec, folder: Path) -> Data:
    """The data set of :func:`shelve`, memory-mapped. Raises OSError if the folder is not there."""
    train, test = (
        Split(_load(folder / f"{name}_images.npy", mmap_mode="r"), _load(folder / f"{name}_labels.npy"))
        for name in SPLITS
    )
    return Data(spec, train, test, cache=folder)


def _load(path: Path, **options: Any) -> Any:
    return np.load(path, allow_pickle=False, **options)
