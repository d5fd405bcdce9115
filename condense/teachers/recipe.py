"""Training a teacher (the "squeeze" of SRe2L, arXiv 2306.13092, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.config import identity
from condense.data.pixels import normalise, to_pixels
from condense.data.spec import Data, DatasetSpec
from condense.data.split import holdout
from condense.device import Compute
from condense.errors import ConfigError
from condense.networks import build
from condense.progress import Report, silent
from condense.teachers.teacher import TeacherInfo, weights_sha256
from condense.training import Batch, Batches, Listener, OptimConfig, accuracy, fit, predict
from condense.views import ViewConfig, plan
from condense.views.plan import step_offsets
from condense.views.render import crop_flip

__all__ = ["TeacherRecipe", "fit_recipe", "length_of", "measure", "network_of", "train_teacher"]

Indices = npt.NDArray[np.int64]
USUAL_EPOCHS = 15


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained.

    The defaults are the usual CIFAR recipe (SGD with momentum, cosine to 0, crops padded by 4 pixels, flips) cut to
    few epochs: teachers trained for long are more accurate but harder to invert. Without ``epochs`` there are 15, or,
    of a small data set, as many as ``min_steps`` steps take. ``pad`` 0 leaves the crop out; ``flip`` should be 0 for
    digits and letters. ``holdout`` is the fraction of each class that is not trained on.
    Warm-up takes at most a fifth of the run. Raises :class:`ConfigError` for values out of range.
    """

    network: str = "resnet20"
    epochs: int | None = None
    min_steps: int = 500
    batch_size: int = 128
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.1, weight_decay=5e-4, warmup_steps=200))
    pad: int = 4
    flip: float = 0.5
    label_smoothing: float = 0.0
    holdout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {self.epochs}")
        if self.min_steps < 0:
            raise ConfigError(f"min_steps must be at least 0, got {self.min_steps}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if not 0 < self.holdout < 1:
            raise ConfigError(f"holdout must be between 0 and 1, got {self.holdout}")
        _ = self.views  # checks batch_size, pad and flip

    @property
    def views(self) -> ViewConfig:
        return ViewConfig(crop="pad" if self.pad else "none", pad=self.pad, flip=self.flip, batch_size=self.batch_size)


def train_teacher(
    data: Data,
    recipe: TeacherRecipe,
    *,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
) -> tuple[nn.Module, TeacherInfo]:
    """Train on ``data.train`` less the held-out part; measure on that part and on ``data.test``.

    The result depends on ``data``, ``recipe`` and ``compute`` alone; with a ``checkpoint`` an interrupted run goes on
    bit by bit.
    """
    spec = data.spec
    kept, held = holdout(data.train.labels, recipe.holdout, recipe.seed)
    network = network_of(recipe, spec)
    epochs = fit_recipe(
        network, data, kept, recipe, name="teacher", compute=compute, report=report, checkpoint=checkpoint
    )
    accuracy_heldout, accuracy_test = measure(network, data, held, spec, compute=compute, report=report)
    return network.eval(), TeacherInfo(
        network=recipe.network,
        spec=spec,
        accuracy_heldout=accuracy_heldout,
        accuracy_test=accuracy_test,
        epochs=epochs,
        recipe=identity(recipe),
        origin="trained",
        weights_sha256=weights_sha256(network),
    )


def network_of(recipe: TeacherRecipe, spec: DatasetSpec) -> nn.Module:
    """The recipe's network, untrained."""
    return build(
        recipe.network,
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        n_classes=spec.n_classes,
        seed=recipe.seed,
    )


def fit_recipe(
    network: nn.Module,
    data: Data,
    items: Indices,
    recipe: TeacherRecipe,
    *,
    name: str,
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint = NoCheckpoint(),
    listener: Listener | None = None,
) -> int:
    """Train ``network`` in place on the images ``items`` of ``data.train``; the number of epochs it took."""
    epochs, steps = length_of(recipe, len(items))
    warmup = min(recipe.optim.warmup_steps, epochs * steps // 5)
    fit(
        network,
        augmented_batches(data, items, recipe, compute),
        partial(nn.functional.cross_entropy, label_smoothing=recipe.label_smoothing),
        replace(recipe.optim, warmup_steps=warmup),
        epochs=epochs,
        steps_per_epoch=steps,
        compute=compute,
        report=report,
        name=name,
        checkpoint=checkpoint,
        listener=listener,
    )
    return epochs


def length_of(recipe: TeacherRecipe, n_images: int) -> tuple[int, int]:
    """Epochs, and steps of each, of a training on ``n_images`` images."""
    steps = len(step_offsets(n_images, recipe.batch_size)) - 1
    return recipe.epochs or max(USUAL_EPOCHS, -(-recipe.min_steps // steps)), steps


def augmented_batches(data: Data, items: Indices, recipe: TeacherRecipe, compute: Compute) -> Batches:
    """The images ``items`` of ``data.train``, cropped and flipped as planned for each epoch, then normalised."""
    spec, device = data.spec, compute.torch_device

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        drawn = plan(recipe.views, recipe.seed, epoch, len(items), spec.height, spec.width)
        for step in range(first_step, drawn.n_steps):
            positions = drawn.step(step)
            chosen = items[drawn.order[positions]]
            views = crop_flip(
                to_pixels(data.train.images[chosen]).to(device),
                torch.from_numpy(drawn.boxes[positions]).to(device),
                torch.from_numpy(drawn.flips[positions]).to(device),
            )
            yield Batch(normalise(views, spec), torch.from_numpy(data.train.labels[chosen]).to(device))

    return batches


def measure(
    network: nn.Module, data: Data, held: Indices, spec: DatasetSpec, *, compute: Compute, report: Report = silent
) -> tuple[float, float]:
    """Accuracy on the training images ``held`` and on ``data.test``, fed by the normalisation of ``spec``."""
    train = predict(network, data.train.images[held], spec, compute=compute, report=report, stage="held out")
    test = predict(network, data.test.images, spec, compute=compute, report=report, stage="test")
    return accuracy(train, data.train.labels[held]), accuracy(test, data.test.labels)
