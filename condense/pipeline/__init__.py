"""The parts put together: a distillation, a training, an evaluation as plans of jobs, run and published.

Plans are pure: they name what is to be computed by everything the results depend on. What is in the store already is
not computed again, so every function here can be called again after an interruption.
"""

from condense.pipeline.context import Context, DataRequest
from condense.pipeline.diversity import diversity
from condense.pipeline.estimate import Estimate, estimate
from condense.pipeline.repro import Agreement, repro, write_recipe
from condense.pipeline.request import Request, hurried, resolve
from condense.pipeline.sets import distill, relabel
from condense.pipeline.students import TrainOutcome, evaluate, train
from condense.pipeline.teachers import import_teacher, train_teacher

__all__ = [
    "Agreement",
    "Context",
    "DataRequest",
    "Estimate",
    "Request",
    "TrainOutcome",
    "distill",
    "diversity",
    "estimate",
    "evaluate",
    "hurried",
    "import_teacher",
    "relabel",
    "repro",
    "resolve",
    "train",
    "train_teacher",
    "write_recipe",
]
