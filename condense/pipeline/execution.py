"""Who does the jobs: this process, processes of this machine, a Ray cluster, or this process's share of a job array."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from condense.device import Compute, available_cpus, environments
from condense.engine.executors import Executor, Here, Local
from condense.engine.perform import Settings
from condense.engine.run import Limits
from condense.errors import ConfigError

__all__ = ["Execution"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Nothing here changes a byte of a result.

    workers: processes of this machine; None for this very process. With Ray the most jobs at a time; None for as many
        as its machines have room for.
    gpus: the GPUs that the workers take in turn, by the numbers PyTorch gives them here: with more workers than GPUs
        several share one, whose memory has to do for all. Ray hands out its own.
    share: slice i of n, see :func:`condense.engine.plan.share_of`.
    memory: bytes that a worker may hold; a job that needs more is done in smaller parts, or refused.
    time_limit: seconds after which running jobs are asked to leave a checkpoint, and the run ends.
    checkpoint_every: seconds between the checkpoints of a job.
    ray_address: of a Ray cluster, ``"local"`` for a fresh one of this machine, None for none.
    ray_shared: whether the machines of the cluster see this one's store; ``"auto"`` lets each of them look.
    """

    workers: int | None = None
    gpus: tuple[int, ...] = ()
    share: tuple[int, int] | None = None
    memory: int | None = None
    time_limit: float | None = None
    checkpoint_every: float = 20.0
    ray_address: str | None = None
    ray_shared: Literal["auto"] | bool = "auto"
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if self.time_limit is not None and self.time_limit <= 0:
            raise ConfigError(f"time limit must be above 0 seconds, got {self.time_limit}")
        if self.checkpoint_every <= 0:
            raise ConfigError(f"checkpoint interval must be above 0 seconds, got {self.checkpoint_every}")
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise ConfigError(f"memory is {self.memory} bytes; expected at least {LEAST_MEMORY}, for PyTorch itself")

    @property
    def limits(self) -> Limits:
        deadline = None if self.time_limit is None else self.began + self.time_limit
        return Limits(deadline=deadline, share=self.share)

    @property
    def settings(self) -> Settings:
        return Settings(checkpoint_every_s=self.checkpoint_every, memory=self.memory)

    def executor(self, compute: Compute) -> Executor:
        """A fresh one. A memory budget can only be kept by a process that may be ended, so it takes one at least."""
        if self.ray_address is not None:
            return self._ray(self.ray_address, compute)
        if self.workers is None and self.memory is None:
            return Here(self.limits.deadline)
        workers = self.workers or 1
        return Local(workers, environments(compute, self.gpus, workers))

    def _ray(self, address: str, compute: Compute) -> Executor:
        """A job takes as many CPUs as it has threads, and a whole GPU if it computes on one."""
        from condense.engine.executors.ray import Ray

        workers = self.workers
        if address == "local" and workers is None:
            workers = max(1, available_cpus() // compute.threads)
        gpus = 1 if compute.torch_device.type == "cuda" else 0
        return Ray(address, cpus=compute.threads, gpus=gpus, workers=workers, shared=self.ray_shared)


LEAST_MEMORY = 10**9
