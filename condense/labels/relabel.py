"""Soft labels: what teachers say about every view of every epoch.

A label is made of exactly the view the student will see (crop, flip, mixed with its partner), drawn again from the
same plan; so nothing about views is stored. This is the relabelling of SRe2L (arXiv 2306.13092) and, with
``teacher_bn="batch"`` and groups, the batch-specific labels of CV-DD (arXiv 2501.07575). Differs from their code in
labelling images without JPEG loss, always mixed (their Mixup labels of CV-DD are of unmixed images), with dropout off
and running statistics untouched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import LATER
from condense.data.pixels import normalise
from condense.data.spec import DatasetSpec
from condense.device import Compute, under_compute
from condense.errors import ConfigError, DataError, TeacherError
from condense.labels.calibrate import Calibration
from condense.networks.grouped_norm import Grouped
from condense.progress import Report, silent
from condense.shards.codecs import CODECS, codec_of
from condense.teachers import Teacher, check_teacher
from condense.views.config import ViewConfig, check_choice, check_integer
from condense.views.plan import EpochPlan, plan
from condense.views.render import render

__all__ = ["LabelConfig", "label_shares", "make_logits"]

TeacherBN = Literal["eval", "batch"]
Draw = Literal["with", "without", "shuffled"]


def _views() -> ViewConfig:
    return ViewConfig(scale=(0.5, 1.0), mix="cutmix", batch_size=50)


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """``views`` of ``epochs`` epochs drawn from ``seed``, labelled, and stored by ``codec``.

    ``codec``: one of :data:`condense.shards.CODECS`, with its number where it has one: ``full``, ``int8``,
    ``topk:10``, ``distances``, ``static``, ``none``. ``pool``: label this many times fewer epochs; the student's
    epochs draw their steps from them, ``without`` replacement within an epoch (LPQLD), ``with`` it (LPLD, NeurIPS
    2024, which labels the first epochs and draws from their steps), or ``shuffled``: none comes again before all have
    come (HALD, arXiv 2512.15647).

    ``teacher_bn``: ``eval`` takes the teacher's running statistics; ``batch`` those of exactly the images of each
    BatchNorm group of the plan (for a teacher without BatchNorm the two are the same). The defaults suit images of up
    to 64 pixels; ImageNet recipes crop down to 0.08 of the area and label with ``eval``.

    ``weights``: how much each teacher's logits count, in any scale; without any, all the same.

    ``calibration``: replace the labels of views that teachers are not trusted with, see
    :mod:`condense.labels.calibrate`; None: of none.
    """

    views: ViewConfig = field(default_factory=_views)
    epochs: int = 300
    seed: int = 0
    codec: str = "full"
    pool: int = 1
    draw: Draw = "without"
    teacher_bn: TeacherBN = "batch"
    weights: tuple[float, ...] = field(default=(), metadata=LATER)
    calibration: Calibration | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, 1)
        check_integer("pool", self.pool, 1)
        check_choice("draw", self.draw, get_args(Draw))
        try:
            codec_of(self.codec)
        except ValueError as error:
            raise ConfigError(f'codec is "{self.codec}"; {error}') from None
        if self.pool > 1 and not CODECS[codec_of(self.codec)[0]].per_epoch:
            raise ConfigError(f"pool is {self.pool}, but {self.codec} labels no epochs; leave pool at 1")
        check_choice("teacher_bn", self.teacher_bn, get_args(TeacherBN))
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(f"weights are {list(self.weights)}; expected numbers above 0, one per teacher")
        if self.calibration is not None and self.n_labelled == 0:
            raise ConfigError(f"calibration is given, but {self.codec} stores no labels; take another codec, or none")

    def check(self, n_classes: int) -> None:
        """Raises :class:`ConfigError` for a codec that cannot store labels of so many classes."""
        name, settings = codec_of(self.codec)
        if fault := CODECS[name].check(settings, n_classes):
            raise ConfigError(f'codec is "{self.codec}", but the data set has {n_classes} classes: {fault}')

    @property
    def n_labelled(self) -> int:
        """Epochs that are labelled."""
        name, _ = codec_of(self.codec)
        return {"static": 1, "none": 0}.get(name, -(-self.epochs // self.pool))

    @property
    def labelled_views(self) -> ViewConfig:
        """The views that are labelled: those that students see, but for ``static`` the whole images."""
        if codec_of(self.codec)[0] != "static":
            return self.views
        return replace(self.views, crop="none", flip=0.0, mix="none")


@under_compute
def make_logits(
    pixels: npt.NDArray[np.uint8],
    teachers: Sequence[Teacher],
    spec: DatasetSpec,
    config: LabelConfig,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> npt.NDArray[np.float16]:
    """Label every view that is to be: float16 (``config.n_labelled``, N, K), [e, i] for item i in epoch e of the plan.

    ``pixels`` uint8 (N, H, W, C) are the items as stored. Logits are the mean over ``teachers``, weighted by
    ``config.weights``, each fed with its own normalisation. ``checkpoint`` keeps whole epochs; resumed
    labels are the same bytes. Teachers must be on ``compute``'s device.

    Raises :class:`TeacherError` for a teacher that does not fit ``spec`` or whose logits leave the range of float16.
    """
    if config.n_labelled == 0:
        return np.zeros((0, len(pixels), spec.n_classes), dtype=np.float16)
    shares = label_shares(teachers, config.weights)
    for teacher in teachers:
        check_teacher(teacher.info, spec, min_accuracy=0.0)
    if pixels.shape[1:] != spec.image_shape:
        raise DataError(f"images are {pixels.shape[1:]}; expected {spec.image_shape} as in {spec.name}")
    if config.teacher_bn == "batch":
        teachers = [replace(teacher, network=Grouped(teacher.network)) for teacher in teachers]
    checkpoint = checkpoint or NoCheckpoint()
    images = torch.from_numpy(np.require(pixels, requirements="W")).permute(0, 3, 1, 2).to(compute.torch_device)
    logits, first = _resume(checkpoint, (config.n_labelled, len(pixels), spec.n_classes))
    for epoch in range(first, config.n_labelled):
        views = plan(config.labelled_views, config.seed, epoch, len(pixels), spec.height, spec.width)
        for positions, groups in _chunks(views, _at_once(spec)):
            sizes = groups if config.teacher_bn == "batch" else [sum(groups)]
            mean = mean_logits(render(images, views, positions), sizes, teachers, shares, compute)
            logits[epoch, views.order[positions]] = mean.half().cpu()
            report("labels", epoch * len(pixels) + positions.stop, config.n_labelled * len(pixels), {})
        _check_range(logits[epoch], epoch)
        if checkpoint.due():
            checkpoint.save({"logits": logits[: epoch + 1]})
    return logits.numpy()


@torch.inference_mode()
def mean_logits(
    views: Tensor, sizes: Sequence[int], teachers: Sequence[Teacher], shares: Sequence[float], compute: Compute
) -> Tensor:
    """Weighted mean of the teachers' logits, float32 (b, K).

    ``sizes``: of the groups whose statistics a `Grouped` teacher takes, one after the other.
    """
    total = torch.zeros((), device=views.device)
    for teacher, share in zip(teachers, shares, strict=True):
        images, network = normalise(views, teacher.info.spec), teacher.network
        with compute.autocast():
            logits = network(images, sizes) if isinstance(network, Grouped) else network(images)
        total = total + share * logits.float()
    return total


def _chunks(views: EpochPlan, at_most: int) -> Iterator[tuple[slice, list[int]]]:
    """Runs of whole steps of about ``at_most`` views, with the sizes of their groups."""
    per_chunk = max(1, at_most // int(np.diff(views.steps).max()))
    for first in range(0, views.n_steps, per_chunk):
        steps = range(first, min(first + per_chunk, views.n_steps))
        groups = [size for step in steps for size in views.step_groups(step)]
        yield slice(views.step(steps[0]).start, views.step(steps[-1]).stop), groups


def _at_once(spec: DatasetSpec) -> int:
    """Views in one forward: enough to keep the cores busy, few enough for memory (512 of 32 px, 64 of large ones)."""
    return min(512, max(64, 2**19 // (spec.height * spec.width)))


def _resume(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> tuple[Tensor, int]:
    """Room for all logits, filled as far as the checkpoint goes, and the first epoch still to do."""
    logits = torch.zeros(shape, dtype=torch.float16)
    state = checkpoint.load()
    if state is None:
        return logits, 0
    done = state["logits"]
    logits[: len(done)] = done
    return logits, len(done)


def label_shares(teachers: Sequence[Teacher], weights: Sequence[float] = ()) -> list[float]:
    """``weights``, or equal ones, scaled to sum to one."""
    if not teachers:
        raise TeacherError("no teacher to make labels with; give at least one")
    weights = weights or [1.0] * len(teachers)
    if len(weights) != len(teachers):
        raise ConfigError(f"weights are {list(weights)}; expected {len(teachers)} positive numbers, one per teacher")
    return [weight / sum(weights) for weight in weights]


def _check_range(logits: Tensor, epoch: int) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise TeacherError(
            f"the teachers' logits of epoch {epoch} are not finite in float16 (greatest size 65504); the teacher has "
            "diverged or its normalisation does not fit: check it with condense teacher show"
        )
