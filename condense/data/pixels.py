"""From stored bytes to what networks take: pixels in [0, 1], then normalised values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from condense.data.spec import DatasetSpec

__all__ = ["normalise", "to_image", "to_pixels"]


def to_pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images uint8 (N, H, W, C) -> float32 (N, C, H, W) in [0, 1] on the CPU.

    The strides are those of channels-last, (H*W*C, 1, W*C, C), also for one channel, where torch could not tell the
    two memory formats apart by the shape.
    """
    return scaled(images).permute(0, 3, 1, 2)


def to_image(image: npt.NDArray[np.uint8]) -> Tensor:
    """One image uint8 (H, W, C) -> float32 (C, H, W) in [0, 1], as :func:`to_pixels` does it for many."""
    return scaled(image).permute(2, 0, 1)


def scaled(images: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 -> float32 / 255, same shape, dense. NumPy divides, since a call of PyTorch costs more than an image."""
    floats = images.astype(np.float32, order="C")
    floats /= 255
    return torch.from_numpy(floats)


def normalise(pixels: Tensor, spec: DatasetSpec) -> Tensor:
    """(pixels - mean) / std per channel; (..., C, H, W) in and out, on the pixels' device, in their dtype.

    Keeps strides and gradients.
    """
    mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return (pixels - mean) / std
