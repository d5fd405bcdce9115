"""NRR-DD: collages of which only what is not critical is optimised."""

from __future__ import annotations

from condense.config import with_defaults
from condense.data.spec import DatasetSpec
from condense.methods.parts.settings import MaskConfig
from condense.methods.recovery import RecoveryConfig, RecoveryMethod, published_roll
from condense.views.recovery import RecoveryViews

__all__ = ["NRRDD"]

NRRDDConfig = with_defaults(
    RecoveryConfig, "NRRDDConfig", "Settings of NRR-DD.", start="critical", mask=MaskConfig(eps=0.5)
)


class NRRDD(RecoveryMethod):
    """Patches that show what makes their class but leave the teacher unsure, and optimised around that.

    Source: "Enhancing Dataset Distillation via Non-Critical Region Refinement", arXiv 2503.18267. Start: of each image
    of the pool the patch with most of the class activation map, of these the least confident that the teacher still
    gets right, tiled. Then SRe2L's loss, whose update is multiplied with max(0, 1 - C / eps) of the activation map C of
    the collage. ``labels.codec=distances`` stores its two distances a view (DBR).

    The paper's settings are not public: steps, rate, weights and views are those of SRe2L++, eps is 0.5, maps are
    those of the start (``mask.every`` makes them anew). The guard on the patches is of this package. The mask is
    divided by eps, and applied to Adam's update, since Adam would undo one on the gradient.
    """

    name = "nrr-dd"
    summary = "collages of critical patches, of which only the rest is optimised"
    source = "Non-Critical Region Refinement (CVPR 2025), arXiv 2503.18267"
    revision = 1
    Config = NRRDDConfig

    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        return RecoveryViews(crop="resized", flip=0.5, roll=published_roll(spec))
