"""What is optimised and stored: pixels, or what is added to real images."""

from condense.canvas.base import Canvas
from condense.canvas.compensated import Compensated, compensated_columns
from condense.canvas.pixels import Pixels, noise_start, real_start

__all__ = ["Canvas", "Compensated", "Pixels", "compensated_columns", "noise_start", "real_start"]
