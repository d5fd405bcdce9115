"""The methods, by name."""

from condense.methods.base import Method, Needs, Rows, SynthesisJob
from condense.methods.cda import CDA
from condense.methods.coreset import Coreset
from condense.methods.cv_dd import CVDD, SRe2LPlus
from condense.methods.dc import DC
from condense.methods.dm import DM
from condense.methods.dsa import DSA
from condense.methods.dwa import DWA
from condense.methods.edc import EDC, LPLD
from condense.methods.fadrm import FADRM, FADRMPlus
from condense.methods.feature_coresets import Herding, KCenter, KMeans, Moderate
from condense.methods.idc import IDC
from condense.methods.infer import Infer, InferDyn
from condense.methods.mtt import MTT
from condense.methods.ncfm import NCFM
from condense.methods.nrr_dd import NRRDD
from condense.methods.random_real import RandomReal
from condense.methods.rded import RDED
from condense.methods.score_coresets import CCS, EL2N, CADPrune, Forgetting
from condense.methods.sre2l import SRe2L

__all__ = ["METHODS", "Method", "Needs", "Rows", "SynthesisJob", "choosers"]

METHODS: dict[str, type[Method]] = {
    "sre2l": SRe2L,
    "cda": CDA,
    "sre2l++": SRe2LPlus,
    "cv-dd": CVDD,
    "dwa": DWA,
    "lpld": LPLD,
    "edc": EDC,
    "fadrm": FADRM,
    "fadrm+": FADRMPlus,
    "nrr-dd": NRRDD,
    "rded": RDED,
    "infer": Infer,
    "infer-dyn": InferDyn,
    "dc": DC,
    "dsa": DSA,
    "dm": DM,
    "idc": IDC,
    "ncfm": NCFM,
    "mtt": MTT,
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
    return [name for name, method in METHODS.items() if issubclass(method, Coreset | RandomReal)]
