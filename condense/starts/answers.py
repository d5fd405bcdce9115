"""What teachers say about patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.starts.base import Images
from condense.teachers import Teacher

__all__ = ["LogProbabilities", "cross_entropy", "log_probabilities", "mean_probabilities"]

BATCH = 500

LogProbabilities = npt.NDArray[np.float64]


@torch.no_grad()
def log_probabilities(
    teachers: Sequence[Teacher], tiles: Images, size: tuple[int, int], compute: Compute
) -> LogProbabilities:
    """Of each teacher, in eval mode, for ``tiles`` uint8 (n, h, w, C): float64 (teachers, n, K).

    Each tile lies in the middle of an image of ``size`` (H, W) that is 0 elsewhere *after* normalisation, which is the
    mean colour (RDED, arXiv 2312.03526). The normalisation is the teacher's own.
    """
    device = compute.torch_device
    above, left = ((whole - part) // 2 for whole, part in zip(size, tiles.shape[1:3], strict=True))
    margins = (left, size[1] - tiles.shape[2] - left, above, size[0] - tiles.shape[1] - above)
    answers = []
    for teacher in teachers:
        network = teacher.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for start in range(0, len(tiles), BATCH):
            normal = normalise(to_pixels(tiles[start : start + BATCH]).to(device), teacher.info.spec)
            with compute.autocast():
                logits = network(F.pad(normal, margins) if any(margins) else normal)
            answers.append(logits.double().log_softmax(1).cpu())
    made: LogProbabilities = torch.cat(answers).view(len(teachers), len(tiles), -1).numpy()
    return made


def cross_entropy(answers: LogProbabilities, label: int) -> npt.NDArray[np.float64]:
    """-log p of the class, mean over the teachers: (n,)."""
    return np.asarray(-answers[:, :, label].mean(0))


def mean_probabilities(answers: LogProbabilities) -> npt.NDArray[np.float64]:
    """Mean over the teachers: (n, K)."""
    return np.asarray(np.exp(answers).mean(0))
