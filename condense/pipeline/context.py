"""What a process works with: a store, a device, a way to say how far it is, and the data sets it has opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from condense.data import Data, open_data
from condense.device import Compute
from condense.engine.job import Job
from condense.engine.store import Store
from condense.progress import Report, silent
from condense.teachers import Teacher, load_teacher

__all__ = ["Context", "DataRequest"]


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
    """``opened`` is filled as data sets are asked for."""

    store: Store
    compute: Compute
    report: Report = silent
    cache: Path | None = None
    opened: dict[DataRequest, Data] = field(default_factory=dict)

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

    def data_of(self, job: Job) -> Data:
        """The data set that a job was made for."""
        return self.data(DataRequest(**job.where["data"]))

    def teachers(self, folders: Sequence[Path]) -> list[Teacher]:
        return [load_teacher(folder, self.compute.torch_device) for folder in folders]
