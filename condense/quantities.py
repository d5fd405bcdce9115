"""Sizes and durations as people write them."""

from __future__ import annotations

import re

from condense.errors import ConfigError

__all__ = ["bytes_of", "duration", "seconds_of", "share_from"]

BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
BYTES.update({"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12})
BYTES.update({"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40})
SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def bytes_of(text: str) -> int:
    """``"8GB"`` -> 8000000000; decimal units, and KiB, MiB, GiB, TiB. Raises `ConfigError`."""
    value, unit = _parts(text)
    if value is None or unit not in BYTES:
        raise ConfigError(f'"{text}" is no size; expected a number with a unit, for example 500MB or 8GB')
    return int(value * BYTES[unit])


def seconds_of(text: str) -> float:
    """``"90"``, ``"90s"``, ``"30min"``, ``"3h"``, ``"2d"``, and the ``h:mm:ss`` of schedulers. Raises `ConfigError`."""
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]\d)", text.strip())
    if clock:
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds
    value, unit = _parts(text)
    if value is None or unit not in SECONDS:
        raise ConfigError(f'"{text}" is no duration; expected a number with a unit, for example 90s, 30min or 3h')
    return value * SECONDS[unit]


def share_from(text: str) -> tuple[int, int]:
    """``"2/8"`` -> (2, 8): slice 2 of 8, counted from 0. Raises `ConfigError`."""
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ConfigError(f'slice "{text}" does not exist; expected i/n with i from 0 to n - 1, for example 0/8')
    return int(match[1]), int(match[2])


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _parts(text: str) -> tuple[float | None, str]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    return (None, "") if not match else (float(match[1]), match[2].lower())
