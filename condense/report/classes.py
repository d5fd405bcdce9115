"""The table of accuracies by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from condense.evaluation.results import Result

__all__ = ["rows_by_class"]

NONE = "-"


def rows_by_class(results: Sequence[Result], classes: Sequence[str]) -> dict[str, list[list[str]]]:
    """For each student, kind of targets and IPC, by a title: headings, then a row for every class.

    A condition has a column with its mean accuracies in percent over all runs; "-" where none was measured.
    """
    tables: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        place = result.track or f"{result.targets} targets{' (quick)' if result.quick else ''}"
        title = f"{result.student}, {place}, IPC {result.ipc}: accuracy in percent"
        tables.setdefault(title, {}).setdefault(result.condition, []).append(result)
    return {
        title: [
            ["class", *conditions],
            *([name, *(_mean(runs, label) for runs in conditions.values())] for label, name in enumerate(classes)),
        ]
        for title, conditions in tables.items()
    }


def _mean(runs: Sequence[Result], label: int) -> str:
    known = [run.accuracy_per_class[label] for run in runs if run.accuracy_per_class is not None]
    shares = [share for share in known if share is not None]
    return f"{100 * np.mean(shares):.2f}" if shares else NONE
