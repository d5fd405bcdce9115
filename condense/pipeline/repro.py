"""Recipes of evaluations: everything that was asked for and what came out, in a file that can be run again.

A recipe is YAML. ``sets`` are folders with the hash of their ``set.json``, or ``distill`` is the recipe that makes
them; ``evaluate`` holds the arguments of :func:`condense.pipeline.evaluate`; ``expected`` the accuracies that were
measured, ``compute`` and ``versions`` with what. Paths are relative to the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from condense.config import from_mapping, read_yaml
from condense.dataset import load
from condense.engine.store import Store
from condense.errors import ConfigError, DataError, TeacherError
from condense.evaluation.results import Evaluation, Result, versions
from condense.evaluation.student import StudentRecipe
from condense.files import disk_errors, sha256_file
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.plans import set_hash
from condense.pipeline.request import resolve
from condense.pipeline.sets import distill
from condense.pipeline.students import evaluate
from condense.pipeline.teachers import stored_teachers
from condense.shards import sets_in

__all__ = ["Agreement", "repro", "write_recipe"]

TOLERANCE = 0.02
"""How far the mean of a row may be from the stored one on another machine or with other versions, as a fraction."""

ARGUMENTS = ("students", "seeds", "targets", "tracks", "against", "student", "together", "quick")
ROW = ("data", "ipc", "condition", "student", "targets", "track")


@dataclass(frozen=True)
class Agreement:
    """One row of a recipe, measured again: the means of its runs, and the greatest difference of a single one.

    ``exact``: whether machine and versions are those of the stored result. ``measured`` is None where runs are missing.
    """

    row: Mapping[str, Any]
    runs: int
    stored: float
    measured: float | None
    worst: float
    exact: bool

    @property
    def agrees(self) -> bool:
        if self.measured is None:
            return False
        return self.worst <= 1e-12 if self.exact else abs(self.measured - self.stored) <= TOLERANCE

    @property
    def title(self) -> str:
        row = self.row
        return (
            f"{row['condition']}, {row['data']}, IPC {row['ipc']}, {row['student']}, {row['track'] or row['targets']}"
        )


def write_recipe(
    path: Path,
    paths: Sequence[Path],
    arguments: Mapping[str, Any],
    data: DataRequest | None,
    teachers: Sequence[Path],
    found: Evaluation,
) -> None:
    """Write how ``found`` came about. ``arguments`` are those of `evaluate` by name; those not given are left out."""
    if not found.results:
        raise ConfigError("there is no result to write a recipe of")
    first, folder = found.results[0], path.absolute().parent

    def relative(one: Path) -> str:
        return os.path.relpath(one.absolute(), folder)

    held = {
        "sets": [{"path": relative(one), "sha256": set_hash(one)} for given in paths for one in sets_in(given)],
        "teachers": [relative(one) for one in teachers],
        "data": {key: value for key, value in asdict(data).items() if value is not None and key != "root"}
        if data
        else None,
        "evaluate": {name: arguments[name] for name in ARGUMENTS if arguments.get(name) is not None},
        "expected": [
            {**{name: getattr(one, name) for name in ROW}, "set": one.set_index, "seed": one.seed}
            | {"accuracy": one.accuracy}
            for one in found.results
        ],
        "compute": dict(first.compute),
        "versions": dict(first.versions),
    }
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(held, sort_keys=False, allow_unicode=True), encoding="utf-8")


def repro(
    path: Path, context: Context, *, data: DataRequest | None = None, teachers: Sequence[Path] = ()
) -> list[Agreement]:
    """Run a recipe again and compare row by row. Nothing that the store has finished is believed, teachers apart.

    data, teachers: where they are on this machine, if not where the recipe says. The same machine and versions must
    give the same accuracies, others the same means within 2 points. Raises :class:`ConfigError` for a file that is no
    recipe, :class:`DataError` for a set that is not the one of the recipe.
    """
    if path.suffix == ".jsonl":
        raise ConfigError(f"{path} holds results; give what condense evaluate --recipe wrote beside them")
    held = read_yaml(path)
    missing = {"evaluate", "expected"} - held.keys()
    if missing or not ({"sets", "distill"} & held.keys()):
        odd = ", ".join(sorted(missing)) or "sets, and no distill"
        raise ConfigError(f"{path} is no recipe of an evaluation: it has no {odd}")
    expected = checked_expected(held["expected"], path)
    arguments = dict(held["evaluate"])
    for name in arguments:
        if name not in ARGUMENTS:
            raise ConfigError(f'{path}: evaluate has the unknown "{name}"; expected {", ".join(ARGUMENTS)}')
    if "student" in arguments:
        arguments["student"] = from_mapping(StudentRecipe, arguments["student"], "student")
    request = data or (from_mapping(DataRequest, held["data"], "data") if held.get("data") else None)
    with afresh(context, path) as fresh:
        sets = sets_of(held, path, fresh)
        known = list(teachers) or [path.parent / one for one in held.get("teachers", [])]
        known = known or teachers_in(context, sets[0])
        found = evaluate(sets, fresh, data=request, teachers=known, **arguments)
    exact = held.get("compute") == context.compute.identity() and held.get("versions") == versions()
    return compared(expected, found.results, exact)


@contextmanager
def afresh(context: Context, path: Path) -> Iterator[Context]:
    """The context with an empty store beside its own, which an interrupted run leaves for the next."""
    root = context.store.root
    scratch = root.with_name(f"{root.name}-repro") / sha256_file(path)[:16]
    fresh = replace(context, store=Store(scratch))
    try:
        yield fresh
    finally:
        fresh.close()
    shutil.rmtree(scratch, ignore_errors=True)


def teachers_in(context: Context, path: Path) -> list[Path]:
    """The teachers that labelled a set, where the store has them; none where it does not, or nobody did."""
    try:
        return [Path(job.where["folder"]) for job in stored_teachers(load(path).info, context)]
    except TeacherError:
        return []


def checked_expected(values: Any, path: Path) -> list[dict[str, Any]]:
    needed = {*ROW, "set", "seed", "accuracy"}
    right = isinstance(values, list) and all(isinstance(one, dict) and needed <= one.keys() for one in values)
    if not right or not values:
        raise ConfigError(f"{path}: expected holds no list of results with {', '.join(sorted(needed))}")
    return list(values)


def sets_of(held: Mapping[str, Any], path: Path, context: Context) -> list[Path]:
    """The sets of a recipe: found where it says and checked, or made."""
    if "sets" not in held:
        return distill(resolve(held["distill"]), context, out=path.parent / f"{path.stem}-sets")
    folders = []
    for one in held["sets"]:
        folder = path.parent / one["path"]
        if not (folder / "set.json").is_file():
            raise DataError(f"{folder} is no set, but {path} needs the one with hash {one['sha256'][:12]} there")
        if set_hash(folder) != one["sha256"]:
            raise DataError(f"{folder} is another set than the one of {path} (hash {one['sha256'][:12]})")
        folders.append(folder)
    return folders


def compared(expected: Sequence[Mapping[str, Any]], results: Sequence[Result], exact: bool) -> list[Agreement]:
    """A row of the recipe against the same runs, measured again."""
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in expected:
        rows.setdefault(tuple(one[name] for name in ROW), []).append(one)
    measured = {(*(getattr(one, name) for name in ROW), one.set_index, one.seed): one.accuracy for one in results}
    agreements = []
    for row, runs in rows.items():
        again = [measured.get((*row, one["set"], one["seed"])) for one in runs]
        whole = [value for value in again if value is not None]
        apart = [abs(now - one["accuracy"]) for now, one in zip(again, runs, strict=True) if now is not None]
        agreements.append(
            Agreement(
                row=dict(zip(ROW, row, strict=True)),
                runs=len(runs),
                stored=fmean(one["accuracy"] for one in runs),
                measured=fmean(whole) if len(whole) == len(runs) else None,
                worst=max(apart, default=1.0),
                exact=exact,
            )
        )
    return agreements
