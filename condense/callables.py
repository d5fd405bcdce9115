"""What a user names as ``module:callable``. Accepted from the command line and the API only, never from a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from condense.errors import CondenseError, suggest

__all__ = ["find_callable"]


def find_callable(name: str, what: str, error: type[CondenseError]) -> Callable[..., Any]:
    """Import ``module:callable``; raises ``error``, which says that ``what`` it was for, if there is no such thing."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as fault:
        raise error(f'cannot import "{module}" of {what} "{name}" ({fault}); check the name and PYTHONPATH') from fault
    function = getattr(found, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise error(f'module "{module}" has no callable "{attribute}"; {suggest(attribute, known)}')
    made: Callable[..., Any] = function
    return made
