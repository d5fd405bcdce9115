"""Patches of real images and the starts made of them, against the papers' procedures written out as loops."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from condense import seeding
from condense.canvas import noise_start, real_start
from condense.checkpoint import FileCheckpoint
from condense.data import Data, DatasetSpec, Split
from condense.device import Compute
from condense.errors import ConfigError, MethodError, TeacherError
from condense.methods.rded import RDED
from condense.networks import build
from condense.selection import pick_random
from condense.selection.patches import (
    around_median,
    box_sums,
    crop_boxes,
    in_rounds,
    map_ratios,
    pool_of,
    random_boxes,
    unsure_first,
)
from condense.starts import (
    STARTS,
    PatchConfig,
    StartJob,
    TileConfig,
    begin,
    check_patches,
    check_start,
    critical_images,
    easy_images,
    factor_of,
    median_images,
)
from condense.starts.answers import cross_entropy, log_probabilities, mean_probabilities
from condense.teachers import Teacher, TeacherInfo
from condense.teachers.cam import activation_maps
from condense.views.crops import cut, resized

COMPUTE = Compute()
COLLAGES: list[Any] = [easy_images, critical_images]
FROM_TEACHERS: list[Any] = [*COLLAGES, median_images]


def teacher_of(network: nn.Module, spec: DatasetSpec, name: str = "resnet8") -> Teacher:
    unknown: dict[str, Any] = dict.fromkeys(("accuracy_heldout", "accuracy_test", "epochs"))
    info = TeacherInfo(network=name, spec=spec, recipe={}, origin="trained", weights_sha256="0" * 64, **unknown)
    return Teacher(network.eval().requires_grad_(False), info)


def built(spec: DatasetSpec, seed: int = 0, name: str = "resnet8") -> Teacher:
    shape = {"channels": spec.channels, "height": spec.height, "width": spec.width}
    return teacher_of(build(name, **shape, n_classes=spec.n_classes, seed=seed), spec, name)


class Brightness(nn.Module):
    """Logits ``slopes`` times the mean of the image: what it thinks of a patch can be read off the patch."""

    def __init__(self, slopes: tuple[float, ...]) -> None:
        super().__init__()
        self.last = nn.Linear(1, len(slopes))
        self.last.weight.data = torch.tensor(slopes)[:, None]
        self.last.bias.data.zero_()
        self.sums = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.sums(images.mean(1, keepdim=True))
        out: Tensor = self.last(maps.mean((2, 3)))
        return out


def job_of(spec: DatasetSpec, slots: tuple[int, ...] = (0, 1, 2), **changes: Any) -> StartJob:
    settings: dict[str, Any] = {"set_index": 0, "seed": 5, "slots": slots, "classes": (0, 1, 2), **changes}
    return StartJob(spec=spec, **settings)


def made(start: Any, data: Data, job: StartJob, config: Any = None, teachers: Any = None, **given: Any) -> np.ndarray:
    asked = [built(data.spec)] if teachers is None else teachers
    images = start(job, data.train, asked, config or PatchConfig(), compute=COMPUTE, **given)
    assert images.dtype == np.uint8
    assert images.shape == (len(job.slots), len(job.classes), *job.spec.image_shape)
    assert images.flags.c_contiguous
    return np.asarray(images)


def cropped_data(data: Data, height: int, width: int, channels: int) -> Data:
    """The same images, smaller, and grey if wanted."""
    part = (slice(None), slice(height), slice(width), slice(channels))
    spec = replace(
        data.spec,
        height=height,
        width=width,
        channels=channels,
        mean=data.spec.mean[:channels],
        std=data.spec.std[:channels],
    )
    return Data(spec, *(Split(split.images[part].copy(), split.labels) for split in (data.train, data.test)))


# Boxes


def words_of(*rows: tuple[float, float, float]) -> np.ndarray:
    """Raw words whose uniforms are these."""
    return (np.array(rows) * 2.0**53).astype(np.uint64) << np.uint64(11)


def test_boxes_by_hand() -> None:
    words = words_of((0.0, 0.0, 0.0), (0.0, 0.999, 0.999), (0.999999999, 0.5, 0.5), (0.4, 0.5, 0.25))
    boxes = crop_boxes(words, 40, 20, (0.25, 1.0))
    side = math.sqrt(0.25 + 0.4 * 0.75)
    tall, wide = round(40 * side), round(20 * side)
    last = [math.floor(0.5 * (41 - tall)), math.floor(0.25 * (21 - wide)), tall, wide]
    assert boxes.tolist() == [[0, 0, 20, 10], [20, 10, 20, 10], [0, 0, 40, 20], last]
    assert boxes.dtype == np.int32


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.08, 0.5), (1.0, 1.0), (0.001, 0.002)])
@pytest.mark.parametrize("size", [(12, 12), (9, 17), (224, 224)])
def test_boxes_lie_inside_and_cover_what_they_should(scale: tuple[float, float], size: tuple[int, int]) -> None:
    boxes = crop_boxes(seeding.raw(60_000, 1, "test").reshape(-1, 3), *size, scale).astype(int)
    top, left, tall, wide = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert min(tall.min(), wide.min()) >= 1
    assert ((top + tall) <= size[0]).all()
    assert ((left + wide) <= size[1]).all()
    if size == (224, 224):
        share = tall * wide / (size[0] * size[1])
        assert share.mean() == pytest.approx(sum(scale) / 2, abs=0.005)
        assert share.min() >= scale[0] - 0.01
    if size == (224, 224) and scale[0] < 1:
        assert (top / np.maximum(1, size[0] - tall))[tall < 200].mean() == pytest.approx(0.5, abs=0.01)
    if scale == (1.0, 1.0):
        assert np.unique(boxes, axis=0).tolist() == [[0, 0, *size]]


def test_pools_and_boxes_are_keyed_and_nested() -> None:
    members = np.arange(100, 200)
    keys = {"seed": 1, "set_index": 0, "label": 3}
    pool = pool_of(members, 30, **keys)
    assert len(set(pool.tolist())) == 30
    assert set(pool.tolist()) <= set(members.tolist())
    np.testing.assert_array_equal(pool_of(members, 12, **keys), pool[:12])
    assert sorted(pool_of(members, 1000, **keys).tolist()) == members.tolist()
    boxes = random_boxes(pool, 5, (12, 12), (0.08, 1.0), **keys)
    assert boxes.shape == (30, 5, 4)
    np.testing.assert_array_equal(random_boxes(pool[7:9], 3, (12, 12), (0.08, 1.0), **keys), boxes[7:9, :3])
    for other in ({"seed": 2}, {"set_index": 1}, {"label": 4}):
        changed = {**keys, **other}
        shared = len(set(pool.tolist()) & set(pool_of(members, 30, **changed).tolist()))
        assert 2 <= shared <= 18  # 9 by chance
        assert (random_boxes(pool, 5, (12, 12), (0.08, 1.0), **changed) != boxes).any(2).mean() > 0.9


# Cutting


@pytest.mark.parametrize("size", [(8, 8), (4, 6), (20, 15)])
def test_cutting_is_torchvisions_antialiased_resized_crop(size: tuple[int, int]) -> None:
    images = torch.rand(40, 2, 13, 11, generator=torch.Generator().manual_seed(0)).double()
    boxes = crop_boxes(seeding.raw(120, 1, "test").reshape(-1, 3), 13, 11, (0.02, 1.0))
    got = resized(images, torch.from_numpy(boxes), size)
    for n, box in enumerate(boxes.tolist()):
        wanted = vision.resized_crop(images[n], *box, list(size), antialias=True)
        torch.testing.assert_close(got[n], wanted, rtol=1e-9, atol=1e-9)


def test_cutting_rounds_and_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.Generator(np.random.Philox(1)).integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)
    boxes = crop_boxes(seeding.raw(90, 1, "test").reshape(-1, 3), 12, 10, (0.1, 1.0))
    whole = cut(images, boxes, (6, 5))
    exact = resized(torch.from_numpy(images).permute(0, 3, 1, 2).double(), torch.from_numpy(boxes), (6, 5))
    wanted = np.floor(exact.permute(0, 2, 3, 1).numpy() + 0.5 + 1e-9).astype(np.uint8)
    np.testing.assert_array_equal(whole, wanted)
    monkeypatch.setattr("condense.views.crops.BLOCK_VALUES", 1000)
    np.testing.assert_array_equal(cut(images, boxes, (6, 5)), whole)
    full = np.tile(np.array([0, 0, 12, 10], dtype=np.int32), (30, 1))
    np.testing.assert_array_equal(cut(images, full, (12, 10)), images)
    part = np.tile(np.array([3, 2, 6, 5], dtype=np.int32), (30, 1))
    np.testing.assert_array_equal(cut(images, part, (6, 5)), images[:, 3:9, 2:7])
    assert cut(images[:0], boxes[:0], (6, 5)).shape == (0, 6, 5, 3)


# Orders


def test_map_ratios_are_sums_over_boxes() -> None:
    maps = np.random.Generator(np.random.Philox(2)).random((6, 9, 7)).astype(np.float32)
    maps[4] = 0
    boxes = random_boxes(np.arange(6), 8, (9, 7), (0.05, 1.0), seed=0, set_index=0, label=0)
    boxes[0, 0] = [0, 0, 9, 7]
    sums, ratios, means = box_sums(maps, boxes), map_ratios(maps, boxes), map_ratios(maps, boxes, by_area=True)
    for n, k in np.ndindex(6, 8):
        top, left, tall, wide = boxes[n, k].tolist()
        inside = sum(float(maps[n, y, x]) for y in range(top, top + tall) for x in range(left, left + wide))
        total = sum(float(maps[n, y, x]) for y in range(9) for x in range(7))
        assert sums[n, k] == pytest.approx(inside, abs=1e-10)
        assert ratios[n, k] == pytest.approx(inside / total if total else 0.0, abs=1e-10)
        assert means[n, k] == pytest.approx(inside / total / (tall * wide / 63) if total else 0.0, abs=1e-10)
    assert ratios[0, 0] == means[0, 0] == 1


def plain_rounds(scores: np.ndarray) -> list[tuple[int, int]]:
    """Repeatedly: the best box left of each image; these by score."""
    images, boxes = scores.shape
    left = {n: list(range(boxes)) for n in range(images)}
    order: list[tuple[int, int]] = []
    for _ in range(boxes):
        best = []
        for n in range(images):
            k = min(left[n], key=lambda box: (scores[n, box], box))
            left[n].remove(k)
            best.append((float(scores[n, k]), n, k))
        order += [(n, k) for _, n, k in sorted(best)]
    return order


def test_rounds_by_hand() -> None:
    scores = np.array([[3.0, 1.0], [0.5, 4.0], [1.0, 1.0]])
    assert in_rounds(scores).tolist() == [[1, 0], [0, 1], [2, 0], [2, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("levels", [3, 1000])
def test_rounds_against_the_plain_loop(levels: int) -> None:
    random = np.random.Generator(np.random.Philox(levels))
    for images, boxes in itertools.product((1, 4, 9), (1, 2, 5)):
        scores = random.integers(0, levels, (images, boxes)) / levels
        assert [tuple(pair) for pair in in_rounds(scores).tolist()] == plain_rounds(scores)


@pytest.mark.parametrize("floor", [0.0, 0.4, 0.7, 1.1])
def test_the_unsure_come_first_but_not_the_distrusted(floor: float) -> None:
    random = np.random.Generator(np.random.Philox(3))
    images, boxes = 7, 4
    preference, sure = random.integers(0, 3, (images, boxes)) / 3, random.random((images, boxes))
    asked: list[int] = []

    def ask(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(1)
        own = sure[np.arange(images), chosen]
        return own, own >= floor

    rounds = [
        [(n, sorted(range(boxes), key=lambda k: (-preference[n, k], k))[r]) for n in range(images)]
        for r in range(boxes)
    ]
    trusted = [pair for each in rounds for pair in sorted(each, key=lambda p: sure[p]) if sure[pair] >= floor]
    others = sorted((pair for each in rounds for pair in each if sure[pair] < floor), key=lambda p: -sure[p])
    wanted = trusted + others
    for count in range(1, images * boxes + 1):
        asked.clear()
        got = [tuple(pair) for pair in unsure_first(preference, ask, count).tolist()]
        assert got[:count] == wanted[:count]
        enough = next((r for r in range(1, 5) if sum(sure[p] >= floor for e in rounds[:r] for p in e) >= count), boxes)
        assert len(asked) == enough


def test_around_the_median() -> None:
    assert around_median(np.array([0.3, 0.1, 0.5, 0.2, 0.4])).tolist() == [0, 3, 4, 1, 2]
    assert around_median(np.array([4.0, 3.0, 2.0, 1.0])).tolist() == [2, 3, 1, 0]
    assert around_median(np.array([7.0])).tolist() == [0]
    values = np.random.Generator(np.random.Philox(5)).random(51)
    order = around_median(values)
    assert sorted(order.tolist()) == list(range(51))
    assert values[order[0]] == np.median(values)
    assert ((values[order[1::2]] < np.median(values)) & (values[order[2::2]] > np.median(values))).all()


# What teachers say


class InFloat64(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.network(images.double())
        return out


@pytest.mark.parametrize("tile", [(12, 12), (6, 6), (5, 7)])
def test_patches_are_seen_in_the_middle_of_the_mean_colour(tile: tuple[int, int], tiny_data: Data) -> None:
    tiles = tiny_data.train.images[::11, : tile[0], : tile[1]]
    own, other = tiny_data.spec, replace(tiny_data.spec, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    networks = [build("resnet8", channels=3, height=12, width=12, n_classes=3, seed=seed).double() for seed in (0, 1)]
    teachers = [teacher_of(InFloat64(net), spec) for net, spec in zip(networks, (own, other), strict=True)]
    got = log_probabilities(teachers, tiles, (12, 12), COMPUTE)
    entropies = np.zeros((2, len(tiles)))
    for t, (net, spec) in enumerate(zip(networks, (own, other), strict=True)):
        for n, image in enumerate(tiles):
            canvas = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
            for y, x, c in np.ndindex(*tile, 3):
                value = (np.float32(image[y, x, c]) / np.float32(255) - np.float32(spec.mean[c])) / np.float32(
                    spec.std[c]
                )
                canvas[0, c, (12 - tile[0]) // 2 + y, (12 - tile[1]) // 2 + x] = float(value)
            wanted = net(canvas)[0].log_softmax(0)
            np.testing.assert_allclose(got[t, n], wanted.detach().numpy(), rtol=1e-8, atol=1e-8)
            entropies[t, n] = float(nn.functional.cross_entropy(net(canvas), torch.tensor([2])))
    np.testing.assert_allclose(cross_entropy(got, 2), entropies.mean(0), rtol=1e-8)
    np.testing.assert_allclose(mean_probabilities(got), np.exp(got).mean(0), rtol=1e-12)
    np.testing.assert_allclose(mean_probabilities(got).sum(1), 1, rtol=1e-12)


def plain_cut(image: np.ndarray, box: list[int], size: tuple[int, int]) -> np.ndarray:
    """A patch as stored, by torchvision."""
    pixels = torch.from_numpy(image).permute(2, 0, 1).double()
    made = vision.resized_crop(pixels, *box, list(size), antialias=True)
    return (made + 0.5 + 1e-9).floor().clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)


def plain_log_p(network: nn.Module, tile: np.ndarray, spec: DatasetSpec) -> Tensor:
    canvas = torch.zeros(1, spec.channels, spec.height, spec.width, dtype=torch.float64)
    top, left = (spec.height - tile.shape[0]) // 2, (spec.width - tile.shape[1]) // 2
    for c in range(spec.channels):
        normal = (tile[:, :, c] / 255.0 - spec.mean[c]) / spec.std[c]
        canvas[0, c, top : top + tile.shape[0], left : left + tile.shape[1]] = torch.from_numpy(normal)
    with torch.no_grad():
        logits: Tensor = network(canvas)[0]
    return logits.log_softmax(0)


SHAPES = [(12, 12, 3, 1), (12, 12, 3, 2), (12, 12, 1, 1), (12, 8, 3, 2), (9, 12, 1, 3)]


@pytest.mark.parametrize(("height", "width", "channels", "factor"), SHAPES)
def test_easy_is_rded_written_out(height: int, width: int, channels: int, factor: int, tiny_data: Data) -> None:
    data = cropped_data(tiny_data, height, width, channels)
    spec, size = data.spec, (height // factor, width // factor)
    network = build("resnet8", channels=channels, height=height, width=width, n_classes=3).double().eval()
    config = TileConfig(pool=14, crops=3, factor=factor)
    got = made(easy_images, data, job_of(spec), config, [teacher_of(InFloat64(network), spec)])
    for place, label in enumerate((0, 1, 2)):
        pool = pool_of(np.flatnonzero(data.train.labels == label), 14, seed=5, set_index=0, label=label)
        best = []
        for image in pool.tolist():
            boxes = random_boxes(np.array([image]), 3, (height, width), (0.08, 1.0), seed=5, set_index=0, label=label)[
                0
            ]
            tiles = [plain_cut(data.train.images[image], box, size) for box in boxes.tolist()]
            scores = [-float(plain_log_p(network, tile, spec)[label]) for tile in tiles]
            best.append((min(scores), tiles[scores.index(min(scores))]))
        ranked = [tile for _, tile in sorted(best, key=lambda pair: pair[0])]
        for slot in range(min(3, 14 // factor**2)):
            for cell in range(factor**2):
                y, x = divmod(cell, factor)
                there = got[slot, place, y * size[0] : (y + 1) * size[0], x * size[1] : (x + 1) * size[1]]
                np.testing.assert_array_equal(there, ranked[slot * factor**2 + cell])


@pytest.mark.parametrize("floor", [None, 0.2, 0.0])
@pytest.mark.parametrize(("height", "width", "channels", "factor"), SHAPES[:4])
def test_critical_is_nrr_dd_written_out(
    height: int, width: int, channels: int, factor: int, floor: float | None, tiny_data: Data
) -> None:
    data = cropped_data(tiny_data, height, width, channels)
    spec, size = data.spec, (height // factor, width // factor)
    network = build("convnet2-w8-none", channels=channels, height=height, width=width, n_classes=3).double().eval()
    usual = build("convnet2-w8-none", channels=channels, height=height, width=width, n_classes=3)
    config = PatchConfig(pool=14, crops=3, factor=factor, floor=floor)
    got = made(critical_images, data, job_of(spec), config, [teacher_of(usual, spec, "convnet2-w8-none")])
    for place, label in enumerate((0, 1, 2)):
        pool = pool_of(np.flatnonzero(data.train.labels == label), 14, seed=5, set_index=0, label=label)
        seen = activation_maps([teacher_of(usual, spec)], data.train.images[pool], np.full(14, label), compute=COMPUTE)
        left: dict[int, list[tuple[float, int, np.ndarray]]] = {}
        for n, image in enumerate(pool.tolist()):
            keys = {"seed": 5, "set_index": 0, "label": label}
            boxes = random_boxes(np.array([image]), 3, (height, width), (0.08, 0.5), **keys)[0].tolist()
            left[image] = []
            for number, (top, left_, tall, wide) in enumerate(boxes):
                inside = float(seen[n, top : top + tall, left_ : left_ + wide].astype(np.float64).sum())
                tile = plain_cut(data.train.images[image], boxes[number], size)
                left[image].append((-inside, number, tile))
        ranked, doubtful = [], []
        for _ in range(3):
            kept = []
            for image in pool.tolist():
                left[image].sort(key=lambda one: one[:2])
                tile = left[image].pop(0)[2]
                p = plain_log_p(network, tile, spec).exp()
                trusted = int(p.argmax()) == label if floor is None else float(p[label]) >= floor
                (kept if trusted else doubtful).append((float(p[label]), tile))
            ranked += [tile for _, tile in sorted(kept, key=lambda one: one[0])]
        ranked += [tile for _, tile in sorted(doubtful, key=lambda one: -one[0])]
        for slot, cell in itertools.product(range(3), range(factor**2)):
            y, x = divmod(cell, factor)
            there = got[slot, place, y * size[0] : (y + 1) * size[0], x * size[1] : (x + 1) * size[1]]
            np.testing.assert_array_equal(there, ranked[slot * factor**2 + cell])


def test_median_is_delt_written_out(tiny_data: Data) -> None:
    spec, config = tiny_data.spec, PatchConfig(pool=9)
    network = build("resnet8", channels=3, height=12, width=12, n_classes=3).double().eval()
    got = made(median_images, tiny_data, job_of(spec, (0, 4, 7, 10)), config, [teacher_of(InFloat64(network), spec)])
    for place, label in enumerate((0, 1, 2)):
        order = pool_of(np.flatnonzero(tiny_data.train.labels == label), 40, seed=5, set_index=0, label=label)
        wanted: list[int] = []
        for start in (0, 9):
            pool = order[start : start + 9].tolist()
            sure = {n: float(plain_log_p(network, tiny_data.train.images[n], spec)[label]) for n in pool}
            ranked = sorted(pool, key=lambda n: sure[n])
            wanted += [ranked[4 + step] for step in (0, -1, 1, -2, 2, -3, 3, -4, 4)]
        for at, slot in enumerate((0, 4, 7, 10)):
            np.testing.assert_array_equal(got[at, place], tiny_data.train.images[wanted[slot]])


# Laws of all starts


@pytest.mark.parametrize("settings", [{}, {"factor": 2}, {"factor": 2, "arrangement": "random"}])
@pytest.mark.parametrize("start", FROM_TEACHERS)
def test_raising_ipc_keeps_slots_and_company_does_not_matter(start: Any, settings: Any, tiny_data: Data) -> None:
    config = PatchConfig(pool=12, crops=3, **settings)
    whole = made(start, tiny_data, job_of(tiny_data.spec, tuple(range(8))), config)
    for count in (1, 3, 5):
        np.testing.assert_array_equal(
            made(start, tiny_data, job_of(tiny_data.spec, tuple(range(count))), config), whole[:count]
        )
    alone = made(start, tiny_data, job_of(tiny_data.spec, (6, 2), classes=(2, 0)), config)
    np.testing.assert_array_equal(alone, whole[[6, 2]][:, [2, 0]])


@pytest.mark.parametrize("start", FROM_TEACHERS)
def test_sets_and_seeds_are_independent(start: Any, tiny_data: Data) -> None:
    config, spec = PatchConfig(pool=12, crops=3), tiny_data.spec
    first, *others = (made(start, tiny_data, job_of(spec, **key)) for key in ({}, {"set_index": 1}, {"seed": 6}))
    for other in others:
        assert (first != other).mean() > 0.5
    np.testing.assert_array_equal(
        made(start, tiny_data, job_of(spec), config), made(start, tiny_data, job_of(spec), config)
    )


def test_medians_of_sets_differ_where_the_pool_could_be_the_whole_class(tiny_data: Data) -> None:
    sets = [
        {
            image.tobytes()
            for image in made(median_images, tiny_data, job_of(tiny_data.spec, set_index=n)).reshape(9, -1)
        }
        for n in range(4)
    ]
    assert all(len(one) == 9 for one in sets)
    assert all(len(one & other) <= 6 for one, other in itertools.combinations(sets, 2))


def test_a_median_start_shows_every_image_once_before_it_begins_again(tiny_data: Data) -> None:
    images = made(median_images, tiny_data, job_of(tiny_data.spec, tuple(range(80))), PatchConfig(pool=7))
    for place in range(3):
        counts = Counter(image.tobytes() for image in images[:40, place])
        assert set(counts.values()) == {1}
        np.testing.assert_array_equal(images[40:, place], images[:40, place])


@pytest.mark.parametrize("start", COLLAGES)
def test_a_class_smaller_than_the_pool_gives_second_patches(start: Any, tiny_data: Data) -> None:
    keep = np.r_[:3, 40:120]
    train = Split(tiny_data.train.images[keep], tiny_data.train.labels[keep])
    data = Data(replace(tiny_data.spec, train_sizes=(3, 40, 40)), train, tiny_data.test)
    images = made(start, data, job_of(data.spec, tuple(range(9))), PatchConfig(crops=2))
    assert len({image.tobytes() for image in images[:6, 0]}) >= 5  # two boxes of one image may be the same
    np.testing.assert_array_equal(images[6:, 0], images[:3, 0])  # all six are used up
    roomy = made(start, tiny_data, job_of(tiny_data.spec, tuple(range(9)), classes=(1,)), PatchConfig(crops=2))
    assert len({image.tobytes() for image in roomy[:, 0]}) == 9


def test_the_collage_of_whole_images_is_a_mosaic_of_their_reductions(tiny_data: Data) -> None:
    """scale 1 leaves nothing to chance but the pool: every tile is a real image at half the size."""
    config = TileConfig(factor=2, scale=(1.0, 1.0), crops=1)
    images = made(easy_images, tiny_data, job_of(tiny_data.spec), config)
    box = np.tile(np.array([0, 0, 12, 12], dtype=np.int32), (40, 1))
    for place, label in enumerate((0, 1, 2)):
        members = tiny_data.train.images[tiny_data.train.labels == label]
        small = {tile.tobytes() for tile in cut(members, box, (6, 6))}
        tiles = [
            images[slot, place, y : y + 6, x : x + 6].tobytes() for slot in range(3) for y in (0, 6) for x in (0, 6)
        ]
        assert len(set(tiles)) == 12
        assert set(tiles) <= small


def test_random_arrangements_hold_the_same_patches(tiny_data: Data) -> None:
    plain, mixed = (
        made(easy_images, tiny_data, job_of(tiny_data.spec), TileConfig(factor=2, arrangement=kind))
        for kind in ("raster", "random")
    )
    assert (plain != mixed).any()
    for one, other in zip(plain.reshape(9, 12, 12, 3), mixed.reshape(9, 12, 12, 3), strict=True):
        tiles = [
            sorted(image[y : y + 6, x : x + 6].tobytes() for y in (0, 6) for x in (0, 6)) for image in (one, other)
        ]
        assert tiles[0] == tiles[1]


def test_easy_patches_are_easier_and_critical_ones_harder_than_chance(tiny_data: Data) -> None:
    """A teacher that tells classes by brightness; the class of bright patches has the easiest ones bright."""
    teacher = teacher_of(Brightness((0.0, 4.0, -4.0)), tiny_data.spec)
    job = job_of(tiny_data.spec, tuple(range(6)), classes=(1,))
    easy = made(easy_images, tiny_data, job, PatchConfig(), [teacher])
    answers = {
        name: mean_probabilities(log_probabilities([teacher], images[:, 0], (12, 12), COMPUTE))[:, 1]
        for name, images in {
            "easy": easy,
            "critical": made(critical_images, tiny_data, job, PatchConfig(), [teacher]),
            "unguarded": made(critical_images, tiny_data, job, PatchConfig(floor=0.0), [teacher]),
            "floor": made(critical_images, tiny_data, job, PatchConfig(floor=0.45), [teacher]),
        }.items()
    }
    members = tiny_data.train.images[tiny_data.train.labels == 1]
    usual = mean_probabilities(log_probabilities([teacher], members, (12, 12), COMPUTE))[:, 1]
    assert answers["easy"].min() > np.median(usual)
    assert (np.diff(answers["easy"]) <= 0).all()
    assert answers["critical"].max() < answers["easy"].min()
    assert (np.diff(answers["critical"]) >= 0).all()
    assert answers["critical"].min() > 1 / 3  # the greatest of three
    assert answers["floor"].min() >= 0.45
    assert answers["unguarded"].min() < 0.3


def test_several_teachers_are_heard(tiny_data: Data) -> None:
    one, other = (built(tiny_data.spec, seed) for seed in (0, 1))
    for start in FROM_TEACHERS:
        images = [
            made(start, tiny_data, job_of(tiny_data.spec), None, asked) for asked in ([one], [other], [one, other])
        ]
        assert all((images[a] != images[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))


def test_bf16_is_followed(tiny_data: Data) -> None:
    images = easy_images(
        job_of(tiny_data.spec),
        tiny_data.train,
        [built(tiny_data.spec)],
        PatchConfig(),
        compute=Compute(precision="bf16"),
    )
    assert images.shape == (3, 3, 12, 12, 3)


# The table


def test_the_table() -> None:
    assert list(STARTS) == ["noise", "real", "easy", "critical", "median"]
    assert all(start.summary for start in STARTS.values())
    assert [name for name, start in STARTS.items() if not start.real] == ["noise"]
    assert [name for name, start in STARTS.items() if start.teachers == "none"] == ["noise", "real"]


@pytest.mark.parametrize("name", list(STARTS))
def test_a_start_begins_normalised(name: str, tiny_data: Data) -> None:
    spec, job = tiny_data.spec, job_of(tiny_data.spec)
    values = begin(name, job, tiny_data.train, [built(spec)], compute=COMPUTE)
    assert values.shape == (3, 3, 3, 12, 12)
    assert values.dtype == torch.float32
    if name == "noise":
        assert torch.equal(values, noise_start(spec, job.slots, job.classes, seed=5, set_index=0))
        return
    images = STARTS[name].images
    assert images is not None
    stored = images(job, tiny_data.train, [built(spec)], PatchConfig(), compute=COMPUTE)
    assert torch.equal(values, real_start(stored, spec))
    if name == "real":
        picks = pick_random(tiny_data.train.labels, job.classes, job.slots, seed=5, set_index=0)
        np.testing.assert_array_equal(stored, tiny_data.train.images[picks])


def test_refusals(tiny_data: Data) -> None:
    spec, job = tiny_data.spec, job_of(tiny_data.spec)
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: begin("hard", job, None, [], compute=COMPUTE), ConfigError, 'start is "hard"; .*nown: critical, easy'),
        (lambda: begin("real", job, None, [], compute=COMPUTE), MethodError, "a real start needs the training images"),
        (lambda: begin("easy", job, None, [], compute=COMPUTE), MethodError, "an easy start needs the training images"),
        (
            lambda: begin("median", job, tiny_data.train, [], compute=COMPUTE),
            MethodError,
            "a median start needs at least one teacher and was given none",
        ),
        (
            lambda: begin("critical", job, tiny_data.train, [built(spec, name="vit")], compute=COMPUTE),
            TeacherError,
            '"vit" has no class activation maps',
        ),
        (
            lambda: begin("easy", job, tiny_data.train, [built(spec)], PatchConfig(factor=5), compute=COMPUTE),
            MethodError,
            "factor is 5, which does not divide images of 12 x 12 pixels; choose one that does",
        ),
        (
            lambda: check_start("critical", spec, 1, PatchConfig(), [built(spec, name="vit")]),
            TeacherError,
            '"vit" has no class activation maps',
        ),
        (lambda: check_start("median", spec, 1, PatchConfig(), []), MethodError, "start median needs at least one"),
        (lambda: check_start("blue", spec, 1, PatchConfig()), ConfigError, 'start is "blue"'),
        (
            lambda: check_start("easy", spec, 51, PatchConfig(factor=2)),
            MethodError,
            r'needs 204 patches of each class, but class "rows" of tiny gives 200 \(5 of each of 40 images\); raise',
        ),
        (
            lambda: check_patches("rded", spec, 21, TileConfig(pool=10, crops=2)),
            MethodError,
            r'rded needs 21 patches of each class, but class "rows" of tiny gives 20 \(2 of each of 10 images\)',
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    check_start("easy", spec, 50, PatchConfig(factor=2))
    check_start("critical", spec, 1, PatchConfig(), [built(spec)])
    check_start("noise", spec, 1, PatchConfig(), [])
    check_start("easy", spec, 1, PatchConfig(), [built(spec, name="vit")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "pool is 0; expected an integer from 1"),
        ({"crops": 0}, "crops is 0; expected an integer from 1"),
        ({"factor": 0}, "factor is 0; expected an integer from 1"),
        ({"scale": (0.5, 0.1)}, "scale is"),
        ({"arrangement": "round"}, 'arrangement is "round"; did you mean'),
        ({"floor": 1.5}, "floor must be from 0 to 1, got 1.5"),
        ({"measure": "max"}, 'measure is "max"'),
        ({"cap": 0.05}, "cap must be from 0.08, the least scale, to 1, got 0.05"),
        ({"cap": 1.2}, "to 1, got 1.2"),
    ],
)
def test_bad_settings_are_refused_when_they_are_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PatchConfig(**settings)


def test_the_factor_follows_the_size(tiny_data: Data) -> None:
    sizes = {side: replace(tiny_data.spec, height=side, width=side) for side in (28, 32, 64, 66, 224)}
    assert [factor_of(spec, TileConfig()) for spec in sizes.values()] == [1, 1, 1, 2, 2]
    assert factor_of(sizes[28], TileConfig(factor=4)) == 4


# RDED


def test_rded_asks_for_all_slots_at_once(tiny_data: Data) -> None:
    method, spec = RDED(TileConfig()), tiny_data.spec
    [job] = method.jobs(spec, 7, 2, 3)
    assert (job.slots, job.classes, job.set_index, job.seed, job.ipc) == (tuple(range(7)), (0, 1, 2), 2, 3, None)
    many = replace(spec, classes=tuple(map(str, range(250))), train_sizes=(99,) * 250, test_sizes=(1,) * 250)
    assert [len(job.classes) for job in method.jobs(many, 10, 0, 0)] == [100, 100, 50]
    assert max(len(job.classes) for job in method.jobs(many, 500, 0, 0)) == 20
    with pytest.raises(MethodError, match="rded needs 160 patches of each class"):
        RDED(TileConfig(factor=2, crops=2)).check(spec, 40)
    RDED(TileConfig(factor=2, crops=4)).check(spec, 40)


def test_an_interrupted_choice_goes_on_to_the_same_bytes(tiny_data: Data, tmp_path: Any) -> None:
    class Stopped(Exception):
        pass

    class Once(FileCheckpoint):
        stops = True

        def due(self) -> bool:
            return True

        def save(self, state: dict[str, Tensor]) -> None:
            super().save(state)
            if self.stops:
                raise Stopped

    for start in COLLAGES:
        checkpoint = Once(tmp_path / start.__name__)
        with pytest.raises(Stopped):
            made(start, tiny_data, job_of(tiny_data.spec), checkpoint=checkpoint)
        checkpoint.stops = False
        saved = checkpoint.load()
        assert saved is not None
        assert saved["patches"].shape == (1, 3, 5)
        resumed = made(start, tiny_data, job_of(tiny_data.spec), checkpoint=checkpoint)
        np.testing.assert_array_equal(resumed, made(start, tiny_data, job_of(tiny_data.spec)))
