"""Views drawn on images by two small matrix products per crop.

A bilinear resized crop is ``A_h X A_w^T`` with sparse interpolation matrices built from its box; flips and rolls only
reorder the rows of these matrices. Unlike sampling kernels, whose backward adds atomically on CUDA, products are
deterministic, and shapes never change. Equal to torchvision's ``resized_crop`` (bilinear): a crop is never larger than
the image, so antialiasing has nothing to do.

Images are (n, C, H, W), any float dtype; results have channels-last strides.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from condense.views.boxes import Boxes
from condense.views.plan import EpochPlan

__all__ = ["channels_last", "crop_flip", "render"]


def channels_last(images: Tensor) -> Tensor:
    """The same images with strides (H*W*C, 1, W*C, C), also where one channel leaves torch the choice."""
    n, c, h, w = images.shape
    return images.permute(0, 2, 3, 1).flatten().view(n, h, w, c).permute(0, 3, 1, 2)


def axis_matrices(start: Tensor, length: Tensor, size: int, flip: Tensor | None, roll: Tensor | None) -> Tensor:
    """(k, ``size``, ``size``) matrices: crop [start, start + length) resized to ``size``, then flipped, then rolled.

    ``start`` and ``length`` (k, 1) are float. Output pixel o reads the source coordinate (o + 0.5) length/size - 0.5,
    kept inside the box; its two neighbours get the weights of a hat function. Beyond the image there is no column, so
    boxes that stick out (``pad``) read zeros there.
    """
    pixels = torch.arange(size, device=start.device)
    reads = pixels if roll is None else (pixels - roll) % size
    reads = reads if flip is None else torch.where(flip, size - 1 - reads, reads)
    inside = (reads + 0.5) * (length / size) - 0.5
    source = start + torch.minimum(inside.clamp(min=0), length - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp(min=0)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows X columns^T`` with (k, H, H) and (k, W, W) matrices, each pair for n/k consecutive images of n."""
    n, c, h, w = images.shape
    k = len(rows)
    across = (images.reshape(k, -1, w) @ columns.mT).view(n, c, h, w)
    down = (across.transpose(2, 3).reshape(k, -1, h) @ rows.mT).view(n, c, w, h)
    return channels_last(down.transpose(2, 3))


def crop_flip(images: Tensor, boxes: Tensor, flips: Tensor, rolls: Tensor | None = None) -> Tensor:
    """Resized crop, then left-right flip, then wrap-around roll.

    ``images`` (n, C, H, W) float; ``boxes`` integer (k, 4): top, left, height, width; ``flips`` bool (k,); ``rolls``
    integer (k, 2): down, right. k divides n: each view is shared by n/k consecutive images (k = n: one per image;
    k = 1: one for all). Differentiable in ``images``. Runs in their dtype, autocast or not: half precision would move
    the coordinates by whole pixels.
    """
    height, width = images.shape[2:]
    down, right = (None, None) if rolls is None else rolls.unsqueeze(2).unbind(1)
    exact = torch.promote_types(images.dtype, torch.float32)
    top, left, tall, wide = boxes.to(exact).unsqueeze(2).unbind(1)
    with torch.autocast(images.device.type, enabled=False):
        rows = axis_matrices(top, tall, height, None, down).to(images.dtype)
        columns = axis_matrices(left, wide, width, flips[:, None], right).to(images.dtype)
        return resample(images, rows, columns)


def render(images: Tensor, plan: EpochPlan, positions: slice) -> Tensor:
    """The views at ``positions`` of ``plan``: (b, C, H, W) in order of position.

    ``images`` (n_items, C, H, W) are pixels, float in [0, 1] or uint8, which saves memory and becomes float32 / 255.
    Normalise the result, not the input: boxes that stick out read 0. Partners outside ``positions`` (a BatchNorm group
    of a mixed step) are drawn as well, so a part of a step looks the same as in the whole. Differentiable in float
    ``images``.
    """
    own = np.arange(plan.n_items)[positions]
    if (plan.lam[own] == 1.0).all():
        return render_crops(images, plan, own)
    drawn = np.union1d(own, plan.partner[own])
    crops = render_crops(images, plan, drawn).permute(0, 2, 3, 1)
    mine = crops if len(drawn) == len(own) else crops[torch.from_numpy(drawn.searchsorted(own)).to(images.device)]
    partner = torch.from_numpy(drawn.searchsorted(plan.partner[own])).to(images.device)
    if plan.mix_boxes[own].any():
        mixed = paste(mine, crops, partner, plan.mix_boxes[own])
    else:
        lam = torch.from_numpy(plan.lam[own]).to(mine.device, mine.dtype)[:, None, None, None]
        mixed = lam * mine + (1 - lam) * crops[partner]
    return mixed.permute(0, 3, 1, 2)


def paste(mine: Tensor, crops: Tensor, partner: Tensor, boxes: Boxes) -> Tensor:
    """CutMix: ``mine`` (b, H, W, C) with, in each image's box (b, 4), the pixels of ``crops[partner]``.

    The images of a step share one box, so only its pixels are touched, a step at a time.
    """
    mixed = mine.clone()
    edges = [0, *(np.flatnonzero((boxes[1:] != boxes[:-1]).any(1)) + 1).tolist(), len(boxes)]
    for start, stop in pairwise(edges):
        top, left, height, width = boxes[start].tolist()
        area = (slice(None), slice(top, top + height), slice(left, left + width))
        mixed[start:stop][area] = crops[area][partner[start:stop]]
    return mixed


def render_crops(images: Tensor, plan: EpochPlan, positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
    """Crops and flips at ``positions``, not mixed."""
    boxes, flips = plan.boxes[positions], torch.from_numpy(plan.flips[positions]).to(images.device)
    chosen = images[torch.from_numpy(plan.order[positions]).to(images.device)]
    chosen = chosen if chosen.is_floating_point() else chosen.float().div_(255)
    if (boxes == (0, 0, *images.shape[2:])).all():
        return channels_last(torch.where(flips[:, None, None, None], chosen.flip(3), chosen))
    return crop_flip(chosen, torch.from_numpy(boxes).to(images.device), flips)
