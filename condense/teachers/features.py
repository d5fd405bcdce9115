"""What a teacher makes of the training images: features and logits, for methods that choose images by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.device import Compute
from condense.errors import TeacherError
from condense.networks.base import InputShape
from condense.networks.last_layer import features_seen, last_layer
from condense.progress import Report, silent
from condense.teachers.teacher import Teacher
from condense.training import each_block

__all__ = ["Features", "write_features"]

BATCH = 500


@dataclass(frozen=True, eq=False)
class Features:
    """``features``: what the last layer is given, float16 (N, d). ``logits``: float16 (N, K). By image."""

    features: npt.NDArray[np.float16]
    logits: npt.NDArray[np.float16]

    @classmethod
    def read(cls, folder: Path) -> Features:
        """What :func:`write_features` wrote, as memory maps."""
        features, logits = (np.load(_file(folder, name), mmap_mode="r") for name in ("features", "logits"))
        return cls(features, logits)


def write_features(
    folder: Path,
    teacher: Teacher,
    images: npt.NDArray[np.uint8],
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> None:
    """Write ``features.npy`` and ``logits.npy`` of ``images`` uint8 (N, H, W, C), seen whole, in eval mode.

    Goes on from ``checkpoint``. Raises :class:`NetworkError` for a network without a linear layer at its end,
    :class:`TeacherError` for features beyond float16.
    """
    spec = teacher.info.spec
    layer = last_layer(teacher.info.network, teacher.network, InputShape(spec.channels, spec.height, spec.width))
    wanted = {"features": layer.in_features, "logits": spec.n_classes}
    arrays = {name: _created(_file(folder, name), (len(images), width)) for name, width in wanted.items()}
    saved, done = checkpoint.load(), 0
    if saved is not None:
        done = int(saved["done"])
        for name, array in arrays.items():
            array[:done] = saved[name].numpy()
    with features_seen(layer) as seen:

        def take(first: int, logits: Tensor) -> None:
            for name, block in (("features", seen[0]), ("logits", logits)):
                narrow = block.to(torch.float16).cpu()
                if not bool(narrow.isfinite().all()):
                    raise TeacherError(
                        f"teacher {teacher.info.network} has {name} beyond 65504, which float16 cannot hold; "
                        "choose images by another teacher"
                    )
                arrays[name][first : first + len(narrow)] = narrow.numpy()
            if checkpoint.due():
                end = first + len(logits)
                state = {name: torch.from_numpy(array[:end]) for name, array in arrays.items()}
                checkpoint.save({**state, "done": torch.tensor(end)})

        each_block(
            teacher.network,
            images,
            spec,
            take,
            compute=compute,
            start=done,
            batch_size=BATCH,
            report=report,
            stage="features",
        )
    for array in arrays.values():
        array.flush()


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _created(path: Path, shape: tuple[int, int]) -> np.memmap[Any, np.dtype[np.float16]]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
