"""DWA: every slot has a teacher of its own, moved away from what it learnt."""

from __future__ import annotations

from condense.config import with_defaults
from condense.methods.parts.settings import PerturbConfig
from condense.methods.recovery import RecoveryConfig
from condense.methods.sre2l import SRe2L

__all__ = ["DWA"]

DWAConfig = with_defaults(
    RecoveryConfig,
    "DWAConfig",
    "Settings of DWA.",
    start="real",
    variance=11.0,
    perturb=PerturbConfig(radius=0.015, steps=12),
)


class DWA(SRe2L):
    """SRe2L from real images, under teachers that have unlearnt these images a little, with a heavier variance term.

    Source: "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment", arXiv
    2409.17612. Defaults are those of CIFAR-100: 1000 steps with lr 0.25, 12 steps to a distance of 0.015, variances 11
    times; Tiny-ImageNet: 2000 steps, lr 0.1; ImageNet-1K: 2000 steps, 15 steps of perturbation, variances twice. Views
    are SRe2L's. Labels come from the teacher as it was trained.

    Differs from the authors' program as SRe2L here does from theirs, in points 1 to 5, and: each batch starts from the
    teacher as it was trained, where the program goes on from the last batch of the index; gradients of the perturbation
    do not enter the first step of the images. A job keeps a copy of the teacher for each of its slots.
    """

    name = "dwa"
    summary = "SRe2L under teachers that are moved away from the images they start with"
    source = "Diversity-Driven Synthesis (NeurIPS 2024), arXiv 2409.17612"
    revision = 1
    Config = DWAConfig
