"""What a set is worth: students trained on it, beside random and whole real data, with intervals.

Names are imported when they are first used, so that results can be read, and put into a table, without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "Difference": "condense.evaluation.statistics",
    "OnlineLabels": "condense.evaluation.batches",
    "RealBatches": "condense.evaluation.batches",
    "ReplayBatches": "condense.evaluation.batches",
    "Result": "condense.evaluation.results",
    "ResultError": "condense.evaluation.results",
    "Schedule": "condense.evaluation.objective",
    "StudentRecipe": "condense.evaluation.student",
    "Summary": "condense.evaluation.statistics",
    "append_result": "condense.evaluation.results",
    "augmentation_robust_score": "condense.evaluation.metrics",
    "calibration": "condense.evaluation.metrics",
    "confusion": "condense.evaluation.metrics",
    "evaluate_student": "condense.evaluation.student",
    "hard_label_recovery": "condense.evaluation.metrics",
    "improvement_over_random": "condense.evaluation.metrics",
    "label_robust_score": "condense.evaluation.metrics",
    "measure_real": "condense.evaluation.measure",
    "measure_set": "condense.evaluation.measure",
    "negative_log_likelihood": "condense.evaluation.metrics",
    "paired_difference": "condense.evaluation.statistics",
    "power_of": "condense.evaluation.statistics",
    "read_results": "condense.evaluation.results",
    "resolved_config": "condense.evaluation.measure",
    "sets_needed": "condense.evaluation.statistics",
    "soft_loss": "condense.evaluation.objective",
    "summarise": "condense.evaluation.statistics",
    "train_on_real": "condense.evaluation.student",
    "train_student": "condense.evaluation.student",
    "transfer": "condense.evaluation.metrics",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
