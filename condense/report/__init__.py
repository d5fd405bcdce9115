"""What results and sets look like to a reader: tables and pictures."""

from __future__ import annotations

from condense.report.classes import rows_by_class
from condense.report.diversity import rows_of_scores
from condense.report.grid import draw_grid
from condense.report.scores import rankings, score_table, scores, transfers
from condense.report.table import Row, comma_separated, markdown, records, rows_of, show

__all__ = [
    "Row",
    "comma_separated",
    "draw_grid",
    "markdown",
    "rankings",
    "records",
    "rows_by_class",
    "rows_of",
    "rows_of_scores",
    "score_table",
    "scores",
    "show",
    "transfers",
]
