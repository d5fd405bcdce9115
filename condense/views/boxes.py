"""From raw random words to boxes, ratios and mix weights: the formulas that stored labels depend on.

Only operations that IEEE 754 defines exactly are used (+, -, *, /, square root, floor), one NumPy call each so that no
compiler fuses two of them. What is not among them (exponentials, the inverse of the Beta integral) is read from
``tables.npz`` by linear interpolation. Boxes are int32 (top, left, height, width).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from condense.seeding import Words, integers, uniform
from condense.views.config import Aspect

__all__ = ["RESIZED_WORDS", "Boxes", "Floats", "cutmix_boxes", "mix_weights", "pad_boxes", "quantile", "resized_boxes"]

Boxes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

TRIES = 10
RESIZED_WORDS = 2 * TRIES + 2
ASPECT_BOUNDS: dict[Aspect, tuple[float, float]] = {"standard": (3 / 4, 4 / 3), "square": (1.0, 1.0)}


@cache
def table(name: str) -> Floats:
    """Quantiles at k/4096, k = 0..4096: float64 (4097,). Names: ``aspect``, ``beta_0.2``, ``beta_0.4``, ..."""
    with np.load(Path(__file__).with_name("tables.npz"), allow_pickle=False) as file:
        return np.asarray(file[name], dtype=np.float64)


def quantile(name: str, u: Floats) -> Floats:
    """Linear interpolation of table ``name`` at ``u`` in [0, 1)."""
    nodes = table(name)
    scaled = u * (len(nodes) - 1)
    below = np.floor(scaled)
    index = below.astype(np.int64)
    return nodes[index] + (scaled - below) * (nodes[index + 1] - nodes[index])


def round_half_up(x: Floats) -> npt.NDArray[np.int64]:
    return np.floor(x + 0.5).astype(np.int64)


def fallback_box(height: int, width: int, aspect: Aspect) -> Boxes:
    """The largest centred box whose ratio lies within the bounds: what is taken when no try fits."""
    least, greatest = ASPECT_BOUNDS[aspect]
    h, w = height, width
    if width / height < least:
        h = int(np.floor(width / least + 0.5))
    elif width / height > greatest:
        w = int(np.floor(height * greatest + 0.5))
    return np.array([(height - h) // 2, (width - w) // 2, h, w], dtype=np.int32)


def resized_boxes(
    words: Words, height: int, width: int, low: float | Floats, high: float, aspect: Aspect = "standard"
) -> Boxes:
    """Boxes of a random resized crop, (n, 4), from ``words`` (n, RESIZED_WORDS).

    As in torchvision's ``RandomResizedCrop``: up to ten times an area in [``low``, ``high``] x ``height`` x ``width``
    (``low`` may be one number per box) and a ratio width/height; the first that fits is placed uniformly; if none
    does, the largest centred box with a permitted ratio. Words: area and ratio of try 0, of try 1, ..., top, left.
    """
    least = np.broadcast_to(np.asarray(low, dtype=np.float64), len(words))[:, None]
    area = (height * width) * (least + uniform(words[:, 0 : 2 * TRIES : 2]) * (high - least))
    u = uniform(words[:, 1 : 2 * TRIES : 2])
    ratio = quantile("aspect", u) if aspect == "standard" else np.ones_like(u)
    h, w = round_half_up(np.sqrt(area / ratio)), round_half_up(np.sqrt(area * ratio))
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.argmax(axis=1)[:, None]
    h, w = np.where(fits, h, 1), np.where(fits, w, 1)
    h, w = np.take_along_axis(h, first, 1)[:, 0], np.take_along_axis(w, first, 1)[:, 0]
    top, left = integers(words[:, -2], height - h + 1), integers(words[:, -1], width - w + 1)
    boxes = np.stack([top, left, h, w], axis=1).astype(np.int32)
    return np.where(fits.any(axis=1, keepdims=True), boxes, fallback_box(height, width, aspect))


def pad_boxes(words: Words, height: int, width: int, pad: int) -> Boxes:
    """Full-size boxes (n, 4) moved by -``pad``..``pad`` in both directions, from ``words`` (n, 2): top, left."""
    corner = integers(words, 2 * pad + 1) - pad
    size = np.broadcast_to(np.array([height, width], dtype=np.int64), corner.shape)
    return np.concatenate([corner, size], axis=1).astype(np.int32)


def mix_weights(words: Words, alpha: float) -> Floats:
    """lambda ~ Beta(``alpha``, ``alpha``), one per word."""
    u = uniform(words)
    return u if alpha == 1.0 else quantile(f"beta_{alpha}", u)


def cutmix_boxes(lam: Floats, words: Words, height: int, width: int) -> tuple[Boxes, Floats]:
    """Boxes (n, 4) to paste a partner into, and the exact share of the area that they leave uncovered.

    From ``lam`` (n,) and ``words`` (n, 2): centre row, centre column. As in the CutMix code (arXiv 1905.04899): sides
    floor(size * sqrt(1 - lam)), half of them (rounded down) to either side of a uniform centre, clipped to the image.
    """
    size = np.array([height, width], dtype=np.int64)
    half = np.floor(size * np.sqrt(1.0 - lam)[:, None]).astype(np.int64) // 2
    centre = integers(words, size)
    start, stop = np.maximum(centre - half, 0), np.minimum(centre + half, size)
    boxes = np.concatenate([start, stop - start], axis=1).astype(np.int32)
    covered = (stop - start).prod(axis=1)
    return boxes, (height * width - covered) / (height * width)
