"""A job: something to be computed, named by everything its result depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from condense.files import canonical_json

__all__ = ["Job", "Task", "in_order"]


@dataclass(frozen=True, eq=False)
class Job:
    """``(kind, config, inputs) -> artefact``.

    kind: what is computed; a table of workers knows how.
    config: JSON values the result depends on, including how numbers are computed (device, threads, precision).
    revision: raised when the code behind ``kind`` starts to give other results.
    sources: content hashes of what was supplied from outside (a data set, a folder of weights).
    inputs: jobs whose artefacts are needed, in order.
    groups: how many independent parts are computed at once, and could be computed apart. Not part of the id.
    where: where this machine finds the sources. Not part of the id.
    title: what a person calls it. Not part of the id.
    """

    kind: str
    config: Mapping[str, Any]
    revision: int = 1
    sources: tuple[str, ...] = ()
    inputs: tuple[Job, ...] = ()
    groups: int = 1
    where: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    @property
    def description(self) -> dict[str, Any]:
        """What the id is a hash of; kept in the artefact's manifest."""
        return {
            "kind": self.kind,
            "config": dict(self.config),
            "revision": self.revision,
            "sources": list(self.sources),
            "inputs": [job.id for job in self.inputs],
        }

    @cached_property
    def id(self) -> str:
        """Hex SHA-256 of the description."""
        return hashlib.sha256(canonical_json(self.description).encode()).hexdigest()

    def task(self) -> Task:
        """What the process that does the job has to know."""
        return Task(self.id, self.description, dict(self.where), str(self))

    def __str__(self) -> str:
        return self.title or f"{self.kind} {self.id[:12]}"


@dataclass(frozen=True)
class Task:
    """A job as it travels to the process that does it: nothing but JSON values, its inputs by their ids."""

    id: str
    description: Mapping[str, Any]
    where: Mapping[str, Any]
    title: str

    @property
    def kind(self) -> str:
        return str(self.description["kind"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.description["config"])

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.description["inputs"])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        return cls(**values)

    def __str__(self) -> str:
        return self.title


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Every job and everything below it, once each (by id), inputs before the jobs that need them."""
    seen: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if job.id not in seen:
            for below in job.inputs:
                visit(below)
            seen[job.id] = job

    for job in jobs:
        visit(job)
    return list(seen.values())
