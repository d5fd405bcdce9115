"""What is optimised and stored. Here: pixels."""

from condense.canvas.base import Canvas
from condense.canvas.pixels import Pixels, noise_start, real_start

__all__ = ["Canvas", "Pixels", "noise_start", "real_start"]
