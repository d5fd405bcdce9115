"""From stored bytes to what networks take: pixels in [0, 1], then normalised values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from condense.data.spec import DatasetSpec

__all__ = ["normalise", "to_pixels"]


def to_pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """Images uint8 (N, H, W, C) -> float32 (N, C, H, W) in [0, 1] on the CPU.

    The strides are those of channels-last, (H*W*C, 1, W*C, C), also for one channel, where torch could not tell the
    two memory formats apart by the shape.
    """
    scaled = torch.from_numpy(images.astype(np.float32, order="C")).div_(255)
    count, height, width, channels = scaled.shape
    size, strides = (count, channels, height, width), (height * width * channels, 1, width * channels, channels)
    return scaled.as_strided(size, strides)


def normalise(pixels: Tensor, spec: DatasetSpec) -> Tensor:
    """(pixels - mean) / std per channel; (..., C, H, W) in and out, on the pixels' device, in their dtype.

    Keeps strides and gradients.
    """
    mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return (pixels - mean) / std
