"""The one way in which images of any size and mode become uint8 arrays of one shape.

1. *Orientation*: an EXIF orientation is applied.
2. *Depth*: 16-bit grey is scaled to 8 bits, ``round(v / 257)``; 1-bit becomes 0 and 255. (16-bit colour is reduced to
   8 bits by the decoder.) Floating-point images, and 32-bit ones beyond the 16-bit range, have no agreed white and are
   refused.
3. *Transparency*: alpha, also of a palette or a transparent colour, is composited over white.
4. *Channels*: one if no image of the data set has colour, else three. What counts is how the file stores its pixels: a
   file with three channels has colour even where they are equal; a palette has colour unless all its entries are
   grey. Colour becomes grey by ITU-R 601 luma; CMYK, YCbCr and HSV become RGB.
5. *Size*: if all images have one size and both its sides are from 8 to 224 pixels, they stay as they are. Otherwise
   they become square: the side is the median of the shorter sides, rounded to a multiple of 8 and kept within 8 to 224;
   the shorter side is resized to it (Lanczos, antialiased) and the centre of the longer one is kept.

Channels and size can both be asked for instead.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

__all__ = [
    "LARGEST",
    "SMALLEST",
    "UNREADABLE",
    "Geometry",
    "Look",
    "common_geometry",
    "fit",
    "look",
    "open_image",
    "suffixes",
]

SMALLEST, LARGEST = 8, 224
FORMATS = frozenset({"PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000"})
"""Formats that are opened, where Pillow was built with them. None runs another program, as PostScript does."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What decoders raise on damaged or unsuitable files."""

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
ALPHA_MODES = frozenset({"LA", "La", "RGBA", "RGBa", "PA"})
ORIENTATION_TAG, FIRST_SIDEWAYS = 0x0112, 5


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The shape every image is brought to."""

    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.channels)

    def override(self, size: int | None, channels: int | None) -> Geometry:
        """The same with a square side or a channel count asked for."""
        return Geometry(height=size or self.height, width=size or self.width, channels=channels or self.channels)


@dataclass(frozen=True)
class Look:
    """What an image's header says: size as it is seen (after EXIF orientation), and whether it has colour."""

    width: int
    height: int
    colour: bool


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(FORMATS & Image.OPEN.keys()))


@cache
def suffixes() -> frozenset[str]:
    """What names of files of these formats end in, with the dot, in lower case."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)


def open_image(file: str | BinaryIO) -> Image.Image:
    """Open an image file and read its header. Raises one of :data:`UNREADABLE` if it is none of :data:`FORMATS`."""
    return Image.open(file, formats=_formats())


def look(image: Image.Image) -> Look:
    """Read the header; pixels are not decoded."""
    width, height = image.size
    if image.getexif().get(ORIENTATION_TAG, 1) >= FIRST_SIDEWAYS:
        width, height = height, width
    return Look(width, height, _has_colour(image))


def _has_colour(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    if palette is not None:
        entries = np.asarray(palette).reshape(-1, 3)
        return bool((entries != entries[:, :1]).any())
    return image.mode not in GREY_MODES


def common_geometry(looks: Collection[Look]) -> Geometry:
    """The geometry for a data set, by rules 4 and 5."""
    channels = 3 if any(seen.colour for seen in looks) else 1
    sizes = {(seen.height, seen.width) for seen in looks}
    height, width = next(iter(sizes))
    if len(sizes) > 1 or min(height, width) < SMALLEST or max(height, width) > LARGEST:
        side = 8 * round(median(min(seen.height, seen.width) for seen in looks) / 8)
        height = width = min(max(side, SMALLEST), LARGEST)
    return Geometry(height=height, width=width, channels=channels)


def fit(image: Image.Image, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Any image -> uint8 (height, width, channels), by rules 1 to 5.

    Raises ``ValueError`` for pixels that have no agreed range, ``OSError`` and others for damaged ones: see
    :data:`UNREADABLE`, which callers turn into a :class:`~condense.errors.DataError` naming the image.
    """
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = _eight_bits(image)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = _over_white(image)
    image = image.convert("L" if geometry.channels == 1 else "RGB")
    if image.size != (geometry.width, geometry.height):
        image = ImageOps.fit(image, (geometry.width, geometry.height), method=Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8).reshape(geometry.shape)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; convert it to 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels outside 0 to 65535; convert it to 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
