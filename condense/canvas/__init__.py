"""What is optimised and stored: pixels, mosaics of tiles, or what is added to real images."""

from condense.canvas.base import Canvas
from condense.canvas.compensated import Compensated, compensated_columns
from condense.canvas.pixels import Pixels, noise_start, real_start
from condense.canvas.tiles import Tiles, check_factor, mosaic

__all__ = [
    "Canvas",
    "Compensated",
    "Pixels",
    "Tiles",
    "check_factor",
    "compensated_columns",
    "mosaic",
    "noise_start",
    "real_start",
]
