"""What a GPU computes is what a CPU computes, and the same bits every time: ``pytest -m gpu``.

``CONDENSE_TEST_DEVICE`` names another device than the first GPU; with ``cpu`` these tests are a check of themselves.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_inversion import Interrupted, Memory
from test_matching import SIZES, batches, network_like
from test_methods import CASES, SMALL, do, job_of, made, teacher_of
from torch.nn.functional import cross_entropy

import condense
from condense import recorded
from condense.api import Machine
from condense.data import Data
from condense.device import Compute
from condense.evaluation.measure import peak_of
from condense.labels import LabelConfig
from condense.labels.relabel import make_logits
from condense.matching.convnet import Fast
from condense.matching.derivatives import Batch as Classes
from condense.matching.distances import DISTANCES
from condense.methods import METHODS
from condense.networks import build
from condense.teachers import Teacher, TeacherRecipe, train_teacher
from condense.training import Batch, OptimConfig, fit, fit_together, predict
from condense.views import ViewConfig

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("CONDENSE_TEST_DEVICE", "cuda:0")
CPU, GPU = Compute(), Compute(device=DEVICE)


def teacher_on(device: str, data: Data, network: str = "resnet8") -> Teacher:
    teacher = teacher_of(data.spec, network)
    return Teacher(copy.deepcopy(teacher.network).to(device), replace(teacher.info, accuracy_test=0.9))


def on(compute: Compute, data: Data) -> dict[str, Any]:
    return {"compute": compute, "teachers": [teacher_on(compute.device, data)]}


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_method_makes_the_same_images(name: str, settings: dict[str, Any], tiny_data: Data) -> None:
    """As on the CPU but for rounding, which a step of Adam can enlarge; and the same bits a second time."""
    method, job = made(name, settings), job_of(tiny_data.spec)
    here, again = (do(method, job, tiny_data, **on(GPU, tiny_data)).pixels for _ in range(2))
    there = do(method, job, tiny_data, **on(CPU, tiny_data)).pixels
    np.testing.assert_array_equal(here, again)
    difference = np.abs(here.astype(int) - there)
    assert np.median(difference) == 0
    assert difference.mean() < 1


@pytest.mark.parametrize("name", [name for name in SMALL if "steps" in SMALL[name][0] or "networks" in SMALL[name][0]])
def test_bf16_is_near(name: str, tiny_data: Data) -> None:
    method, job = made(name, SMALL[name][0]), job_of(tiny_data.spec)
    low = do(method, job, tiny_data, **on(replace(GPU, precision="bf16"), tiny_data)).pixels
    full = do(method, job, tiny_data, **on(GPU, tiny_data)).pixels
    assert np.abs(low.astype(int) - full).mean() < 12


@pytest.mark.parametrize("name", ["sre2l", "cv-dd", "fadrm", "infer", "dc", "idc", "dm", "ncfm", "mtt"])
def test_a_resumed_job_ends_with_the_same_bits(name: str, tiny_data: Data) -> None:
    method, job = made(name, SMALL[name][0]), job_of(tiny_data.spec)
    whole = do(method, job, tiny_data, **on(GPU, tiny_data)).pixels
    memory = Memory(1)
    with pytest.raises(Interrupted):
        do(method, job, tiny_data, checkpoint=memory, **on(GPU, tiny_data))
    resumed = do(method, job, tiny_data, checkpoint=memory, **on(GPU, tiny_data)).pixels
    np.testing.assert_array_equal(resumed, whole)


@pytest.mark.parametrize("name", ["sre2l", "cv-dd", "dwa", "edc", "fadrm", "infer"])
def test_recorded_steps_have_the_bits_of_those_that_are_not(
    name: str, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, job = made(name, {**SMALL[name][0], "steps": 12}), job_of(tiny_data.spec)
    replayed = counted_replays(monkeypatch)
    here = do(method, job, tiny_data, **on(GPU, tiny_data)).pixels
    assert DEVICE == "cpu" or name == "edc" or len(replayed) >= 9
    monkeypatch.setattr(recorded, "recording", False)
    np.testing.assert_array_equal(do(method, job, tiny_data, **on(GPU, tiny_data)).pixels, here)


def counted_replays(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    replayed: list[None] = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replayed.append(None), replay(graph))[1])
    return replayed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("network", ["convnet2-w8-bn", "resnet8", "vit"])
def test_a_recorded_training_has_the_bits_of_one_that_is_not(
    network: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"names": list("abc"), "epochs": 3, "steps_per_epoch": 4, "compute": GPU}
    optim, replayed = OptimConfig(lr=0.01, optimizer=optimizer), counted_replays(monkeypatch)
    found = []
    for recording in (True, False):
        monkeypatch.setattr(recorded, "recording", recording)
        networks = students(network)
        records = fit_together(networks, some_batches, cross_entropy, optim, **given)
        found.append(([one.state_dict() for one in networks], [one.losses for one in records]))  # type: ignore[union-attr]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert DEVICE == "cpu" or len(replayed) >= 3 * 6


@pytest.mark.parametrize("name", sorted(DISTANCES))
@pytest.mark.parametrize("network", ["convnet2-w6-in", "convnet3-w5-none"])
def test_written_out_derivatives_are_those_of_the_cpu(network: str, name: str) -> None:
    net = network_like(network, 3, 12, 12)
    found = []
    for device in ("cpu", DEVICE):
        synthetic, real = (Classes(one.images.to(device), one.labels, one.sizes) for one in batches(3, 12, 12))
        fast = Fast(copy.deepcopy(net).to(device), linear=True, piece=4)  # type: ignore[arg-type]
        losses, moved = fast.match_gradients(synthetic, fast.gradients(real), DISTANCES[name])
        found.append((losses.cpu(), moved.cpu()))
    assert len(found[0][0]) == len(SIZES)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def students(network: str) -> list[torch.nn.Module]:
    return [build(network, channels=3, height=16, width=16, n_classes=4, seed=seed) for seed in range(3)]


def some_batches(epoch: int, first: int) -> Iterator[Batch]:
    """Four steps, the last with fewer images."""
    for step in range(first, 4):
        draws, count = torch.Generator().manual_seed(10 * epoch + step), 8 if step < 3 else 5
        yield Batch(torch.randn(count, 3, 16, 16, generator=draws), torch.randint(4, (count,), generator=draws))


@pytest.mark.parametrize("network", ["convnet2-w8-bn", "convnet2-w8-in", "resnet8", "vgg11", "mobilenetv2"])
def test_students_at_once_end_where_each_would(network: str) -> None:
    given: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 4, "compute": GPU}
    together, alone = students(network), students(network)
    fit_together(together, some_batches, cross_entropy, OptimConfig(lr=0.01), names=list("abc"), **given)
    for mine, other in zip(together, alone, strict=True):
        fit(other, some_batches, cross_entropy, OptimConfig(lr=0.01), **given)
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("teacher_bn", ["eval", "batch"])
def test_labels_are_those_of_the_cpu(teacher_bn: Any, tiny_data: Data) -> None:
    pixels = tiny_data.train.images[:24]
    labels = LabelConfig(epochs=3, teacher_bn=teacher_bn, views=ViewConfig(mix="cutmix", batch_size=8))
    here, again, there = (
        make_logits(pixels, [teacher_on(compute.device, tiny_data)], tiny_data.spec, labels, compute=compute)
        for compute in (GPU, GPU, CPU)
    )
    np.testing.assert_array_equal(here, again)
    np.testing.assert_allclose(here.astype(float), there.astype(float), rtol=2e-3, atol=5e-3)


def test_a_teacher_is_trained_to_the_same_bits(tiny_data: Data) -> None:
    recipe = TeacherRecipe(network="convnet2-w8-bn", epochs=3, batch_size=16, holdout=0.2)
    (first, info), (second, _) = (train_teacher(tiny_data, recipe, compute=GPU) for _ in range(2))
    assert info.accuracy_test is not None
    assert info.accuracy_test > 0.5
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    images = tiny_data.test.images
    here = predict(first, images, tiny_data.spec, compute=GPU)
    there = predict(first, images, tiny_data.spec, compute=CPU)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("workers", [None, 2])
@pytest.mark.parametrize("method", ["cda", "cv-dd", "idc"])
def test_a_set_is_made_labelled_and_evaluated(
    method: str, workers: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(device=DEVICE, store=tmp_path / "store", workers=workers)
    [folder] = condense.distill(
        data="fashion-mini", method=method, ipc=2, out=tmp_path / "set", quick=True, machine=machine, quiet=True
    )
    assert sorted(condense.load(folder).targets) == sorted(list(range(10)) * (8 if method == "idc" else 2))
    targets: Any = ["soft"] if METHODS[method].name != "idc" else ["hard"]
    results = condense.evaluate(
        [folder],
        students=["convnet3-w8-bn"],
        seeds=2,
        against=["random"],
        targets=targets,
        quick=True,
        machine=machine,
        quiet=True,
    )
    assert results.results
    again = condense.distill(
        data="fashion-mini", method=method, ipc=2, out=tmp_path / "again", quick=True, machine=machine, quiet=True
    )
    assert (again[0] / "images-00000.h5").read_bytes() == (folder / "images-00000.h5").read_bytes()


def test_peak_memory_is_that_of_the_device() -> None:
    held = torch.zeros(1 << 20, device=DEVICE)
    assert peak_of(GPU) >= held.numel() * 4
