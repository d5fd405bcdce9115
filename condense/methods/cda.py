"""CDA: SRe2L with crops that shrink while the images form."""

from __future__ import annotations

from condense.data.spec import DatasetSpec
from condense.methods.recovery import RecoveryMethod, published_roll
from condense.views.recovery import RecoveryViews

__all__ = ["CDA"]


class CDA(RecoveryMethod):
    """SRe2L whose smallest crop goes from the whole image to 8 % of its area, by half a cosine over the run.

    Source: "Dataset Distillation via Curriculum Data Synthesis in Large Data Era", arXiv 2311.18838, section 3; the
    published setting is the cosine schedule with milestone 1. Published for ImageNet-1K: 4000 steps, lr 0.25, alpha_bn
    0.01; for Tiny-ImageNet: 4000 steps, lr 0.4, alpha_bn 0.05. There is none for smaller images: crop, flip and roll
    are the same for them here, with the steps that SRe2L takes on CIFAR-100.

    Differs from the authors' program as SRe2L here does from theirs, in points 1 to 5.
    """

    name = "cda"
    summary = "SRe2L with a curriculum: crops shrink from the whole image to small parts"
    source = "Curriculum Data Synthesis (TMLR 2024), arXiv 2311.18838"
    revision = 2

    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        return RecoveryViews(crop="resized", schedule="cosine", milestone=1.0, flip=0.5, roll=published_roll(spec))
