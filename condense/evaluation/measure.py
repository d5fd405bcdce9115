"""From a trained student to a result: test it, and write down what it was trained on and at which cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from condense.config import identity
from condense.data.spec import Data
from condense.dataset import DistilledDataset
from condense.device import Compute
from condense.evaluation.metrics import accuracy_per_class, calibration, confusion, negative_log_likelihood
from condense.evaluation.results import Result, ResultError, config_hash, versions
from condense.evaluation.student import StudentRecipe, logits_on_test
from condense.files import sha256_file
from condense.memory import peak_memory
from condense.shards import set_bytes
from condense.teachers import Teacher
from condense.training import TrainRecord
from condense.views.config import VIEW_VERSION

__all__ = ["judged", "measure_real", "measure_set", "resolved_config"]

MOST_IN_CONFUSION = 100
"""Classes: the matrix of more would be the larger part of a result."""


def measure_set(
    network: nn.Module,
    record: TrainRecord,
    dataset: DistilledDataset,
    data: Data,
    recipe: StudentRecipe,
    *,
    teachers: Sequence[Teacher] = (),
    condition: str | None = None,
    seed: int,
    set_index: int = 0,
    compute: Compute,
) -> Result:
    """The result of a student made by :func:`~condense.evaluation.student.train_student` with the same arguments.

    ``condition`` is the method's name unless given. With hard targets the label files are not charged, since training
    does without them. The weights of ``teachers`` that the student asks for labels are charged under ``bytes_other``.
    """
    size = set_bytes(dataset.files)
    method = str(dataset.info.method["name"])
    return Result(
        condition=condition or method,
        method=method,
        set_name=dataset.info.name,
        set_sha256=sha256_file(dataset.path / "set.json"),
        set_index=set_index,
        seed=seed,
        bytes_images=size.images,
        bytes_labels=size.labels if recipe.targets == "soft" else 0,
        bytes_other=size.other + bytes_of(teachers),
        **_measured(network, record, dataset, data, recipe, compute),
    )


def measure_real(
    network: nn.Module,
    record: TrainRecord,
    like: DistilledDataset,
    data: Data,
    recipe: StudentRecipe,
    *,
    teachers: Sequence[Teacher] = (),
    condition: str = "whole data",
    seed: int,
    set_index: int = 0,
    compute: Compute,
) -> Result:
    """The result of a student made by :func:`~condense.evaluation.student.train_on_real` with the same arguments.

    Charged are all images, and under ``bytes_other`` the classes and the weights of the ``teachers``.
    """
    return Result(
        condition=condition,
        method="whole-data",
        set_name=data.spec.name,
        set_sha256=data.spec.fingerprint,
        set_index=set_index,
        seed=seed,
        bytes_images=data.train.images.nbytes,
        bytes_labels=0,
        bytes_other=data.train.labels.nbytes + bytes_of(teachers),
        **_measured(network, record, like, data, recipe, compute),
    )


def bytes_of(teachers: Sequence[Teacher]) -> int:
    """Of the weights."""
    return sum(value.nbytes for teacher in teachers for value in teacher.network.state_dict().values())


def resolved_config(dataset: DistilledDataset, recipe: StudentRecipe) -> dict[str, Any]:
    """What results must have in common to be compared: the recipe with its number of epochs, the views, the steps."""
    epochs = recipe.total_epochs(dataset.epochs)
    return {
        "recipe": identity(replace(recipe, epochs=epochs)),
        "views": dataset.views.to_dict(),
        "view_version": VIEW_VERSION,
        "steps": epochs * dataset.plan(0).n_steps,
    }


def _measured(
    network: nn.Module,
    record: TrainRecord,
    like: DistilledDataset,
    data: Data,
    recipe: StudentRecipe,
    compute: Compute,
) -> dict[str, Any]:
    """The fields that do not depend on whose images they were."""
    config = resolved_config(like, recipe)
    logits = logits_on_test(network, data, like.spec, compute=compute)
    return {
        "data": data.spec.name,
        "ipc": 1 + max(int(file.columns["slots"].max()) for file in like.files.images),
        "student": recipe.network,
        "targets": recipe.targets,
        **judged(logits.numpy(), np.asarray(data.test.labels)),
        "losses": record.losses,
        "steps": record.steps,
        "config": config,
        "config_sha256": config_hash(config),
        "versions": versions(),
        "compute": compute.identity(),
        "seconds": record.seconds,
        "peak_memory": peak_of(compute),
    }


def judged(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The fields of a result that logits (n, K) on the test images give, with their classes (n,).

    Raises :class:`ResultError` for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise ResultError("logits are not finite: a failed run is not a result")
    counts = confusion(logits, labels)
    return {
        "accuracy": float(np.trace(counts) / len(labels)),
        "accuracy_per_class": tuple(None if np.isnan(share) else float(share) for share in accuracy_per_class(counts)),
        "calibration_error": calibration(logits, labels).expected,
        "negative_log_likelihood": negative_log_likelihood(logits, labels),
        "confusion": tuple(map(tuple, counts.tolist())) if len(counts) <= MOST_IN_CONFUSION else None,
    }


def peak_of(compute: Compute) -> int:
    """Bytes: the most that tensors took on a CUDA device, else the most that this *process* ever held.

    The process figure never falls: after a larger job in the same process it is that job's. The CUDA figure counts
    from the last ``torch.cuda.reset_peak_memory_stats``.
    """
    if compute.torch_device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(compute.torch_device))
    return peak_memory()
