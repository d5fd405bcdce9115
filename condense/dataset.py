"""A distilled set as a torchvision-style data set, and the replay of its labelled epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.config import from_mapping
from condense.data.pixels import to_image
from condense.data.spec import DatasetSpec
from condense.errors import ConfigError, suggest
from condense.labels import Calibration, LabelConfig, seen_by_item
from condense.labels.relabel import Draw
from condense.shards.codecs import CODECS, Codec, Seen, spell
from condense.shards.errors import BadStructure, ForeignLabels, NoLabels, UnknownVersion
from condense.shards.read import LabelFile, Level, read_set
from condense.shards.setfile import SetInfo
from condense.views.config import VIEW_VERSION, ViewConfig
from condense.views.plan import EpochPlan, draw_steps, plan
from condense.views.render import render

__all__ = [
    "DistilledDataset",
    "Interpolation",
    "Replay",
    "ReplayBatch",
    "Targets",
    "alone",
    "load",
    "mix_logits",
    "replay_step",
]

Targets = Literal["hard", "soft"]
Interpolation = Literal["probabilities", "logits"]

PLANS_IN_MEMORY = 2_000_000
"""Views whose plans are kept; each takes some 100 bytes."""


class ReplayBatch(NamedTuple):
    """One optimiser step of a labelled epoch, b views of a set with K classes.

    ``images`` float32 (b, C, H, W), pixels in [0, 1] with channels-last strides, cropped, flipped and mixed;
    ``logits`` float32 (b, K), the stored soft labels of these views, or None; ``targets`` float32 (b, K), the classes
    as one-hot vectors, mixed as the images are; ``groups``, the sizes of the BatchNorm groups, in order, summing to b;
    ``items`` int64 (b,), which item each view shows.
    """

    images: Tensor
    logits: Tensor | None
    targets: Tensor
    groups: tuple[int, ...]
    items: Tensor


class DistilledDataset(torch.utils.data.Dataset[tuple[Any, Any]]):
    """The items of a distilled set, in order, like a data set of torchvision. Made by :func:`load`.

    ``classes``, ``class_to_idx`` and ``targets`` (class of every item, a list of int) are torchvision's; ``info`` is
    the content of ``set.json``, ``spec`` the source data set. Images are read from memory maps. Pickling carries the
    path, and the receiving process opens and checks the files again, so workers may be forked or spawned.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        targets: Targets = "hard",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        verify: Level = "structure",
    ) -> None:
        if targets not in get_args(Targets):
            raise ConfigError(f'targets is "{targets}"; {suggest(str(targets), get_args(Targets))}')
        self.path = Path(path).absolute()
        self.files = read_set(self.path, verify)
        self.transform = transform
        self.target_transform = target_transform
        self._plans: dict[int, EpochPlan] = {}
        self._classes = self.files.labels_of_items()
        self.targets: list[int] = self._classes.tolist()
        self.soft = self.mean_probabilities() if targets == "soft" else None

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        state["files"], state["_plans"] = self.info, {}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = read_set(state["path"])
        if files.info != state["files"]:
            raise ForeignLabels(f"{state['path']} has changed since it was loaded; load it again")
        vars(self).update({**state, "files": files})

    def __repr__(self) -> str:
        height, width, channels = self.spec.image_shape
        labels = "classes alone as labels" if self.only_hard else f"{self.epochs} labelled epochs"
        return (
            f'DistilledDataset("{self.info.name}": {len(self)} items of {height}x{width}x{channels}, '
            f"{len(self.classes)} classes, {labels})"
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """(image, target).

        Without a ``transform`` the image is a float32 tensor (C, H, W) in [0, 1]; with one it is what the transform
        makes of a PIL image (mode L or RGB, as in torchvision), or of a uint8 array (H, W, C) for other numbers of
        channels. The target is the class (int), or, with ``targets="soft"``, the mean over the epochs of the stored
        probabilities of the item's views, float32 (K,).
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index = int(index) % len(self)
        pixels = self.files.item(index)
        image = to_image(pixels) if self.transform is None else self.transform(to_pil(pixels))
        target = self.targets[index] if self.soft is None else self.soft[index]
        return image, target if self.target_transform is None else self.target_transform(target)

    @property
    def info(self) -> SetInfo:
        """What the set says of itself: source, method, config, teachers, seeds, files."""
        return self.files.info

    @property
    def spec(self) -> DatasetSpec:
        """The source data set: names, sizes, normalisation."""
        return DatasetSpec.from_dict({field.name: self.info.spec[field.name] for field in fields(DatasetSpec)})

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in order of their number."""
        return list(self.info.classes)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Name of a class -> its number."""
        return {name: number for number, name in enumerate(self.info.classes)}

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All items, uint8 (N, H, W, C): read-only and not copied when they are the rows of one file."""
        decoded = [file.decode() for file in self.files.images]
        return decoded[0] if len(decoded) == 1 else np.concatenate(decoded)

    @property
    def epochs(self) -> int:
        """How many epochs of views the set has: labelled, unless it has classes alone; 0 without a label file."""
        return self.files.labels[0].epochs if self.files.labels else 0

    @property
    def views(self) -> ViewConfig:
        """Settings of the views that the soft labels were made for."""
        return view_config(self.label_file())

    @property
    def label_config(self) -> LabelConfig:
        """How the set was labelled."""
        held = self.label_file()
        return LabelConfig(
            views=self.views,
            epochs=held.epochs,
            seed=held.seed,
            codec=spell(held.codec, held.settings),
            pool=-(-held.epochs // held.pool),
            draw=next((kind for kind in get_args(Draw) if kind == held.draw), "without"),
            teacher_bn="batch" if held.teacher_bn == "batch" else "eval",
            weights=tuple(float(one["weight"]) for one in held.teachers if "weight" in one),
            calibration=self._calibration(),
        )

    def _calibration(self) -> Calibration | None:
        """By which labels were replaced, as ``set.json`` says; label files hold the labels only."""
        labels = self.info.config.get("labels")
        values = labels.get("calibration") if isinstance(labels, Mapping) else None
        return from_mapping(Calibration, values, "calibration") if isinstance(values, Mapping) else None

    @property
    def asks_teachers(self) -> bool:
        """Whether soft labels are not stored, but asked of the teachers that the set names."""
        return self.files.label_kind == "asked"

    @property
    def only_hard(self) -> bool:
        """Whether there are classes and no soft labels, neither stored nor to be asked for."""
        return self.files.label_kind == "classes"

    @property
    def codec(self) -> Codec:
        """How the soft labels are stored."""
        return CODECS[self.label_file().codec]

    def plan(self, epoch: int) -> EpochPlan:
        """The view plan of one labelled epoch, from 0 to ``label_file().pool`` - 1."""
        held = self.label_file()
        if not 0 <= epoch < held.pool:
            raise ConfigError(f"epoch is {epoch}; {self.path} has labels for epochs 0 to {held.pool - 1}")
        return self._plan(epoch)

    def _plan(self, epoch: int) -> EpochPlan:
        held = self.label_file()
        if epoch not in self._plans:
            if len(self._plans) >= max(1, PLANS_IN_MEMORY // len(self)):
                self._plans.clear()
            sizes = (len(self), self.spec.height, self.spec.width)
            self._plans[epoch] = plan(view_config(held), held.seed, epoch, *sizes)
        return self._plans[epoch]

    def logits(self, epoch: int) -> Tensor:
        """The soft labels of one labelled epoch, decoded: float32 (items, K) by item, not by position in the plan."""
        seen = seen_by_item(self.plan(epoch), self._classes)
        return self._decoded(epoch, slice(None), seen)

    def _decoded(self, epoch: int, items: slice | npt.NDArray[np.int64], seen: Seen) -> Tensor:
        codec = self.codec
        if codec.online:
            raise NoLabels(f"{self.path} stores no soft labels; make them with: condense relabel {self.path}")
        record = epoch if codec.per_epoch else 0
        held = next(file for file in self.files.labels if record in file.held)
        columns = {name: array for name, array in held.columns.items() if name != "checksums"}
        stored = {name: array[record - held.first_record][items] for name, array in columns.items()}
        decoded = codec.decode(stored, seen, held.settings, len(self.classes))
        return torch.from_numpy(np.array(decoded, dtype=np.float32))

    def epoch(
        self, epoch: int, first_step: int = 0, *, interpolation: Interpolation = "probabilities"
    ) -> Iterator[ReplayBatch]:
        """The labelled batches of one epoch, from 0 to ``epochs`` - 1: what the teachers saw, and what they said.

        ``first_step`` leaves out the batches before it, without drawing them. Batches have no logits if the teachers
        are to be asked (codec ``none``). ``interpolation``: what of labels of whole images (codec ``static``) is mixed
        as the views are, their probabilities or, as in INFER (arXiv 2408.06927), their logits.

        Raises :class:`NoLabels` for a set without soft labels, :class:`ConfigError` for an epoch that it lacks, or an
        interpolation of labels that are of mixed views.
        """
        held = self.label_file()
        if interpolation == "logits" and held.codec != "static":
            raise ConfigError(
                f"interpolation is logits, but {self.path} has labels of mixed views (codec {held.codec}); leave it at "
                "probabilities, or relabel with codec=static"
            )
        if not 0 <= epoch < held.epochs:
            raise ConfigError(f"epoch is {epoch}; {self.path} has labels for epochs 0 to {held.epochs - 1}")
        steps = draw_steps(held.draw, held.pool, held.seed, epoch, self.plan(0).n_steps)
        chosen = [(int(number), int(step)) for number, step in steps[first_step:]]
        return (self._step(self.plan(number), number, step, interpolation) for number, step in chosen)

    def replay(self) -> Replay:
        """All labelled epochs, step by step, as a data set whose items are whole batches."""
        return Replay(self)

    def fresh_epoch(self, epoch: int, first_step: int = 0) -> Iterator[ReplayBatch]:
        """The batches of an epoch, from 0, of those that come after the labelled ones: other views, no logits."""
        drawn = self._plan(self.label_file().pool + epoch)
        images = (self.files.take, self._classes)
        return (replay_step(*images, drawn, step, len(self.classes)) for step in range(first_step, drawn.n_steps))

    def _step(self, drawn: EpochPlan, epoch: int, step: int, interpolation: Interpolation) -> ReplayBatch:
        """One step of a labelled epoch; only its own images and labels are read."""
        positions, logits = drawn.step(step), None
        if not self.codec.online:
            items, partner = drawn.order[positions], drawn.partner[positions] - positions.start
            seen = Seen(classes=self._classes[items], partner=partner, lam=drawn.lam[positions])
            decoded = self._decoded if interpolation == "probabilities" else self._interpolated
            logits = decoded(epoch, items, seen)
        return replay_step(self.files.take, self._classes, drawn, step, len(self.classes), logits)

    def _interpolated(self, epoch: int, items: npt.NDArray[np.int64], seen: Seen) -> Tensor:
        """Labels of whole images, mixed as logits. (Decoded alone they are log-probabilities: the same but for a
        constant of each image, which a softmax does not see.)"""
        whole = Seen(classes=seen.classes, partner=np.arange(len(items)), lam=np.ones(len(items)))
        own = self._decoded(epoch, items, whole)
        return mix_logits(own, torch.from_numpy(seen.partner), torch.from_numpy(seen.lam))

    def label_file(self) -> LabelFile:
        """The first label file; all say the same of the plan."""
        if not self.files.labels:
            raise NoLabels(f"{self.path} has no soft labels; make them with: condense relabel {self.path}")
        return self.files.labels[0]

    def mean_probabilities(self) -> Tensor:
        """Mean over the labelled epochs of softmax(logits), float32 (items, K). Decodes every stored label once."""
        total = torch.zeros(len(self), len(self.classes))
        pool = self.label_file().pool
        for epoch in range(pool):
            total += self.logits(epoch).softmax(1)
        return total / pool


class Replay(torch.utils.data.Dataset[ReplayBatch]):
    """The steps of all labelled epochs in their order: item i is step ``i % steps`` of epoch ``i // steps``.

    For a ``DataLoader`` whose workers draw the views ahead, whatever way they are started:
    ``DataLoader(distilled.replay(), batch_size=None, num_workers=2)``. Batches are those of
    :meth:`DistilledDataset.epoch`, channels-last; ``groups`` arrive as a list.
    """

    def __init__(self, dataset: DistilledDataset) -> None:
        self.dataset = dataset
        self.steps = dataset.plan(0).n_steps

    def __len__(self) -> int:
        return self.dataset.epochs * self.steps

    def __getitem__(self, index: int) -> ReplayBatch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        epoch, step = divmod(int(index) % len(self), self.steps)
        return next(iter(self.dataset.epoch(epoch, step)))


def load(
    path: Path | str,
    *,
    targets: Targets = "hard",
    transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    verify: Level = "structure",
) -> DistilledDataset:
    """Open a distilled set, checked against its specification.

    ``targets``: ``hard`` gives classes, ``soft`` the mean probabilities of the stored labels (see
    :meth:`DistilledDataset.__getitem__`, also for ``transform``). ``verify``: ``structure`` checks everything but the
    bytes of images and soft labels, ``hashes`` also the SHA-256 of each file, ``deep`` every record.

    >>> distilled = condense.load("synthesized/fashion-mnist-ipc10-cda")  # doctest: +SKIP
    >>> loader = torch.utils.data.DataLoader(distilled, batch_size=50, shuffle=True)  # doctest: +SKIP

    Raises a child of :class:`condense.errors.ShardError` that names what is wrong.
    """
    return DistilledDataset(
        path, targets=targets, transform=transform, target_transform=target_transform, verify=verify
    )


def replay_step(
    take: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint8]],
    labels: npt.NDArray[np.int64],
    drawn: EpochPlan,
    index: int,
    n_classes: int,
    logits: Tensor | None = None,
) -> ReplayBatch:
    """The batch of step ``index`` of a plan.

    ``take`` gives items, uint8 (b, H, W, C), for their numbers; ``labels`` int64 (items,); ``logits`` float (b, K), of
    the step's views in order of position. Only the images of the step are in memory.
    """
    positions = drawn.step(index)
    items = drawn.order[positions]
    step = alone(drawn, positions)
    return ReplayBatch(
        images=render(torch.from_numpy(take(items)).permute(0, 3, 1, 2), step, slice(0, len(items))),
        logits=logits,
        targets=mixed_classes(labels[items], step, n_classes),
        groups=drawn.step_groups(index),
        items=torch.from_numpy(items),
    )


def mixed_classes(classes: npt.NDArray[np.int64], step: EpochPlan, n_classes: int) -> Tensor:
    """One-hot vectors of ``classes`` (b,), mixed as the views of ``step`` are: float32 (b, K)."""
    mixed = np.zeros((len(classes), n_classes), dtype=np.float32)
    rows, own = np.arange(len(classes)), step.lam.astype(np.float32)
    mixed[rows, classes] = own
    mixed[rows, classes[step.partner]] += 1 - own
    return torch.from_numpy(mixed)


def mix_logits(logits: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Each label (n, K) mixed with its partner's, ``weight`` (n,) of it being its own."""
    own = weight.to(logits)[:, None]
    return own * logits + (1 - own) * logits[partner]


def alone(drawn: EpochPlan, positions: slice) -> EpochPlan:
    """One step as a plan of its own, over just the items of that step in order of position."""
    count = positions.stop - positions.start
    within = drawn.groups[(drawn.groups >= positions.start) & (drawn.groups <= positions.stop)]
    return EpochPlan(
        order=np.arange(count, dtype=np.int64),
        steps=np.array([0, count], dtype=np.int64),
        groups=within - positions.start,
        boxes=drawn.boxes[positions],
        flips=drawn.flips[positions],
        partner=drawn.partner[positions] - positions.start,
        lam=drawn.lam[positions],
        mix_boxes=drawn.mix_boxes[positions],
        inner_boxes=None if drawn.inner_boxes is None else drawn.inner_boxes[positions],
        inner_flips=None if drawn.inner_flips is None else drawn.inner_flips[positions],
    )


def view_config(held: LabelFile) -> ViewConfig:
    """The view settings of a label file. Raises where this version could not draw the same views."""
    if held.view_version != VIEW_VERSION:
        raise UnknownVersion(
            f"{held.path} was labelled on views of version {held.view_version}; this condense draws version "
            f"{VIEW_VERSION}, use the matching one or label the images again"
        )
    try:
        return ViewConfig.from_dict(held.views)
    except (ConfigError, TypeError, ValueError) as error:
        raise BadStructure(f"{held.path}: views cannot be drawn: {error}") from None


def to_pil(image: npt.NDArray[np.uint8]) -> Any:
    """uint8 (H, W, C) as a PIL image (L or RGB); as it is for other numbers of channels."""
    channels = image.shape[2]
    if channels not in (1, 3):
        return image
    from PIL import Image

    return Image.fromarray(image[..., 0] if channels == 1 else image)
