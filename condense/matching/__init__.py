"""The loops of the methods that match real and synthetic images: gradients, features, trajectories."""

from condense.matching.between import OnReal, OnSynthetic, Training
from condense.matching.convnet import has_fast_form
from condense.matching.distances import DISTANCES, DistanceName
from condense.matching.loop import Matching, Problem, check_memory, match, network_of
from condense.matching.mover import PixelOptim
from condense.matching.real import Alike
from condense.matching.trajectories import Following, Rate, follow

__all__ = [
    "DISTANCES",
    "Alike",
    "DistanceName",
    "Following",
    "Matching",
    "OnReal",
    "OnSynthetic",
    "PixelOptim",
    "Problem",
    "Rate",
    "Training",
    "check_memory",
    "follow",
    "has_fast_form",
    "match",
    "network_of",
]
