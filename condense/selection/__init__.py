"""Choosing real images: pure functions of labels, features and training dynamics, one class at a time.

A picker takes what is known of all images and the ``members`` of a class, int64 positions in ascending order, and
returns ``count`` of them, each once, in the order of slots. Where two images are equally good the one of the lowest
position wins. Nothing here holds a matrix of images by images: memory is bounded by a block.
"""

from condense.selection.greedy import herding, k_center
from condense.selection.kmeans import k_means
from condense.selection.moderate import moderate
from condense.selection.ordering import ccs, largest, smallest, window
from condense.selection.picking import members_of, pick_random
from condense.selection.scores import aum, cad, el2n, forgetting

__all__ = [
    "aum",
    "cad",
    "ccs",
    "el2n",
    "forgetting",
    "herding",
    "k_center",
    "k_means",
    "largest",
    "members_of",
    "moderate",
    "pick_random",
    "smallest",
    "window",
]
