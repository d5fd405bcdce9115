"""RDED: collages of the real patches that a teacher finds easiest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from condense.checkpoint import Checkpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute
from condense.errors import MethodError
from condense.methods.base import JobSizes, Method, Needs, Precomputed, Rows, SynthesisJob, chunks
from condense.progress import Report
from condense.starts import StartJob, TileConfig, check_patches, easy_images
from condense.teachers import Teacher

__all__ = ["RDED"]


class RDED(Method):
    """Nothing is optimised: of 300 images of each class the easiest of five patches, of these the easiest, tiled.

    Source: "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", arXiv
    2312.03526, section 4 and the authors' program; up to 64 px an image is one patch, above it is 2 x 2 of them.

    Differs from the program in: (1) image i takes the patches of rank i*f*f to (i+1)*f*f - 1, not i, IPC + i, 2 IPC +
    i, ..., so that a larger set begins with a smaller one; (2) patches are rounded to uint8 before they are scored, and
    stored without loss, not as JPEG; (3) patches of an image that is not square have its shape; (4) a class may be
    smaller than the pool, and where patches of different images run out, second patches of the same ones come next;
    (5) the mean colour around a scored patch, like the normalisation, is the teacher's; (6) of several teachers the
    mean cross-entropy counts. Where patches fill the image (f = 1), scoring is the same.

    Its students, published: labels asked for each view while training, KL at temperature 20 with CutMix, no hard term;
    AdamW, weight decay 0.01 on matrices only, lr 0.001 for ConvNets and ResNets, 300 epochs, half a cosine that ends at
    half the lr; crops of at least 1/f of the area, after a random permutation of the columns and rows of the collage;
    batches of 10, 50, 100 for IPC 1, 10, 50 (twice that for 100 and more classes). Best epoch on the test images.
    """

    name = "rded"
    summary = "collages of the real patches that a teacher finds easiest"
    source = "On the Diversity and Realism of Distilled Dataset (CVPR 2024), arXiv 2312.03526"
    revision = 1
    Config = TileConfig
    config: TileConfig
    quick: ClassVar[Mapping[str, Any]] = {"pool": 50, "crops": 2}

    needs = Needs(teachers="any", real_images=True)
    sizes = JobSizes(classes=100, images=10_000)
    contains_real_images = True

    def jobs(self, spec: DatasetSpec, ipc: int, set_index: int, seed: int) -> list[SynthesisJob]:
        """All slots of so many classes at a time: scoring the pool, which all slots need, is the work."""
        at_once = max(1, min(self.sizes.classes, self.sizes.images // ipc))
        return [
            SynthesisJob(spec=spec, set_index=set_index, seed=seed, slots=tuple(range(ipc)), classes=tuple(classes))
            for classes in chunks(range(spec.n_classes), at_once)
        ]

    def check(self, spec: DatasetSpec, ipc: int, teachers: Sequence[Teacher] | None = None) -> None:
        super().check(spec, ipc, teachers)
        check_patches(self.name, spec, ipc, self.config)

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
        if train is None:
            raise MethodError(f"{self.name} needs the training images")
        wanted = StartJob(spec=job.spec, set_index=job.set_index, seed=job.seed, slots=job.slots, classes=job.classes)
        images = easy_images(
            wanted, train, teachers, self.config, compute=compute, report=report, checkpoint=checkpoint
        )
        return Rows.of(job, images.reshape(-1, *job.spec.image_shape))
