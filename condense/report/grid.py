"""A set as one picture: a row per class, a column per image of the class."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from condense.errors import ConfigError, OutputError
from condense.files import write_atomic

__all__ = ["MAX_CLASSES", "draw_grid"]

MAX_CLASSES = 100  # taller pictures are refused by many viewers; the classes drawn are spread evenly over all
MIN_CELL = 32  # small images are enlarged by a whole factor until their shorter side has this many pixels
GAP = 2
FONT_SIZE = 12
MAX_NAME = 24  # characters of a class name
WHITE = 255


def draw_grid(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    path: Path,
    *,
    per_class: int = 10,
    scale: int | None = None,
) -> None:
    """Write a PNG: names at the left, then the first ``per_class`` images of each class in their order.

    ``images``: uint8 (N, H, W, C), C 1 or 3. ``labels``: int64 (N,), indices into ``classes``. Beyond `MAX_CLASSES`
    classes, that many of them are drawn, evenly spread, and the last line says so. ``scale`` enlarges every image
    by a whole factor, without smoothing; by default small images are enlarged until they can be seen.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f'the picture would be "{path}"; expected a name that ends in .png')
    if per_class < 1 or (scale is not None and scale < 1):
        raise ConfigError(f"per_class and scale must be at least 1, got {per_class} and {scale}")
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.dtype != np.uint8:
        raise ConfigError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, C), C 1 or 3")
    height, width = images.shape[1:3]
    if scale is None:
        scale = math.ceil(MIN_CELL / min(height, width))
    drawn = spread(len(classes), MAX_CLASSES)
    rows = [np.flatnonzero(labels == index)[:per_class] for index in drawn]
    names = [_printable(classes[index]) for index in drawn]
    note = f"{len(drawn)} of {len(classes)} classes" if len(drawn) < len(classes) else ""
    page = _Page(names, note, cell=(height * scale, width * scale), columns=max((len(row) for row in rows), default=0))
    for line, row in enumerate(rows):
        for column, index in enumerate(row):
            page.paste(line, column, images[index].repeat(scale, axis=0).repeat(scale, axis=1))
    buffer = io.BytesIO()
    page.picture.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the numbers 0 .. count-1, evenly spread, the first among them."""
    return [index * count // min(count, limit) for index in range(min(count, limit))]


class _Page:
    """An empty picture with the names written on it, and where each cell is."""

    def __init__(self, names: Sequence[str], note: str, cell: tuple[int, int], columns: int) -> None:
        font = ImageFont.load_default(FONT_SIZE)
        self.cell = (max(cell[0], FONT_SIZE + GAP), cell[1])
        self.left = math.ceil(max((font.getlength(name) for name in [*names, note]), default=0)) + 2 * GAP
        height = len(names) * (self.cell[0] + GAP) + GAP + (FONT_SIZE + 2 * GAP if note else 0)
        width = self.left + columns * (self.cell[1] + GAP) + GAP
        self.picture = Image.new("RGB", (width, height), (WHITE, WHITE, WHITE))
        draw = ImageDraw.Draw(self.picture)
        for line, name in enumerate(names):
            draw.text((GAP, self._top(line) + (self.cell[0] - FONT_SIZE) // 2), name, fill=(0, 0, 0), font=font)
        if note:
            draw.text((GAP, self._top(len(names))), note, fill=(0, 0, 0), font=font)

    def _top(self, line: int) -> int:
        return GAP + line * (self.cell[0] + GAP)

    def paste(self, line: int, column: int, image: npt.NDArray[np.uint8]) -> None:
        """``image`` uint8 (h, w, 1 or 3)."""
        colour = np.broadcast_to(image, (*image.shape[:2], 3))
        corner = (self.left + column * (self.cell[1] + GAP), self._top(line))
        self.picture.paste(Image.fromarray(np.ascontiguousarray(colour)), corner)


def _printable(name: str) -> str:
    """Shortened, and with the characters that the built-in font lacks replaced."""
    short = name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."
    return short.encode("latin-1", "replace").decode("latin-1")
