"""The loops of the methods that match real and synthetic images: gradients, features, trajectories."""

from condense.matching.between import OnReal, OnSynthetic, Training
from condense.matching.characteristic import Spectrum
from condense.matching.convnet import has_fast_form
from condense.matching.distances import DISTANCES, DistanceName
from condense.matching.grown import Grown, Growth, flat_weights, grow, pass_steps
from condense.matching.loop import Matching, Problem, check_memory, match, network_of
from condense.matching.mover import PixelOptim, PixelOptimiser
from condense.matching.real import Alike
from condense.matching.trajectories import Following, Rate, follow

__all__ = [
    "DISTANCES",
    "Alike",
    "DistanceName",
    "Following",
    "Grown",
    "Growth",
    "Matching",
    "OnReal",
    "OnSynthetic",
    "PixelOptim",
    "PixelOptimiser",
    "Problem",
    "Rate",
    "Spectrum",
    "Training",
    "check_memory",
    "flat_weights",
    "follow",
    "grow",
    "has_fast_form",
    "match",
    "network_of",
    "pass_steps",
]
