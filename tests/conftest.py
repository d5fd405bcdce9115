"""Fixtures for the whole suite: one thread, folders of its own instead of the user's, and a tiny data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from condense import seeding
from condense.data import Data, DatasetSpec, Split

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's caches; one cache serves the session, so the packaged data is decoded once."""
    base = tmp_path_factory.mktemp("condense")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("CONDENSE_CACHE", "CONDENSE_STORE", "CONDENSE_DATA"):
            patch.setenv(variable, str(base / variable.lower()))
        yield base


def patterned(count: int, seed: int) -> Split:
    """``count`` images of each of 3 classes, 12x12 RGB, class by class.

    A class is a colour and a direction of stripes, shifted and disturbed at random: learnt by a small network in a few
    steps, and not by the mean colour alone.
    """
    rng = seeding.generator(seed, "tiny data")
    labels = np.repeat(np.arange(3), count)
    rows, columns = np.mgrid[:12, :12]
    directions = np.stack([rows, columns, rows + columns])[labels]
    shift = rng.integers(0, 4, len(labels))[:, None, None]
    stripes = 60 + 120 * ((directions + shift) % 4 < 2)
    tint = np.eye(3)[labels][:, None, None, :] * 40
    images = stripes[..., None] + tint + rng.normal(0, 20, (len(labels), 12, 12, 3))
    return Split(images.clip(0, 255).astype(np.uint8), labels)


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    """3 classes, 12x12 RGB, 40 training and 20 test images per class, in memory."""
    train, test = patterned(40, seed=1), patterned(20, seed=2)
    pixels = train.images.reshape(-1, 3) / 255
    spec = DatasetSpec(
        name="tiny",
        classes=("rows", "columns", "diagonals"),
        channels=3,
        height=12,
        width=12,
        mean=tuple(pixels.mean(axis=0).tolist()),
        std=tuple(pixels.std(axis=0).tolist()),
        train_sizes=(40, 40, 40),
        test_sizes=(20, 20, 20),
        fingerprint="0" * 64,
    )
    return Data(spec, train, test)
