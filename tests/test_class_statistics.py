"""Class-wise statistics against loops over images and positions, and their way through a plan to a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_taps import trained_looking
from torch import Tensor, nn

from condense.checkpoint import FileCheckpoint, Paused
from condense.data import Data
from condense.data.pixels import normalise, to_pixels
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.engine.plan import in_order
from condense.engine.store import Store
from condense.errors import TeacherError
from condense.labels import LabelConfig
from condense.methods import METHODS
from condense.methods.base import JobSizes, Method, Needs, Rows, SynthesisJob
from condense.networks import build
from condense.pipeline.context import Context, DataRequest
from condense.pipeline.estimate import _Prober
from condense.pipeline.plans import run_all, set_jobs
from condense.pipeline.request import Request
from condense.pipeline.teachers import teacher_jobs
from condense.teachers import ClassStatistics, Teacher, TeacherInfo
from condense.teachers.class_statistics import class_statistics
from condense.teachers.recipe import TeacherRecipe
from condense.teachers.taps import ClassTargets, TappedNetwork

CPU = Compute()
SIDE, CLASSES = 8, 4
LABELS = np.array([2, 0, 2, 2, 3, 0, 2], dtype=np.int64)  # unbalanced, and class 1 is missing
SPEC = DatasetSpec(
    name="tiny",
    classes=("a", "b", "c", "d"),
    channels=2,
    height=SIDE,
    width=SIDE,
    mean=(0.4, 0.6),
    std=(0.25, 0.3),
    train_sizes=(2, 0, 4, 1),
    test_sizes=(1, 1, 1, 1),
    fingerprint="0" * 64,
)


class Widened(nn.Module):
    """A network in float64 that takes float32 images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.network(images.double())
        return made


def network(name: str = "resnet8") -> nn.Module:
    return trained_looking(build(name, channels=2, height=SIDE, width=SIDE, n_classes=CLASSES))


def teacher(net: nn.Module) -> Teacher:
    info = TeacherInfo(
        network="resnet8",
        spec=SPEC,
        accuracy_heldout=None,
        accuracy_test=None,
        epochs=None,
        recipe={},
        origin="trained",
        weights_sha256="0" * 64,
    )
    return Teacher(net, info)


def images(count: int = len(LABELS)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 2), dtype=np.uint8)


def plain_loop(net: nn.Module, label: int | None) -> list[tuple[list[float], list[float], list[float]]]:
    """By layer, of the images of a class (of all, if None): mean, variance over all positions, mean of variances.

    One image at a time through hooks, the numbers of a channel collected in lists.
    """
    maps: list[list[Tensor]] = []
    places = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [m.register_forward_hook(lambda m, given, out: maps[-1].append(given[0][0])) for m in places]
    for image, its in zip(images(), LABELS, strict=True):
        if label in (None, its):
            maps.append([])
            net(normalise(to_pixels(image[None]), SPEC))
    for handle in handles:
        handle.remove()
    found = []
    for layer in range(len(places)):
        mean, total, within = [], [], []
        for channel in range(len(maps[0][layer])):
            values = [one[layer][channel].flatten().tolist() for one in maps]
            whole = [value for some in values for value in some]
            centre = sum(whole) / len(whole)
            mean.append(centre)
            total.append(sum((value - centre) ** 2 for value in whole) / len(whole))
            centres = [sum(some) / len(some) for some in values]
            spreads = [
                sum((value - own) ** 2 for value in some) / len(some) for some, own in zip(values, centres, strict=True)
            ]
            within.append(sum(spreads) / len(spreads))
        found.append((mean, total, within))
    return found


@pytest.mark.parametrize("name", ["resnet8", "convnet2-w8-bn"])
def test_equals_a_loop_over_images_and_positions(name: str) -> None:
    net = Widened(network(name))
    made = class_statistics(teacher(net), images(), LABELS, compute=CPU)
    assert made.counts.tolist() == [2, 0, 4, 1]
    for label in range(CLASSES):
        wanted = plain_loop(net, None if label == 1 else label)
        for column, array in enumerate((made.mean, made.class_var, made.image_var)):
            assert array.dtype == np.float64
            joined = [value for layer in wanted for value in layer[column]]
            np.testing.assert_allclose(array[label], joined, rtol=1e-9, atol=1e-10)
    assert (made.class_var >= made.image_var).all()
    np.testing.assert_allclose(
        made.class_var[3], made.image_var[3], rtol=1e-12
    )  # of one image there is nothing between


def test_float32_networks_and_blocks() -> None:
    """What the size of a block changes is rounding; the file holds float32."""
    plain, wide = network(), Widened(network())
    many = np.tile(images(), (80, 1, 1, 1)), np.tile(LABELS, 80)  # 560 images, two blocks
    exact = class_statistics(teacher(wide), images(), LABELS, compute=CPU)
    for made in (
        class_statistics(teacher(plain), *many, compute=CPU),
        class_statistics(teacher(plain), images(), LABELS, compute=CPU),
    ):
        np.testing.assert_allclose(made.mean, exact.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made.class_var, exact.class_var, rtol=1e-4, atol=1e-5)


def test_a_measurement_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    many = np.tile(images(), (160, 1, 1, 1)), np.tile(LABELS, 160)
    whole = class_statistics(teacher(network()), *many, compute=CPU)
    asked = [0]

    def stopping() -> bool:
        asked[0] += 1
        return asked[0] <= 2  # once when it is due, once after it is saved

    checkpoint = FileCheckpoint(tmp_path / "state", 1e9, stopping)
    with pytest.raises(Paused):
        class_statistics(teacher(network()), *many, compute=CPU, checkpoint=checkpoint)
    resumed = class_statistics(
        teacher(network()), *many, compute=CPU, checkpoint=FileCheckpoint(tmp_path / "state", 1e9)
    )
    for name in ("mean", "class_var", "image_var", "counts"):
        assert np.array_equal(getattr(whole, name), getattr(resumed, name))


def test_the_teacher_is_not_changed() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    class_statistics(teacher(net), images(), LABELS, compute=CPU)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_files_and_targets(tmp_path: Path) -> None:
    made = class_statistics(teacher(network()), images(), LABELS, compute=CPU)
    made.write(tmp_path)
    read = ClassStatistics.read(tmp_path)
    assert read.mean.dtype == np.float32
    assert isinstance(read.mean, np.memmap)
    np.testing.assert_array_equal(read.counts, made.counts)
    for kind, var in (("class", made.class_var), ("image", made.image_var)):
        targets = read.targets(kind)  # type: ignore[arg-type]
        assert torch.equal(targets.mean, torch.from_numpy(made.mean.astype(np.float32)))
        assert torch.equal(targets.var, torch.from_numpy(var.astype(np.float32)))


def test_a_tapped_network_hands_them_on() -> None:
    made = class_statistics(teacher(network()), images(), LABELS, compute=CPU)
    tapped = TappedNetwork(network(), made.targets())
    _, statistics = tapped(torch.zeros(2, 2, SIDE, SIDE))
    classes = statistics.targets.classes
    assert classes is not None
    assert classes.mean.dtype == statistics.targets.mean.dtype
    assert classes.mean.shape == classes.var.shape == (CLASSES, sum(statistics.targets.sizes))
    assert TappedNetwork(network())(torch.zeros(2, 2, SIDE, SIDE))[1].targets.classes is None


def test_statistics_of_another_network_are_refused() -> None:
    tapped = TappedNetwork(network(), ClassTargets(torch.zeros(CLASSES, 5), torch.ones(CLASSES, 5)))
    with pytest.raises(TeacherError, match="the class statistics have 5 channels"):
        tapped(torch.zeros(2, 2, SIDE, SIDE))


def test_a_network_without_batchnorm_is_refused() -> None:
    with pytest.raises(TeacherError, match="has no BatchNorm2d"):
        class_statistics(teacher(nn.Flatten()), images(), LABELS, compute=CPU)


class Asking(Method):
    """Makes images of what its teachers' class statistics are worth."""

    name, summary, source, revision = "asking", "for tests", "none", 1
    Config = METHODS["random"].Config
    needs = Needs(teachers="batchnorm", real_images=False, precomputed="class statistics")
    sizes, contains_real_images = JobSizes(3, 9), False
    asked: ClassVar[list[tuple[int, ...]]] = []

    def synthesise(self, job: SynthesisJob, *, teachers: Sequence[Teacher], precomputed: Any, **others: Any) -> Rows:
        shapes = [(len(TappedNetwork(one.network, known.targets()).taps), *known.mean.shape)
                  for one, known in zip(teachers, precomputed, strict=True)]  # fmt: skip
        self.asked.extend(shapes)
        return Rows.of(job, np.zeros((len(job.slots) * len(job.classes), *job.spec.image_shape), np.uint8))


def request_of() -> Request:
    return Request(
        data=DataRequest(name="tiny"),
        method=Asking(Asking.Config()),
        ipc=1,
        teacher=TeacherRecipe(network="resnet8", epochs=1, batch_size=16, holdout=0.05),
        labels=LabelConfig(epochs=1),
        min_accuracy=0.0,
    )


def test_a_plan_measures_every_teacher_once(tmp_path: Path, tiny_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "asking", Asking)
    request = request_of()
    context = Context(store=Store(tmp_path / "store"), compute=CPU, opened={request.data: tiny_data})
    makers = (
        *teacher_jobs(request, tiny_data, context, []),
        *teacher_jobs(replace(request, teacher=replace(request.teacher, seed=1)), tiny_data, context, []),
    )
    jobs = set_jobs(request, tiny_data.spec, context, makers, name="set")
    kinds = [job.kind for job in in_order(jobs)]
    assert kinds.count("class-statistics") == kinds.count("teacher") == 2
    [rows] = [job for job in in_order(jobs) if job.kind == "rows"]
    with _Prober(request, context, tiny_data, jobs) as prober:
        prober._have(rows.inputs[2])
        guessed = ClassStatistics.read(prober.scratch.store.path(rows.inputs[2].id))
    run_all(lambda: [rows], context)
    measured = ClassStatistics.read(context.store.path(rows.inputs[2].id))
    assert Asking.asked == [(7, *measured.mean.shape)] * 2
    assert guessed.mean.shape == measured.mean.shape
    assert measured.counts.tolist() == [40, 40, 40]
