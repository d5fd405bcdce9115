"""FADRM: the real image is mixed in again and again."""

from __future__ import annotations

from typing import ClassVar

from condense.config import with_defaults
from condense.methods.cv_dd import SRe2LPlus
from condense.methods.parts.committee import CommitteeConfig
from condense.methods.parts.settings import ResidualConfig
from condense.methods.recovery import RecoveryConfig

__all__ = ["FADRM", "FADRMPlus"]

FADRMConfig = with_defaults(
    RecoveryConfig,
    "FADRMConfig",
    "Settings of FADRM.",
    steps=2000,
    start="median",
    residual=ResidualConfig(blocks=4, alpha=0.5),
)
FADRMPlusConfig = with_defaults(
    FADRMConfig, "FADRMPlusConfig", "Settings of FADRM+.", committee=CommitteeConfig(turns=True)
)


class FADRM(SRe2LPlus):
    """Four blocks of 500 steps; before each but the first the images are averaged with the real ones they began as.

    Source: "FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation", arXiv 2506.24125: images of
    median confidence, lr 0.25, alpha_bn 0.01, Adam begins anew in each block, the learning rate falls over all of them.
    At 224 px every other block is at 200 px (``residual.low=0.893``); the authors' scripts have lr 0.05 for ImageNette
    and 2 blocks with lr 0.01 for Tiny-ImageNet. Views and labels are those of SRe2L++.

    Differs from the authors' program in bfloat16 in the place of float16 with scaled losses, in rounding where it
    truncates, and, but for the start, as SRe2L++ here does from theirs.
    """

    name = "fadrm"
    summary = "SRe2L++ in blocks, between which the real images are mixed in again"
    source = "Data Residual Matching (NeurIPS 2025), arXiv 2506.24125"
    revision = 1
    Config = FADRMConfig


class FADRMPlus(FADRM):
    """FADRM with a committee, one teacher per step in turn, all of which label with equal weights.

    Source and departures as for FADRM; there the committee is ResNet-18, DenseNet-121, ShuffleNetV2 and MobileNetV2,
    here one of small networks if none is given.
    """

    name = "fadrm+"
    summary = "FADRM with a committee whose members take turns"
    Config = FADRMPlusConfig
    networks: ClassVar[tuple[str, ...]] = ("resnet20", "convnet3-bn", "mobilenetv2", "shufflenetv2")
