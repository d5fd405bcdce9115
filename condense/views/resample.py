"""Bilinear resampling of batches of images, each by its own rows and columns, in two forms with one result.

Both take images (n, C, H, W) and the source coordinates of every output row (k, H) and column (k, W), each pair for
n/k consecutive images, and give (n, C, H, W) with channels-last strides. Images are float, or bytes, which become
float32 in [0, 1]. The weight of a source pixel is the hat function of its distance; beyond the image everything is 0.
Coordinates are float32 or better whatever the images are: half precision would move them by whole pixels. Gradients
flow to the images, not to the coordinates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Pairs", "by_lines", "by_products", "dense", "pairs", "resample", "sum_pairs"]


def resample(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """In the form that suits the device: sums of lines on a CPU, matrix products elsewhere."""
    form = by_lines if images.device.type == "cpu" else by_products
    return form(images, down, across)


def by_lines(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Every output line is the weighted sum of two lines: of columns first, then of rows.

    Several times as fast as products on a CPU; on CUDA the backward would add atomically, in no order.
    """
    return sum_pairs(images, pairs(down), pairs(across))


class Pairs(NamedTuple):
    """Which two lines of an image each of S output lines is the weighted sum of.

    ``lines`` int32 (k, S, 2), from 0 to S - 1; ``weights`` float (k, S, 2), 0 for lines beyond the image.
    """

    lines: npt.NDArray[np.int32]
    weights: npt.NDArray[np.floating[Any]]

    def numbered(self, n: int) -> tuple[Tensor, Tensor]:
        """Index and weights (n*S, 2) in all lines of n images, one after the other; each of k is for n/k images."""
        k, size, _ = self.lines.shape
        first = np.arange(0, n * size, size, dtype=np.int32).reshape(k, n // max(k, 1), 1, 1)
        index = first + self.lines[:, None]
        weights = self.weights if k == n else self.weights.repeat(n // k, 0)
        return torch.from_numpy(index).view(-1, 2), torch.from_numpy(weights).view(-1, 2)


def pairs(source: Tensor) -> Pairs:
    """The lines to either side of coordinates (k, S). NumPy: these arrays are small, and its calls cost half."""
    at = source.numpy()
    low, size = np.floor(at), at.shape[1]
    index, weights = np.empty((*at.shape, 2), dtype=np.int32), np.empty((*at.shape, 2), dtype=at.dtype)
    index[..., 0], index[..., 1] = low, low + 1
    np.subtract(low + 1, at, out=weights[..., 0])
    np.subtract(1, weights[..., 0], out=weights[..., 1])
    weights *= (index >= 0) & (index < size)
    return Pairs(index.clip(0, size - 1), weights)


def sum_pairs(images: Tensor, down: Pairs, across: Pairs) -> Tensor:
    """:func:`by_lines`, given the lines.

    Those to be summed are always consecutive in memory, so images are stood on their sides for the columns.
    """
    n, c, h, w = images.shape
    sums = sums_with_gradients if torch.is_grad_enabled() and images.requires_grad else sums_at_once
    lines = on_their_sides(images).view(n * w, c * h)
    columns = sums(lines, *across.numbered(n)).view(n, w * c, h)
    rows = sums(turned(columns).view(n * h, w * c), *down.numbered(n))
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def on_their_sides(images: Tensor) -> Tensor:
    """Images (n, C, H, W) as float columns (n, W, C, H), one after the other in memory; bytes become float32 / 255."""
    upright = images.permute(0, 2, 3, 1)
    if not upright.is_contiguous():
        return dense(images.permute(0, 3, 1, 2))
    n, h, w, c = upright.shape
    return turned(dense(upright).view(n, h, w * c)).view(n, w, c, h)


def turned(matrices: Tensor) -> Tensor:
    """``matrices`` (n, a, b), dense, transposed: (n, b, a), dense.

    Shuffling a pixel's channels turns the matrix that they form. For channels-last images PyTorch does it in blocks of
    registers, three to six times as fast as the copy of transposed strides.
    """
    n, a, b = matrices.shape
    pixels = matrices.view(n, 1, 1, a * b).permute(0, 3, 1, 2)
    return torch.channel_shuffle(pixels, a).permute(0, 2, 3, 1).view(n, b, a)


def sums_with_gradients(lines: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The sums of two ``lines`` (m, L) each, by ``index`` and ``weights`` (m, 2): (m, L)."""
    (at, after), (below, above) = index.unbind(1), weights.to(lines.dtype).unsqueeze(2).unbind(1)
    return lines.index_select(0, at).mul_(below).addcmul_(lines.index_select(0, after), above)


def sums_at_once(lines: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """:func:`sums_with_gradients` without gradients, in one pass over memory: three times as fast.

    A sum of weighted lines is what an embedding bag is. In float32 both give the same bits where PyTorch fuses products
    and sums, as it does on x86 with AVX2 or AVX-512.
    """
    starts = torch.arange(0, index.numel(), 2, dtype=index.dtype)
    weights = weights.view(-1).to(lines.dtype)
    return functional.embedding_bag(index.view(-1), lines, starts, mode="sum", per_sample_weights=weights)


def by_products(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """``A_h X A_w^T`` with sparse matrices of weights. Deterministic everywhere, and shapes never change.

    Columns first, while a channel's pixels are together, then rows, over whole lines of all channels: the one copy
    between the two is what turns the images channels-last.
    """
    n, c, h, w = images.shape
    k = len(down)
    lines = dense(images).view(k, -1, w)
    rows, columns = (hats(source).to(lines.dtype) for source in (down, across))
    turned = (lines @ columns.mT).view(n, c, h, w)
    lines = turned.permute(0, 2, 3, 1).reshape(k, n // k, h, w * c)
    return (rows[:, None] @ lines).view(n, h, w, c).permute(0, 3, 1, 2)


def hats(source: Tensor) -> Tensor:
    """Coordinates (k, S) as matrices of weights (k, S, S)."""
    pixels = torch.arange(source.shape[1], device=source.device)
    return (1 - (source.unsqueeze(2) - pixels).abs_()).clamp_(min=0)


def dense(images: Tensor) -> Tensor:
    """The same numbers one after the other in memory; bytes become float32 / 255, put in order while they are bytes."""
    images = images.contiguous()
    return images if images.is_floating_point() else images.float().div_(255)
