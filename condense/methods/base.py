"""What every method is: a config, what it needs, the jobs it cuts a set into, and how it does one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import MethodError, TeacherError
from condense.matching import Grown, Growth
from condense.networks import batchnorm_layers
from condense.progress import Report
from condense.teachers import ClassStatistics, Dynamics, ExpertRecipe, Experts, Features, Teacher, TeacherRecipe

__all__ = ["Canvas", "JobSizes", "Method", "Needs", "Precomputed", "Rows", "SynthesisJob", "chunks", "slot_blocks"]

Precomputed = Features | Dynamics | Experts | tuple[ClassStatistics, ...] | tuple[Grown, ...] | None
"""What :class:`Needs` asks to be computed beforehand, once for all methods that ask for it.

Class statistics are those of each teacher, grown networks those of :meth:`Method.growths`.
"""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method cannot work without.

    ``precomputed``: ``features`` of all training images, the ``dynamics`` of a training on them, ``experts``, which are
    trainings on them with the weights after each epoch, the ``class statistics`` that teachers have of them, or ``grown
    networks``, which learnt from them.
    """

    teachers: Literal["none", "any", "batchnorm"]
    real_images: bool
    precomputed: Literal["none", "features", "dynamics", "experts", "class statistics", "grown networks"] = "none"


@dataclass(frozen=True, kw_only=True)
class SynthesisJob:
    """One block of a set: every slot for every class. Slots are IPC indices, from 0.

    ``ipc``: images per class of the whole set, where what a slot holds depends on that; None where it does not.
    """

    spec: DatasetSpec
    set_index: int
    seed: int
    slots: tuple[int, ...]
    classes: tuple[int, ...]
    ipc: int | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to be stored, slot by slot and within a slot class by class.

    ``pixels``: uint8 (rows, H, W, C). ``labels``, ``slots``: int64 (rows,). ``others``: the further columns of the
    method's canvas, by the names of ``shards/SPEC.md``. ``learned``: numbers that were learnt with the images, which
    ``set.json`` keeps under ``config.learned``.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    learned: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, job: SynthesisJob, pixels: npt.NDArray[np.uint8], others: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> Rows:
        """All rows of ``job``; ``pixels`` in its order."""
        labels = np.tile(np.array(job.classes, dtype=np.int64), len(job.slots))
        slots = np.repeat(np.array(job.slots, dtype=np.int64), len(job.classes))
        return cls(pixels, labels, slots, dict(others or {}))

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The canvas's columns, as image files have them."""
        return {"images": self.pixels, **self.others}


@dataclass(frozen=True)
class Canvas:
    """A canvas of ``shards/SPEC.md`` and its settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSizes:
    """How much goes into a job: at most ``classes`` classes, and no more slots than give ``images`` images."""

    classes: int
    images: int


def slot_blocks(ipc: int, most: int) -> Iterator[tuple[int, ...]]:
    """Blocks of at most ``most`` consecutive slots that cover 0 ... ipc - 1, the last of them whole.

    The bounds 0, 1, 5, 10, 20, 30, ... do not depend on ``ipc``, so the blocks of a larger set begin with those of a
    smaller one.

    >>> list(slot_blocks(7, 3))
    [(0,), (1, 2, 3), (4,), (5, 6, 7)]
    """
    start, stop = 0, 1
    while start < ipc:
        end = min(start + most, stop)
        yield tuple(range(start, end))
        start = end
        if start == stop:
            stop = {1: 5, 5: 10}.get(stop, stop + 10)


class Method(ABC):
    """A published way to make a distilled set.

    Class attributes: ``name``; a one-line ``summary``; ``source``, the paper; ``revision``, raised when results
    change; ``Config``, a frozen dataclass whose defaults are complete, each field with a line of ``help`` in its
    metadata; ``quick``, the settings of a run of seconds; ``networks``, the teachers that are trained if none are
    given, where one is not enough; ``batch_setting``, the one that bounds how many classes are computed together,
    which is what memory grows with.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    revision: ClassVar[int]
    Config: ClassVar[type[Any]]
    quick: ClassVar[Mapping[str, Any]] = {}
    networks: ClassVar[tuple[str, ...]] = ()
    batch_setting: ClassVar[str | None] = None

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    @abstractmethod
    def needs(self) -> Needs: ...

    @property
    @abstractmethod
    def sizes(self) -> JobSizes: ...

    @property
    @abstractmethod
    def contains_real_images(self) -> bool:
        """Whether somebody's images can be recognised in the result."""

    @property
    def canvas(self) -> Canvas:
        """How stored rows decode to items."""
        return Canvas("pixels")

    @property
    def optimisation_steps(self) -> int:
        """Steps of one job; 0 where nothing is optimised."""
        return 0

    def steps(self, ipc: int) -> int:
        """The same for a set of ``ipc`` images per class, where that makes a difference."""
        return self.optimisation_steps

    @property
    def published_labels(self) -> Mapping[str, Any]:
        """Settings of labels for which the paper has other values than are usual here; a recipe may change them."""
        return {}

    @property
    def hard_labels(self) -> bool:
        """Whether its sets have classes for labels, unless teachers are given or a codec is asked for."""
        return False

    @property
    def sets_differ(self) -> bool:
        """Whether sets of different numbers are independent; False where they would be the same images."""
        return True

    @property
    def independent(self) -> Literal["slots", "classes", "nothing"]:
        """What of a job can be done apart to the same rows, as is done where memory does not suffice."""
        return "slots"

    @property
    def asks_priors(self) -> bool:
        """Whether it wants to know what each teacher alone is worth, and does not know yet."""
        return False

    def with_priors(self, priors: tuple[float, ...]) -> Method:
        """The same method, knowing these: percent, one per teacher. Raises `MethodError` where it asks for none."""
        raise MethodError(f"{self.name} has no use for priors")

    def alone(self) -> Method:
        """The method with which one teacher makes the set that its prior is measured on."""
        raise MethodError(f"{self.name} has no use for priors")

    @property
    def label_weights(self) -> tuple[float, ...]:
        """How much each teacher counts when the set is labelled; none where all count the same."""
        return ()

    def network_recipe(
        self, teacher: TeacherRecipe, spec: DatasetSpec, ipc: int, set_index: int, seed: int
    ) -> TeacherRecipe | None:
        """The network whose features or training a set needs, ``teacher`` being how teachers are trained.

        None, for features, means the first teacher.
        """
        return None

    def growths(self, spec: DatasetSpec, seed: int) -> tuple[Growth, ...]:
        """The networks that have to learn beforehand; the same for all sets."""
        return ()

    def expert_recipes(self, spec: DatasetSpec, seed: int) -> tuple[ExpertRecipe, ...]:
        """The experts that a method asks for which needs them: the same for all sets of a seed."""
        return ()

    def slots(self, spec: DatasetSpec, ipc: int) -> int:
        """Rows of each class in a set that may take the space of ``ipc`` images per class; more ``ipc``, no fewer."""
        return ipc

    def blocks(self, slots: int, most: int) -> Iterable[Sequence[int]]:
        """The slots of each job, at most so many in one."""
        return slot_blocks(slots, most)

    def jobs(self, spec: DatasetSpec, ipc: int, set_index: int, seed: int) -> list[SynthesisJob]:
        """The jobs of a set of ``ipc`` images per class: those of a smaller set, and some more.

        The last may do a few slots too many, so that a larger set finds them.
        """
        chunk = min(self.sizes.classes, spec.n_classes)
        return [
            SynthesisJob(spec=spec, set_index=set_index, seed=seed, slots=tuple(slots), classes=tuple(classes))
            for slots in self.blocks(self.slots(spec, ipc), max(1, self.sizes.images // chunk))
            for classes in chunks(range(spec.n_classes), chunk)
        ]

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        """Refuse what cannot be done before any work. Raises `MethodError` or `TeacherError`.

        ``teachers``: those at hand, or None while they are not known.
        """
        if ipc < 1:
            raise MethodError(f"ipc must be at least 1, got {ipc}")
        if self.needs.real_images:
            size, label = min((size, label) for label, size in enumerate(spec.train_sizes))
            if (wanted := self.slots(spec, ipc)) > size:
                most = max(fewer for fewer in range(size, ipc) if self.slots(spec, fewer) <= size)
                raise MethodError(
                    f'{self.name} needs {wanted} real images per class, but class "{spec.classes[label]}" of '
                    f"{spec.name} has {size}; ask for an ipc of at most {most}"
                )
        if teachers is not None:
            self._check_teachers(teachers)

    def check_network(self, name: str, network: nn.Module, spec: DatasetSpec) -> None:
        """Refuse a teacher's network that it cannot work with. Raises `TeacherError` or `MethodError`."""
        if self.needs.teachers == "batchnorm" and not batchnorm_layers(network):
            raise TeacherError(
                f"method {self.name} matches BatchNorm statistics, but network {name} has none; choose one with batch "
                "norm, for example resnet20 or convnet3-bn"
            )

    def check_number(self, teachers: int) -> None:
        """Refuse a number of teachers that it cannot work with. Raises `MethodError` or `ConfigError`."""
        if teachers < 1 and self.needs.teachers != "none":
            raise MethodError(f"{self.name} needs at least one teacher and was given none; train or import one")

    def _check_teachers(self, teachers: Sequence[Teacher]) -> None:
        if self.needs.teachers == "none":
            return
        self.check_number(len(teachers))
        for teacher in teachers:
            self.check_network(teacher.info.network, teacher.network, teacher.info.spec)

    @abstractmethod
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
        """Do one job, going on from ``checkpoint``.

        ``train``: the real training images, if they are needed. ``precomputed``: what `needs` says of them.
        """


def chunks(classes: range, size: int) -> Iterator[range]:
    """Consecutive classes, at most ``size`` at a time."""
    return (classes[start : start + size] for start in range(0, len(classes), size))
