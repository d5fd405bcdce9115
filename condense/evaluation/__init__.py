"""What a set is worth: students trained on it, beside random and whole real data, with intervals."""

from __future__ import annotations

from condense.evaluation.batches import OnlineLabels, RealBatches, ReplayBatches
from condense.evaluation.measure import measure_real, measure_set, resolved_config
from condense.evaluation.metrics import (
    augmentation_robust_score,
    calibration,
    confusion,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    negative_log_likelihood,
    transfer,
)
from condense.evaluation.objective import Schedule, soft_loss
from condense.evaluation.results import Result, ResultError, append_result, read_results
from condense.evaluation.statistics import (
    Difference,
    Summary,
    paired_difference,
    power_of,
    sets_needed,
    summarise,
)
from condense.evaluation.student import StudentRecipe, evaluate_student, train_on_real, train_student

__all__ = [
    "Difference",
    "OnlineLabels",
    "RealBatches",
    "ReplayBatches",
    "Result",
    "ResultError",
    "Schedule",
    "StudentRecipe",
    "Summary",
    "append_result",
    "augmentation_robust_score",
    "calibration",
    "confusion",
    "evaluate_student",
    "hard_label_recovery",
    "improvement_over_random",
    "label_robust_score",
    "measure_real",
    "measure_set",
    "negative_log_likelihood",
    "paired_difference",
    "power_of",
    "read_results",
    "resolved_config",
    "sets_needed",
    "soft_loss",
    "summarise",
    "train_on_real",
    "train_student",
    "transfer",
]
