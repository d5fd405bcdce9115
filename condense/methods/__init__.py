"""The methods, by name."""

from condense.methods.base import Method, Needs, Rows, SynthesisJob
from condense.methods.cda import CDA
from condense.methods.random_real import RandomReal
from condense.methods.sre2l import SRe2L

__all__ = ["METHODS", "Method", "Needs", "Rows", "SynthesisJob"]

METHODS: dict[str, type[Method]] = {
    "sre2l": SRe2L,
    "cda": CDA,
    "random": RandomReal,
}
