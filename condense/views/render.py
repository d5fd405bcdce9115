"""Views drawn on images: crops resized to the image's size, flips, rolls and mixes.

A resized crop is bilinear, from rows and columns at coordinates between the pixels; flips and rolls only change which.
Equal to torchvision's ``resized_crop``: a crop is never larger than the image, so antialiasing has nothing to do.

Images are (n, C, H, W), any float dtype; results have channels-last strides.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from condense.views.boxes import Boxes
from condense.views.plan import EpochPlan, Ints
from condense.views.resample import Pairs, dense, pairs, resample, sum_pairs

__all__ = ["channels_last", "crop_flip", "render"]

KNOWN_SIZE = 64
"""Sides up to which all crops are kept: 9 MB for 64 pixels, 1 MB for 32."""


def channels_last(images: Tensor) -> Tensor:
    """The same images with strides (H*W*C, 1, W*C, C), also where one channel leaves torch the choice."""
    n, c, h, w = images.shape
    return images.permute(0, 2, 3, 1).flatten().view(n, h, w, c).permute(0, 3, 1, 2)


def coordinates(start: Tensor, length: Tensor, size: int, flip: Tensor | None, roll: Tensor | None) -> Tensor:
    """Where each of ``size`` output lines lies in the source, (k, ``size``): crop, then flip, then roll.

    ``start`` and ``length`` (k, 1) are float. Output line o of a crop [start, start + length) comes from
    (o + 0.5) length/size - 0.5, kept inside the box. Boxes that stick out (``pad``) have coordinates beyond the image.
    """
    centres = torch.arange(0.5, size, device=start.device, dtype=start.dtype)
    if roll is not None:
        centres = (centres - roll) % size
    if flip is not None:
        centres = torch.where(flip, size - centres, centres)
    inside = torch.addcmul(start - 0.5, centres, length / size)
    return inside.clamp(start, start + length - 1)


@cache
def every_crop(size: int, dtype: torch.dtype) -> Pairs:
    """Lines of every crop of a line of ``size`` pixels: crop number (flip * (size + 1) + length) * size + start.

    Numbers of crops that stick out mean nothing.
    """
    flip, length, start = (
        each.reshape(-1, 1) for each in torch.meshgrid(*map(torch.arange, (2, size + 1, size)), indexing="ij")
    )
    return pairs(coordinates(start.to(dtype), length.to(dtype), size, flip.bool(), None))


def known_crops(start: Ints, length: Ints, size: int, flip: Ints | int, dtype: torch.dtype) -> Pairs:
    """The lines of these crops (k,), looked up."""
    every, numbers = every_crop(size, dtype), (flip * (size + 1) + length) * size + start
    return Pairs(every.lines.take(numbers, 0), every.weights.take(numbers, 0))


def crop_flip(images: Tensor, boxes: Tensor, flips: Tensor, rolls: Tensor | None = None) -> Tensor:
    """Resized crop, then left-right flip, then wrap-around roll.

    ``images`` (n, C, H, W) float, or uint8, which become float32 / 255; ``boxes`` integer (k, 4): top, left, height,
    width; ``flips`` bool (k,); ``rolls`` integer (k, 2): down, right. k divides n: each view is shared by n/k
    consecutive images (k = n: one per image; k = 1: one for all). Differentiable in float ``images``. Runs in their
    dtype, autocast or not: half precision would move the coordinates by whole pixels.

    The lines of crops of small images are looked up on a CPU; finding them would take as long as summing them.
    """
    height, width = images.shape[2:]
    exact = torch.promote_types(images.dtype, torch.float32)
    if rolls is None and images.device.type == "cpu" and max(height, width) <= KNOWN_SIZE and len(boxes):
        starts, lengths = boxes.numpy()[:, :2].T, boxes.numpy()[:, 2:].T
        if starts.min() >= 0 and ((starts + lengths).max(1) <= (height, width)).all():
            down = known_crops(starts[0], lengths[0], height, 0, exact)
            return sum_pairs(images, down, known_crops(starts[1], lengths[1], width, flips.numpy(), exact))
    lower, right = (None, None) if rolls is None else rolls.unsqueeze(2).unbind(1)
    top, left, tall, wide = boxes.to(exact).unsqueeze(2).unbind(1)
    with torch.autocast(images.device.type, enabled=False):
        rows = coordinates(top, tall, height, None, lower)
        columns = coordinates(left, wide, width, flips[:, None], right)
        return resample(images, rows, columns)


def render(images: Tensor, plan: EpochPlan, positions: slice) -> Tensor:
    """The views at ``positions`` of ``plan``: (b, C, H, W) in order of position.

    ``images`` (n_items, C, H, W) are pixels, float in [0, 1] or uint8, which saves memory and becomes float32 / 255.
    Normalise the result, not the input: boxes that stick out read 0. Partners outside ``positions`` (a BatchNorm group
    of a mixed step) are drawn as well, so a part of a step looks the same as in the whole. Differentiable in float
    ``images``.
    """
    lam, boxes, partner = plan.lam[positions], plan.mix_boxes[positions], plan.partner[positions]
    if (lam == 1.0).all():
        return render_crops(images, plan, positions)
    if plan.inner_boxes is not None and plan.inner_flips is not None:
        inner = replace(plan, boxes=plan.inner_boxes, flips=plan.inner_flips)
        mine, pasted = (render_crops(images, each, positions).permute(0, 2, 3, 1) for each in (plan, inner))
        return paste(mine, pasted, torch.arange(len(lam), device=images.device), boxes).permute(0, 3, 1, 2)
    own = np.arange(plan.n_items)[positions]
    drawn = own if len(own) == plan.n_items else np.union1d(own, partner)
    crops = render_crops(images, plan, drawn).permute(0, 2, 3, 1)
    mine = crops if len(drawn) == len(own) else crops[torch.from_numpy(drawn.searchsorted(own)).to(images.device)]
    others = torch.from_numpy(drawn.searchsorted(partner)).to(images.device)
    if boxes.any():
        mixed = paste(mine, crops, others, boxes)
    else:
        share = torch.from_numpy(lam).to(mine.device, mine.dtype)[:, None, None, None]
        mixed = share * mine + (1 - share) * crops[others]
    return mixed.permute(0, 3, 1, 2)


def paste(mine: Tensor, crops: Tensor, partner: Tensor, boxes: Boxes) -> Tensor:
    """CutMix, in place: ``mine`` (b, H, W, C) gets, in each image's box (b, 4), the pixels of ``crops[partner]``.

    The images of a step share one box, so only its pixels are touched, a step at a time. ``mine`` may be ``crops``:
    what a step pastes is copied before any of it changes, and partners are of the same step.
    """
    edges = [0, *(np.flatnonzero((boxes[1:] != boxes[:-1]).any(1)) + 1).tolist(), len(boxes)]
    for start, stop in pairwise(edges):
        top, left, height, width = boxes[start].tolist()
        area = (slice(None), slice(top, top + height), slice(left, left + width))
        mine[start:stop][area] = crops[area].index_select(0, partner[start:stop])
    return mine


def render_crops(images: Tensor, plan: EpochPlan, positions: slice | Ints) -> Tensor:
    """Crops and flips at ``positions``, not mixed."""
    boxes, flips = plan.boxes[positions], torch.from_numpy(plan.flips[positions]).to(images.device)
    chosen = in_order(images, plan.order[positions])
    if (boxes == (0, 0, *images.shape[2:])).all():
        chosen = dense(chosen)
        return channels_last(torch.where(flips[:, None, None, None], chosen.flip(3), chosen))
    return crop_flip(chosen, torch.from_numpy(boxes).to(images.device), flips)


def in_order(images: Tensor, items: Ints) -> Tensor:
    """``images[items]``, not copied where these are all images as they stand."""
    if np.array_equal(items, np.arange(len(images))):
        return images
    return images[torch.from_numpy(items).to(images.device)]
