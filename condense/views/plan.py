"""The parameters of every augmented view of an epoch, as a pure function of a seed. NumPy only.

Labels are stored without a single crop box: whoever holds the settings and the seed draws the same plan again. All
draws come from raw Philox words by the formulas of :mod:`condense.views.boxes`. Word i of a per-item stream belongs
to item i, so a set that grows at its end keeps the crops and flips of the items it had, and crops do not depend on
the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from condense.errors import ConfigError
from condense.seeding import integers, raw, uniform
from condense.views.boxes import (
    RESIZED_WORDS,
    Boxes,
    Floats,
    cutmix_boxes,
    mix_weights,
    pad_boxes,
    resized_boxes,
)
from condense.views.config import ViewConfig

__all__ = ["EpochPlan", "draw_steps", "plan", "step_offsets"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """Every view of one epoch. Arrays are indexed by *position*: the order in which items come up.

    ``order`` int64 (n,): the item at each position. ``steps`` int64 (S+1,): step s is positions
    [steps[s], steps[s+1]). ``groups`` int64 (G+1,): offsets of the BatchNorm groups, which refine the steps.
    ``boxes`` int32 (n, 4): top, left, height, width of the crop; outside the image pixels are 0. ``flips`` bool (n,).
    ``partner`` int64 (n,): position of the mix partner, in the same step (itself without mix). ``lam`` float64 (n,):
    weight of the own image in [0, 1] (CutMix: its exact area; 1 without mix). ``mix_boxes`` int32 (n, 4): where CutMix
    pastes the partner; zeros otherwise. SelfMix pastes there another crop of the image itself, which is its own
    partner: ``inner_boxes`` int32 (n, 4) and ``inner_flips`` bool (n,), None without.
    """

    order: Ints
    steps: Ints
    groups: Ints
    boxes: Boxes
    flips: npt.NDArray[np.bool_]
    partner: Ints
    lam: Floats
    mix_boxes: Boxes
    inner_boxes: Boxes | None = None
    inner_flips: npt.NDArray[np.bool_] | None = None

    @property
    def n_items(self) -> int:
        return len(self.order)

    @property
    def n_steps(self) -> int:
        return len(self.steps) - 1

    def step(self, index: int) -> slice:
        """The positions of step ``index``."""
        return slice(int(self.steps[index]), int(self.steps[index + 1]))

    def step_groups(self, index: int) -> tuple[int, ...]:
        """The sizes of the BatchNorm groups of step ``index``, in order of position."""
        first, last = np.searchsorted(self.groups, self.steps[index : index + 2])
        return tuple(np.diff(self.groups[first : last + 1]).tolist())


def plan(config: ViewConfig, seed: int, epoch: int, n_items: int, height: int, width: int) -> EpochPlan:
    """Draw the views of ``n_items`` images of ``height`` x ``width`` for one epoch. Pure: same arguments, same plan."""
    if min(n_items, height, width) < 1:
        raise ConfigError(f"a plan needs at least one item of 1x1 pixels, got {n_items} of {height}x{width}")
    order = np.argsort(raw(n_items, seed, "view-order", epoch), kind="stable").astype(np.int64)
    steps = step_offsets(n_items, config.batch_size)
    inner_boxes = inner_flips = None
    if config.mix == "selfmix":
        inner_boxes = draw_boxes(config, "view-crop-inner", seed, epoch, n_items, height, width)[order]
        inner_flips = draw_flips(config, "view-flip-inner", seed, epoch, n_items)[order]
    partner, lam, mix_boxes = draw_mix(config, seed, epoch, order, steps, height, width)
    return EpochPlan(
        order=order,
        steps=steps,
        groups=group_offsets(steps, config.group_size),
        boxes=draw_boxes(config, "view-crop", seed, epoch, n_items, height, width)[order],
        flips=draw_flips(config, "view-flip", seed, epoch, n_items)[order],
        partner=partner,
        lam=lam,
        mix_boxes=mix_boxes,
        inner_boxes=inner_boxes,
        inner_flips=inner_flips,
    )


def draw_steps(draw: str, pool: int, seed: int, epoch: int, n_steps: int) -> Ints:
    """Which steps an epoch of a student takes: int64 (n_steps, 2), the epoch of the plan and its step.

    ``all``: those of its own epoch. Otherwise as many of the steps of the plan's first ``pool`` epochs, in random
    order: ``without`` replacement within the epoch, ``with`` it, or ``shuffled``, so that no step comes again before
    all others have come.
    """
    if draw == "all":
        return np.stack([np.full(n_steps, epoch, dtype=np.int64), np.arange(n_steps)], 1)
    count = pool * n_steps
    if draw == "with":
        drawn = integers(raw(n_steps, seed, "view-pool", epoch), count).astype(np.int64)
    elif draw == "without":
        drawn = shuffled(count, seed, epoch)[:n_steps]
    else:
        turn, place = np.divmod(epoch * n_steps + np.arange(n_steps), count)
        turns = {int(one): shuffled(count, seed, int(one)) for one in np.unique(turn)}
        drawn = np.array([turns[int(t)][p] for t, p in zip(turn, place, strict=True)], dtype=np.int64)
    return np.stack(np.divmod(drawn, n_steps), 1)


def shuffled(count: int, seed: int, number: int) -> Ints:
    """0 ... count - 1 in random order."""
    return np.argsort(raw(count, seed, "view-pool", number), kind="stable").astype(np.int64)


def parts(size: int, at_most: int) -> int:
    """Into how many parts of at most ``at_most`` and at least two ``size`` things are cut; the least wins."""
    return max(1, min(-(-size // at_most), size // 2))


def step_offsets(n_items: int, batch_size: int) -> Ints:
    count = parts(n_items, batch_size)
    return np.arange(count + 1, dtype=np.int64) * n_items // count


def group_offsets(steps: Ints, group_size: int | None) -> Ints:
    """Offsets of the groups: every step is cut into the same number, so all sizes differ by at most one."""
    if group_size is None:
        return steps.copy()
    sizes = np.diff(steps)
    count = min(parts(int(sizes.max()), group_size), max(1, int(sizes.min()) // 2))
    starts = steps[:-1, None] + np.arange(count) * sizes[:, None] // count
    return np.append(starts.ravel(), steps[-1])


def draw_flips(config: ViewConfig, stream: str, seed: int, epoch: int, n_items: int) -> npt.NDArray[np.bool_]:
    """Whether each item is flipped, (n,), by item."""
    return uniform(raw(n_items, seed, stream, epoch)) < config.flip


def draw_boxes(config: ViewConfig, stream: str, seed: int, epoch: int, n_items: int, height: int, width: int) -> Boxes:
    """The crop box of every item, (n, 4), by item."""
    if config.crop == "none":
        return np.tile(np.array([0, 0, height, width], dtype=np.int32), (n_items, 1))
    per_item = RESIZED_WORDS if config.crop == "resized" else 2
    words = raw(n_items * per_item, seed, stream, epoch).reshape(n_items, per_item)
    if config.crop == "pad":
        return pad_boxes(words, height, width, config.pad)
    return resized_boxes(words, height, width, *config.scale, config.aspect)


def draw_mix(
    config: ViewConfig, seed: int, epoch: int, order: Ints, steps: Ints, height: int, width: int
) -> tuple[Ints, Floats, Boxes]:
    """Partner, weight of the own image and box, by position."""
    n_items, n_steps = len(order), len(steps) - 1
    if config.mix == "none":
        return np.arange(n_items), np.ones(n_items), np.zeros((n_items, 4), dtype=np.int32)
    step_of = np.repeat(np.arange(n_steps), np.diff(steps))
    partner = np.arange(n_items)
    if config.mix != "selfmix":
        partner = np.lexsort((raw(n_items, seed, "view-partner", epoch)[order], step_of)).astype(np.int64)
    words = raw(3 * n_steps, seed, "view-mix", epoch).reshape(n_steps, 3)
    lam = mix_weights(words[:, 0], config.mix_alpha)
    boxes = np.zeros((n_steps, 4), dtype=np.int32)
    if config.mix in ("cutmix", "selfmix"):
        boxes, lam = cutmix_boxes(lam, words[:, 1:], height, width)
    return partner, lam[step_of], boxes[step_of]
