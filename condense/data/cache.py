"""Decoded images on disk, memory-mapped: a folder per source and geometry, built once.

    CACHE/data/KEY/   train_images.npy  train_labels.npy  test_images.npy  test_labels.npy  about.json

The folder is written under a temporary name and renamed, so it is there whole or not at all; of two processes that
start at once the slower drops its copy. ``about.json`` holds classes, mean, standard deviation, and per file length,
modification time and SHA-256, with a hash of all that. On opening, lengths are always compared; a file whose
modification time is not the one noted is hashed, and a folder that fails is built again.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from condense.data.images import Geometry
from condense.data.parallel import in_order
from condense.data.source import Bytes, Contents, Images, Normalisation, Source, digest
from condense.data.spec import Split
from condense.errors import DataError
from condense.files import beside, canonical_json, disk_errors, publish_folder, sha256_file, sweep
from condense.progress import Report

__all__ = ["Cached", "open_cached"]

SPLITS = ("train", "test")
BLOCK = 16
"""Images decoded at a time by one thread: few enough to stop soon when interrupted amid large photographs."""


@dataclass(frozen=True)
class Cached:
    """What a cache folder holds."""

    classes: tuple[str, ...]
    normalisation: Normalisation
    train: Split
    test: Split


def open_cached(folder: Path, source: Source, geometry: Geometry, report: Report) -> Cached:
    """Open the cache at ``folder``, building it first if it is not there or damaged."""
    was_there = folder.exists()  # asked first: a folder that another process publishes from now on is not discarded
    cached = _sound(folder)
    if cached is None:
        with disk_errors(folder):
            if was_there:
                _discard(folder)
            _build(folder, source.contents(), geometry, report)
        cached = _open(folder)
    return cached


def _sound(folder: Path) -> Cached | None:
    try:
        return _open(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open(folder: Path) -> Cached:
    sealed = json.loads((folder / "about.json").read_bytes())
    about = sealed["about"]
    if digest(about) != sealed["sha256"]:
        raise ValueError(f"{folder} has a damaged about.json")
    for name, facts in about["files"].items():
        _check_file(folder / name, facts)
    train, test = (Split(_load(folder, f"{s}_images"), np.array(_load(folder, f"{s}_labels"))) for s in SPLITS)
    normalisation = Normalisation(mean=tuple(about["mean"]), std=tuple(about["std"]))
    return Cached(tuple(about["classes"]), normalisation, train, test)


def _load(folder: Path, name: str) -> Any:
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _check_file(path: Path, facts: dict[str, Any]) -> None:
    """Raises ValueError unless the file is the one that was written."""
    stat = path.stat()
    if stat.st_size != facts["length"]:
        raise ValueError(f"{path} has {stat.st_size} bytes, not {facts['length']}")
    if stat.st_mtime_ns != facts["mtime_ns"] and sha256_file(path) != facts["sha256"]:
        raise ValueError(f"{path} was changed")


def _discard(folder: Path) -> None:
    """Move a damaged folder away before deleting it, so that no other process finds half of it."""
    doomed = beside(folder)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _build(folder: Path, contents: Contents, geometry: Geometry, report: Report) -> None:
    """Decode both splits and publish them. Nothing is left behind if it fails."""
    splits = dict(zip(SPLITS, (contents.train, contents.test), strict=True))
    for name, images in splits.items():
        _check_labels(contents.classes, name, images)
    sweep(folder.parent)
    temporary = beside(folder)
    temporary.mkdir(parents=True)
    try:
        histogram = np.zeros((geometry.channels, 256), dtype=np.int64)
        for name, images in splits.items():
            counts = _write_images(temporary / f"{name}_images.npy", name, images, geometry, report)
            histogram += counts if name == "train" else 0
            np.save(temporary / f"{name}_labels.npy", images.labels.astype(np.int64), allow_pickle=False)
        moments = _moments(histogram)
        about = {
            "classes": contents.classes,
            "mean": moments.mean,
            "std": moments.std,
            "files": {path.name: _facts(path) for path in sorted(temporary.iterdir())},
        }
        (temporary / "about.json").write_text(canonical_json({"about": about, "sha256": digest(about)}))
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_labels(classes: tuple[str, ...], split: str, images: Images) -> None:
    if len(classes) < 2:
        raise DataError(f"the data set has {len(classes)} classes; expected at least 2")
    if len(set(classes)) < len(classes):
        raise DataError(f"class names must differ, but they are {', '.join(classes)}")
    labels = images.labels
    if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"the labels of the {split} split must be 0 to {len(classes) - 1}, one per image")
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise DataError(
            f'class "{classes[int(counts.argmin())]}" has no images in the {split} split; add some or drop it'
        )


def _write_images(path: Path, split: str, images: Images, geometry: Geometry, report: Report) -> npt.NDArray[np.int64]:
    """Write (N, H, W, C) as ``.npy``; returns how often each byte occurs in each channel, (C, 256).

    Written, not mapped: a disk that fills up is then an error and not a signal.
    """
    count = len(images.labels)
    histogram = np.zeros((geometry.channels, 256), dtype=np.int64)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *geometry.shape)}
    starts, done = range(0, count, BLOCK), 0
    with open(path, "wb") as file:
        npy.write_array_header_1_0(file, header)
        for block in in_order(lambda start: images.block(start, min(start + BLOCK, count), geometry), starts):
            file.write(np.ascontiguousarray(block).data)
            histogram += _histogram(block)
            done += len(block)
            report(f"decoding {split} images", done, count)
    return histogram


def _histogram(block: Bytes) -> npt.NDArray[np.int64]:
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(block, -1, 0)])


def _moments(histogram: npt.NDArray[np.int64]) -> Normalisation:
    """Mean and population standard deviation per channel, exact up to one rounding; a constant channel gets std 1."""
    moments = [_channel_moments(counts) for counts in histogram.tolist()]
    return Normalisation(mean=tuple(mean for mean, _ in moments), std=tuple(std for _, std in moments))


def _channel_moments(counts: list[int]) -> tuple[float, float]:
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    spread = total * second - first * first  # total**2 times the variance, an integer
    return first / (255 * total), sqrt(spread) / (255 * total) if spread else 1.0


def _facts(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"length": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256_file(path)}
