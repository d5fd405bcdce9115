"""The methods, by name."""

from condense.methods.base import Method, Needs, Rows, SynthesisJob
from condense.methods.cda import CDA
from condense.methods.dc import DC
from condense.methods.dm import DM
from condense.methods.dsa import DSA
from condense.methods.feature_coresets import Herding, KCenter, KMeans, Moderate
from condense.methods.idc import IDC
from condense.methods.random_real import RandomReal
from condense.methods.score_coresets import CCS, EL2N, CADPrune, Forgetting
from condense.methods.sre2l import SRe2L

__all__ = ["METHODS", "Method", "Needs", "Rows", "SynthesisJob", "choosers"]

METHODS: dict[str, type[Method]] = {
    "sre2l": SRe2L,
    "cda": CDA,
    "dc": DC,
    "dsa": DSA,
    "dm": DM,
    "idc": IDC,
    "random": RandomReal,
    "herding": Herding,
    "k-center": KCenter,
    "k-means": KMeans,
    "moderate": Moderate,
    "el2n": EL2N,
    "forgetting": Forgetting,
    "ccs": CCS,
    "cad-prune": CADPrune,
}


def choosers() -> list[str]:
    """The methods that do nothing but choose real images."""
    made = {name: method(method.Config()) for name, method in METHODS.items()}
    return [name for name, one in made.items() if one.contains_real_images and one.optimisation_steps == 0]
