"""Opening a data set by name: find the source, survey it, decode it into the cache once."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import platformdirs

from condense.callables import find_callable
from condense.data.cache import open_cached
from condense.data.custom import checked, open_custom
from condense.data.embedded import Embedded
from condense.data.folders import scan
from condense.data.images import LARGEST, SMALLEST, Geometry
from condense.data.known import KNOWN, find_known
from condense.data.source import Normalisation, Source, digest
from condense.data.spec import Data, DatasetSpec, Split
from condense.errors import ConfigError, DataError, suggest
from condense.progress import Report, silent

__all__ = ["DATASETS", "DatasetEntry", "mirrors", "open_data"]

NormalisationFrom = Literal["data", "published"]
DECODING = 1
"""Raised when the same source would decode to other pixels: enters the key of the cache and the fingerprint."""


@dataclass(frozen=True)
class DatasetEntry:
    """A row of ``condense data list``."""

    summary: str
    images: str
    files: str
    licence: str = "unknown"
    mirrors: bool = True
    """Whether an image that is flipped left to right still shows its class."""


DATASETS: dict[str, DatasetEntry] = {
    "fashion-mini": DatasetEntry(
        "part of Fashion-MNIST", "28x28 grey, 10 classes, 5,000 + 1,000", "inside the package", "MIT"
    ),
    "fashion-mnist": DatasetEntry(
        "articles of clothing", "28x28 grey, 10 classes, 60,000 + 10,000", "data root", "MIT"
    ),
    "mnist": DatasetEntry("handwritten digits", "28x28 grey, 10 classes, 60,000 + 10,000", "data root", mirrors=False),
    "cifar10": DatasetEntry("animals and vehicles", "32x32 colour, 10 classes, 50,000 + 10,000", "data root"),
    "cifar100": DatasetEntry("things of 100 kinds", "32x32 colour, 100 classes, 50,000 + 10,000", "data root"),
    "svhn": DatasetEntry("house numbers", "32x32 colour, 10 classes, 73,257 + 26,032", "data root", mirrors=False),
    "imagefolder:PATH": DatasetEntry("a folder of images per class", "8 to 224 pixels, any classes", "PATH"),
    "module:callable": DatasetEntry("what a function of yours returns", "8 to 224 pixels, any classes", "yours"),
}
"""Names and forms of names that :func:`open_data` takes."""


def mirrors(spec: DatasetSpec) -> bool:
    """Whether flipped images still show their class; taken for granted of data sets that nobody knows."""
    return spec.name not in DATASETS or DATASETS[spec.name].mirrors


def open_data(
    name: str,
    *,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    size: int | None = None,
    channels: int | None = None,
    normalisation: NormalisationFrom = "data",
    seed: int = 0,
    test_fraction: float = 0.2,
    report: Report = silent,
) -> Data:
    """Open a data set; images are decoded into the cache the first time.

    name: a key of :data:`DATASETS`, ``imagefolder:PATH`` (see :mod:`condense.data.folders`), or ``module:callable``
        (see :mod:`condense.data.custom`).
    root: where the files of named sets are; default ``CONDENSE_DATA``, else the user's data folder. Sets that are not
        there are fetched into it.
    cache: where decoded images go; default ``CONDENSE_CACHE``, else the user's cache folder.
    size, channels: bring images to size x size pixels (8 to 224) and 1 or 3 channels instead of what suits the data
        (see :mod:`condense.data.images`).
    normalisation: "data" takes mean and standard deviation of the training split, exactly; "published" the constants
        of the literature, where there are any.
    seed, test_fraction: of the test split held out from an image folder that has none.

    Raises :class:`DataError` for data that is missing or damaged, :class:`ConfigError` for settings out of range.
    """
    check_settings(size, channels, normalisation)
    where = _folder(cache, "CONDENSE_CACHE", platformdirs.user_cache_path("condense"))
    source = _find(name, root, where, seed, test_fraction, report)
    if isinstance(source, Data):
        if (size, channels, normalisation) != (None, None, "data"):
            raise ConfigError(f"{name} returns finished Data: size, channels and normalisation cannot be asked for")
        return checked(name, source)
    survey = source.survey(report)
    geometry = survey.geometry.override(size, channels)
    key = digest([DECODING, survey.digest, geometry.shape])
    folder = where / "data" / key[:40]
    cached = open_cached(folder, source, geometry, report)
    spec = DatasetSpec(
        name=source.name,
        classes=cached.classes,
        channels=geometry.channels,
        height=geometry.height,
        width=geometry.width,
        **_normalisation(source, geometry, cached.normalisation, normalisation),
        train_sizes=_sizes(cached.train, len(cached.classes)),
        test_sizes=_sizes(cached.test, len(cached.classes)),
        fingerprint=digest([key, normalisation]),
    )
    return Data(spec, cached.train, cached.test, source.places, folder)


def check_settings(size: int | None, channels: int | None, normalisation: str) -> None:
    """Raises :class:`ConfigError` for a setting out of range, before anything is read."""
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"size is {size}; expected {SMALLEST} to {LARGEST} pixels")
    if channels not in (None, 1, 3):
        raise ConfigError(f"channels is {channels}; expected 1 (grey) or 3 (colour)")
    if normalisation not in get_args(NormalisationFrom):
        raise ConfigError(f'normalisation is "{normalisation}"; {suggest(normalisation, get_args(NormalisationFrom))}')


def _folder(given: Path | str | None, variable: str, default: Path) -> Path:
    return Path(given or os.environ.get(variable) or default).expanduser()


def _find(
    name: str, root: Path | str | None, cache: Path, seed: int, test_fraction: float, report: Report
) -> Source | Data:
    kind, colon, rest = name.partition(":")
    if name == "fashion-mini":
        return Embedded()
    if name in KNOWN:
        return find_known(name, _folder(root, "CONDENSE_DATA", platformdirs.user_data_path("condense")))
    if kind == "imagefolder" and rest:
        return scan(Path(rest), indices=cache / "index", test_fraction=test_fraction, seed=seed)
    if kind and colon and rest and kind != "imagefolder":
        return open_custom(name, find_callable(name, "data set", DataError)(), report)
    if name and Path(name).is_dir():
        raise DataError(f'"{name}" is a folder; for images in a folder per class say imagefolder:{name}')
    raise DataError(f'there is no data set "{name}"; {suggest(name, DATASETS)}')


def _normalisation(source: Source, geometry: Geometry, measured: Normalisation, wanted: str) -> dict[str, Any]:
    """The fields ``mean`` and ``std`` of the spec."""
    if wanted == "data":
        return asdict(measured)
    if source.published is None:
        raise ConfigError(f'no published normalisation is known for {source.name}; use normalisation "data"')
    if len(source.published.mean) != geometry.channels:
        raise ConfigError(
            f'the published normalisation of {source.name} is not for {geometry.channels} channels; use "data"'
        )
    return asdict(source.published)


def _sizes(split: Split, n_classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(split.labels, minlength=n_classes).tolist())
