"""Real images, class by class, and the changes that real and synthetic images of a class go through alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from condense.data.pixels import normalise, to_pixels
from condense.data.spec import DatasetSpec, Split
from condense.errors import DataError
from condense.matching.derivatives import Batch
from condense.seeding import generator
from condense.selection import members_of
from condense.selection.picking import Indices
from condense.views.augment import Family, siamese

__all__ = ["Alike", "RealImages"]

RESIDENT = 2**31
"""Bytes of training images that are kept on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Siamese augmentation: for each class and step one draw, which real and synthetic images share.

    ``one``: one of ``families``, drawn (DSA), or all of them in their order (IDC).
    """

    families: tuple[Family, ...]
    one: bool

    def __call__(self, batch: Batch, generators: Sequence[np.random.Generator]) -> Batch:
        """The normalised images of a batch, changed, those of each class by its generator.

        Generators of one key change any number of images alike.
        """
        if not self.one:
            return replace(batch, images=siamese(batch.images, self.families, generators, batch.sizes))
        chosen = [self.families[draws.integers(len(self.families))] for draws in generators]
        parts = list(batch.images.split(batch.sizes))
        for family in dict.fromkeys(chosen):
            own = [number for number, one in enumerate(chosen) if one == family]
            sizes = [batch.sizes[number] for number in own]
            together = torch.cat([parts[number] for number in own])
            changed = siamese(together, [family], [generators[number] for number in own], sizes)
            for number, part in zip(own, changed.split(sizes), strict=True):
                parts[number] = part
        return replace(batch, images=torch.cat(parts))


class RealImages:
    """The training images of ``classes``. Raises `DataError` for a class without any.

    ``like``: a tensor of the dtype, and on the device, that images are wanted with. On a GPU the bytes of all images
    lie there, unless they are more than :data:`RESIDENT`.
    """

    def __init__(self, train: Split, spec: DatasetSpec, classes: Sequence[int], like: Tensor) -> None:
        labels = np.asarray(train.labels)
        self.images, self.spec, self.like = train.images, spec, like
        self.resident: Tensor | None = None
        if like.is_cuda and self.images.nbytes <= RESIDENT:
            self.resident = torch.from_numpy(np.array(self.images)).to(like.device)
        self.mean, self.std = (like.new_tensor(each).view(-1, 1, 1) for each in (spec.mean, spec.std))
        self.members = {label: members_of(labels, label) for label in classes}
        for label, members in self.members.items():
            if not len(members):
                raise DataError(
                    f'class "{spec.classes[label]}" of {spec.name} has no training images to match; leave it out'
                )

    def draw(self, labels: Sequence[int], count: int, *key: int | str, seed: int) -> Batch:
        """``count`` different random images of each class, or all that there are, normalised.

        The draws are keyed by ``key``, a purpose and numbers, and the class.
        """
        purpose, *numbers = key
        picks = []
        for label in labels:
            members = self.members[label]
            random = generator(seed, str(purpose), *map(int, numbers), label)
            chosen = random.choice(len(members), count, replace=False) if count < len(members) else slice(None)
            picks.append(np.sort(members[chosen]))
        return self._batch(picks, labels)

    def first(self, labels: Sequence[int], count: int) -> Batch:
        """The first ``count`` images of each class, or all that there are, normalised."""
        return self._batch([self.members[label][:count] for label in labels], labels)

    def _batch(self, picks: Sequence[Indices], labels: Sequence[int]) -> Batch:
        return Batch(self.at(np.concatenate(picks)), tuple(labels), tuple(map(len, picks)))

    def at(self, positions: Indices) -> Tensor:
        """The images at these positions of the training set, normalised."""
        if self.resident is None:
            pixels = to_pixels(np.asarray(self.images[positions])).to(self.like.device, non_blocking=True)
            return normalise(pixels, self.spec).to(self.like.dtype)
        chosen = torch.from_numpy(positions).to(self.like.device, non_blocking=True)
        scaled = self.resident.index_select(0, chosen).permute(0, 3, 1, 2).float() / 255
        return ((scaled - self.mean.float()) / self.std.float()).to(self.like.dtype)


def batch_of(parts: Sequence[Tensor], labels: Sequence[int]) -> Batch:
    """The images of some classes as a batch."""
    return Batch(torch.cat(list(parts)), tuple(labels), tuple(map(len, parts)))
