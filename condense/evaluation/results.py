"""One result, one JSON line: what was measured, on what, with which settings, at which cost."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, overload

from condense.errors import CondenseError
from condense.files import canonical_json, disk_errors
from condense.progress import Report, silent

__all__ = [
    "Evaluation",
    "Failure",
    "RateSearch",
    "Result",
    "ResultError",
    "append_result",
    "config_hash",
    "read_results",
    "versions",
]

RESULT_FORMAT = 1
REPORT_EVERY = 100


class ResultError(CondenseError):
    """A file of results, or a line of it, that cannot be read as results."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trained student, measured.

    Runs with one `condition`, data set, IPC, student, targets and `config_sha256` are repetitions of each other; runs
    of two conditions are compared only where those last five agree.
    """

    condition: str
    """What a table's row is called: "cda (real start)", "random", "whole data"."""
    method: str
    data: str
    ipc: int
    set_name: str
    set_sha256: str
    set_index: int
    student: str
    targets: Literal["soft", "hard"]
    seed: int
    accuracy: float
    """On the test images after the last step, in [0, 1]."""
    losses: tuple[float, ...]
    """The mean training loss of every epoch."""
    steps: int
    bytes_images: int
    bytes_labels: int
    bytes_other: int
    """Whatever else training needs: metadata, and the teachers' weights where they label online."""
    config: Mapping[str, Any]
    """The resolved training recipe and views, equal for all conditions that may be compared."""
    config_sha256: str
    versions: Mapping[str, str]
    compute: Mapping[str, str | int]
    """Device, precision, threads, hardware: :meth:`condense.device.Compute.identity`."""
    seconds: float
    peak_memory: int
    """Bytes, see :func:`peak_memory`."""
    track: str = ""
    """Name and version of the track, see :mod:`condense.evaluation.tracks`; empty where there was none."""
    format: int = RESULT_FORMAT
    accuracy_per_class: tuple[float | None, ...] | None = None
    """On the test images, in the order of the classes; None of a class without any. This and what follows is None in
    results that were written before it was measured."""
    calibration_error: float | None = None
    """Expected, over 15 bins: :func:`condense.evaluation.metrics.calibration`."""
    negative_log_likelihood: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Test images by class (outer) and answer; None of more than 100 classes."""
    quick: bool = False
    """Trained for seconds, to see that all works: left out of the JSON where it is not so."""

    def __post_init__(self) -> None:
        if self.format != RESULT_FORMAT:
            raise ResultError(f"result format is {self.format}, expected {RESULT_FORMAT}; use a newer condense")
        if self.targets not in ("soft", "hard"):
            raise ResultError(f'targets is "{self.targets}", expected "soft" or "hard"')
        if not 0 <= self.accuracy <= 1:
            raise ResultError(f"accuracy is {self.accuracy}, expected a number in [0, 1]")
        if any(value is not None and not 0 <= value <= 1 for value in self.accuracy_per_class or ()):
            raise ResultError("accuracy_per_class holds something else than numbers in [0, 1]")
        if self.calibration_error is not None and not 0 <= self.calibration_error <= 1:
            raise ResultError(f"calibration_error is {self.calibration_error}, expected a number in [0, 1]")
        if self.negative_log_likelihood is not None and not 0 <= self.negative_log_likelihood < math.inf:
            raise ResultError(f"negative_log_likelihood is {self.negative_log_likelihood}, expected at least 0")
        if any(len(row) != len(self.confusion or ()) or min(row) < 0 for row in self.confusion or ()):
            raise ResultError("confusion is no square of counts")
        if not all(math.isfinite(loss) for loss in self.losses):
            raise ResultError("losses are not finite: a failed run is not a result")
        if self.config_sha256 != config_hash(self.config):
            raise ResultError(f"config_sha256 {self.config_sha256[:12]}... is not the hash of config; it was edited")

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two results repetitions of the very same run: a study that resumes skips these."""
        run = (self.condition, self.data, self.ipc, self.set_sha256, self.set_index, self.student, self.targets)
        more = [*([self.track] if self.track else []), *(["quick"] if self.quick else [])]
        return (*map(str, run), str(self.seed), self.config_sha256, *more)

    def to_json(self) -> str:
        """One line without a line end. What was not measured is left out."""
        values = {**dataclasses.asdict(self), "quick": True if self.quick else None}
        return canonical_json({name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_json(cls, line: str) -> Result:
        """The inverse of :meth:`to_json`; :class:`ResultError` names the field that is missing, unknown or wrong."""
        try:
            values = json.loads(line)
        except ValueError:
            raise ResultError("it is not JSON") from None
        if not isinstance(values, dict):
            raise ResultError(f"it is a JSON {type(values).__name__}, expected an object")
        names = {field.name for field in dataclasses.fields(cls)}
        for what, odd in (("lacks", names - LATER - values.keys()), ("has the unknown", values.keys() - names)):
            if odd:
                raise ResultError(f"it {what} field {', '.join(sorted(odd))}")
        for name, value in values.items():
            _check_type(name, value)
        lists = {name: _tuples(values[name]) for name in LISTS & values.keys()}
        return cls(**{**values, **lists})


LATER = {"track", "accuracy_per_class", "calibration_error", "negative_log_likelihood", "confusion", "quick"}
"""Fields that the first results did not have."""

LISTS = {"losses", "accuracy_per_class", "confusion"}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_type(name: str, value: object) -> None:
    expected: tuple[type, ...]
    if name in ("accuracy", "seconds", "calibration_error", "negative_log_likelihood"):
        expected = (int, float)
    elif name in ("config", "versions", "compute"):
        expected = (dict,)
    elif name in LISTS:
        expected = (list,)
    elif name == "quick":
        expected = (bool,)
    elif name in (
        "condition",
        "method",
        "data",
        "set_name",
        "set_sha256",
        "student",
        "targets",
        "config_sha256",
        "track",
    ):
        expected = (str,)
    else:
        expected = (int,)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        raise ResultError(f"{name} is {value!r}, expected {expected[-1].__name__}")
    if isinstance(value, list) and not all(_is_item(name, item) for item in value):
        raise ResultError(f"{name} holds something else than {'rows of counts' if name == 'confusion' else 'numbers'}")


def _is_item(name: str, item: object) -> bool:
    """Whether a list of that name may hold it."""
    if name == "confusion":
        return isinstance(item, list) and len(item) > 0 and all(type(count) is int for count in item)
    return isinstance(item, int | float) or (item is None and name == "accuracy_per_class")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A student that could not be trained to its end: reported, and never part of a mean."""

    condition: str
    student: str
    targets: str
    set_index: int
    seed: int
    reason: str
    track: str = ""

    def __str__(self) -> str:
        return f"{self.condition}, set {self.set_index}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """A learning rate, and the mean accuracies on held-out training images it was chosen by, if it was chosen now."""

    track: str
    network: str
    rate: float
    tried: Mapping[float, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation(Sequence[Result]):
    """What an evaluation found: a sequence of results, beside the runs that failed and the learning rates."""

    results: tuple[Result, ...]
    failures: tuple[Failure, ...] = ()
    rates: tuple[RateSearch, ...] = ()

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.results[index]


def append_result(path: Path, result: Result) -> int:
    """Add one line, whole or not at all, also when several processes append and when one was killed in the middle.

    Returns how many bytes it has.

    Under a lock on the file: what a killed writer left after the last line end is cut off, then the line is written
    and made durable. A full disk raises :class:`~condense.errors.OutputError` and leaves the file as it was.
    """
    line = (result.to_json() + "\n").encode()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _whole_lines(file.fileno())
            file.truncate(end)
            try:
                done = 0
                while done < len(line):
                    done += os.write(file.fileno(), line[done:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    return len(line)


def _whole_lines(handle: int, block: int = 65536) -> int:
    """Bytes up to and including the last line end."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - block)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_results(paths: Path | Iterable[Path], report: Report = silent) -> list[Result]:
    """Every result of one or several files, in order.

    Raises :class:`ResultError` naming file and line for anything that is not a valid result. An unfinished last line
    (a writer was killed) is left out: that run counts as not done.
    """
    results = []
    paths = [paths] if isinstance(paths, Path) else list(paths)
    for read, path in enumerate(paths):
        report("reading files of results", read, len(paths))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ResultError(f"cannot read results from {path}: {error}; expected a file of JSON lines") from None
        whole, _, _ = text.rpartition("\n")
        lines = whole.split("\n") if whole else []
        for number, line in enumerate(lines, start=1):
            if number % REPORT_EVERY == 0:
                report("lines", number, len(lines))
            try:
                results.append(Result.from_json(line))
            except ResultError as error:
                raise ResultError(f"{path}, line {number}: {error}") from None
    report("reading files of results", len(paths), len(paths))
    return results


def config_hash(config: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the configuration's canonical JSON."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    import torch  # results can be read without it

    return {"python": platform.python_version(), "numpy": version("numpy"), "torch": torch.__version__}
