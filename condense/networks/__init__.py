"""Networks for small images, by name, with initial weights that depend on a seed alone."""

from condense.networks.base import Network, batchnorm_layers
from condense.networks.registry import NETWORK_FORMS, NETWORKS, NetworkEntry, NetworkRow, build, describe

__all__ = [
    "NETWORKS",
    "NETWORK_FORMS",
    "Network",
    "NetworkEntry",
    "NetworkRow",
    "batchnorm_layers",
    "build",
    "describe",
]
