"""What SRe2L and its successors share: teachers, and a job as one run of the inversion loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from condense.canvas import Canvas, Pixels
from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import MethodError
from condense.inversion import AdamConfig, Chain, Hooks, Problem, Stage, invert
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob, chunks
from condense.methods.parts.committee import CommitteeConfig, committee, softmax, teacher_weights
from condense.methods.parts.layout import Layout
from condense.methods.parts.masks import NonCriticalMask
from condense.methods.parts.perturbed import Perturbed
from condense.methods.parts.residual import Residual, check_sizes, residual_sizes, residual_stages
from condense.methods.parts.settings import Batch, RecoveryConfig, ViewChanges
from condense.networks.base import InputShape
from condense.objectives import BatchNormDistance, ClassStatisticsDistance, CrossEntropy, MovingStatistics, Objective
from condense.progress import Report
from condense.starts import STARTS, StartJob, begin, check_start
from condense.teachers import ClassStatistics, Teacher
from condense.teachers.cam import activation_maps_of
from condense.teachers.feeding import fed_by
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryViews

__all__ = ["RecoveryConfig", "RecoveryMethod", "ViewChanges", "published_roll"]

Weights = npt.NDArray[np.float64]

INDEPENDENT: Mapping[Batch, Literal["slots", "classes", "nothing"]] = {
    "slot": "slots",
    "class": "classes",
    "all": "nothing",
}
"""What shares no batch, and so no statistics."""


class RecoveryMethod(Method):
    """A start, teachers, an objective, views, stages and a mask, all of `RecoveryConfig`, run by `invert`.

    Images of one slot, one of each class, are a batch; a job's slots are independent groups of one forward. With
    ``batch=class`` the images of a class are one, with ``batch=all`` all images of a job: then what a slot becomes
    depends on the others, and on the IPC.
    """

    Config = RecoveryConfig
    config: RecoveryConfig
    quick: ClassVar[Mapping[str, Any]] = {"steps": 30}
    batch_setting = "batch_classes"

    @abstractmethod
    def published_views(self, spec: DatasetSpec) -> RecoveryViews:
        """The paper's views for images of this size."""

    @property
    def needs(self) -> Needs:
        return Needs(
            teachers="batchnorm",
            real_images=STARTS[self.config.start].real,
            precomputed="class statistics" if self.config.class_share > 0 else "none",
        )

    @property
    def sizes(self) -> JobSizes:
        return JobSizes(self.config.batch_classes, self.config.job_images)

    @property
    def optimisation_steps(self) -> int:
        return self.config.steps

    @property
    def contains_real_images(self) -> bool:
        return STARTS[self.config.start].real

    @property
    def independent(self) -> Literal["slots", "classes", "nothing"]:
        return INDEPENDENT[self.config.batch]

    @property
    def asks_priors(self) -> bool:
        return self.config.committee.asks_priors

    def with_priors(self, priors: tuple[float, ...]) -> Method:
        return type(self)(replace(self.config, committee=replace(self.config.committee, priors=priors)))

    def alone(self) -> Method:
        return type(self)(replace(self.config, committee=CommitteeConfig()))

    @property
    def label_weights(self) -> tuple[float, ...]:
        given = self.config.committee
        if given.voting == "equal" or not given.priors:
            return ()
        return tuple(round(float(share), 6) for share in softmax(given.priors, given.label_temperature))

    def blocks(self, slots: int, most: int) -> Iterable[Sequence[int]]:
        return chunks(range(slots), most) if self.config.blocks == "whole" else super().blocks(slots, most)

    def jobs(self, spec: DatasetSpec, ipc: int, set_index: int, seed: int) -> list[SynthesisJob]:
        if self.config.batch == "slot":
            return super().jobs(spec, ipc, set_index, seed)
        at_once = max(1, min(self.sizes.classes, self.sizes.images // ipc))
        return [
            SynthesisJob(
                spec=spec, set_index=set_index, seed=seed, slots=tuple(range(ipc)), classes=tuple(classes), ipc=ipc
            )
            for classes in chunks(range(spec.n_classes), at_once)
        ]

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        super().check(spec, ipc, teachers)
        check_start(self.config.start, spec, ipc, self.config.patches, teachers)

    def check_number(self, teachers: int) -> None:
        super().check_number(teachers)
        self.config.committee.check(teachers, self.name)

    def check_network(self, name: str, network: nn.Module, spec: DatasetSpec) -> None:
        super().check_network(name, network, spec)
        if self.config.mask.eps > 0 or STARTS[self.config.start].teachers == "maps":
            activation_maps_of(name, network, InputShape(spec.channels, spec.height, spec.width))
        check_sizes(name, network, spec, self._sizes(spec))

    def stages(self, spec: DatasetSpec) -> tuple[Stage, ...]:
        """One, or as many as residual mixing has blocks: cross-entropy and the BatchNorm distance."""
        return residual_stages(
            self._sizes(spec),
            steps=self.config.steps,
            views=self.config.views.over(self.published_views(spec)),
            objective=self._objective(),
        )

    def synthesise(
        self,
        job: SynthesisJob,
        *,
        teachers: Sequence[Teacher],
        train: Split | None,
        precomputed: Precomputed,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Rows:
        self._check_teachers(teachers)
        canvas = self.recover(
            job,
            self._start(job, train, teachers, compute, report),
            teachers=teachers,
            precomputed=precomputed,
            compute=compute,
            report=report,
            checkpoint=checkpoint,
        )
        return Rows.of(job, Layout.of(job, self.config.batch).restore(canvas.rows()))

    def recover(
        self,
        job: SynthesisJob,
        started: Tensor,
        *,
        teachers: Sequence[Teacher],
        precomputed: Precomputed,
        compute: Compute,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Canvas:
        """Optimise ``started``, (slots, classes, C, H, W), normalised: a canvas in the groups of :class:`Layout`.

        In the type of ``started``, which has to be that of the teachers.
        """
        device, config, laid = compute.torch_device, self.config, Layout.of(job, self.config.batch)
        started = laid.arrange(started).to(device)
        canvas = Pixels(started, job.spec)
        stages = self.stages(job.spec)
        problem = Problem(name=self.name, seed=job.seed, groups=laid.groups, targets=laid.targets)
        networks = [fed_by(job.spec, teacher).to(device) for teacher in teachers]
        weights = self._weights(len(teachers), job, laid)
        tap = partial(self._tapped, precomputed)
        hooks: list[Hooks] = []
        if config.residual.blocks > 1:
            hooks.append(Residual(started, self._sizes(job.spec), config.residual.alpha))
        if config.perturb.radius > 0:
            turns = config.committee.turns
            hooks.append(Perturbed(networks, weights, tap, stages, problem, config.perturb, turns=turns))
        if config.mask.eps > 0:
            mask = NonCriticalMask(
                job.spec, teachers, laid.targets, eps=config.mask.eps, every=config.mask.every, compute=compute
            )
            hooks.append(mask)
            checkpoint = mask.kept_in(checkpoint)
        invert(
            canvas,
            stages,
            committee(tap(networks, range(len(networks))), weights, turns=config.committee.turns),
            problem,
            compute=compute,
            adam=AdamConfig(lr=config.lr),
            hooks=Chain(hooks),
            moving=MovingStatistics(config.moving, len(laid.groups)) if config.moving else None,
            report=report,
            checkpoint=checkpoint,
        )
        return canvas

    def _tapped(
        self, precomputed: Precomputed, networks: Sequence[nn.Module], teachers: Sequence[int]
    ) -> list[TappedNetwork]:
        """With the statistics of classes, where they are matched; ``teachers``: whose each of ``networks`` is."""
        if self.config.class_share == 0:
            return [TappedNetwork(network) for network in networks]
        assert isinstance(precomputed, tuple)
        known = [one.targets(self.config.class_variance) for one in precomputed if isinstance(one, ClassStatistics)]
        return [TappedNetwork(network, known[teacher]) for network, teacher in zip(networks, teachers, strict=True)]

    def _objective(self) -> Objective:
        config = self.config
        plain = BatchNormDistance(config.first_bn, config.variance)
        of_classes = ClassStatisticsDistance(config.first_bn, config.variance)
        share = config.class_share
        if share == 0:
            return CrossEntropy() + config.alpha_bn * plain
        if share == 1:
            return CrossEntropy() + config.alpha_bn * of_classes
        return CrossEntropy() + config.alpha_bn * ((1 - share) * plain + share * of_classes)

    def _sizes(self, spec: DatasetSpec) -> tuple[tuple[int, int], ...]:
        return residual_sizes((spec.height, spec.width), self.config.residual.blocks, self.config.residual.low)

    def _weights(self, n_teachers: int, job: SynthesisJob, laid: Layout) -> Weights:
        """Of each teacher in each group: (teachers, groups)."""
        slots = job.slots if laid.by_slot else (0,) * len(laid.groups)
        return teacher_weights(self.config.committee, n_teachers, slots, seed=job.seed, set_index=job.set_index)

    def _start(
        self, job: SynthesisJob, train: Split | None, teachers: Sequence[Teacher], compute: Compute, report: Report
    ) -> Tensor:
        if train is None and STARTS[self.config.start].real:
            raise MethodError(
                f"{self.name} with start={self.config.start} needs the training images; use start=noise without them"
            )
        wanted = StartJob(spec=job.spec, set_index=job.set_index, seed=job.seed, slots=job.slots, classes=job.classes)
        return begin(self.config.start, wanted, train, teachers, self.config.patches, compute=compute, report=report)


def published_roll(spec: DatasetSpec) -> int:
    """Greatest shift in pixels: 4 up to 64 px, 32 above (224 px)."""
    return 4 if max(spec.height, spec.width) <= 64 else 32
