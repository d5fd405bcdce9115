"""Images of other conventions as those of a set: uint8 (N, H, W, C)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from condense.data.spec import DatasetSpec
from condense.errors import ConfigError, DataError, suggest

__all__ = ["Layout", "Range", "to_nhwc", "to_uint8"]

Layout = Literal["nchw", "nhwc"]
Range = Literal["0-1", "0-255", "normalised"]

BLOCK = 256


def to_nhwc(images: npt.NDArray[Any], spec: DatasetSpec, layout: str | None) -> npt.NDArray[Any]:
    """(N, C, H, W) or (N, H, W, C), and (N, H, W) for one channel, as a view (N, H, W, C).

    The layout is the one in which the images have the shape of ``spec``. Raises :class:`ConfigError` where both fit and
    ``layout`` does not say which, :class:`DataError` for another shape.
    """
    if layout is not None and layout not in get_args(Layout):
        raise ConfigError(f'--layout is "{layout}"; {suggest(layout, get_args(Layout))}')
    if images.ndim == 3 and spec.channels == 1:
        images = images[..., None] if layout != "nchw" else images[:, None]
    height, width, channels = spec.image_shape
    shapes = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
    fitting = [name for name, shape in shapes.items() if images.shape[1:] == shape and layout in (None, name)]
    if not fitting or not len(images):
        wanted = " or ".join(str(("N", *shape)) for name, shape in shapes.items() if layout in (None, name))
        raise DataError(
            f"the images have shape {images.shape}, those of {spec.name} {wanted.replace(chr(39), '')}; "
            "open the data set with the size and channels of these (--size, --channels)"
        )
    if len(fitting) == 2 and channels > 1:
        raise ConfigError(f"images of shape {images.shape} may be NCHW or NHWC; say which with --layout nchw or nhwc")
    return images if fitting[-1] == "nhwc" else images.transpose(0, 2, 3, 1)


def to_uint8(images: npt.NDArray[Any], spec: DatasetSpec, value_range: str | None) -> tuple[npt.NDArray[np.uint8], int]:
    """Pixels as uint8 (N, H, W, C), rounded to the nearest and clamped; and how many values had to be clamped.

    uint8 images stay as they are. Of others ``value_range`` says what they mean: ``0-1`` and ``0-255`` from black to
    white, ``normalised`` (pixel in [0, 1] - mean) / std with the mean and std of ``spec``. Raises :class:`ConfigError`
    where it is missing or wrong, :class:`DataError` for values that are no numbers.
    """
    if value_range is not None and value_range not in get_args(Range):
        raise ConfigError(f'--range is "{value_range}"; {suggest(value_range, get_args(Range))}')
    if images.dtype == np.uint8:
        if value_range not in (None, "0-255"):
            raise ConfigError(f"--range is {value_range}, but the images are uint8, which goes from 0 to 255")
        return np.ascontiguousarray(images), 0
    if images.dtype.kind not in "iuf":
        raise DataError(f"the images are {images.dtype}; expected uint8 or floating-point numbers")
    if value_range is None:
        raise ConfigError(
            f"the images are {images.dtype}, from {images.min():.4g} to {images.max():.4g}; say what that means with "
            f"--range {', '.join(get_args(Range))}"
        )
    made = np.empty(images.shape, dtype=np.uint8)
    clamped = 0
    for start in range(0, len(images), BLOCK):
        values = images[start : start + BLOCK].astype(np.float64)
        if value_range == "normalised":
            values = values * np.array(spec.std) + np.array(spec.mean)
        if value_range != "0-255":
            values *= 255
        if not np.isfinite(values).all():
            raise DataError(f"the images have {np.count_nonzero(~np.isfinite(values))} pixels that are not finite")
        values = np.rint(values)
        clamped += int(np.count_nonzero((values < 0) | (values > 255)))
        made[start : start + BLOCK] = values.clip(0, 255)
    return made, clamped
