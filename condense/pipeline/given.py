"""Sets that are to be compared: opened, named, and who labelled them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense.config import to_mapping
from condense.data import Data
from condense.dataset import DistilledDataset, load
from condense.engine.job import Job
from condense.errors import TeacherError
from condense.labels.relabel import LabelConfig
from condense.pipeline.context import Context
from condense.pipeline.teachers import given_teachers, stored_teachers
from condense.shards import sets_in

__all__ = ["Given", "condition_names", "label_words", "opened_sets", "teachers_for"]


@dataclass(frozen=True)
class Given:
    """A set to be evaluated. ``index``: which of the repetitions of its condition it is."""

    path: Path
    dataset: DistilledDataset
    index: int

    @property
    def method(self) -> str:
        return str(self.dataset.info.method["name"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its method."""
        return dict(self.dataset.info.config.get("settings", {}))

    @property
    def ipc(self) -> int:
        return len(self.dataset) // len(self.dataset.classes)

    @property
    def root(self) -> int:
        """The seed that it was made from."""
        return int(self.dataset.info.seeds.get("root", 0))

    @property
    def labels(self) -> LabelConfig:
        """How the set was labelled."""
        return self.dataset.label_config


def opened_sets(paths: Sequence[Path]) -> list[Given]:
    """Every set that the paths name, opened and checked."""
    found: list[Given] = []
    for path in paths:
        for folder in sets_in(path):
            dataset = load(folder)
            found.append(Given(folder, dataset, int(dataset.info.seeds.get("set", len(found)))))
    return found


def condition_names(given: Sequence[Given]) -> dict[Path, str]:
    """The method's name, with the settings in which sets of one method differ; of an imported set its own."""
    names = {}
    for one in given:
        if one.method == "imported":
            names[one.path] = one.dataset.info.name
            continue
        own = one.settings
        settings = [other.settings for other in given if other.method == one.method]
        differing = sorted(key for key in own if any(other.get(key) != own[key] for other in settings))
        words = ", ".join(f"{key} {own[key]}" for key in differing)
        names[one.path] = f"{one.method} ({words})" if words else one.method
    return names


def label_words(given: Sequence[Given]) -> Callable[[Given], str]:
    """What to add to the name of a condition, of these sets or of real images beside them: ``" [codec int8]"``.

    The settings in which labels differ among sets of one size and number, which would else pass for one another; mostly
    there are none, and nothing is added.
    """
    alike: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for one in given:
        alike.setdefault((one.ipc, one.index), []).append(flat(to_mapping(one.labels)))
    keys = {key for some in alike.values() for one in some for key in one if one[key] != some[0].get(key)}

    def words(one: Given) -> str:
        own = flat(to_mapping(one.labels))
        said = ", ".join(f"{key} {own[key]}" for key in sorted(keys) if key in own)
        return f" [{said}]" if said else ""

    return words


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"views": {"mix": "none"}}`` -> ``{"views.mix": "none"}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def teachers_for(one: Given, data: Data, context: Context, folders: Sequence[Path]) -> tuple[Job, ...]:
    """The teachers that labelled a set, so that real images are labelled by the same."""
    if not folders and not one.dataset.info.teachers:
        if not one.dataset.codec.online:
            raise TeacherError(
                f"{one.path} does not say who labelled it; give teachers with --teacher, or say --against none"
            )
        return ()
    if not folders:
        return stored_teachers(one.dataset.info, context)
    jobs = given_teachers(data.spec, folders)
    wanted = [teacher["sha256"] for teacher in one.dataset.info.teachers]
    if wanted and [job.config["sha256"] for job in jobs] != wanted:
        raise TeacherError(f"{one.path} was labelled by other teachers than those of --teacher; give the same ones")
    return jobs
