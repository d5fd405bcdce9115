"""Settings: frozen dataclasses built from nested mappings (YAML files, ``--set key=value``) and back.

Unknown keys are refused with the nearest known one, wrong types with the value and what was expected. Ranges are
checked by the dataclasses themselves when they are built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from condense.errors import ConfigError, suggest

__all__ = [
    "LATER",
    "from_mapping",
    "identity",
    "merge",
    "parse_assignments",
    "read_yaml",
    "to_mapping",
    "with_defaults",
]

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass ``cls`` from plain values.

    ``where`` is the dotted name of the section, for messages. Nested dataclasses take nested mappings.
    Raises :class:`ConfigError`.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(cls, values, where)
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([*([where] if where else []), *(str(part) for part in first["loc"])])
        raise ConfigError(f"{key or cls.__name__} is {first['input']!r}: {first['msg'].lower()}") from None


def _refuse_unknown(cls: type[Any], values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    prefix = f"{where}." if where else ""
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f'there is no setting "{prefix}{key}"; {suggest(key, fields)}')
        for inner in (hints[key], *getattr(hints[key], "__args__", ())):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type) and isinstance(value, Mapping):
                _refuse_unknown(inner, value, f"{prefix}{key}")


LATER = {"later": True}
"""Metadata of a field that came after results had been named without it; see :func:`identity`."""


def with_defaults(cls: type[Any], name: str, doc: str, **defaults: Any) -> type[Any]:
    """A dataclass ``name`` with the fields and checks of ``cls``, of which some have other defaults."""
    known = {entry.name: entry for entry in dataclasses.fields(cls)}
    changed = {
        key: dataclasses.field(default=value, metadata={**known[key].metadata}) for key, value in defaults.items()
    }
    kinds = {key: cls.__dataclass_fields__[key].type for key in defaults}
    body = {"__doc__": doc, "__module__": cls.__module__, "__annotations__": kinds, **changed}
    return dataclasses.dataclass(frozen=True, kw_only=True)(type(name, (cls,), body))


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as plain JSON values (tuples become lists), the inverse of :func:`from_mapping`."""
    return _mapping(config, whole=True)


def identity(config: Any) -> dict[str, Any]:
    """What a config is called in the names of results: :func:`to_mapping` without :data:`LATER` fields at defaults.

    So what was made before a setting existed keeps its name, and is found again. :func:`from_mapping` takes it, too.
    """
    return _mapping(config, whole=False)


def _mapping(config: Any, *, whole: bool) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(config) if field.init]
    return {
        field.name: _plain(getattr(config, field.name), whole=whole)
        for field in fields
        if whole or not field.metadata.get("later") or getattr(config, field.name) != _default(field)
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any, *, whole: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping(value, whole=whole)
    if isinstance(value, tuple | list):
        return [_plain(item, whole=whole) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, whole=whole) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["steps=500", "labels.epochs=100"]`` -> ``{"steps": 500, "labels": {"epochs": 100}}``; values are YAML."""
    import yaml

    out: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f'--set "{text}" is not an assignment; expected key=value, for example --set steps=500')
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f'--set "{text}": the value is not valid YAML') from None
        nested: Any = parsed
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        out = merge(out, nested)
    return out


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, section by section."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe file: a YAML mapping, read by the safe loader (no code runs)."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"recipe {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"recipe {path} holds {type(values).__name__}; expected a mapping of settings")
    return {str(key): value for key, value in values.items()}
