"""SRe2L: squeeze, recover, relabel."""

from __future__ import annotations

from condense.data.spec import DatasetSpec
from condense.methods.recovery import RecoveryMethod, published_roll
from condense.views.recovery import RecoveryViews

__all__ = ["SRe2L"]

LARGEST_WHOLE = 32
"""Images with no longer side are shown whole, only rolled."""


class SRe2L(RecoveryMethod):
    """Optimise pixels so that a frozen teacher assigns them to their classes and sees its own BatchNorm statistics.

    Source: "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
    arXiv 2306.13092, section 3.2. Per step: cross-entropy + alpha_bn * the L2 distances of batch mean and variance to
    the running ones, over all layers; Adam with betas (0.5, 0.9); clamping. Views: one crop, flip and roll for the
    batch, up to 32 px only the roll, as in the authors' CIFAR-100 script. That script's values are the defaults.

    Differs from the authors' program in: (1) images are rounded to uint8 and stored without loss, not truncated and
    stored as JPEG; (2) several slots are optimised in one forward, each with its own statistics and views, which gives
    each the same gradient; (3) several teachers may be given: their losses are averaged; (4) images may start from real
    ones; (5) random numbers are keyed, so results do not depend on what ran before; (6) the authors' Tiny-ImageNet
    script, which rolls both ways and sets lr 0.1, alpha_bn 1 and 4000 steps, needs these settings given.
    """

    name = "sre2l"
    summary = "optimise pixels against a teacher's class scores and BatchNorm statistics"
    source = "Squeeze, Recover and Relabel (NeurIPS 2023), arXiv 2306.13092"
    revision = 2

    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        roll = published_roll(spec)
        if max(spec.height, spec.width) <= LARGEST_WHOLE:
            return RecoveryViews(crop="none", flip=0.0, roll=roll)
        return RecoveryViews(crop="resized", flip=0.5, roll=roll)
