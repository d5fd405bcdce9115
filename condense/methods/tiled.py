"""What IDC and NCFM share: several images stored in one, as the tiles of a mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from condense.canvas import Pixels, Tiles, check_factor, mosaic, noise_start, real_start
from condense.data.spec import DatasetSpec, Split
from condense.errors import ConfigError, MethodError
from condense.methods.base import Canvas, SynthesisJob
from condense.methods.matched import MatchedConfig, MatchedMethod, real_images
from condense.teachers import Teacher

__all__ = ["TiledConfig", "TiledMethod"]

NOISE_MEAN, NOISE_STD = 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class TiledConfig(MatchedConfig):
    """Settings of both. Raises `ConfigError` for a value out of range."""

    factor: int = field(
        default=2,
        metadata={"help": "stored images are mosaics of factor x factor tiles; 1: IDC-I, published also 2, 3"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "factor")


class TiledMethod(MatchedMethod):
    """Mosaics begin as means of real images; images repeat where a class is small."""

    config: TiledConfig

    @property
    def canvas(self) -> Canvas:
        factor = self.config.factor
        return Canvas("pixels") if factor == 1 else Canvas("tiles", {"factor": factor})

    @property
    def items_per_row(self) -> int:
        return self.config.factor**2

    def canvas_of(self, start: Tensor, spec: DatasetSpec) -> Pixels:
        return Tiles(start, spec, self.config.factor)

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        try:
            check_factor(self.config.factor, spec)
        except ConfigError as error:
            raise MethodError(f"{self.name}: {error}") from None
        super().check(spec, ipc, teachers)

    def _start(self, job: SynthesisJob, ipc: int, train: Split) -> Tensor:
        factor = self.config.factor
        if self.config.start == "noise":
            keys = {"seed": job.seed, "set_index": job.set_index}
            return raw_noise(noise_start(job.spec, tuple(range(ipc)), job.classes, **keys), job.spec)
        if factor == 1:
            return super()._start(job, ipc, train)
        images = real_images(job, range(ipc * factor**2), train, self.config.start)
        return mosaic(real_start(images, job.spec), factor)


def raw_noise(noise: Tensor, spec: DatasetSpec) -> Tensor:
    """N(0, 1), as N(0.5, 0.25^2) of pixels in [0, 1], normalised by ``spec``; clamped there by the canvas."""
    mean, std = (noise.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
    return ((NOISE_MEAN + NOISE_STD * noise).clamp(0, 1) - mean) / std
