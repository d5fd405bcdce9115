"""What a process works with: a store, a device, a way to say how far it is, and the data sets it has opened."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from condense.data import Data, DatasetSpec, open_data
from condense.data.handover import reopen, shelve
from condense.device import Compute
from condense.engine.executors import Executor, Progress, ignore
from condense.engine.job import Task
from condense.engine.perform import Desk
from condense.engine.store import Store
from condense.errors import DataError, DeviceError
from condense.files import canonical_json
from condense.pipeline.execution import Execution
from condense.progress import Report, silent
from condense.teachers import Teacher, load_teacher

__all__ = ["Context", "DataRequest", "at_work", "spec_digest"]


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """Which data set, and how its images are wanted; see :func:`condense.data.open_data`."""

    name: str
    root: str | None = None
    size: int | None = None
    channels: int | None = None
    normalisation: Literal["data", "published"] = "data"


@dataclass
class Context:
    """``opened`` is filled as data sets are asked for. ``execution`` says who does the jobs.

    ``report`` draws how far everything is; ``watch`` is told the same of each job by itself.
    """

    store: Store
    compute: Compute
    report: Report = silent
    watch: Progress = ignore
    cache: Path | None = None
    execution: Execution = field(default_factory=Execution)
    opened: dict[DataRequest, Data] = field(default_factory=dict)

    @cached_property
    def executor(self) -> Executor:
        """Who does this context's jobs, one plan after the other; see `close`."""
        return self.execution.executor(self.compute)

    def close(self) -> None:
        """Let go of worker processes and temporary files, if there are any."""
        if "executor" in vars(self):
            self.executor.stop(1.0)
        if "_shelves" in vars(self):
            self._shelves.cleanup()

    def data(self, request: DataRequest) -> Data:
        """The data set, opened once."""
        if request not in self.opened:
            self.opened[request] = open_data(
                request.name,
                root=Path(request.root) if request.root else None,
                cache=self.cache,
                size=request.size,
                channels=request.channels,
                normalisation=request.normalisation,
                report=self.report,
            )
        return self.opened[request]

    def data_of(self, task: Task) -> Data:
        """The data set that a job was made for. Raises :class:`DataError` if this machine has another of its name."""
        data = self.data(DataRequest(**task.where["data"]))
        if spec_digest(data.spec) not in task.description["sources"]:
            raise DataError(
                f"data set {data.spec.name} of this machine is not the one that {task} was planned for; "
                "bring the same files to every machine"
            )
        return data

    def teachers(self, folders: Sequence[Path]) -> list[Teacher]:
        return [load_teacher(folder, self.compute.torch_device) for folder in folders]

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        """Do a job in this process; see :class:`condense.engine.perform.Workshop`.

        Raises :class:`DeviceError` if this machine would compute other bytes than the job was planned for.
        """
        from condense.pipeline.workers import WORKERS

        self._check_same_kind(task)
        with device_peak(self.compute, desk.report):
            WORKERS[task.kind](task, inputs, desk, replace(self, report=desk.report))

    def _check_same_kind(self, task: Task) -> None:
        here = self.compute.identity()
        planned = task.config.get("compute", here)
        for name, value in here.items():
            if planned.get(name) != value:
                raise DeviceError(
                    f"{task} was planned for {name} {planned.get(name)}, but this machine has {value}, which gives "
                    "other bytes; use machines of one kind, with the same software"
                )

    def recipe(self) -> dict[str, Any]:
        """JSON of which :func:`at_work` makes this context in another process."""
        opened = [
            {"request": asdict(request), "spec": data.spec.to_dict(), "folder": str(self._shelf(data, number))}
            for number, (request, data) in enumerate(self.opened.items())
        ]
        one_gpu = {"device": "cuda:0"} if self.compute.torch_device.type == "cuda" else {}  # a worker sees no other
        values = {
            "store": str(self.store.root.absolute()),
            "compute": {**asdict(self.compute), **one_gpu},
            "cache": str(self.cache.absolute()) if self.cache else None,
            "opened": opened,
        }
        return {"entry": "condense.pipeline.context:at_work", "values": values}

    def _shelf(self, data: Data, number: int) -> Path:
        """Where other processes find the images; a temporary folder that lives as long as this context, if need be."""
        return shelve(data, lambda: Path(self._shelves.name) / str(number))

    @cached_property
    def _shelves(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="condense-")


def at_work(values: Mapping[str, Any]) -> Context:
    """The context of :meth:`Context.recipe`. Data that this machine does not have there is opened by its name."""
    from condense.device import keep_buffers

    keep_buffers()
    context = Context(
        store=Store(Path(values["store"])),
        compute=Compute(**values["compute"]),
        cache=Path(values["cache"]) if values["cache"] else None,
    )
    for one in values["opened"]:
        if Path(one["folder"]).is_dir():
            data = reopen(DatasetSpec.from_dict(one["spec"]), Path(one["folder"]))
            context.opened[DataRequest(**one["request"])] = data
    return context


@contextmanager
def device_peak(compute: Compute, report: Report) -> Iterator[None]:
    """On a GPU, report at the end the most bytes that tensors took there meanwhile: in the event log it is told with
    the job."""
    if compute.torch_device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats(compute.torch_device)
    yield
    report("memory", 1, 1, {"device bytes": float(torch.cuda.max_memory_allocated(compute.torch_device))})


def spec_digest(spec: DatasetSpec) -> str:
    """What a data set is called in the ids of jobs."""
    return hashlib.sha256(canonical_json(spec.to_dict()).encode()).hexdigest()
