"""DSA: DC with real and synthetic images augmented alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from condense.data.spec import DatasetSpec
from condense.matching import Alike
from condense.methods.dc import DCConfig, GradientMethod
from condense.methods.matched import MatchedMethod, SiameseName, Start, alike_of, augment_of
from condense.views.augment import Augment

__all__ = ["DSA", "DSAConfig"]


@dataclass(frozen=True, kw_only=True)
class DSAConfig(DCConfig):
    """Settings of DSA. Raises `ConfigError` for a value out of range."""

    start: Start = field(
        default="real",
        metadata={
            "help": "what images begin as: noise, real (random ones of the class) or k-means (nearest to centres)"
        },
    )
    augment: SiameseName | None = field(
        default=None,
        metadata={
            "help": "siamese augmentation: none, dsa, dsa-unmirrored; unset: dsa, flips where they keep the class"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one_of("augment", SiameseName)


class DSA(GradientMethod):
    """DC from real images, where both batches of a class go through the same random change in every step.

    Source: "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259, equation 3. The change is
    one of color, crop, cutout, flip, scale and rotate, drawn for each class and step with parameters that all of its
    images share; networks learn from synthetic images that are changed one by one. Values as in DC.

    Differs from the authors' program as DC here does from theirs, and in drawing by keys what that draws by the clock.
    """

    name = "dsa"
    summary = "DC with the same random augmentation of real and synthetic images"
    source = "Differentiable Siamese Augmentation (ICML 2021), arXiv 2102.08259"
    revision = 1
    Config = DSAConfig
    quick: ClassVar[Mapping[str, Any]] = {**MatchedMethod.quick, "matches": 2, "epochs": 1}
    config: DSAConfig

    def alike(self, spec: DatasetSpec) -> Alike | None:
        return alike_of(self.config.augment, spec)

    def augment(self, spec: DatasetSpec) -> Augment:
        return augment_of(self.config.augment, spec)
