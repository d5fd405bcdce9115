"""What is optimised and stored: pixels, or mosaics of tiles."""

from condense.canvas.base import Canvas
from condense.canvas.pixels import Pixels, noise_start, real_start
from condense.canvas.tiles import Tiles, check_factor, mosaic

__all__ = ["Canvas", "Pixels", "Tiles", "check_factor", "mosaic", "noise_start", "real_start"]
