"""CV-DD, a committee that votes, and SRe2L++, its baseline with one teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from condense.config import with_defaults
from condense.data.spec import DatasetSpec
from condense.methods.parts.committee import CommitteeConfig
from condense.methods.recovery import RecoveryConfig, RecoveryMethod, published_roll
from condense.views.recovery import RecoveryViews

__all__ = ["CVDD", "SRe2LPlus"]

BATCH, HALF = 16, 8

SRe2LPlusConfig = with_defaults(RecoveryConfig, "SRe2LPlusConfig", "Settings of SRe2L++.", steps=4000, start="real")
CVDDConfig = with_defaults(
    SRe2LPlusConfig, "CVDDConfig", "Settings of CV-DD.", committee=CommitteeConfig(size=2, voting="prior")
)


class SRe2LPlus(RecoveryMethod):
    """SRe2L that starts from real images, crops and flips images of every size, and labels with batch statistics.

    Source: the baseline of "Dataset Distillation via Committee Voting", arXiv 2501.07575: 4000 steps of Adam with rate
    0.25, alpha_bn 0.01; crops down to 8 % of the area, flips, roll. Labels: 300 epochs of CutMix views in batches of
    16, the teacher's BatchNorm with the statistics of 8 images at a time, those with which the student's sees them
    (``labels.teacher_bn=batch``, ``labels.views.group_size=8``). Published students: AdamW, rate 0.001, a half
    cosine that ends at half the rate in some settings, KL at temperature 20.

    Differs from the authors' program as SRe2L here does in points 1 to 5, and: it starts from random real images, where
    the authors' starts are ready-made files called "medium", which ``start=median`` is near to; dropout is off and
    running statistics stay as they are when labels are made; the last batch is not cut in two unequal halves.
    """

    name = "sre2l++"
    summary = "SRe2L from real images, with crops and flips, and labels with the statistics of small batches"
    source = "Dataset Distillation via Committee Voting (2025), arXiv 2501.07575"
    revision = 1
    Config = SRe2LPlusConfig

    @property
    def published_labels(self) -> Mapping[str, Any]:
        return {
            "teacher_bn": "batch",
            "views": {"scale": (0.08, 1.0), "mix": "cutmix", "batch_size": BATCH, "group_size": HALF},
        }

    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        return RecoveryViews(crop="resized", flip=0.5, roll=published_roll(spec))


class CVDD(SRe2LPlus):
    """SRe2L++ whose loss is that of two teachers of different architectures, by their prior performance.

    Source: "Dataset Distillation via Committee Voting", arXiv 2501.07575. Slot k is judged by a pair of the committee,
    every pair in order; weights are softmax(prior / 5), and all teachers label with softmax(prior / 10). A prior is
    the accuracy, in percent, of a student of a set that SRe2L++ made with that teacher alone.

    Differs from the authors' program as SRe2L++ here does from theirs, and: (1) priors are estimated on held-out
    training images, which neither start any image of theirs nor train their student, where the authors' come from test
    images; ``committee.priors`` takes numbers, ``committee.voting=equal`` does without; (2) pairs follow one another at
    every IPC, where the authors draw them at IPC 50 (``committee.choice=random``) and take the best at IPC 1
    (``best``), so that slots do not depend on the IPC; (3) their five architectures are as large as the images they
    were made for; here the default committee is one of small networks.
    """

    name = "cv-dd"
    summary = "a committee of architectures votes on every image, and labels all of them"
    Config = CVDDConfig
    networks: ClassVar[tuple[str, ...]] = ("resnet20", "convnet3-bn", "mobilenetv2", "shufflenetv2")
