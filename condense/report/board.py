"""The figures of running jobs (losses, accuracies) for TensorBoard, an extra."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from condense.engine.executors import Progress, ignore
from condense.engine.job import Task
from condense.errors import ConfigError

__all__ = ["figures_to"]


@contextmanager
def figures_to(folder: Path | str | None) -> Iterator[Progress]:
    """A listener that writes each figure as the scalar ``JOB: STAGE/FIGURE`` over the stage's steps.

    Without a folder it takes no notice.

    Raises :class:`ConfigError` without the package ``tensorboard``.
    """
    if folder is None:
        yield ignore
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError('tensorboard is not installed; pip install "condense-dd[tensorboard]"') from None
    writer = SummaryWriter(str(folder))

    def listen(task: Task, stage: str, done: int, _: int, figures: Mapping[str, float], /) -> None:
        for name, value in figures.items():
            if math.isfinite(value):
                writer.add_scalar(f"{task.title}: {stage}/{name}", value, done)

    try:
        yield listen
    finally:
        writer.close()
