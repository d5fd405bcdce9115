"""The table of a set's diversity."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from condense.evaluation.diversity import Score, SetDiversity

__all__ = ["rows_of_scores"]

HEADINGS = ("mean over the classes", "set", "random real ± sd", "in sd", "all real")
NONE = "-"


def rows_of_scores(one: SetDiversity) -> list[list[str]]:
    """Headings, then a row for every score: of the set, of random real images, their difference in standard deviations
    of the draws, of the whole real classes. "-" where there is none."""
    from condense.evaluation.diversity import SCORES

    return [list(HEADINGS), *([SCORES[name], *_cells(score)] for name, score in one.scores.items())]


def _cells(score: Score) -> list[str]:
    spread = f" ± {score.random_sd:.3f}" if score.random_sd is not None else ""
    distance = NONE
    if score.of_set is not None and score.random is not None and score.random_sd:
        distance = f"{(score.of_set - score.random) / score.random_sd:+.1f}"
    return [_number(score.of_set), _number(score.random) + spread, distance, _number(score.whole)]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
