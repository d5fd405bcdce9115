"""A teacher's network for images that are normalised otherwise than its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condense.data.spec import DatasetSpec
from condense.teachers.teacher import Teacher

__all__ = ["fed_by"]


class _Renormalise(nn.Module):
    """Images normalised by one mean and standard deviation -> normalised by another."""

    def __init__(self, given: DatasetSpec, wanted: DatasetSpec) -> None:
        super().__init__()
        old, new = (
            (torch.tensor(spec.mean).view(-1, 1, 1), torch.tensor(spec.std).view(-1, 1, 1)) for spec in (given, wanted)
        )
        self.register_buffer("factor", old[1] / new[1])
        self.register_buffer("offset", (old[0] - new[0]) / new[1])

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("offset"), images, self.get_buffer("factor"))


def fed_by(spec: DatasetSpec, teacher: Teacher) -> nn.Module:
    """The teacher's network for images normalised by ``spec``; imported teachers may have their own normalisation."""
    own = teacher.info.spec
    if (own.mean, own.std) == (spec.mean, spec.std):
        return teacher.network
    return nn.Sequential(_Renormalise(spec, own), teacher.network)
