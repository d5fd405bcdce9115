"""What results and sets look like to a reader: tables and pictures."""

from __future__ import annotations

from condense.report.grid import draw_grid
from condense.report.table import Row, comma_separated, markdown, records, rows_of, show

__all__ = ["Row", "comma_separated", "draw_grid", "markdown", "records", "rows_of", "show"]
