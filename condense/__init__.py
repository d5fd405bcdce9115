"""Dataset distillation: a few images per class that train a fresh network almost as well as the whole data set.

>>> import condense
>>> [folder] = condense.distill(data="fashion-mini", method="cda", ipc=10)  # doctest: +SKIP
>>> distilled = condense.load(folder)  # a torchvision-style Dataset  # doctest: +SKIP
>>> results = condense.evaluate([folder], students=["convnet3-bn"], seeds=3)  # doctest: +SKIP

Names are imported when they are first used, so ``import condense`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condense.api import distill, diversity, evaluate, import_set, relabel, train, train_teacher
    from condense.data import open_data
    from condense.dataset import DistilledDataset, load
    from condense.errors import CondenseError
    from condense.exchange import export_set, pack, unpack
    from condense.methods import METHODS
    from condense.networks import NETWORKS
    from condense.shards import verify
    from condense.teachers.trained import load_network

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "NETWORKS",
    "CondenseError",
    "DistilledDataset",
    "__version__",
    "distill",
    "diversity",
    "evaluate",
    "export_set",
    "import_set",
    "load",
    "load_network",
    "open_data",
    "pack",
    "relabel",
    "train",
    "train_teacher",
    "unpack",
    "verify",
]

_HOMES = {
    "METHODS": "condense.methods",
    "NETWORKS": "condense.networks",
    "CondenseError": "condense.errors",
    "DistilledDataset": "condense.dataset",
    "distill": "condense.api",
    "diversity": "condense.api",
    "evaluate": "condense.api",
    "export_set": "condense.exchange",
    "import_set": "condense.api",
    "load": "condense.dataset",
    "load_network": "condense.teachers.trained",
    "open_data": "condense.data",
    "pack": "condense.exchange",
    "relabel": "condense.api",
    "train": "condense.api",
    "train_teacher": "condense.api",
    "unpack": "condense.exchange",
    "verify": "condense.shards",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("report", "recipes"):
        return import_module(f"condense.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'condense' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
