"""Outcomes and exceptions as JSON, for the way from the process that did a job to the one that asked for it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

from condense import errors
from condense.engine.job import Task
from condense.engine.perform import Outcome
from condense.errors import CondenseError

__all__ = ["RemoteFault", "outcome_from", "outcome_to"]


class RemoteFault(RuntimeError):
    """A fault of ours, or of the user's code, in another process; the message ends with its traceback."""


def outcome_to(outcome: Outcome) -> dict[str, Any]:
    """JSON values, without the task."""
    error = outcome.error
    return {
        "status": outcome.status,
        "error": type(error).__name__ if error is not None else None,
        "mendable": isinstance(error, CondenseError),
        "message": str(error) if error is not None else "",
        "trace": outcome.trace,
        "why": outcome.why,
        "seconds": outcome.seconds,
        "peak_memory": outcome.peak_memory,
    }


def outcome_from(task: Task, values: Mapping[str, Any]) -> Outcome:
    """The inverse, with an exception of the same class where it is one of ours or Python's."""
    return Outcome(
        task,
        values["status"],
        _error(values) if values["error"] is not None else None,
        trace=values["trace"],
        why=values["why"],
        seconds=values["seconds"],
        peak_memory=values["peak_memory"],
    )


def _error(values: Mapping[str, Any]) -> Exception:
    name, message = values["error"], values["message"]
    if values["mendable"]:
        kind = getattr(errors, name, CondenseError)
        return kind(message) if issubclass(kind, CondenseError) else CondenseError(message)
    if isinstance(getattr(builtins, name, None), type) and name == "MemoryError":
        return MemoryError(message)
    return RemoteFault(f"{name}: {message}\n\nin the process that did the job:\n{values['trace']}")
