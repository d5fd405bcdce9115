"""BatchNorm statistics class by class: what each layer of a teacher is given of the training images of each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.device import Compute
from condense.progress import Report, silent
from condense.teachers.taps import ClassTargets, Statistics, TappedNetwork
from condense.teachers.teacher import Teacher
from condense.training import each_block

__all__ = ["ClassStatistics", "class_statistics"]

Variance = Literal["class", "image"]

NAMES = ("mean", "class_var", "image_var")


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Of each of K classes, in the D channels of a teacher's BatchNorm layers joined as in `Targets`.

    ``mean``: over all images and positions, (K, D). ``class_var``: biased variance over the same. ``image_var``: mean
    over images of the variance within each. ``counts``: images of each class, int64 (K,); where that is 0 stands what
    all images have together.
    """

    mean: npt.NDArray[np.floating[Any]]
    class_var: npt.NDArray[np.floating[Any]]
    image_var: npt.NDArray[np.floating[Any]]
    counts: npt.NDArray[np.int64]

    def targets(self, variance: Variance = "class") -> ClassTargets:
        """What a `TappedNetwork` takes. ``image`` is EDC's variance, without what is between a class's images."""
        var = self.class_var if variance == "class" else self.image_var
        return ClassTargets(torch.from_numpy(np.array(self.mean)), torch.from_numpy(np.array(var)))

    def write(self, folder: Path) -> None:
        """As float32."""
        for name in NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name).astype(np.float32), allow_pickle=False)
        np.save(folder / "counts.npy", self.counts, allow_pickle=False)

    @classmethod
    def read(cls, folder: Path) -> ClassStatistics:
        """What :meth:`write` wrote, as memory maps."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*NAMES, "counts")))


def class_statistics(
    teacher: Teacher,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> ClassStatistics:
    """Measure ``images`` uint8 (N, H, W, C) of classes ``labels`` (N,), seen whole, in eval mode, in one pass: float64.

    Sources: LPLD ("Are Large-scale Soft Labels Necessary for Large-scale Dataset Distillation?", NeurIPS 2024), which
    has moving averages of batch statistics, about the last ten images of a class; these are exact, by sums in float64.
    EDC (arXiv 2404.13733), whose variances are ``image_var``, measured on crops and flips for ImageNet, here on whole
    images.

    Goes on from ``checkpoint``. Raises :class:`TeacherError` for a network without BatchNorm.
    """
    spec = teacher.info.spec
    seen = _ImageByImage(teacher.network)
    classes = torch.from_numpy(np.array(labels, dtype=np.int64))
    sums, done = _Sums(spec.n_classes), 0
    saved = checkpoint.load()
    if saved is not None:
        done = int(saved["done"])
        sums.totals = saved["totals"]

    def take(first: int, logits: Tensor) -> None:
        end = first + len(logits)
        sums.add(classes[first:end], seen.statistics)
        if checkpoint.due():
            checkpoint.save({"totals": sums.totals, "done": torch.tensor(end)})

    each_block(seen, images, spec, take, compute=compute, start=done, report=report, stage="class statistics")
    return sums.statistics(np.bincount(labels, minlength=spec.n_classes))


class _ImageByImage(nn.Module):
    """Logits; ``statistics`` are those of the last forward, every image a group of its own."""

    statistics: Statistics

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.tapped = TappedNetwork(network)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor
        logits, self.statistics = self.tapped(images, groups=len(images))
        return logits


class _Sums:
    """``totals``: float64 (3, K, D), by class the sums over its images of their mean, its square, and their variance.

    All images have equally many positions, so these give the statistics over all positions.
    """

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.totals = torch.zeros(3, n_classes, 0, dtype=torch.float64)

    def add(self, classes: Tensor, statistics: Statistics) -> None:
        """Images of these ``classes`` (n,), each a group of ``statistics``."""
        mean, var = (each.double().cpu() for each in (statistics.mean, statistics.var))
        if not self.totals.shape[2]:
            self.totals = self.totals.new_zeros(3, self.n_classes, mean.shape[1])
        self.totals.index_add_(1, classes, torch.stack((mean, mean.square(), var)))

    def statistics(self, counts: npt.NDArray[np.int64]) -> ClassStatistics:
        """Classes without images have what all have together."""
        totals = self.totals.numpy()
        mean, square, image_var = np.where(
            counts[:, None] > 0, totals / np.maximum(counts, 1)[:, None], totals.sum(1, keepdims=True) / counts.sum()
        )
        class_var = image_var + np.maximum(square - mean**2, 0)
        return ClassStatistics(mean, class_var, image_var, counts)
