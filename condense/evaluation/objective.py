"""What a student is asked to match, epoch by epoch: temperatures that fall, hard epochs amid soft ones.

Sources: temperature decay and calibrated student temperatures are "dynamic knowledge reuse" and "calibrated
alignment" of LPQLD (label pruning and quantisation, TPAMI); soft, hard, soft is HALD (arXiv 2512.15647); matching
distances is DBR of NRR-DD (arXiv 2503.18267).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from condense.config import LATER
from condense.dataset import Interpolation
from condense.errors import ConfigError

__all__ = ["Schedule", "calibrated", "match_loss", "smoothed_entropy", "soft_loss"]

Decay = Literal["constant", "step", "cosine"]
Objective = Literal["kl", "match"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How soft targets are used over the epochs of a student.

    objective: ``kl`` learns the whole label by :func:`soft_loss`, ``match`` only its distances to the classes in the
        view, by :func:`match_loss` with ``match_weight``.
    decay: of the temperature, from the recipe's to ``temperature_end``: ``step`` multiplies it by 0.7 after each tenth
        of the epochs, ``cosine`` follows half a cosine.
    calibrate: the student has a temperature of its own, 1 at first and after each epoch the one at which its outputs
        fit the targets of the last step best. (LPQLD searches 0.01 to 1 on a grid; here 0.01 to 100, by bisection.)
    hard_epochs: so many epochs in the middle learn the classes instead, on views without labels, by cross-entropy with
        ``smoothing`` of them spread over all classes. Half of the other epochs, rounded down, come before.
        (The paper smooths by 0.8 for 1000 classes, which is much for ten.)
    interpolation: of labels of whole images (codec ``static``), in mixed views: ``probabilities``, or ``logits`` as in
        INFER (arXiv 2408.06927).
    """

    objective: Objective = "kl"
    match_weight: float = 1.0
    decay: Decay = "constant"
    temperature_end: float = 2.0
    calibrate: bool = False
    hard_epochs: int = 0
    smoothing: float = 0.1
    interpolation: Interpolation = field(default="probabilities", metadata=LATER)

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ConfigError(f'objective is "{self.objective}"; expected one of {", ".join(get_args(Objective))}')
        if self.decay not in get_args(Decay):
            raise ConfigError(f'decay is "{self.decay}"; expected one of {", ".join(get_args(Decay))}')
        if self.interpolation not in get_args(Interpolation):
            raise ConfigError(
                f'interpolation is "{self.interpolation}"; expected one of {", ".join(get_args(Interpolation))}'
            )
        if not 0 <= self.match_weight < math.inf:
            raise ConfigError(f"match_weight must be at least 0 and finite, got {self.match_weight}")
        if not 0 < self.temperature_end < math.inf:
            raise ConfigError(f"temperature_end must be above 0 and finite, got {self.temperature_end}")
        if self.hard_epochs < 0:
            raise ConfigError(f"hard_epochs must be at least 0, got {self.hard_epochs}")
        if not 0 <= self.smoothing <= 1:
            raise ConfigError(f"smoothing must be in [0, 1], got {self.smoothing}")
        if self.objective == "match" and (self.calibrate or self.decay != "constant"):
            raise ConfigError("objective match has no temperature; leave decay constant and calibrate false")

    def soft_epoch(self, epoch: int, epochs: int) -> int | None:
        """Which of the soft epochs ``epoch`` of ``epochs`` is; None for a hard one."""
        soft = max(0, epochs - self.hard_epochs)
        before = soft // 2
        if epoch < before:
            return epoch
        return None if epoch < before + min(self.hard_epochs, epochs) else epoch - self.hard_epochs

    def hard_epoch(self, epoch: int, epochs: int) -> int:
        """Which of the hard epochs ``epoch`` is."""
        return epoch - max(0, epochs - self.hard_epochs) // 2

    def temperature(self, start: float, epoch: int, epochs: int) -> float:
        """The teacher's in ``epoch`` of ``epochs``, from 0; never above ``start`` nor below ``temperature_end``."""
        if self.decay == "constant":
            return start
        end = min(start, self.temperature_end)
        if self.decay == "step":
            return max(end, start * 0.7 ** (10 * epoch // epochs))
        return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def soft_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    student_temperature: float | Tensor | None = None,
    squared_temperature: bool = False,
) -> Tensor:
    """Mean over the batch of KL(softmax(targets / T) || softmax(logits / S)); both are logits (n, K).

    S is T unless ``student_temperature`` is given. ``squared_temperature`` multiplies by T * S.
    """
    own = temperature if student_temperature is None else student_temperature
    student = functional.log_softmax(logits / own, dim=1)
    teacher = functional.log_softmax(targets / temperature, dim=1)
    loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return loss * temperature * own if squared_temperature else loss


def match_loss(logits: Tensor, targets: Tensor, *, weight: float, smoothing: float) -> Tensor:
    """Cross-entropy to the mixed classes, and ``weight`` times the distances' absolute error.

    ``targets`` (n, 2K): the label's logits, then the classes as mixed in the view. The distance of a class is minus its
    log-probability; those of the classes in the view are compared (once, if there is but one).
    """
    labels, classes = targets.chunk(2, dim=1)
    student, teacher = functional.log_softmax(logits, dim=1), functional.log_softmax(labels, dim=1)
    entropy = -(smoothed(classes, smoothing) * student).sum(1)
    distance = ((student - teacher).abs() * (classes > 0)).sum(1)
    return (entropy + weight * distance).mean()


def smoothed(classes: Tensor, smoothing: float) -> Tensor:
    """Mixed classes (n, K), of which ``smoothing`` is spread over all."""
    return (1 - smoothing) * classes + smoothing / classes.shape[1]


def smoothed_entropy(logits: Tensor, classes: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy to smoothed classes."""
    return functional.cross_entropy(logits, smoothed(classes, smoothing))


LOWEST, HIGHEST, HALVINGS = 0.01, 100.0, 30


def calibrated(logits: Tensor, probabilities: Tensor) -> Tensor:
    """The temperature S, from 0.01 to 100, at which softmax(logits / S) fits ``probabilities`` (n, K) best: scalar.

    The divergence is convex in 1/S and falls with it where the student's expected logit is below the one that is
    matched: that sign is followed by bisection on the logarithm of S.
    """
    low, high = (torch.full((), math.log(bound), device=logits.device) for bound in (LOWEST, HIGHEST))
    wanted = (probabilities * logits).sum(1).mean()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((logits / middle.exp()).softmax(1) * logits).sum(1).mean()
        low, high = torch.where(expected > wanted, middle, low), torch.where(expected > wanted, high, middle)
    return ((low + high) / 2).exp()
