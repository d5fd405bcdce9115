"""Parts of images, each cut out by a box of its own and brought to one size.

Equal to torchvision's ``resized_crop`` with antialiasing: where a part shrinks, the hat that weights its pixels is as
wide as they lie closer, so that none is skipped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.views.boxes import Boxes

__all__ = ["cut", "resized"]

BLOCK_VALUES = 1 << 24
"""Most numbers of a block of images that are resized at once."""

GRAIN = 1e-9
"""Of a grey level: more than the rounding of a sum, less than the distance of any other value from a half."""


def cut(
    images: npt.NDArray[np.uint8], boxes: Boxes, size: tuple[int, int], device: torch.device | str = "cpu"
) -> npt.NDArray[np.uint8]:
    """The parts ``boxes`` (n, 4) of ``images`` uint8 (n, H, W, C), resized to ``size`` (h, w) and rounded half up.

    uint8 (n, h, w, C). In float64, and what is within `GRAIN` below a half is rounded up too, so that the order of
    sums, which depends on what is cut beside, does not decide ties.
    """
    at_once = max(1, BLOCK_VALUES // images[:1].size) if len(images) else 1
    parts = [np.empty((0, *size, images.shape[3]), dtype=np.uint8)]
    for start in range(0, len(images), at_once):
        some = torch.from_numpy(np.ascontiguousarray(images[start : start + at_once])).to(device)
        box = torch.from_numpy(boxes[start : start + at_once]).to(device)
        made = resized(some.permute(0, 3, 1, 2).double(), box, size).add_(0.5 + GRAIN).floor_().clamp_(0, 255)
        parts.append(made.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.ascontiguousarray(np.concatenate(parts))


def resized(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``images`` (n, C, H, W) float, ``boxes`` integer (n, 4): top, left, height, width -> (n, C, *size)."""
    top, left, tall, wide = boxes.to(images.dtype).unsqueeze(2).unbind(1)
    down, across = _weights(top, tall, images.shape[2], size[0]), _weights(left, wide, images.shape[3], size[1])
    return down[:, None] @ (images @ across.mT[:, None])


def _weights(start: Tensor, length: Tensor, lines: int, size: int) -> Tensor:
    """What each of ``size`` output lines takes of ``lines`` source lines, from the box's alone: (n, size, lines).

    ``start`` and ``length`` (n, 1).
    """
    source = torch.arange(0.5, lines, device=start.device, dtype=start.dtype) - start
    centres = torch.arange(0.5, size, device=start.device, dtype=start.dtype) * (length / size)
    reach = (length / size).clamp(min=1)[:, :, None]
    hats = (1 - (source[:, None] - centres[:, :, None]).abs() / reach).clamp_(min=0)
    inside = (source > 0) & (source < length)
    hats = hats * inside[:, None]
    return hats / hats.sum(2, keepdim=True)
