"""Settings: unknown keys, wrong types, nesting, round trips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from condense.config import LATER, from_mapping, identity, merge, parse_assignments, read_yaml, to_mapping
from condense.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["sgd", "adamw"] = "sgd"


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    scale: tuple[float, float] = (0.1, 1.0)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


def test_round_trip() -> None:
    config = Outer(steps=3, inner=Inner(rate=0.5), maybe=Inner(kind="adamw"))
    assert from_mapping(Outer, to_mapping(config)) == config


def test_assignments_nest_and_are_yaml() -> None:
    assert parse_assignments(["steps=5", "inner.rate=1e-1", "scale=[0.2, 1]"]) == {
        "steps": 5,
        "inner": {"rate": "1e-1"},
        "scale": [0.2, 1],
    }
    assert from_mapping(Outer, parse_assignments(["inner.rate=1e-1"])).inner.rate == 0.1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": 5}, 'there is no setting "step"; did you mean "steps"?'),
        ({"inner": {"rat": 1}}, 'there is no setting "inner.rat"; did you mean "rate"?'),
        ({"maybe": {"rat": 1}}, 'there is no setting "maybe.rat"'),
        ({"steps": "many"}, "steps is 'many'"),
        ({"inner": {"kind": "adam"}}, "inner.kind is 'adam'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_one_clear_line(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_an_assignment() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments(["steps"])


def test_merge_keeps_sections() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}}) == {"a": {"x": 1, "y": 3}, "b": 1}


def test_yaml_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: !!python/object/apply:os.getpid []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path / "none.yaml")


@dataclass(frozen=True)
class Grown:
    first: int = 1
    inner: Inner = field(default_factory=Inner, metadata=LATER)
    second: int = field(default=2, metadata=LATER)


def test_settings_that_came_later_do_not_rename_what_was_there_before() -> None:
    assert identity(Grown()) == {"first": 1}
    assert identity(Grown(second=3)) == {"first": 1, "second": 3}
    assert to_mapping(Grown()) == {"first": 1, "inner": to_mapping(Inner()), "second": 2}
    assert from_mapping(Grown, identity(Grown(second=3))) == Grown(second=3)
