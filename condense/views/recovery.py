"""Views of images that are being optimised: crop, flip and roll, with the crop curriculum of CDA.

SRe2L (arXiv 2306.13092) draws one crop, flip and roll per step for the whole batch; CDA (arXiv 2311.18838) moves the
least crop area from 1 down to 0.08 while the images form. All draws of a run can be made before it starts, and those
of a group depend on its own key only, so it does not matter which groups share a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from condense.seeding import integers, raw, uniform
from condense.views.boxes import RESIZED_WORDS, Boxes, Floats, resized_boxes
from condense.views.config import Aspect, check_choice, check_fraction, check_integer, check_scale
from condense.views.render import crop_flip

__all__ = ["RecoveryDraws", "RecoveryViews", "apply_recovery", "least_area", "recovery_draws"]

Schedule = Literal["constant", "step", "linear", "cosine"]

WORDS = RESIZED_WORDS + 3  # crop, flip, roll down, roll right: taken whether used or not, so settings stay independent


@dataclass(frozen=True, kw_only=True)
class RecoveryViews:
    """Views during optimisation: crop, then flip, then roll.

    ``crop``: ``resized`` or ``none``. ``scale``: (least, greatest) share of the area; ``schedule`` moves the least from
    the greatest down to its value: ``constant`` is there at once (SRe2L); ``step`` at ``milestone``; ``linear`` and
    ``cosine`` glide until ``milestone``, a fraction of the run (CDA: cosine, 1). ``flip``: probability. ``roll``:
    greatest wrap-around shift in pixels, in [0, roll], or [-roll, roll] if ``two_sided``. ``shared``: one view per
    group and step, else one per image.

    Raises :class:`ConfigError` for a value out of range.
    """

    crop: Literal["none", "resized"] = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: Aspect = "standard"
    schedule: Schedule = "constant"
    milestone: float = 1.0
    flip: float = 0.5
    roll: int = 4
    two_sided: bool = False
    shared: bool = True

    def __post_init__(self) -> None:
        check_choice("crop", self.crop, ("none", "resized"))
        check_choice("aspect", self.aspect, get_args(Aspect))
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_scale(self.scale)
        check_fraction("milestone", self.milestone)
        check_fraction("flip", self.flip)
        check_integer("roll", self.roll, 0)


@dataclass(frozen=True, eq=False)
class RecoveryDraws:
    """Views of steps ``first``, ``first`` + 1, ... for G groups; V is 1 (shared) or the images of a group.

    ``boxes`` int32 (T, G, V, 4), ``flips`` bool (T, G, V), ``rolls`` int64 (T, G, V, 2): down, right.
    """

    boxes: Tensor
    flips: Tensor
    rolls: Tensor
    first: int = 0

    def to(self, device: torch.device | str) -> RecoveryDraws:
        """All draws moved once, so that no step waits for a transfer."""
        return RecoveryDraws(self.boxes.to(device), self.flips.to(device), self.rolls.to(device), self.first)


def least_area(config: RecoveryViews, steps: Floats, total_steps: int) -> Floats:
    """Least share of the area a crop covers at each of ``steps`` (CDA, arXiv 2311.18838, section 3)."""
    low, high = config.scale
    span = config.milestone * total_steps
    done = np.minimum(steps, span) / max(span, 1.0)
    left = {
        "constant": 0.0 * done,
        "step": 1.0 + 0.0 * done,
        "linear": 1.0 - done,
        "cosine": (1.0 + np.cos(np.pi * done)) / 2,
    }
    return np.where(steps < span, low + (high - low) * left[config.schedule], low)


def recovery_draws(
    config: RecoveryViews,
    seed: int,
    groups: Sequence[tuple[int, ...]],
    steps: range,
    *,
    total_steps: int,
    images: int,
    height: int,
    width: int,
) -> RecoveryDraws:
    """Draw the views of ``steps`` (consecutive, out of ``total_steps``) for every group.

    ``groups``: the numbers that name each group, such as (set, slot, first class); ``images``: images in a group. A
    group's draws at a step come from the stream (``seed``, "recovery-view", *group, step) alone.
    """
    views = 1 if config.shared else images
    words = np.stack([raw(views * WORDS, seed, "recovery-view", *group, step) for step in steps for group in groups])
    words = words.reshape(-1, WORDS)
    per_step = len(groups) * views
    boxes: Boxes = np.tile(np.array([0, 0, height, width], dtype=np.int32), (len(words), 1))
    if config.crop == "resized":
        least = least_area(config, np.asarray(steps, dtype=np.float64), total_steps).repeat(per_step)
        boxes = resized_boxes(words[:, :RESIZED_WORDS], height, width, least, config.scale[1], config.aspect)
    flips = uniform(words[:, RESIZED_WORDS]) < config.flip
    span = 2 * config.roll + 1 if config.two_sided else config.roll + 1
    rolls = integers(words[:, RESIZED_WORDS + 1 :], span) - (config.roll if config.two_sided else 0)
    shape = (len(steps), len(groups), views)
    return RecoveryDraws(
        boxes=torch.from_numpy(boxes).view(*shape, 4),
        flips=torch.from_numpy(flips).view(shape),
        rolls=torch.from_numpy(rolls).view(*shape, 2),
        first=steps.start,
    )


def apply_recovery(images: Tensor, draws: RecoveryDraws, step: int) -> Tensor:
    """The views of ``images`` (G, B, C, H, W) at ``step``: same shape.

    Differentiable and deterministic: two matrix products, one pair of matrices per group where views are shared. For
    the network, ``channels_last(views.flatten(0, 1))`` has the strides of channels-last and copies nothing.
    """
    at = step - draws.first
    boxes, flips, rolls = draws.boxes[at].flatten(0, 1), draws.flips[at].flatten(), draws.rolls[at].flatten(0, 1)
    return crop_flip(images.flatten(0, 1), boxes, flips, rolls).view(images.shape)
