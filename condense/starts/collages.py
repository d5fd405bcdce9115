"""Collages: patches of real images, chosen by what teachers make of them and put together.

Slot i of a class is made of the patches of rank i*f*f to (i+1)*f*f - 1 of the class, so it holds the same however many
slots there are. What is stored is what was looked at: a patch is brought to its size and rounded to uint8 first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from condense import seeding
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.spec import Split
from condense.device import Compute, under_compute
from condense.progress import Report, silent
from condense.selection.patches import Patches, in_rounds, map_ratios, pool_of, random_boxes, unsure_first
from condense.selection.picking import Indices, members_of
from condense.starts.answers import cross_entropy, log_probabilities, mean_probabilities
from condense.starts.base import Images, PatchConfig, StartJob, TileConfig, factor_of, needed_images, needed_teachers
from condense.teachers import Teacher
from condense.teachers.cam import activation_maps
from condense.views.boxes import Boxes
from condense.views.crops import cut

__all__ = ["critical_images", "easy_images"]

Chosen = npt.NDArray[np.int64]
"""Patches of the training images, (classes, ranks, 5): image, top, left, height, width."""

Choose = Callable[[int, Indices, int], Chosen]
"""``choose(label, members, count)``: at least min(``count``, all) patches of a class, (ranks, 5)."""


@under_compute
def easy_images(
    job: StartJob,
    train: Split | None,
    teachers: Sequence[Teacher],
    config: TileConfig,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> Images:
    """The patches that teachers find easiest: uint8 (slots, classes, H, W, C). ``checkpoint`` keeps what was chosen.

    Source: RDED (arXiv 2312.03526), section 4: of each image of the pool the patch of least cross-entropy, of these
    the least. See :func:`condense.selection.patches.in_rounds` for what comes when they are used up.
    """
    split, teachers = needed_images("an easy start", train), needed_teachers("an easy start", teachers)
    size = job.spec.height, job.spec.width
    tile = _tile_of(job, config)

    def choose(label: int, members: Indices, count: int) -> Chosen:
        pool, boxes = _pool_and_boxes(job, config, config.scale, label, members)
        flat = boxes.reshape(-1, 4)
        tiles = cut(split.images[np.repeat(pool, config.crops)], flat, tile, compute.torch_device)
        scores = cross_entropy(log_probabilities(teachers, tiles, size, compute), label)
        return _chosen(pool, boxes, in_rounds(scores.reshape(len(pool), -1))[:count])

    return _collages(job, split, config, choose, report, checkpoint)


@under_compute
def critical_images(
    job: StartJob,
    train: Split | None,
    teachers: Sequence[Teacher],
    config: PatchConfig,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> Images:
    """The patches that show what makes the class but leave teachers unsure: uint8 (slots, classes, H, W, C).

    Source: NRR-DD (arXiv 2503.18267), its initial data discovery: of each image of the pool the patch that holds most
    of the class activation map, of these the least confident. A patch must still be taken for its class, or have a
    probability of ``config.floor``; without that guard, which is not in the paper's abstract, background and wrong
    labels win. Maps are those of the whole image for its true class, made once an image; only the chosen patches are
    shown to the teachers. Of several teachers, maps and probabilities are averaged.
    """
    split, teachers = needed_images("a critical start", train), needed_teachers("a critical start", teachers)
    size = job.spec.height, job.spec.width
    tile, scale = _tile_of(job, config), (config.scale[0], min(config.scale[1], config.cap))

    def choose(label: int, members: Indices, count: int) -> Chosen:
        pool, boxes = _pool_and_boxes(job, config, scale, label, members)
        images = split.images[pool]
        maps = activation_maps(teachers, images, np.full(len(pool), label), compute=compute)
        preference = map_ratios(maps, boxes, by_area=config.measure == "mean")

        def ask(chosen: Indices) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
            tiles = cut(images, boxes[np.arange(len(pool)), chosen], tile, compute.torch_device)
            sure = mean_probabilities(log_probabilities(teachers, tiles, size, compute))
            own = sure[:, label]
            return own, own >= (sure.max(1) if config.floor is None else config.floor)

        return _chosen(pool, boxes, unsure_first(preference, ask, count)[:count])

    return _collages(job, split, config, choose, report, checkpoint)


def _tile_of(job: StartJob, config: TileConfig) -> tuple[int, int]:
    factor = factor_of(job.spec, config)
    return job.spec.height // factor, job.spec.width // factor


def _pool_and_boxes(
    job: StartJob, config: TileConfig, scale: tuple[float, float], label: int, members: Indices
) -> tuple[Indices, Boxes]:
    keys = {"seed": job.seed, "set_index": job.set_index, "label": label}
    pool = pool_of(members, config.pool, **keys)
    return pool, random_boxes(pool, config.crops, (job.spec.height, job.spec.width), scale, **keys)


def _chosen(pool: Indices, boxes: Boxes, patches: Patches) -> Chosen:
    place, number = patches.T
    return np.concatenate([pool[place, None], boxes[place, number]], axis=1)


def _collages(
    job: StartJob, train: Split, config: TileConfig, choose: Choose, report: Report, checkpoint: Checkpoint
) -> Images:
    """Choose class by class, which is what ``checkpoint`` keeps, and put the patches together."""
    count, labels = (max(job.slots) + 1) * factor_of(job.spec, config) ** 2, np.asarray(train.labels)
    saved = checkpoint.load()
    found = [] if saved is None else list(saved["patches"].numpy())
    for done in range(len(found), len(job.classes)):
        label = job.classes[done]
        patches = choose(label, members_of(labels, label), count)
        found.append(patches[np.arange(count) % len(patches)])  # slots beyond all patches begin again
        report("classes", done + 1, len(job.classes))
        if checkpoint.due():
            checkpoint.save({"patches": torch.from_numpy(np.stack(found))})
    return _put_together(job, train, config, np.stack(found))


def _put_together(job: StartJob, train: Split, config: TileConfig, chosen: Chosen) -> Images:
    """Patches (classes, ranks, 5) of the slots as images uint8 (slots, classes, H, W, C)."""
    factor, (height, width, channels) = factor_of(job.spec, config), job.spec.image_shape
    tile = _tile_of(job, config)
    made = np.empty((len(job.slots), len(job.classes), height, width, channels), dtype=np.uint8)
    for at, slot in enumerate(job.slots):
        cells = np.stack([_cells(job, config, slot, label, factor) for label in job.classes])
        mine = np.take_along_axis(chosen, cells[:, :, None], axis=1).reshape(-1, 5)
        tiles = cut(train.images[mine[:, 0]], mine[:, 1:].astype(np.int32), tile)
        grid = tiles.reshape(-1, factor, factor, *tile, channels)
        made[at] = grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
    return made


def _cells(job: StartJob, config: TileConfig, slot: int, label: int, factor: int) -> Indices:
    """The rank that each of the cells of an image takes, in raster order: (factor**2,)."""
    ranks = np.arange(factor**2)
    if config.arrangement == "random":
        ranks = seeding.generator(job.seed, "arrangement", job.set_index, label, slot).permutation(ranks)
    return slot * factor**2 + ranks
