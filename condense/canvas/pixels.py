"""Images that are their own pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.data.pixels import normalise, to_pixels
from condense.data.spec import DatasetSpec
from condense.seeding import torch_generator

__all__ = ["Pixels", "noise_start", "real_start"]


class Pixels:
    """Pixels in normalised space, kept to what a normalised image in [0, 1] can hold.

    ``start``: (G, B, C, H, W), normalised by ``spec``; it is not changed.
    """

    def __init__(self, start: Tensor, spec: DatasetSpec) -> None:
        self.values = start.clone()
        self.mean, self.std = (start.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
        self.low, self.high = -self.mean / self.std, (1 - self.mean) / self.std

    def images(self) -> Tensor:
        return self.decode(self.values)

    def decode(self, values: Tensor) -> Tensor:
        """The images that ``values``, or some of them, stand for."""
        return values

    def project(self) -> None:
        self.values.clamp_(self.low, self.high)

    def rows(self) -> npt.NDArray[np.uint8]:
        """Rounded to the nearest of 256 levels (half to even), channels last: uint8 (G*B, H, W, C)."""
        levels = (self.values * self.std + self.mean).clamp(0, 1).mul(255).round()
        made: npt.NDArray[np.uint8] = levels.to(torch.uint8).flatten(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(made)


def noise_start(
    spec: DatasetSpec, slots: tuple[int, ...], classes: tuple[int, ...], *, seed: int, set_index: int
) -> Tensor:
    """N(0, 1) in normalised space, float32 (slots, classes, C, H, W).

    Every image has its own stream, keyed by (set, slot, class), so neither grouping nor chunking changes it.
    """
    shape = (spec.channels, spec.height, spec.width)
    images = [
        torch.randn(shape, generator=torch_generator(seed, "noise start", set_index, slot, label))
        for slot in slots
        for label in classes
    ]
    return torch.stack(images).view(len(slots), len(classes), *shape)


def real_start(images: npt.NDArray[np.uint8], spec: DatasetSpec) -> Tensor:
    """Images uint8 (slots, classes, H, W, C), normalised: float32 (slots, classes, C, H, W)."""
    flat = normalise(to_pixels(images.reshape(-1, *spec.image_shape)), spec)
    return flat.contiguous(memory_format=torch.contiguous_format).view(*images.shape[:2], *flat.shape[1:])
