"""The starts, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condense.canvas import noise_start, real_start
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError, suggest
from condense.networks.base import InputShape
from condense.progress import Report, silent
from condense.starts.base import PatchConfig, RealStart, StartJob, check_patches
from condense.starts.collages import critical_images, easy_images
from condense.starts.whole import median_images, real_images
from condense.teachers import Teacher
from condense.teachers.cam import activation_maps_of

__all__ = ["STARTS", "Start", "begin", "check_start"]


@dataclass(frozen=True)
class Start:
    """One start: a line about it, what it asks of teachers, how it makes images of real ones (None: it does not)."""

    summary: str
    teachers: Literal["none", "any", "maps"]
    images: RealStart | None
    patches: bool = False

    @property
    def real(self) -> bool:
        """Whether it needs, and shows, real images."""
        return self.images is not None


STARTS: dict[str, Start] = {
    "noise": Start("normal noise", "none", None),
    "real": Start("random real images of the class", "none", real_images),
    "easy": Start("collages of the real patches that teachers find easiest", "any", easy_images, patches=True),
    "critical": Start(
        "collages of the real patches that show the class but leave teachers unsure",
        "maps",
        critical_images,
        patches=True,
    ),
    "median": Start("real images of median difficulty for the teachers", "any", median_images),
}


def begin(
    name: str,
    job: StartJob,
    train: Split | None,
    teachers: Sequence[Teacher],
    config: PatchConfig = PatchConfig(),
    *,
    compute: Compute,
    report: Report = silent,
) -> Tensor:
    """The start called ``name``, normalised by the job's spec: float32 (slots, classes, C, H, W) on the CPU.

    Raises what :func:`check_start` does.
    """
    images = _found(name).images
    if images is None:
        return noise_start(job.spec, job.slots, job.classes, seed=job.seed, set_index=job.set_index)
    return real_start(images(job, train, teachers, config, compute=compute, report=report), job.spec)


def check_start(
    name: str, spec: DatasetSpec, ipc: int, config: PatchConfig, teachers: Sequence[Teacher] | None = None
) -> None:
    """Refuse what cannot be done before any work.

    ``teachers``: those at hand, or None while they are not known. Raises `ConfigError` for a name that is not in
    `STARTS`, `MethodError` for too few patches or no teacher, `TeacherError` for one without activation maps.
    """
    start = _found(name)
    if start.patches:
        check_patches(f"a start of {name} patches", spec, ipc, config)
    if teachers is None or start.teachers == "none":
        return
    if not teachers:
        raise MethodError(f"start {name} needs at least one teacher and was given none; train or import one")
    for teacher in teachers if start.teachers == "maps" else ():
        activation_maps_of(teacher.info.network, teacher.network, InputShape(spec.channels, spec.height, spec.width))


def _found(name: str) -> Start:
    if name not in STARTS:
        raise ConfigError(f'start is "{name}"; {suggest(name, STARTS)}')
    return STARTS[name]
