"""What results and sets look like to a reader: tables and pictures."""

from __future__ import annotations

from condense.report.classes import rows_by_class
from condense.report.diversity import rows_of_scores
from condense.report.grid import draw_grid
from condense.report.table import Row, markdown, rows_of, show

__all__ = ["Row", "draw_grid", "markdown", "rows_by_class", "rows_of", "rows_of_scores", "show"]
