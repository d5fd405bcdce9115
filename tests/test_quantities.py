"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest

from condense.errors import ConfigError
from condense.quantities import bytes_of, duration, seconds_of, share_from

SIZES = {"8GB": 8 * 10**9, "1.5 gb": 15 * 10**8, "512MiB": 512 * 2**20, "2g": 2 * 10**9, "7": 7}
DURATIONS = {"90": 90, "90s": 90, "30min": 1800, "3h": 10800, "1.5 h": 5400, "2d": 172800, "1:00:05": 3605, "2:30": 150}


@pytest.mark.parametrize(("text", "value"), SIZES.items())
def test_sizes(text: str, value: int) -> None:
    assert bytes_of(text) == value


@pytest.mark.parametrize(("text", "value"), DURATIONS.items())
def test_durations(text: str, value: float) -> None:
    assert seconds_of(text) == value


def test_slices() -> None:
    assert share_from("0/3") == (0, 3)
    assert share_from(" 2 / 3 ") == (2, 3)


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 XB", "1e3"])
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size; expected a number with a unit"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["", "soon", "-3h", "3 weeks", "1:99"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["", "3", "3/3", "-1/3", "1/0", "a/b"])
def test_no_slice(text: str) -> None:
    with pytest.raises(ConfigError, match="does not exist; expected i/n"):
        share_from(text)


def test_durations_in_words() -> None:
    assert [duration(seconds) for seconds in (12.4, 200, 9000)] == ["12 s", "3 min", "2.5 h"]
