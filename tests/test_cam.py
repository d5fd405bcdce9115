"""Class activation maps against loops written out, networks that have none, and what masks made of them keep."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.canvas import Pixels, real_start
from condense.data import Data, DatasetSpec
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.errors import ConfigError, MethodError, TeacherError
from condense.inversion import AdamConfig, Problem, Stage, invert, together
from condense.methods.parts.masks import NonCriticalMask, non_critical_mask
from condense.networks import build
from condense.networks.base import InputShape
from condense.objectives import BatchNormDistance, CrossEntropy
from condense.teachers import Teacher, TeacherInfo
from condense.teachers.cam import activation_maps, activation_maps_of, spread
from condense.teachers.taps import TappedNetwork
from condense.views.recovery import RecoveryViews

HEIGHT, WIDTH, CLASSES = 16, 20, 3
SHAPE = InputShape(2, HEIGHT, WIDTH)
WITH_MAPS = ["resnet8", "resnet18", "convnet2-w4", "convnet3-w4-in", "mobilenetv2", "shufflenetv2"]


def network_of(name: str, shape: InputShape = SHAPE) -> nn.Module:
    """In float64, with BatchNorm statistics of noise, so that maps differ from place to place."""
    network = build(name, **shape._asdict(), n_classes=CLASSES).double()
    with torch.no_grad():
        for step in range(2):
            network.train()(noise(8, shape, seed=step))
    return network.eval().requires_grad_(False)


def noise(count: int, shape: InputShape = SHAPE, seed: int = 9) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


def teacher_of(network: nn.Module, spec: DatasetSpec, name: str = "resnet8") -> Teacher:
    unknown: dict[str, Any] = dict.fromkeys(("accuracy_heldout", "accuracy_test", "epochs"))
    info = TeacherInfo(network=name, spec=spec, recipe={}, origin="trained", weights_sha256="0" * 64, **unknown)
    return Teacher(network, info)


def spec_teacher(spec: DatasetSpec, seed: int = 0, name: str = "resnet8") -> Teacher:
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    return teacher_of(
        build(name, **shape, n_classes=spec.n_classes, seed=seed).eval().requires_grad_(False), spec, name
    )


def plain_enlargement(small: list[list[float]], height: int, width: int) -> np.ndarray:
    """Bilinear: output pixel centres laid over the input's, kept within the outermost centres."""
    h, w = len(small), len(small[0])
    large = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            at_y = min(max((y + 0.5) * h / height - 0.5, 0.0), h - 1.0)
            at_x = min(max((x + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            y0, x0 = math.floor(at_y), math.floor(at_x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            b, a = at_y - y0, at_x - x0
            upper = (1 - a) * small[y0][x0] + a * small[y0][x1]
            lower = (1 - a) * small[y1][x0] + a * small[y1][x1]
            large[y, x] = (1 - b) * upper + b * lower
    return large


def plain_map(maps: np.ndarray, weights: np.ndarray, height: int, width: int) -> np.ndarray:
    """One image's map from its last maps (K, h, w) and its class's weights (K,) or (K, h, w)."""
    channels, h, w = maps.shape
    small = [[0.0] * w for _ in range(h)]
    for k in range(channels):
        for y in range(h):
            for x in range(w):
                weight = weights[k] if weights.ndim == 1 else weights[k, y, x]
                small[y][x] += float(weight) * float(maps[k, y, x])
    small = [[max(0.0, value) for value in row] for row in small]
    large = plain_enlargement(small, height, width)
    if large.max() == large.min():
        return np.zeros_like(large)
    return (large - large.min()) / (large.max() - large.min())


def last_maps(name: str, network: Any, images: Tensor) -> Tensor:
    """What the network pools or flattens, by its own definition."""
    if not name.startswith("resnet"):
        return network.layers(images)
    maps = F.relu(network.bn1(network.conv1(images)))
    for stage in network.stages:
        maps = getattr(network, stage)(maps)
    return maps


@pytest.mark.parametrize("name", WITH_MAPS)
def test_equal_to_the_plain_loop(name: str) -> None:
    network, images, labels = network_of(name), noise(3), torch.tensor([2, 0, 2])
    made = activation_maps_of(name, network, SHAPE)(images, labels)
    assert made.shape == (3, HEIGHT, WIDTH)
    maps = last_maps(name, network, images)
    for image, label in enumerate(labels.tolist()):
        weights = network.classifier.weight[label]
        if name.startswith("convnet"):
            weights = weights.view(maps.shape[1:])
        wanted = plain_map(maps[image].numpy(), weights.numpy(), HEIGHT, WIDTH)
        np.testing.assert_allclose(made[image].numpy(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WITH_MAPS)
def test_evidence_sums_to_the_logit(name: str) -> None:
    network, images = network_of(name), noise(4)
    found = activation_maps_of(name, network, SHAPE)
    assert found.flattened == name.startswith("convnet")
    for label in range(CLASSES):
        evidence = found.evidence(images, torch.full((4,), label))
        whole = evidence.sum((1, 2)) if found.flattened else evidence.mean((1, 2))
        logits = network(images)[:, label] - network.classifier.bias[label]
        torch.testing.assert_close(whole, logits, rtol=1e-9, atol=1e-9)


class Late(nn.Module):
    """Rectifies, in place or not, and pools by functions, as torchvision's densenets do; not a `Network`."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 5, 3, padding=1, stride=2)
        self.end = nn.Linear(5, CLASSES)
        self.inplace = inplace

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.body(images), inplace=self.inplace)
        out: Tensor = self.end(F.adaptive_avg_pool2d(maps, (1, 1)).flatten(1))
        return out


@pytest.mark.parametrize("inplace", [False, True])
def test_a_relu_and_a_pooling_outside_of_modules_are_seen_through(inplace: bool) -> None:
    network, images = Late(inplace).double(), noise(2)
    made = activation_maps_of("late", network, SHAPE)(images, torch.tensor([1, 2]))
    for image, label in enumerate((1, 2)):
        maps = F.relu(network.body(images))[image].detach().numpy()
        wanted = plain_map(maps, network.end.weight[label].detach().numpy(), HEIGHT, WIDTH)
        np.testing.assert_allclose(made[image].numpy(), wanted, rtol=1e-9, atol=1e-9)


def test_pooled_maps_of_a_pooling_module_are_not_taken_for_the_maps() -> None:
    network = nn.Sequential(nn.Conv2d(2, 5, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    assert activation_maps_of("plain", network, SHAPE).source is network[0]


def test_the_map_is_that_of_the_label_and_not_of_the_best_class() -> None:
    network, images = network_of("resnet8"), noise(3)
    found = activation_maps_of("resnet8", network, SHAPE)
    each = [found(images, torch.full((3,), label)) for label in range(CLASSES)]
    assert all(not torch.allclose(each[a], each[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    own = found(images, torch.tensor([2, 1, 0]))
    for image, label in enumerate((2, 1, 0)):
        torch.testing.assert_close(own[image], each[label][image], rtol=1e-10, atol=1e-10)


def test_spreading() -> None:
    evidence = torch.tensor([[[1.0, 3.0]], [[-1.0, -3.0]], [[2.0, 2.0]], [[-5.0, 4.0]]])
    large = spread(evidence, 2, 4)
    assert large[0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2
    assert large[1].tolist() == large[2].tolist() == [[0.0] * 4] * 2
    assert large[3].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2
    assert bool(large.isfinite().all())


def test_the_network_is_left_as_it_was() -> None:
    network = network_of("resnet8").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    found = activation_maps_of("resnet8", network, SHAPE)
    assert modes == [module.training for module in network.modules()]
    network.eval()
    found(noise(2), torch.tensor([0, 1]))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("vit", 16, '"vit" has no class activation maps: its last layer is not given pooled or flattened maps; use'),
        ("vgg11", 32, '"vgg11" has class activation maps of a single place for images of 32 x 32 pixels; use'),
    ],
)
def test_networks_without_maps_are_refused(name: str, side: int, message: str) -> None:
    shape = InputShape(3, side, side)
    with pytest.raises(TeacherError, match=message):
        activation_maps_of(name, build(name, **shape._asdict(), n_classes=3), shape)


def test_a_network_without_a_linear_end_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TeacherError, match=r"does not end in a linear layer.*class activation maps need its weights"):
        activation_maps_of("mine", network, SHAPE)


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_of_stored_images(tiny_data: Data, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each teacher by its own normalisation, the mean of all, in blocks."""
    monkeypatch.setattr("condense.teachers.cam.BATCH", 4)
    images, labels = tiny_data.train.images[::13, :, :, :channels], tiny_data.train.labels[::13]
    own = replace(tiny_data.spec, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    other = replace(own, mean=(0.1,) * channels, std=(0.7,) * channels)
    teachers = [spec_teacher(own), spec_teacher(other, seed=1, name="convnet2-w8-bn")]
    made = activation_maps(teachers, images, labels, compute=Compute())
    assert made.dtype == np.float32
    assert made.shape == images.shape[:3]
    wanted = np.zeros(made.shape)
    for teacher, spec in zip(teachers, (own, other), strict=True):
        found = activation_maps_of("it", teacher.network, InputShape(channels, 12, 12))
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            normal = normalise(to_pixels(image[None]), spec)
            wanted[n] += found(normal, torch.tensor([int(label)]))[0].numpy() / 2
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    alone = activation_maps(teachers[:1], images, labels, compute=Compute())
    assert alone.min() >= 0
    assert alone.max() == 1


# Masks


def test_the_mask_is_the_formula() -> None:
    values = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    values[0, 0, 0] = torch.tensor([0.0, 0.3, 0.6, 0.59999, 1.0])
    mask = non_critical_mask(values, 0.6)
    assert mask.shape == (2, 3, 1, 4, 5)
    for place in np.ndindex(2, 3, 4, 5):
        wanted = max(0.0, 1 - float(values[place]) / 0.6)
        assert float(mask[place[0], place[1], 0, place[2], place[3]]) == pytest.approx(wanted, abs=1e-12)
    assert float(mask[0, 0, 0, 0, 0]) == 1
    assert float(mask[0, 0, 0, 0, 2]) == float(mask[0, 0, 0, 0, 4]) == 0
    everywhere = non_critical_mask(torch.linspace(0, 1, 100_001).view(1, 1, 1, -1), 0.3).flatten()
    assert bool((everywhere[torch.linspace(0, 1, 100_001) >= 0.3] == 0).all())
    assert bool((everywhere >= 0).all())


def masked_run(
    data: Data, teacher: Teacher, *, steps: int = 8, checkpoint: Any = None, **settings: Any
) -> tuple[Pixels, Tensor, NonCriticalMask]:
    """A recovery from real images, with Adam; the canvas, its start and the hooks."""
    images = data.train.images[[0, 40, 80, 1, 41, 81]].reshape(2, 3, 12, 12, 3)
    start = real_start(images, data.spec)
    canvas, hooks = (
        Pixels(start, data.spec),
        NonCriticalMask(data.spec, [teacher], (0, 1, 2), compute=Compute(), **settings),
    )
    stage = Stage(
        steps=steps,
        views=RecoveryViews(crop="resized", roll=2),
        objective=CrossEntropy() + 0.05 * BatchNormDistance(),
    )
    invert(
        canvas,
        [stage],
        together([TappedNetwork(teacher.network)], len(canvas.values)),
        Problem(name="masked", seed=1, groups=[(0, 0, 0), (0, 1, 0)], targets=(0, 1, 2)),
        compute=Compute(),
        adam=AdamConfig(lr=0.1),
        hooks=hooks,
        checkpoint=hooks.kept_in(checkpoint) if checkpoint else None,
    )
    return canvas, start, hooks


@pytest.mark.parametrize("eps", [0.2, 0.5, 0.9])
def test_what_is_critical_does_not_move_at_all(tiny_data: Data, eps: float) -> None:
    teacher = spec_teacher(tiny_data.spec)
    canvas, start, _ = masked_run(tiny_data, teacher, eps=eps)
    found = activation_maps_of("it", teacher.network, InputShape(3, 12, 12))
    maps = found(start.flatten(0, 1), torch.tensor([0, 1, 2] * 2)).view(2, 3, 1, 12, 12)
    moved = (canvas.values - start).abs()
    frozen = (maps >= eps + 1e-5).expand_as(moved)
    open_ = (maps <= eps / 2).expand_as(moved)
    assert bool(frozen.any())
    assert float(moved[frozen].max()) == 0.0
    assert float(moved[open_].mean()) > 0.01


def test_the_mask_follows_the_images_if_told_to(tiny_data: Data) -> None:
    teacher = spec_teacher(tiny_data.spec)
    canvas, start, hooks = masked_run(tiny_data, teacher, every=3)
    fixed, _, kept = masked_run(tiny_data, teacher)
    assert hooks.mask is not None
    assert kept.mask is not None
    assert not torch.equal(hooks.mask, kept.mask)
    assert not torch.equal(canvas.values, fixed.values)
    torch.testing.assert_close(kept.mask, kept.made(Pixels(start, tiny_data.spec)), rtol=0, atol=0)


def test_a_mask_takes_targets_group_by_group(tiny_data: Data) -> None:
    spec, teacher = tiny_data.spec, spec_teacher(tiny_data.spec)
    images = tiny_data.train.images[[0, 40, 41, 80]].reshape(2, 2, 12, 12, 3)
    canvas, targets = Pixels(real_start(images, spec), spec), ((0, 1), (1, 2))
    both = NonCriticalMask(spec, [teacher], targets, compute=Compute()).made(canvas)
    for group, own in enumerate(targets):
        part = Pixels(canvas.values[group : group + 1], spec)
        alone = NonCriticalMask(spec, [teacher], own, compute=Compute()).made(part)
        torch.testing.assert_close(both[group], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("every", "wanted"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6])])
def test_the_mask_is_made_anew_after_so_many_steps(every: int, wanted: list[int], tiny_data: Data) -> None:
    canvas = Pixels(real_start(tiny_data.train.images[[[0, 40, 80]]], tiny_data.spec), tiny_data.spec)
    hooks = NonCriticalMask(tiny_data.spec, [spec_teacher(tiny_data.spec)], (0, 1, 2), every=every, compute=Compute())
    hooks.prepare(canvas, lambda _: ())
    masks = [hooks.update_mask(canvas, step) for step in range(8)]
    assert [step for step in range(1, 8) if masks[step] is not masks[step - 1]] == wanted


class Interrupted(Exception):
    pass


class Memory:
    """A checkpoint that is due at every step and ends the run after ``left`` of them."""

    def __init__(self, left: int) -> None:
        self.state: dict[str, Tensor] | None = None
        self.left = left

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Tensor]) -> None:
        self.state, self.left = {name: value.clone() for name, value in state.items()}, self.left - 1
        if self.left == 0:
            raise Interrupted


@pytest.mark.parametrize("every", [0, 3])
@pytest.mark.parametrize("stop", [1, 4, 6, 7])
def test_a_resumed_run_has_the_same_mask(tiny_data: Data, every: int, stop: int) -> None:
    teacher, memory = spec_teacher(tiny_data.spec), Memory(stop)
    whole, _, _ = masked_run(tiny_data, teacher, every=every)
    with pytest.raises(Interrupted):
        masked_run(tiny_data, teacher, every=every, checkpoint=memory)
    resumed, _, _ = masked_run(tiny_data, teacher, every=every, checkpoint=memory)
    assert torch.equal(whole.values, resumed.values)


def test_a_mask_uses_each_teachers_own_normalisation(tiny_data: Data) -> None:
    """The same network, fed by another normalisation that its first layer undoes, gives the same mask."""
    spec = tiny_data.spec
    usual = spec_teacher(spec)
    raw = replace(spec, mean=(0.0,) * 3, std=(1.0,) * 3)

    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = usual.network

        def forward(self, pixels: Tensor) -> Tensor:
            out: Tensor = self.network(normalise(pixels, spec))
            return out

    canvas = Pixels(real_start(tiny_data.train.images[[[0, 40, 80]]], spec), spec)
    masks = [
        NonCriticalMask(spec, [one], (0, 1, 2), compute=Compute()).made(canvas)
        for one in (usual, teacher_of(Normalising().eval(), raw))
    ]
    torch.testing.assert_close(*masks, rtol=1e-4, atol=1e-4)


def test_masks_that_cannot_be_made_are_refused(tiny_data: Data) -> None:
    spec = tiny_data.spec
    for settings, message in (
        ({"eps": 0.0}, "eps must be above 0 and at most 1, got 0.0"),
        ({"eps": 1.5}, "eps must be above 0 and at most 1, got 1.5"),
        ({"every": -1}, "every must be at least 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            NonCriticalMask(spec, [spec_teacher(spec)], (0, 1, 2), compute=Compute(), **settings)
    with pytest.raises(TeacherError, match="has no class activation maps"):
        NonCriticalMask(spec, [spec_teacher(spec, name="vit")], (0, 1, 2), compute=Compute())

    class Halves(Pixels):
        def images(self) -> Tensor:
            return self.values.repeat(1, 1, 1, 2, 1)

    hooks = NonCriticalMask(spec, [spec_teacher(spec)], (0, 1, 2), compute=Compute())
    canvas = Halves(real_start(tiny_data.train.images[[[0, 40, 80]], :6], replace(spec, height=6)), spec)
    with pytest.raises(MethodError, match="needs a canvas of pixels"):
        hooks.prepare(canvas, lambda _: ())
