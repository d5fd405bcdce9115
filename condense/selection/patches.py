"""Patches of real images: which images are looked at, where they are cut, and which patches are taken.

NumPy only. A class's pool are n of its images; each has k boxes, (top, left, height, width). A rule puts all n*k
patches of a pool into an order that depends on the pool alone, so that whoever takes more patches takes those of
whoever takes fewer, and some more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from condense import seeding
from condense.selection.picking import Indices
from condense.selection.scores import Scores
from condense.views.boxes import Boxes

__all__ = [
    "around_median",
    "box_sums",
    "crop_boxes",
    "in_rounds",
    "map_ratios",
    "pool_of",
    "random_boxes",
    "unsure_first",
]

Patches = npt.NDArray[np.int64]
"""Patches of a pool, (r, 2): place of the image in the pool, number of its box."""

Bools = npt.NDArray[np.bool_]

GRAINS = 2.0**40


def pool_of(members: Indices, size: int, *, seed: int, set_index: int, label: int) -> Indices:
    """``size`` of the ``members`` of class ``label`` (all, if it has fewer) in a random order.

    Keyed by set and class; a smaller pool is the beginning of a larger one.
    """
    return seeding.generator(seed, "patch pool", set_index, label).permutation(members)[:size]


def crop_boxes(words: seeding.Words, height: int, width: int, scale: tuple[float, float]) -> Boxes:
    """Boxes (n, 4) of the image's own shape from ``words`` (n, 3): area, top, left.

    The share of the area is uniform in ``scale``, both sides are the image's times its root, rounded half up and at
    least 1; the place is uniform. For square images this is torchvision's ``RandomResizedCrop`` of ratio 1, as in RDED
    (arXiv 2312.03526); others keep their shape here, so that no patch is distorted.
    """
    side = np.sqrt(scale[0] + seeding.uniform(words[:, 0]) * (scale[1] - scale[0]))
    tall, wide = (np.maximum(np.floor(size * side + 0.5), 1).astype(np.int64) for size in (height, width))
    top, left = seeding.integers(words[:, 1], height - tall + 1), seeding.integers(words[:, 2], width - wide + 1)
    return np.stack([top, left, tall, wide], axis=1).astype(np.int32)


def random_boxes(
    pool: Indices,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    *,
    seed: int,
    set_index: int,
    label: int,
) -> Boxes:
    """``count`` boxes for each image of ``pool`` (n,): int32 (n, ``count``, 4).

    An image's boxes are keyed by set, class and image; fewer are the first of more.
    """
    words = [seeding.raw(3 * count, seed, "patch crops", set_index, label, int(image)) for image in pool]
    boxes = crop_boxes(np.concatenate(words).reshape(-1, 3), *size, scale)
    return boxes.reshape(len(pool), count, 4)


def box_sums(maps: npt.NDArray[np.float32], boxes: Boxes) -> Scores:
    """The sum of each map (n, H, W) in [0, 1] over each of its boxes (n, k, 4): float64 (n, k), by summed-area tables.

    In whole numbers of 2^-40, so that equal sums are equal, and boxes without anything are 0.
    """
    table = np.zeros((len(maps), maps.shape[1] + 1, maps.shape[2] + 1), dtype=np.int64)
    table[:, 1:, 1:] = np.rint(maps.astype(np.float64) * GRAINS).astype(np.int64).cumsum(1).cumsum(2)
    image = np.arange(len(maps))[:, None]
    top, left, tall, wide = np.moveaxis(boxes.astype(np.int64), 2, 0)
    bottom, right = top + tall, left + wide
    corners = table[image, bottom, right] - table[image, top, right] - table[image, bottom, left]
    return np.asarray((corners + table[image, top, left]) / GRAINS)


def map_ratios(maps: npt.NDArray[np.float32], boxes: Boxes, *, by_area: bool = False) -> Scores:
    """What share of a map lies in each of its boxes: float64 (n, k), 0 for a map that is 0.

    ``by_area`` divides the share by the box's share of the image: the former favours large boxes, the latter small
    ones. NRR-DD (arXiv 2503.18267) chooses by the map in the patch; neither form is known to be its.
    """
    whole = np.broadcast_to(np.array([0, 0, *maps.shape[1:]], dtype=np.int32), (len(maps), 1, 4))
    sums, totals = box_sums(maps, boxes), box_sums(maps, whole)
    ratios = sums / np.where(totals > 0, totals, 1.0)
    if not by_area:
        return np.asarray(ratios)
    return np.asarray(ratios * (maps.shape[1] * maps.shape[2]) / boxes[:, :, 2:].astype(np.int64).prod(2))


def in_rounds(scores: Scores) -> Patches:
    """All patches by their ``scores`` (n, k), least first: first the best of each image, then the second best, ...

    So no image comes twice before every one has come once. Ties: the first.
    """
    rounds = np.argsort(scores, axis=1, kind="stable").T
    found = []
    for chosen in rounds:
        order = np.argsort(scores[np.arange(len(chosen)), chosen], kind="stable")
        found.append(np.stack([order, chosen[order]], axis=1))
    return np.concatenate(found).astype(np.int64)


Ask = Callable[[Indices], tuple[Scores, Bools]]
"""``ask(chosen)``: of box ``chosen[i]`` of each image i, how sure the teacher is of the class, and if to trust it."""


def unsure_first(preference: Scores, ask: Ask, count: int) -> Patches:
    """At least ``count`` patches, if there are as many: of each image the preferred one, the least sure first.

    ``preference`` (n, k), greatest first, says which boxes of an image come first: the best of each image make a round,
    then the second best, ... What is not trusted comes after all rounds, the surest first. Only the boxes of as many
    rounds as are needed are asked about, which does not change the order.
    """
    rounds = np.argsort(-preference, axis=1, kind="stable").T
    taken: list[Patches] = []
    distrusted: list[tuple[Patches, Scores]] = []
    for chosen in rounds:
        sure, trusted = ask(chosen)
        order = np.argsort(sure, kind="stable")
        patches = np.stack([order, chosen[order]], axis=1).astype(np.int64)
        taken.append(patches[trusted[order]])
        distrusted.append((patches[~trusted[order]], sure[order][~trusted[order]]))
        if sum(map(len, taken)) >= count:
            return np.concatenate(taken)
    rest, sure = (np.concatenate(parts) for parts in zip(*distrusted, strict=True))
    return np.concatenate([*taken, rest[np.argsort(-sure, kind="stable")]])


def around_median(scores: Scores) -> Indices:
    """Places of ``scores`` (n,) from the median outwards, in turn below and above: int64 (n,).

    The first is the lower median. Source: DELT (arXiv 2411.19946), which takes the images of median confidence.
    """
    places = np.arange(len(scores))
    order = np.lexsort((places, np.abs(places - (len(scores) - 1) // 2)))
    return np.argsort(scores, kind="stable")[order]
