"""A training step that a GPU replays as it was recorded: one launch in the place of a hundred."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condense.matching.steps import Step

__all__ = ["Recorded"]

WARM_UP = 3
"""Steps before the recording, in which libraries choose what they run and buffers come to be."""


class Recorded:
    """``take``, a step of training, on batches of the shape of ``like``, as a CUDA graph.

    What ``take`` changes has to lie where it lies until the end: ``state`` gives it by name, and after the recording it
    is as before; what first came to be in it is 0. The numbers are those of ``take`` itself.
    """

    def __init__(self, take: Callable[[Step], None], like: Step, state: Callable[[], dict[str, Tensor]]) -> None:
        before = {name: value.clone() for name, value in state().items()}
        self.held = like.held()
        current, stream = torch.cuda.current_stream(like.images.device), torch.cuda.Stream(like.images.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                take(self.held)
        current.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            take(self.held)
        with torch.no_grad():
            for name, value in state().items():
                value.copy_(before[name]) if name in before else value.zero_()

    def __call__(self, step: Step) -> None:
        self.held.fill(step)
        self.graph.replay()
