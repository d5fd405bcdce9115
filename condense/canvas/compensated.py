"""Real images that stay as they are, and what is added to one of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.canvas.pixels import Pixels
from condense.data.spec import DatasetSpec

__all__ = ["Compensated", "compensated_columns"]

GREATEST = 255
"""Levels beyond which a compensator changes nothing more: any sum with it is clipped to black or white."""


class Compensated:
    """One compensator for each group, added to all images of the group (INFER, arXiv 2408.06927, section 3).

    ``originals``: (G, B, C, H, W), normalised by ``spec``; they are not changed. ``values``: the compensators
    (G, 1, C, H, W), in normalised space, by default zeros.

    Sums are kept to no range while they are optimised, as in the paper. What is stored are whole levels, and sums are
    clipped when they are decoded, so an item may differ from the image that was optimised.
    """

    def __init__(self, originals: Tensor, spec: DatasetSpec, values: Tensor | None = None) -> None:
        self.spec = spec
        self.originals = originals
        self.values = torch.zeros_like(originals[:, :1]) if values is None else values.clone()

    def images(self) -> Tensor:
        return self.originals + self.values

    def project(self) -> None:
        """Nothing: every value is allowed."""

    def rows(self) -> npt.NDArray[np.uint8]:
        """The originals."""
        return Pixels(self.originals, self.spec).rows()

    def compensators(self) -> npt.NDArray[np.int16]:
        """In levels of 255, rounded to the nearest (half to even), -255 to 255: int16 (G, H, W, C)."""
        std = self.values.new_tensor(self.spec.std).view(-1, 1, 1)
        levels = (self.values * std * 255).round().clamp(-GREATEST, GREATEST)
        made: npt.NDArray[np.int16] = levels.to(torch.int16).squeeze(1).permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(made)


def compensated_columns(canvases: Sequence[Compensated]) -> dict[str, npt.NDArray[Any]]:
    """The columns of canvas `compensated` of M canvases over the same originals, G groups of B images.

    ``images`` uint8 (G*B, H, W, C), group by group; ``compensators`` int16 (G*M, H, W, C), group by group and within a
    group canvas by canvas; ``uses`` uint32 (G*B, M): an image uses those of its group.
    """
    groups, images = canvases[0].originals.shape[:2]
    stacked = np.stack([canvas.compensators() for canvas in canvases], axis=1)
    numbers = np.arange(groups * len(canvases), dtype="<u4").reshape(groups, len(canvases))
    return {
        "images": canvases[0].rows(),
        "uses": np.repeat(numbers, images, axis=0),
        "compensators": stacked.reshape(-1, *stacked.shape[2:]).astype("<i2"),
    }
