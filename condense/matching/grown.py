"""Networks that learnt from real images beforehand: made once, kept as snapshots, and taken from while matching."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import identity
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.files import canonical_json
from condense.matching.between import Step, cut_and_mixed, each_changed, loss_of
from condense.matching.real import RealImages
from condense.networks import build
from condense.progress import Report, silent
from condense.seeding import generator, key
from condense.training import Batch, OptimConfig, fit
from condense.views.augment import Family

__all__ = ["Grown", "Growth", "Stock", "Taken", "flat_weights", "grow", "load_flat", "pass_steps"]

Taken = Literal["fresh", "snapshots", "between"]
"""Where networks come from: drawn anew; any snapshot of any of a stock; between the first and the last of one of it."""

SNAPSHOTS, GROWTH = "snapshots.npy", "growth.json"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How network ``number`` of a stock learns. Raises `ConfigError` for a value out of range.

    ``snapshots``: how many are kept besides that of the beginning, ``every`` steps apart. Batches are consecutive in a
    random order of all images, drawn anew for each pass, of which the incomplete last is left out. Each image is
    changed by ``families``, with parameters of its own, and by one of ``one_of``, which is drawn for the batch;
    ``cutmix`` is the probability of CutMix in a step.
    """

    network: str
    number: int
    seed: int
    snapshots: int
    every: int
    batch: int
    optim: OptimConfig = field(default_factory=OptimConfig)
    cutmix: float = 0.5
    families: tuple[Family, ...] = ()
    one_of: tuple[Family, ...] = ()

    def __post_init__(self) -> None:
        for name in ("snapshots", "every", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Grown:
    """``snapshots``: the weights and buffers of a network as it learnt, float32 (S + 1, P), in the order of its state.

    The first is of the beginning. ``network`` is its name.
    """

    network: str
    snapshots: npt.NDArray[np.float32]

    def write(self, folder: Path, growth: Growth) -> None:
        np.save(folder / SNAPSHOTS, self.snapshots, allow_pickle=False)
        (folder / GROWTH).write_text(canonical_json(identity(growth)))

    @classmethod
    def read(cls, folder: Path) -> Grown:
        """What :meth:`write` wrote, as a memory map."""
        known: Mapping[str, Any] = json.loads((folder / GROWTH).read_text())
        return cls(known["network"], np.load(folder / SNAPSHOTS, mmap_mode="r"))

    def at(self, snapshot: int) -> Tensor:
        """One snapshot, (P,)."""
        return torch.from_numpy(np.array(self.snapshots[snapshot]))


def flat_weights(network: nn.Module) -> Tensor:
    """All numbers of a network's state that are no counters, (P,), in its dtype."""
    return torch.cat([one.detach().flatten() for one in moving(network)])


@torch.no_grad()
def load_flat(network: nn.Module, flat: Tensor) -> None:
    """Put what :func:`flat_weights` gave into a network of the same kind, in place."""
    values = moving(network)
    sizes = [one.numel() for one in values]
    flat = flat.to(values[0].device, non_blocking=True)
    if sum(sizes) != len(flat):
        raise MethodError(
            f"a snapshot has {len(flat)} numbers, but {type(network).__name__} has {sum(sizes)}; make the pool again "
            "with the network that images are matched in"
        )
    for one, part in zip(values, flat.split(sizes), strict=True):
        one.copy_(part.view(one.shape))


def moving(network: nn.Module) -> list[Tensor]:
    return [one for one in network.state_dict().values() if one.is_floating_point()]


def pass_steps(images: int, batch: int) -> int:
    """Steps of a pass over so many images."""
    return images // min(batch, images)


def grow(
    train: Split,
    spec: DatasetSpec,
    growth: Growth,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> Grown:
    """Train a network on all of ``train`` but images with a label below 0, keeping snapshots.

    With a ``checkpoint`` an interrupted run goes on to the same bytes. Raises `Diverged`.
    """
    network = build(
        growth.network,
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        n_classes=spec.n_classes,
        seed=key(growth.seed, "network of a pool", growth.number),
    )
    watcher = _Watcher(network, growth.snapshots)
    labels = np.asarray(train.labels)
    positions = np.flatnonzero(labels >= 0)
    present = np.unique(labels[positions]).tolist()
    real = RealImages(train, spec, present, watcher.state.to(compute.torch_device))

    def batches(interval: int, first_step: int) -> Iterator[Batch]:
        first, last = interval * growth.every + first_step, (interval + 1) * growth.every
        for step in steps(real, positions, labels, growth, first, last):
            yield Batch(step.images, step.targets, loss=None if step.others is None else partial(mixed_loss, step))

    fit(
        network,
        batches,
        functional.cross_entropy,
        growth.optim,
        epochs=growth.snapshots,
        steps_per_epoch=growth.every,
        compute=compute,
        report=report,
        name=f"network {growth.number} of a pool",
        checkpoint=checkpoint,
        listener=watcher,
    )
    return Grown(growth.network, watcher.state.numpy())


def mixed_loss(step: Step, logits: Tensor, _targets: Tensor) -> Tensor:
    return loss_of(logits, *step.tensors()[1:])


def steps(
    real: RealImages,
    positions: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    growth: Growth,
    first: int,
    last: int,
) -> Iterator[Step]:
    """Steps ``first`` to ``last`` - 1 of a training on the images at ``positions``."""
    batch, a_pass = min(growth.batch, len(positions)), pass_steps(len(positions), growth.batch)
    before, order = -1, positions[:0]
    for place in range(first, last):
        if place // a_pass != before:
            before = place // a_pass
            order = generator(growth.seed, "order of a pool's images", growth.number, before).permutation(positions)
        chosen = order[place % a_pass * batch :][:batch]
        draws = generator(growth.seed, "step of a pool's network", growth.number, place)
        families = growth.families
        if growth.one_of:
            families = (*families, growth.one_of[draws.integers(len(growth.one_of))])
        images = each_changed(real.at(chosen), families, draws)
        targets = torch.from_numpy(labels[chosen].astype(np.int64)).to(images.device, non_blocking=True)
        yield cut_and_mixed(images, targets, draws) if draws.random() < growth.cutmix else Step(images, targets)


class _Watcher:
    """Keeps the weights at the end of each interval. ``state``: (snapshots + 1, P), on the CPU."""

    def __init__(self, network: nn.Module, snapshots: int) -> None:
        self.network = network
        flat = flat_weights(network)
        self.state = torch.zeros(snapshots + 1, len(flat), dtype=flat.dtype)
        self.state[0] = flat

    def end_epoch(self, epoch: int, logits: Tensor, targets: Tensor) -> None:
        self.state[epoch + 1] = flat_weights(self.network).cpu()


class Stock:
    """Networks that learnt beforehand, and which of them a match takes. Raises `MethodError` for none of them."""

    def __init__(self, grown: Sequence[Grown], taken: Taken, *, seed: int, set_index: int) -> None:
        if not grown:
            raise MethodError("a pool of networks is asked for, and none is given; make them first")
        self.grown, self.taken, self.seed, self.set_index = grown, taken, seed, set_index

    def draw(self, number: int) -> tuple[int, int, Tensor]:
        """Of match ``number``: which network, what names its weights, and these, (P,)."""
        draws = generator(self.seed, "network of a stock", self.set_index, number)
        member = int(draws.integers(len(self.grown)))
        one = self.grown[member]
        if self.taken == "between":
            share = float(draws.random())
            return member, number, share * one.at(0) + (1 - share) * one.at(-1)
        snapshot = int(draws.integers(len(one.snapshots)))
        return member, sum(len(each.snapshots) for each in self.grown[:member]) + snapshot, one.at(snapshot)

    def last(self, member: int) -> Tensor:
        """The weights of a network at its end."""
        return self.grown[member].at(-1)
