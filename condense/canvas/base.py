"""What is optimised, as opposed to the images it stands for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["Canvas"]


class Canvas(Protocol):
    """A tensor to optimise and the images it gives: G independent groups of B images.

    ``values`` is the tensor, float32 or wider, its first axis the groups. It may be replaced by one of another shape.
    """

    values: Tensor

    def images(self) -> Tensor:
        """Normalised images (G, B, C, H, W), differentiable in ``values``."""

    def project(self) -> None:
        """Move ``values``, in place, to the nearest ones that are allowed."""

    def rows(self) -> npt.NDArray[np.uint8]:
        """What is stored: uint8 (G*B, H, W, C), group by group."""
