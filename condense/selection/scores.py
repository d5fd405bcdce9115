"""Scores of images from how a network learnt them: functions of a log of its training, one number an image.

Logs are float16 or wider, (epochs, n): after each epoch of one training, for each image, the probability of its class
(``p_true``), the greatest of the others (``p_other``), and the norm of the probabilities less the one-hot class
(``error``). Scores are float64 (n,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from condense.errors import MethodError

__all__ = ["Log", "Scores", "aum", "cad", "el2n", "forgetting"]

Log = npt.NDArray[Any]
Scores = npt.NDArray[np.float64]


def el2n(error: Log, epochs: int) -> Scores:
    """The error's norm summed over the first ``epochs`` epochs, or all of a shorter log; large is hard.

    Source: arXiv 2107.07075, there of several networks at one early epoch; the sum over one run is that of CCS's code.
    """
    return np.asarray(error[:epochs].astype(np.float64).sum(0))


def forgetting(p_true: Log, p_other: Log) -> Scores:
    """How often an image went from right to wrong between consecutive epochs; +inf if it never was right.

    Right means ``p_true > p_other``. Source: arXiv 1812.05159. Public code that gives never-learnt images 0 takes the
    hardest for the easiest.
    """
    right = p_true > p_other
    count = (right[:-1] & ~right[1:]).sum(0).astype(np.float64)
    return np.where(right.any(0), count, np.inf)


def aum(p_true: Log, p_other: Log) -> Scores:
    """Sum over the epochs of ``p_true - p_other``; small is hard.

    Of probabilities, as in CCS's code; the original (arXiv 2001.10528) takes logits.
    """
    return np.asarray((p_true.astype(np.float64) - p_other.astype(np.float64)).sum(0))


def cad(p_true: Log, *, window: int, windows: int) -> Scores:
    """How much the probability still moves near the end: large is neither learnt at once nor hopeless.

    Of K epochs, counted from 0, with J = ``window`` and W = ``windows``: the mean over k = K-J-W ... K-J-1 of the
    standard deviation (divisor J - 1) of epochs k ... k+J-1. The last window ends at K-2: the last epoch is not looked
    at. Source: "Hard Truths about Soft Labels", arXiv 2604.18811. Raises `MethodError` where K is too small.
    """
    epochs = len(p_true)
    first = epochs - window - windows
    if window < 2 or windows < 1 or first < 0:
        raise MethodError(
            f"{windows} windows of {window} epochs do not fit into a log of {epochs}; expected at least 1 window of at "
            "least 2 epochs, and no more epochs than both together"
        )
    wide = p_true[first:].astype(np.float64)
    deviations = [wide[k : k + window].std(0, ddof=1) for k in range(windows)]
    return np.asarray(np.mean(deviations, axis=0))
