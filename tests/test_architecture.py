"""Imports point one way, and the parts that promise to know nothing of others keep to it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import condense

PACKAGE = Path(condense.__file__).parent

LAYERS = [
    {"errors"},
    {"seeding", "progress", "quantities", "files", "device", "memory", "callables", "untrusted"},
    {"checkpoint", "config", "console"},
    {"data", "networks"},
    {"recorded"},
    {"training"},
    {"views", "canvas", "objectives", "teachers"},
    {"labels", "inversion", "selection", "starts"},
    {"matching"},
    {"methods", "dataset", "engine"},
    {"evaluation", "exchange"},
    {"report", "recipes"},
    {"pipeline"},
    {"api"},
    {"cli", "__main__", "__init__"},
]
"""A part may import from its own layer and from every layer above it in this list (the lower ones)."""

ONLY = {
    "shards": {"errors"},
    "engine": {"errors", "files", "memory", "checkpoint", "progress"},
    "views": {"errors", "seeding", "device"},
    "data": {"errors", "seeding", "files", "progress", "callables"},
    "networks": {"errors", "seeding", "callables"},
}
"""Parts that import nothing of the package beyond these."""

FORBIDDEN_OUTSIDE = {"shards": {"torch", "torchvision"}, "engine": {"torch"}}


def parts_and_imports() -> dict[str, set[str]]:
    """Top-level part -> the modules imported anywhere in its files (also inside functions)."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        names = found.setdefault(part, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: relative import"
                names.add(node.module)
                if node.module == "condense":
                    names.update(f"condense.{alias.name}" for alias in node.names)
    return found


IMPORTS = parts_and_imports()


def inside(part: str) -> set[str]:
    """The other parts of the package that ``part`` imports."""
    used = {name.split(".")[1] for name in IMPORTS[part] if name.startswith("condense.")}
    return used - {part}


@pytest.mark.parametrize("part", sorted(IMPORTS))
def test_imports_point_one_way(part: str) -> None:
    if part == "shards":
        return
    (level,) = [number for number, layer in enumerate(LAYERS) if part in layer]
    allowed = set().union(*LAYERS[: level + 1])
    if level >= LAYERS.index({"labels", "inversion", "selection", "starts"}):
        allowed.add("shards")
    assert inside(part) <= allowed, f"{part} reaches up to {sorted(inside(part) - allowed)}"


@pytest.mark.parametrize("part", sorted(ONLY))
def test_parts_that_promise_to_know_little(part: str) -> None:
    assert inside(part) <= ONLY[part]


@pytest.mark.parametrize("part", sorted(FORBIDDEN_OUTSIDE))
def test_parts_without_torch(part: str) -> None:
    assert not {name.split(".")[0] for name in IMPORTS[part]} & FORBIDDEN_OUTSIDE[part]


def test_engine_and_evaluation_know_no_method() -> None:
    for part in ("engine", "evaluation"):
        assert "methods" not in inside(part)
