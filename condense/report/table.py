"""The table of an evaluation, on the terminal and as Markdown, from the same rows."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from condense.evaluation.statistics import Difference, Summary, paired_difference, summarise
from condense.files import bytes_in_words
from condense.progress import Report, silent

if TYPE_CHECKING:
    from rich.console import Console

    from condense.evaluation.results import Result

__all__ = ["Row", "comma_separated", "markdown", "records", "rows_of", "show"]

HEADINGS = (
    "data",
    "IPC",
    "condition",
    "student",
    "targets",
    "accuracy, mean ± sd (sets x students)",
    "95 % interval",
    "difference to {baseline}",
    "images",
    "labels",
)
CORESETS = frozenset(("herding", "k-center", "k-means", "moderate", "el2n", "forgetting", "ccs", "cad-prune"))
"""By name, since asking the methods would import all of them for a table; a test asks them."""

DIFFERENCE = 7
WIDE = 150
NONE = "-"
QUICK = "(quick)"
QUICK_NOTE = "(quick): students were trained for seconds, to see that all works; such numbers say nothing of a set"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One condition, with one student and one kind of targets, over all its runs."""

    data: str
    ipc: int
    condition: str
    student: str
    targets: str
    track: str
    summary: Summary
    baseline: str
    difference: Difference | None
    """To the baseline of the same setting, see :func:`_setting`; None where there is nothing to pair."""
    coreset: str
    """The best of the methods that choose real images, in the same setting; empty if there is none."""
    to_coreset: Difference | None
    """To that one, where it is another. It was chosen by these very test images, which flatters it a little: a
    difference above 0 is safe to quote, one just below is not."""
    image_bytes: int
    """Of one set, the mean over the runs; `label_bytes` likewise."""
    label_bytes: int
    quick: bool = False
    """Of students that were trained for seconds, to see that all works."""

    @property
    def mark(self) -> str:
        """Says that it was quick, where the track does not."""
        return f" {QUICK}" if self.quick and QUICK not in self.track else ""

    @property
    def place(self) -> str:
        """The track, or, where there was none, the targets."""
        return f"{self.track or self.targets}{self.mark}"

    @property
    def terms(self) -> str:
        """The same in a sentence."""
        return f"track {self.track}{self.mark}" if self.track else f"{self.targets} targets{self.mark}"

    @property
    def statement(self) -> str:
        """One line in words."""
        head = f"{self.condition}, {self.student}, {self.terms}"
        if self.condition == self.baseline:
            return f"{head}: the baseline"
        if self.difference is None:
            return f"{head}: no run of {self.baseline} to compare with (same set numbers, seeds and recipe)"
        words = f"{head}: {self.difference.statement(self.baseline)}"
        if self.difference.verdict == "undecided" and self.difference.sd is not None:
            words += f"; {self.difference.outlook()}"
        if self.to_coreset:
            words += f"; {self.to_coreset.statement(self.coreset)}, the best coreset"
        return words


ENDING = re.compile(r"( \[.*\])?( \(\d+\))?$")


def rows_of(results: Sequence[Result], baseline: str = "random", report: Report = silent) -> list[Row]:
    """Group results into rows, in order of first appearance.

    Only runs of the same recipe are put together or compared, and real images with those of the same labels, which
    names say in brackets. Where a run is there twice, the later one counts; but another set of the same name and number
    is a row of its own.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in _told_apart(results):
        groups.setdefault((result.condition, *_setting(result)), []).append(result)
    best: dict[tuple[str, ...], list[Result]] = {}
    for group in groups.values():
        setting = (*_setting(group[0]), _labels(group[0]))
        if group[0].method in coresets() and (setting not in best or _mean(group) > _mean(best[setting])):
            best[setting] = group
    rows = []
    for number, group in enumerate(groups.values(), start=1):
        setting = _setting(group[0])
        labels, ending = _labels(group[0]), _ending(group[0])
        beside = baseline + (ending if (baseline + ending, *setting) in groups else labels)
        rows.append(_row(group, groups.get((beside, *setting), []), beside, best.get((*setting, labels), [])))
        report("comparing", number, len(groups))
    return rows


def _told_apart(results: Sequence[Result]) -> list[Result]:
    """The same, where sets of one name and number that are not the same files have a number in their condition."""
    known: dict[tuple[str, ...], list[str]] = {}
    found = []
    for result in results:
        files = known.setdefault((result.condition, str(result.set_index), *_setting(result)), [])
        if result.set_sha256 not in files:
            files.append(result.set_sha256)
        place = files.index(result.set_sha256)
        found.append(replace(result, condition=f"{result.condition} ({place + 1})") if place else result)
    return found


def _ending(result: Result) -> str:
    """What tells its condition apart, as it does the real images beside it: ``cda (steps 30) [codec int8] (2)``."""
    found = ENDING.search(result.condition)
    return found[0] if found else ""


def _labels(result: Result) -> str:
    """The part of that which says what its labels are."""
    found = ENDING.search(result.condition)
    return (found[1] or "") if found else ""


def coresets() -> frozenset[str]:
    """The methods that choose real images other than at random."""
    return CORESETS


def _mean(group: Sequence[Result]) -> float:
    return summarise(_runs(group)).mean


def _setting(result: Result) -> tuple[str, ...]:
    """What must agree for two results to be comparable."""
    setting = (result.data, str(result.ipc), result.student, result.targets, result.track, result.config_sha256)
    return (*setting, QUICK) if result.quick else setting


def _row(group: list[Result], base: list[Result], baseline: str, best: list[Result]) -> Row:
    first = group[0]
    coreset = best[0].condition if best else ""
    return Row(
        data=first.data,
        ipc=first.ipc,
        condition=first.condition,
        student=first.student,
        targets=first.targets,
        track=first.track,
        summary=summarise(_runs(group)),
        baseline=baseline,
        difference=paired_difference(_runs(group), _runs(base)) if first.condition != baseline else None,
        coreset=coreset,
        to_coreset=paired_difference(_runs(group), _runs(best)) if coreset not in ("", first.condition) else None,
        image_bytes=sum(result.bytes_images for result in group) // len(group),
        label_bytes=sum(result.bytes_labels for result in group) // len(group),
        quick=first.quick,
    )


def _runs(group: Sequence[Result]) -> dict[tuple[int, int], float]:
    return {(result.set_index, result.seed): result.accuracy for result in group}


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, and below it one sentence per row."""
    cells = [_headings(rows), *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", *(f"- {line}" for line in sentences(rows))]) + "\n"


def sentences(rows: Sequence[Row]) -> list[str]:
    """What stands below the table: a sentence per row, and what of them was quick."""
    return [*(row.statement for row in rows), *([QUICK_NOTE] if any(row.quick for row in rows) else [])]


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A flat record per row, for programs: accuracies and differences as fractions, None where there is no number."""
    return [
        {
            "data": row.data,
            "ipc": row.ipc,
            "condition": row.condition,
            "student": row.student,
            "targets": row.targets,
            "track": row.track,
            "quick": row.quick,
            "accuracy": row.summary.mean,
            "sd": row.summary.sd,
            "sd_sets": row.summary.sd_sets,
            "sd_students": row.summary.sd_students,
            "sets": row.summary.n_sets,
            "students": row.summary.n_students,
            **_bounds("accuracy", row.summary.interval),
            "baseline": row.baseline,
            **_against("difference", row.difference),
            "coreset": row.coreset,
            **_against("to_coreset", row.to_coreset),
            "image_bytes": row.image_bytes,
            "label_bytes": row.label_bytes,
            "statement": row.statement,
        }
        for row in rows
    ]


def _against(name: str, difference: Difference | None) -> dict[str, Any]:
    mean, interval = (difference.mean, difference.interval) if difference else (None, None)
    return {name: mean, **_bounds(name, interval), f"{name}_verdict": difference.verdict if difference else None}


def _bounds(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def comma_separated(rows: Sequence[Row]) -> str:
    """The records as CSV with a heading."""
    held = records(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(held[0]) if held else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(held)
    return text.getvalue()


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """The table on a terminal; the Markdown where the output is not one (a file, a pipe). Default: standard output.

    On a narrow terminal intervals and bytes are left out; the sentences below have those of the differences.
    """
    from rich.console import Console
    from rich.table import Table

    console = console or Console(file=sys.stdout)
    if not console.is_terminal:
        console.file.write(markdown(rows))
        return
    one = len({(row.data, row.ipc) for row in rows}) == 1
    narrow = console.width < WIDE
    hidden = {"data", "IPC"} if one else set()
    hidden |= {"95 % interval", "images", "labels"} if narrow else set()
    shown = [number for number, heading in enumerate(HEADINGS) if heading not in hidden]
    table = Table(title=f"{rows[0].data}, IPC {rows[0].ipc}" if one else None)
    for number in shown:
        table.add_column(_headings(rows)[number], overflow="fold")
    for row in rows:
        cells = _cells(row)
        cells[DIFFERENCE] = cells[DIFFERENCE].partition(" (")[0] if narrow else cells[DIFFERENCE]
        style = {"better": "green", "worse": "red"}.get(_verdict(row))
        table.add_row(*(cells[number] for number in shown), style=style)
    console.print(table)
    for line in sentences(rows):
        console.print(f"- {line}", markup=False, highlight=False)


def _verdict(row: Row) -> str:
    return row.difference.verdict if row.difference else ""


def _headings(rows: Sequence[Row]) -> list[str]:
    baseline = rows[0].baseline if rows else "baseline"
    return [heading.format(baseline=baseline) for heading in HEADINGS]


def _cells(row: Row) -> list[str]:
    summary = row.summary
    spread = f" ± {100 * summary.sd:.2f}" if summary.sd is not None else ""
    unit = " (1 set)" if summary.unit == "student" and summary.interval else ""
    return [
        row.data,
        str(row.ipc),
        row.condition,
        row.student,
        row.place,
        f"{100 * summary.mean:.2f}{spread} ({summary.n_sets} x {summary.n_students})",
        _interval(_possible(summary.interval)) + unit,
        _difference(row),
        bytes_in_words(row.image_bytes),
        bytes_in_words(row.label_bytes),
    ]


def _difference(row: Row) -> str:
    if row.condition == row.baseline:
        return "baseline"
    if row.difference is None:
        return NONE
    return f"{100 * row.difference.mean:+.2f} ({_interval(row.difference.interval, '+')})"


def _possible(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Of accuracies: with few sets Student's t reaches beyond 0 and 1."""
    return None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1]))


def _interval(interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return NONE
    low, high = (format(100 * bound, f"{sign}.2f") for bound in interval)
    return f"{low} to {high}"
