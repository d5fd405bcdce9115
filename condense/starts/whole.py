"""Whole real images: at random, or around the median of what teachers make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from condense.data.spec import Split
from condense.device import Compute, under_compute
from condense.progress import Report, silent
from condense.selection.patches import around_median, pool_of
from condense.selection.picking import Indices, members_of, pick_random
from condense.starts.answers import log_probabilities, mean_probabilities
from condense.starts.base import Images, PatchConfig, StartJob, needed_images, needed_teachers
from condense.teachers import Teacher

__all__ = ["median_images", "real_images"]


def real_images(
    job: StartJob,
    train: Split | None,
    teachers: Sequence[Teacher],
    config: PatchConfig,
    *,
    compute: Compute,
    report: Report = silent,
) -> Images:
    """Random real images, each once until a class is used up: uint8 (slots, classes, H, W, C)."""
    split = needed_images("a real start", train)
    picks = pick_random(split.labels, job.classes, job.slots, seed=job.seed, set_index=job.set_index)
    return np.ascontiguousarray(split.images[picks.ravel()]).reshape(*picks.shape, *job.spec.image_shape)


@under_compute
def median_images(
    job: StartJob,
    train: Split | None,
    teachers: Sequence[Teacher],
    config: PatchConfig,
    *,
    compute: Compute,
    report: Report = silent,
) -> Images:
    """Images around the median of the teachers' probability of the class: uint8 (slots, classes, H, W, C).

    Source: DELT (arXiv 2411.19946) and, as its start, FADRM (arXiv 2506.24125): slot 0 is the median, the next are in
    turn below and above. Differs in that a pool and not the class is ranked: ``config.pool`` random images, and at most
    half of the class, so that independent sets do not begin with the same images. Slots beyond a pool are taken from
    the next one, slots beyond the class begin again.
    """
    split, teachers = needed_images("a median start", train), needed_teachers("a median start", teachers)
    labels, picks = np.asarray(split.labels), []
    for done, label in enumerate(job.classes, start=1):
        members = members_of(labels, label)
        order = pool_of(members, len(members), seed=job.seed, set_index=job.set_index, label=label)
        ranked = _around_medians(order, max(job.slots) + 1, label, split, teachers, config, compute)
        picks.append(ranked[np.asarray(job.slots) % len(ranked)])
        report("classes", done, len(job.classes))
    chosen = np.stack(picks, axis=1)
    return np.ascontiguousarray(split.images[chosen.ravel()]).reshape(*chosen.shape, *job.spec.image_shape)


def _around_medians(
    order: Indices,
    count: int,
    label: int,
    train: Split,
    teachers: Sequence[Teacher],
    config: PatchConfig,
    compute: Compute,
) -> Indices:
    """At least ``count`` images of a class, or all, whose random order is ``order``; pool after pool."""
    size, ranked = min(config.pool, (len(order) + 1) // 2), []
    for start in range(0, min(count, len(order)), size):
        pool = order[start : start + size]
        answers = log_probabilities(teachers, train.images[pool], train.images.shape[1:3], compute)
        ranked.append(pool[around_median(mean_probabilities(answers)[:, label])])
    return np.concatenate(ranked)
