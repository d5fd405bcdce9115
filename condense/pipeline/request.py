"""A distillation with every setting filled in, from a recipe: a YAML file, ``--set key=value``, options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from condense.config import from_mapping, merge, to_mapping
from condense.data import DATASETS, DatasetSpec
from condense.errors import ConfigError, suggest
from condense.labels.relabel import LabelConfig
from condense.methods import METHODS
from condense.methods.base import Method
from condense.pipeline.context import DataRequest
from condense.recipes import at_ipc
from condense.shards import SetInfo
from condense.teachers.recipe import TeacherRecipe

__all__ = ["Request", "hurried", "no_smaller", "request_of", "resolve"]

IMAGES = ("root", "size", "channels", "normalisation")
SECTIONS = ("data", "method", "ipc", "sets", "seed", "teacher", "teachers", "labels", *IMAGES)
"""Keys of a recipe that are not settings of its method; `IMAGES` may stand beside ``data`` or inside it."""

PUBLISHED = ("student", "expected")
"""Keys of a recipe that a distillation takes no notice of; see :mod:`condense.recipes`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A distillation with every setting filled in."""

    data: DataRequest
    method: Method
    ipc: int
    sets: int = 1
    seed: int = 0
    teacher: TeacherRecipe
    teachers: tuple[str, ...] = ()
    """Networks of the teachers to be trained, each as ``teacher`` says; none for the one it names."""
    labels: LabelConfig
    without: Mapping[str, float] | None = None
    """Training images that no image may be made of: ``fraction`` and ``seed`` of :func:`condense.data.holdout`."""
    min_accuracy: float | None = None
    """What a teacher must reach; None for the usual bound, see :func:`condense.teachers.check_teacher`."""

    def __post_init__(self) -> None:
        for name in ("ipc", "sets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sets > 1 and not self.method.sets_differ:
            raise ConfigError(
                f"sets is {self.sets}, but {self.method.name} without vary chooses the same images for each; "
                "ask for one set, or leave vary at true"
            )
        if len(set(self.teachers)) < len(self.teachers):
            raise ConfigError(f"teachers names {', '.join(self.teachers)}; expected different networks")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")


def no_smaller(request: Request, spec: DatasetSpec) -> str | None:
    """What to say of a set that would be as large as the data it is to stand for, or larger; None of a smaller one.

    Methods that need real images refuse to make more than there are; those that begin with noise can make any number.
    """
    size, label = min((size, label) for label, size in enumerate(spec.train_sizes))
    if request.ipc < size:
        return None
    return (
        f'ipc is {request.ipc}, but class "{spec.classes[label]}" of {spec.name} has {size} training images: the set '
        f"would be no smaller than the data it stands for; an ipc below {size} makes sense"
    )


def resolve(values: Mapping[str, Any], *, quick: bool = False) -> Request:
    """Check a recipe (a mapping, see `SECTIONS`; every other key is a setting of its method) and fill in defaults.

    ``quick`` lays a budget of seconds below what the recipe says. Raises :class:`ConfigError` for unknown names.
    """
    values = {key: value for key, value in at_ipc(values, None).items() if key not in PUBLISHED}
    for needed in ("data", "method", "ipc"):
        if values.get(needed) is None:
            near = difflib.get_close_matches(needed, [key for key in values if key not in SECTIONS], n=1)
            hint = f'it says "{near[0]}", which does not exist' if near else f"give --{needed}"
            raise ConfigError(f"the recipe says no {needed}; {hint}")
    method = find_method(values["method"])
    given = {key: value for key, value in values.items() if key not in SECTIONS}
    unknown = [key for key in given if key not in {entry.name for entry in fields(method.Config)}]
    if unknown:
        known = [*SECTIONS, *(entry.name for entry in fields(method.Config))]
        raise ConfigError(f'method {method.name} has no setting "{unknown[0]}"; {suggest(unknown[0], known)}')
    given = merge(to_mapping(method.Config()), merge(method.quick if quick else {}, given))
    made = method(from_mapping(method.Config, given))
    data = {"name": values["data"]} if isinstance(values["data"], str) else values["data"]
    plain: dict[str, Any] = {
        "data": {**{key: values[key] for key in IMAGES if key in values}, **data},
        **{key: values[key] for key in ("ipc", "sets", "seed") if key in values},
        "teacher": merge(QUICK_TEACHER if quick else {}, values.get("teacher", {})),
        "labels": merge(merge(to_mapping(usual_labels(made)), QUICK_LABELS if quick else {}), values.get("labels", {})),
        "teachers": networks_of(method, values, quick),
    }
    return from_mapping(_Plain, plain).with_method(made, 0.0 if quick else None)


def usual_labels(method: Method) -> LabelConfig:
    """How a method's sets are labelled if nobody says otherwise."""
    return from_mapping(LabelConfig, merge(to_mapping(LabelConfig()), method.published_labels), "labels")


def networks_of(method: type[Method], values: Mapping[str, Any], quick: bool) -> tuple[str, ...]:
    """The networks of the committee: those of the recipe, else the method's, in a hurry the smallest."""
    if "teachers" in values:
        given = values["teachers"]
        names = (given,) if isinstance(given, str) else given
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"teachers is {given!r}; expected a list of networks, such as [resnet20, convnet3-bn]")
        return tuple(names)
    return QUICK_NETWORKS if quick and method.networks else method.networks


QUICK_NETWORKS = ("resnet8", "convnet3-w32-bn")
QUICK_TEACHER: dict[str, Any] = {"network": "resnet8", "epochs": 2}
QUICK_LABELS: dict[str, Any] = {"epochs": 5}


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """The sections of a recipe that do not depend on the method."""

    data: DataRequest
    ipc: int
    sets: int = 1
    seed: int = 0
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    teachers: tuple[str, ...] = ()
    labels: LabelConfig = field(default_factory=LabelConfig)

    def with_method(self, method: Method, min_accuracy: float | None) -> Request:
        known = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return Request(**known, method=method, min_accuracy=min_accuracy)


def hurried(values: Mapping[str, Any]) -> dict[str, Any]:
    """A published recipe within a budget of seconds: fewer steps and epochs, and the teachers of a hurry."""
    kept = {key: value for key, value in values.items() if key not in ("teacher", "teachers")}
    if "priors" in kept.get("committee", {}):  # of the teachers that are not there
        kept["committee"] = {key: value for key, value in kept["committee"].items() if key != "priors"}
    return merge(kept, {**find_method(values["method"]).quick, "labels": QUICK_LABELS})


def find_method(name: object) -> type[Method]:
    """Raises :class:`ConfigError` for a name that is not in METHODS."""
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f'there is no method "{name}"; {suggest(str(name), METHODS)}')
    return METHODS[name]


def request_of(info: SetInfo, given: DataRequest | None = None) -> DataRequest:
    """The data set that a set was made of: where ``given`` says, or by name if anybody can open it by that.

    The images are wanted as the set has them, unless ``given`` says otherwise.
    """
    values = info.config.get("data", {})
    known = from_mapping(DataRequest, values, "data") if isinstance(values, Mapping) and "name" in values else None
    if given is None:
        if known is None or known.name not in DATASETS:
            raise ConfigError(f'set "{info.name}" was made of {info.spec["name"]}; say where that is with --data')
        return known
    usual = DataRequest(name=given.name, root=given.root)
    if known is None or given != usual:
        return given
    return replace(known, name=given.name, root=given.root)
