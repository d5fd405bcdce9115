"""Settings of the augmented views of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from condense.errors import ConfigError, suggest

__all__ = [
    "BETA_ALPHAS",
    "VIEW_VERSION",
    "Aspect",
    "Crop",
    "Mix",
    "ViewConfig",
    "check_choice",
    "check_fraction",
    "check_integer",
    "check_scale",
]

VIEW_VERSION = 1
"""Version of the drawing rules and tables. Stored beside labels; raised whenever any plan changes."""

BETA_ALPHAS = (0.2, 0.4, 0.5, 0.8, 1.0)
"""The mix strengths for which a quantile table is stored (1.0, the uniform, needs none)."""

Aspect = Literal["standard", "square"]
Crop = Literal["none", "resized", "pad"]
Mix = Literal["none", "cutmix", "mixup", "selfmix"]


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of ``choices``."""
    known = list(choices)
    if value not in known:
        raise ConfigError(f'{name} is "{value}"; {suggest(str(value), known)}')


def check_integer(name: str, value: object, least: int, most: int = 2**24) -> None:
    """Refuse what is not an integer from ``least`` to ``most``."""
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; expected an integer from {least} to {most}")


def check_fraction(name: str, value: object) -> None:
    """Refuse what is not a number from 0 to 1."""
    if type(value) not in (int, float) or not 0.0 <= value <= 1.0:  # type: ignore[operator]  # a number by now
        raise ConfigError(f"{name} is {value!r}; expected a number from 0 to 1")


def check_scale(value: tuple[float, ...]) -> None:
    """Refuse what is not a range of areas."""
    numbers = isinstance(value, tuple) and len(value) == 2 and all(type(share) in (int, float) for share in value)
    if not numbers or not 0.0 < value[0] <= value[1] <= 1.0:
        raise ConfigError(
            f"scale is {value!r}; expected the least and greatest share of the area, 0 < least <= greatest <= 1"
        )


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Views of one epoch: crop, then flip, then mix with a partner of the same step.

    ``crop``: ``none``; ``resized``, a box of ``scale`` (least, greatest share of the area) and ``aspect`` ratio
    (``standard``: log-uniform in [3/4, 4/3]; ``square``: 1) resized to the full image; ``pad``, a shift by up to
    ``pad`` pixels with zeros moving in. ``flip``: probability of a left-right flip. ``mix``: CutMix
    (arXiv 1905.04899) or Mixup (arXiv 1710.09412) with lambda ~ Beta(``mix_alpha``, ``mix_alpha``), one lambda, one
    permutation and one box per step as in SRe2L (arXiv 2306.13092); or SelfMix (FerKD, arXiv 2312.17473), the box of
    CutMix filled from another crop of the same image. (FerKD takes crops that the teacher finds alike hard; here any
    two, since views are drawn before anybody has seen them.) ``batch_size``: images per optimiser step.
    ``group_size``: images that share BatchNorm statistics; None: the whole step.

    Raises :class:`ConfigError` for a value out of range.
    """

    crop: Crop = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: Aspect = "standard"
    pad: int = 4
    flip: float = 0.5
    mix: Mix = "none"
    mix_alpha: float = 1.0
    batch_size: int = 64
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("crop", self.crop, get_args(Crop))
        check_choice("aspect", self.aspect, get_args(Aspect))
        check_choice("mix", self.mix, get_args(Mix))
        check_scale(self.scale)
        check_integer("pad", self.pad, 0)
        check_fraction("flip", self.flip)
        check_integer("batch_size", self.batch_size, 2)
        if self.mix_alpha not in BETA_ALPHAS:
            raise ConfigError(f"mix_alpha is {self.mix_alpha!r}; expected one of {', '.join(map(str, BETA_ALPHAS))}")
        if self.group_size is not None:
            check_integer("group_size", self.group_size, 2, self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; the inverse of :meth:`from_dict`."""
        return {**asdict(self), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ViewConfig:
        """Raises :class:`ConfigError` for a key that does not exist or a value that does not fit."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f'views have no setting "{name}"; {suggest(name, known)}')
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)
