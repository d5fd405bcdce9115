"""The loop of the methods that match gradients or features of real and synthetic images, and its parts."""

from condense.matching.between import OnReal, OnSynthetic, Training
from condense.matching.convnet import has_fast_form
from condense.matching.distances import DISTANCES, DistanceName
from condense.matching.loop import Matching, Problem, check_memory, match, network_of
from condense.matching.mover import PixelOptim
from condense.matching.real import Alike

__all__ = [
    "DISTANCES",
    "Alike",
    "DistanceName",
    "Matching",
    "OnReal",
    "OnSynthetic",
    "PixelOptim",
    "Problem",
    "Training",
    "check_memory",
    "has_fast_form",
    "match",
    "network_of",
]
