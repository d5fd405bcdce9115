"""Steps of unchanging shapes on a GPU: recorded once as a CUDA graph, then begun with one launch.

A step of a small network is hundreds of kernels that run for microseconds; to ask for each of them from Python takes
longer than to run it. A graph holds the same kernels with the same arguments, so its results are those of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["Recorded"]

Step = Callable[..., tuple[Tensor, ...]]

WARM = 3
"""Calls before a recording: by then libraries have their workspaces and optimisers their state."""

recording = True
"""Whether anything is recorded: off, to measure and to test what recordings are worth."""


class Recorded:
    """Calls of a step that works in place on what it holds (a network, an optimiser) and on the tensors it is given.

    All calls must be on one stream, as ``Compute.applied()`` sets one. That a step cannot be recorded, since it reads a
    number back, is found when it is tried, and from then on it is called as it is; as everything is on a CPU.

    ``most``: recordings that are held at most, each with the memory of a step; other calls are not recorded.
    """

    def __init__(self, device: torch.device, most: int = 4) -> None:
        self._calls: dict[Hashable, _Call] = {}
        self._most = most if device.type == "cuda" else 0

    def __call__(self, kind: Hashable, step: Step, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``step(*inputs)``; results are valid until the next call.

        ``kind``: everything besides the shapes of ``inputs`` that the step's course depends on.
        """
        known = (kind, *((tuple(one.shape), one.dtype, one.stride()) for one in inputs))
        if not recording or (known not in self._calls and len(self._calls) >= self._most):
            return step(*inputs)
        return self._calls.setdefault(known, _Call())(step, inputs)

    def count(self) -> int:
        """Recordings so far."""
        return sum(call.graph is not None for call in self._calls.values())


class _Call:
    """One kind of call, with the tensors that its recording reads and writes."""

    def __init__(self) -> None:
        self.count = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: tuple[Tensor, ...] = ()
        self.possible = True

    def __call__(self, step: Step, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.count += 1
        if self.graph is None and self.possible and self.count > WARM:
            self._record(step, inputs)
        if self.graph is None:
            return step(*inputs)
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        return self.outputs

    def _record(self, step: Step, inputs: tuple[Tensor, ...]) -> None:
        """Recording runs nothing, so the call is still to be made afterwards."""
        held, graph = tuple(one.clone() for one in inputs), torch.cuda.CUDAGraph()
        self.possible = False
        with contextlib.suppress(RuntimeError):
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                outputs = step(*held)
            self.graph, self.inputs, self.outputs = graph, held, outputs
