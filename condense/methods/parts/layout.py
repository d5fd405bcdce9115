"""How a job's images lie in batches: what is matched together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from condense.methods.base import SynthesisJob

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """How a job's images, slots x classes, lie in groups: what is matched together.

    ``groups``: what names each, (set, slot, first class). ``targets``: (G, B).
    """

    by_slot: bool
    shape: tuple[int, int]
    across: bool
    groups: list[tuple[int, int, int]]
    targets: list[list[int]]

    @classmethod
    def of(cls, job: SynthesisJob, batch: str) -> Layout:
        slots, classes = job.slots, list(job.classes)
        shape = (len(slots), len(classes))
        if batch == "slot":
            groups = [(job.set_index, slot, classes[0]) for slot in slots]
            return cls(True, shape, False, groups, [classes] * len(slots))
        if batch == "class":
            groups = [(job.set_index, slots[0], label) for label in classes]
            return cls(False, shape, True, groups, [[label] * len(slots) for label in classes])
        return cls(False, shape, False, [(job.set_index, slots[0], classes[0])], [classes * len(slots)])

    def arrange(self, images: Tensor) -> Tensor:
        """(slots, classes, C, H, W) -> (G, B, C, H, W)."""
        laid = images.transpose(0, 1) if self.across else images
        return laid.reshape(len(self.groups), -1, *images.shape[2:]).contiguous()

    def restore(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Rows group by group -> slot by slot."""
        if not self.across:
            return rows
        slots, classes = self.shape
        whole = rows.reshape(classes, slots, *rows.shape[1:]).swapaxes(0, 1)
        return np.ascontiguousarray(whole.reshape(rows.shape))
