"""Plans are drawn by the written rules and by nothing else; rendering equals torchvision's."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from condense import seeding
from condense.errors import ConfigError
from condense.views import VIEW_VERSION, EpochPlan, ViewConfig, plan
from condense.views import boxes as boxes_module
from condense.views import render as render_module
from condense.views.boxes import quantile, resized_boxes
from condense.views.config import BETA_ALPHAS
from condense.views.plan import draw_steps
from condense.views.render import coordinates, crop_flip, known_crops, render
from condense.views.resample import by_lines, by_products, pairs, turned

FIELDS = ("order", "steps", "groups", "boxes", "flips", "partner", "lam", "mix_boxes")

PLANS: dict[str, tuple[ViewConfig, int, int, str]] = {
    "cutmix": (
        ViewConfig(mix="cutmix", batch_size=16, group_size=8),
        28,
        28,
        "009fd3021a00492675f540dcb5d84f763e9364bc48bd4b6959c4895407232ea3",
    ),
    "mixup": (
        ViewConfig(crop="pad", pad=3, mix="mixup", mix_alpha=0.8, batch_size=10),
        20,
        12,
        "f970ab7a3c75c9a5b0acdaca1900f9e2dfe095bf6d452ad37a43b2ee5cc93d9e",
    ),
    "square": (
        ViewConfig(scale=(0.5, 1.0), aspect="square", flip=0.2, mix="cutmix", mix_alpha=0.2, batch_size=50),
        12,
        20,
        "38f091f1c6324f65fc464c6ef72b0c5f3ed0da95ba6bb5d09cdd76d962428472",
    ),
    "plain": (
        ViewConfig(crop="none", flip=0.0, batch_size=7),
        8,
        8,
        "cf3b4d0b5261c77bdfa3d4f87eee5e8176f3cacb8c618d6655c20118bcd4f68b",
    ),
}
"""Settings, height, width, and the SHA-256 of the plan of 37 items, seed 5, epoch 3."""


def draw(name: str, n_items: int = 37) -> EpochPlan:
    config, height, width, _ = PLANS[name]
    return plan(config, 5, 3, n_items, height, width)


def digest(drawn: EpochPlan) -> str:
    sha = hashlib.sha256()
    for name in FIELDS:
        array = getattr(drawn, name)
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("name", PLANS)
def test_plans_are_golden(name: str) -> None:
    assert digest(draw(name)) == PLANS[name][3]


# The rules once more, one number at a time in plain Python, from the key to the last box.

MASK = 2**64 - 1


def philox(text: str) -> Iterator[int]:
    """Philox 4x64 with 10 rounds (Salmon et al., SC 2011), keyed by a text; the counter starts at 1."""
    key = hashlib.sha256(text.encode()).digest()
    counter = 0
    while True:
        counter += 1
        k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
        c0, c1, c2, c3 = counter, 0, 0, 0
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & MASK, (p0 >> 64) ^ c3 ^ k1, p0 & MASK
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        yield from (c0, c1, c2, c3)


def real(word: int) -> float:
    return (word >> 11) * 2.0**-53


def whole(word: int, below: int) -> int:
    return ((word >> 32) * below) >> 32


def lookup(name: str, u: float) -> float:
    nodes = boxes_module.table(name).tolist()
    k = math.floor(u * 4096)
    return nodes[k] + (u * 4096 - k) * (nodes[k + 1] - nodes[k])


def plain_box(config: ViewConfig, words: Iterator[int], height: int, width: int) -> list[int]:
    if config.crop == "none":
        return [0, 0, height, width]
    if config.crop == "pad":
        top, left = (whole(next(words), 2 * config.pad + 1) - config.pad for _ in range(2))
        return [top, left, height, width]
    low, high = config.scale
    mine = [next(words) for _ in range(22)]
    for attempt in range(10):
        area = height * width * (low + real(mine[2 * attempt]) * (high - low))
        ratio = lookup("aspect", real(mine[2 * attempt + 1])) if config.aspect == "standard" else 1.0
        h, w = math.floor(math.sqrt(area / ratio) + 0.5), math.floor(math.sqrt(area * ratio) + 0.5)
        if 0 < h <= height and 0 < w <= width:
            return [whole(mine[20], height - h + 1), whole(mine[21], width - w + 1), h, w]
    least, greatest = (3 / 4, 4 / 3) if config.aspect == "standard" else (1.0, 1.0)
    h, w = height, width
    if width / height < least:
        h = math.floor(width / least + 0.5)
    elif width / height > greatest:
        w = math.floor(height * greatest + 0.5)
    return [(height - h) // 2, (width - w) // 2, h, w]


def plain_parts(size: int, at_most: int) -> int:
    return max(1, min(math.ceil(size / at_most), size // 2))


def plain_plan(config: ViewConfig, seed: int, epoch: int, n: int, height: int, width: int) -> dict[str, list[object]]:
    def stream(purpose: str) -> Iterator[int]:
        return philox(f"{seed}/{purpose}/{epoch}")

    def of_items(purpose: str) -> list[int]:
        words = stream(purpose)
        return [next(words) for _ in range(n)]

    keys, flips, partners = of_items("view-order"), of_items("view-flip"), of_items("view-partner")
    order = sorted(range(n), key=keys.__getitem__)
    crop_words = stream("view-crop")
    boxes = [plain_box(config, crop_words, height, width) for _ in range(n)]
    n_steps = plain_parts(n, config.batch_size)
    steps = [step * n // n_steps for step in range(n_steps + 1)]
    sizes = [b - a for a, b in pairwise(steps)]
    n_groups = 1 if config.group_size is None else plain_parts(max(sizes), config.group_size)
    n_groups = max(1, min(n_groups, min(sizes) // 2))
    groups = [a + j * size // n_groups for a, size in zip(steps, sizes, strict=False) for j in range(n_groups)] + [n]
    out: dict[str, list[object]] = {
        "order": [*order], "steps": [*steps], "groups": [*groups], "boxes": [boxes[i] for i in order],
        "flips": [real(flips[i]) < config.flip for i in order], "partner": [*range(n)], "lam": [1.0] * n,
        "mix_boxes": [[0, 0, 0, 0]] * n,
    }  # fmt: skip
    mix_words = stream("view-mix")
    for start, stop in pairwise(steps):
        if config.mix == "none":
            break
        u, *centre = (next(mix_words) for _ in range(3))
        lam = real(u) if config.mix_alpha == 1.0 else lookup(f"beta_{config.mix_alpha}", real(u))
        box = [0, 0, 0, 0]
        if config.mix == "cutmix":
            spans = []
            for size, word in zip((height, width), centre, strict=True):
                half, middle = math.floor(size * math.sqrt(1.0 - lam)) // 2, whole(word, size)
                spans.append((max(middle - half, 0), min(middle + half, size)))
            box = [spans[0][0], spans[1][0], spans[0][1] - spans[0][0], spans[1][1] - spans[1][0]]
            lam = (height * width - box[2] * box[3]) / (height * width)
        out["partner"][start:stop] = sorted(range(start, stop), key=lambda p: partners[order[p]])
        out["lam"][start:stop] = [lam] * (stop - start)
        out["mix_boxes"][start:stop] = [box] * (stop - start)
    return out


@pytest.mark.parametrize("n_items", [1, 2, 37, 400])
@pytest.mark.parametrize("name", PLANS)
def test_plans_follow_the_rules_bit_by_bit(name: str, n_items: int) -> None:
    config, height, width, _ = PLANS[name]
    drawn, rules = draw(name, n_items), plain_plan(config, 5, 3, n_items, height, width)
    assert {field: getattr(drawn, field).tolist() for field in FIELDS} == rules


def test_array_types_are_as_documented() -> None:
    drawn = draw("cutmix")
    assert [getattr(drawn, name).dtype.name for name in FIELDS] == [
        "int64", "int64", "int64", "int32", "bool", "int64", "float64", "int32",
    ]  # fmt: skip


@pytest.mark.parametrize("batch_size", [2, 3, 8, 50])
@pytest.mark.parametrize("group_size", [None, 2, 3, 8])
def test_steps_and_groups_are_even_and_never_single(batch_size: int, group_size: int | None) -> None:
    if group_size is not None and group_size > batch_size:
        group_size = batch_size
    config = ViewConfig(crop="none", batch_size=batch_size, group_size=group_size)
    for n in range(2, 130):
        drawn = plan(config, 0, 0, n, 4, 4)
        steps, groups = np.diff(drawn.steps), np.diff(drawn.groups)
        assert steps.sum() == groups.sum() == n
        for sizes, limit in ((steps, batch_size), (groups, group_size or batch_size)):
            assert sizes.min() >= 2
            assert np.ptp(sizes) <= 1
            assert sizes.max() <= max(limit, 3)
        assert [sum(drawn.step_groups(i)) for i in range(drawn.n_steps)] == steps.tolist()
        assert [size for i in range(drawn.n_steps) for size in drawn.step_groups(i)] == groups.tolist()
        assert drawn.step(drawn.n_steps - 1).stop == n
        assert (drawn.n_steps == 1) == (n <= max(batch_size, 3))


def by_item(drawn: EpochPlan, name: str) -> list[object]:
    return list(getattr(drawn, name)[np.argsort(drawn.order)].tolist())


def test_crops_and_flips_of_an_item_depend_on_nothing_but_seed_epoch_and_item() -> None:
    many = plan(ViewConfig(batch_size=64), 1, 2, 500, 32, 32)
    few = plan(ViewConfig(batch_size=10, group_size=5, mix="cutmix"), 1, 2, 200, 32, 32)
    for name in ("boxes", "flips"):
        assert by_item(few, name) == by_item(many, name)[:200]
    other = plan(ViewConfig(batch_size=64), 1, 3, 500, 32, 32)
    assert by_item(other, "boxes") != by_item(many, "boxes")
    assert other.order.tolist() != many.order.tolist()


def test_partners_are_one_permutation_within_each_step() -> None:
    drawn = plan(ViewConfig(mix="mixup", batch_size=20), 0, 0, 130, 8, 8)
    assert drawn.partner.tolist() != list(range(130))
    assert sorted(drawn.order.tolist()) == list(range(130))
    for index in range(drawn.n_steps):
        step = drawn.step(index)
        assert sorted(drawn.partner[step].tolist()) == list(range(step.start, step.stop))
        assert len(set(drawn.lam[step].tolist())) == 1
    assert len(set(drawn.lam.tolist())) == drawn.n_steps


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    grid = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(("height", "width", "scale"), [(32, 32, (0.08, 1.0)), (20, 40, (0.6, 1.0))])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    n = 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, height, width)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)])
    ours = plan(ViewConfig(scale=scale), 0, 0, n, height, width).boxes
    for column in range(4):
        assert distance(theirs[:, column], ours[:, column]) < 0.04
    assert distance(theirs[:, 2] / theirs[:, 3], ours[:, 2] / ours[:, 3]) < 0.04


@pytest.mark.parametrize(("height", "width", "box"), [
    (10, 40, [0, 13, 10, 13]), (40, 9, [14, 0, 12, 9]), (16, 16, [0, 0, 16, 16]), (12, 14, [0, 0, 12, 14]),
])  # fmt: skip
def test_the_largest_centred_box_is_taken_when_nothing_fits(height: int, width: int, box: list[int]) -> None:
    words = np.zeros((1, 22), dtype=np.uint64)  # every try has ratio 3/4
    assert resized_boxes(words, height, width, 1.0, 1.0).tolist() == [box]


@pytest.mark.parametrize("alpha", [alpha for alpha in BETA_ALPHAS if alpha != 1.0])
def test_the_beta_tables_are_quantiles(alpha: float) -> None:
    nodes = boxes_module.table(f"beta_{alpha}")
    assert nodes.shape == (4097,)
    assert np.diff(nodes).min() >= 0.0
    np.testing.assert_array_equal(nodes[2048:], 1.0 - nodes[2048::-1])
    u = np.linspace(0.0, 0.5, 1000, endpoint=False)
    np.testing.assert_allclose(quantile(f"beta_{alpha}", u), betaincinv(alpha, alpha, u), atol=2e-7)


def test_the_aspect_table_is_log_uniform() -> None:
    u = np.random.default_rng(0).random(1000)
    np.testing.assert_allclose(quantile("aspect", u), np.exp(np.log(3 / 4) + u * np.log(16 / 9)), rtol=1e-8)


def test_the_tables_are_those_of_version_1() -> None:
    names = ["aspect", *(f"beta_{alpha}" for alpha in BETA_ALPHAS if alpha != 1.0)]
    together = hashlib.sha256(b"".join(boxes_module.table(name).astype("<f8").tobytes() for name in names))
    assert VIEW_VERSION == 1
    assert together.hexdigest() == "8aa6d3cc5edf26c9729d961068aba76b352077969a8dba692f5d15f4376c49f2"


def test_drawing_plans_needs_no_torch() -> None:
    code = "import sys, condense.views as v; v.plan(v.ViewConfig(), 0, 0, 9, 8, 8); sys.exit('torch' in sys.modules)"
    root = Path(boxes_module.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("settings", [
    {"crop": "rezised"}, {"aspect": "wide"}, {"mix": "cutout"}, {"mix_alpha": 0.3}, {"scale": (0.0, 1.0)},
    {"scale": (0.9, 0.5)}, {"scale": (0.5, 1.1)}, {"scale": 0.5}, {"scale": ("a", "b")}, {"scale": (0.1, 0.2, 0.3)},
    {"pad": -1}, {"pad": 10**30}, {"pad": 1.5}, {"flip": 1.5}, {"flip": float("nan")}, {"batch_size": 1},
    {"batch_size": "9"}, {"group_size": 1}, {"group_size": 65}, {"group_size": True},
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    (name, _) = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"^{name} is .*\\S$") as caught:
        ViewConfig.from_dict(settings)
    assert "\n" not in str(caught.value)


def test_settings_survive_json_and_unknown_ones_are_refused() -> None:
    config = ViewConfig(scale=(0.2, 0.9), mix="mixup", mix_alpha=0.4, group_size=8)
    assert config.to_dict()["scale"] == [0.2, 0.9]
    assert ViewConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match='did you mean "mix_alpha"'):
        ViewConfig.from_dict({"mixalpha": 1.0})


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one item"):
        plan(ViewConfig(), 0, 0, 0, 8, 8)


@pytest.mark.parametrize("draw", ["with", "without", "shuffled"])
def test_steps_are_drawn_from_a_pool_by_the_specification(draw: str) -> None:
    pool, n_steps, seed = 3, 4, 9
    drawn = [draw_steps(draw, pool, seed, epoch, n_steps) for epoch in range(10)]
    numbers = [(steps[:, 0] * n_steps + steps[:, 1]).tolist() for steps in drawn]
    words = [seeding.raw(pool * n_steps, seed, "view-pool", number) for number in range(10)]
    orders = [sorted(range(pool * n_steps), key=lambda at: (words[number][at], at)) for number in range(10)]
    row = [number for order in orders for number in order]
    for epoch, found in enumerate(numbers):
        if draw == "with":
            few = seeding.raw(n_steps, seed, "view-pool", epoch)
            assert found == [((int(word) >> 32) * pool * n_steps) >> 32 for word in few]
        else:
            start = epoch * n_steps
            assert found == (orders[epoch][:n_steps] if draw == "without" else row[start : start + n_steps])
    if draw == "shuffled":
        assert sorted(chain.from_iterable(numbers[:3])) == list(range(12))


# Rendering


def pictures(n: int, channels: int, height: int, width: int) -> Tensor:
    values = seeding.generator(0, "pictures").random((n, height, width, channels))
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def reference(image: Tensor, box: list[int], flip: bool, antialias: bool) -> Tensor:
    cropped = resized_crop(image[None], *box, size=list(image.shape[1:]), antialias=antialias)[0]
    return cropped.flip(2) if flip else cropped


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 20, 33)])
def test_crops_and_flips_equal_torchvisions(channels: int, height: int, width: int, antialias: bool) -> None:
    n = 200
    images = pictures(n, channels, height, width)
    drawn = plan(ViewConfig(scale=(0.02, 1.0), batch_size=n), 1, 0, n, height, width)
    seen = render(images, drawn, slice(0, n))
    for position in range(n):
        box, flip = drawn.boxes[position].tolist(), bool(drawn.flips[position])
        expected = reference(images[drawn.order[position]], box, flip, antialias)
        torch.testing.assert_close(seen[position], expected, atol=1e-12, rtol=0.0)


def test_padded_crops_are_shifts_with_zeros() -> None:
    n, pad = 60, 3
    images = pictures(n, 3, 9, 12)
    drawn = plan(ViewConfig(crop="pad", pad=pad), 2, 0, n, 9, 12)
    seen = render(images, drawn, slice(0, n))
    assert (drawn.boxes[:, :2].min(), drawn.boxes[:, :2].max()) == (-pad, pad)
    for position in range(n):
        top, left, h, w = (drawn.boxes[position] + [pad, pad, 0, 0]).tolist()
        expected = functional.pad(images[drawn.order[position]], [pad] * 4)[:, top : top + h, left : left + w]
        expected = expected.flip(2) if drawn.flips[position] else expected
        torch.testing.assert_close(seen[position], expected, atol=0.0, rtol=0.0)


def test_views_without_crop_are_exact_copies() -> None:
    images = pictures(20, 1, 7, 8).float()
    drawn = plan(ViewConfig(crop="none"), 0, 0, 20, 7, 8)
    expected = torch.stack(
        [images[i].flip(2) if f else images[i] for i, f in zip(drawn.order, drawn.flips, strict=True)]
    )
    assert 0 < drawn.flips.sum() < 20
    assert torch.equal(render(images, drawn, slice(0, 20)), expected)


def unmixed(images: Tensor, drawn: EpochPlan) -> Tensor:
    items = torch.from_numpy(drawn.order)
    return crop_flip(images[items], torch.from_numpy(drawn.boxes), torch.from_numpy(drawn.flips))


def test_cutmix_pastes_the_partner_and_lam_is_the_area_left() -> None:
    images = pictures(40, 3, 16, 12)
    drawn = plan(ViewConfig(mix="cutmix", batch_size=8), 3, 0, 40, 16, 12)
    crops = unmixed(images, drawn)
    seen = render(images, drawn, slice(0, 40))
    for p, (top, left, h, w) in enumerate(drawn.mix_boxes.tolist()):
        expected = crops[p].clone()
        expected[:, top : top + h, left : left + w] = crops[drawn.partner[p], :, top : top + h, left : left + w]
        torch.testing.assert_close(seen[p], expected, atol=1e-12, rtol=0.0)
        assert drawn.lam[p] == (16 * 12 - h * w) / (16 * 12)
        assert 0 <= top <= top + h <= 16
        assert 0 <= left <= left + w <= 12
    assert 0.0 < drawn.lam.min() < 0.9


def test_mixup_is_the_weighted_mean_of_two_views() -> None:
    images = pictures(40, 1, 8, 8)
    drawn = plan(ViewConfig(mix="mixup", mix_alpha=0.5, batch_size=8), 3, 0, 40, 8, 8)
    crops = unmixed(images, drawn)
    lam = torch.from_numpy(drawn.lam)[:, None, None, None]
    expected = lam * crops + (1 - lam) * crops[torch.from_numpy(drawn.partner)]
    torch.testing.assert_close(render(images, drawn, slice(0, 40)), expected, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", PLANS)
def test_parts_of_an_epoch_look_as_in_the_whole(name: str) -> None:
    _, height, width, _ = PLANS[name]
    images, drawn = pictures(37, 3, height, width), draw(name)
    together = render(images, drawn, slice(0, 37))
    cuts = drawn.groups.tolist()
    apart = [render(images, drawn, slice(start, stop)) for start, stop in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PLANS)
def test_bytes_render_as_floats_with_channels_last_strides(name: str, channels: int) -> None:
    _, height, width, _ = PLANS[name]
    images = (pictures(37, channels, height, width) * 255).to(torch.uint8)
    seen = render(images, draw(name), slice(2, 30))
    assert seen.dtype is torch.float32
    assert seen.shape == (28, channels, height, width)
    assert seen.stride() == (height * width * channels, 1, width * channels, channels)
    torch.testing.assert_close(
        seen.double(), render(images.double() / 255, draw(name), slice(2, 30)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["cutmix", "mixup", "plain"])
def test_views_are_differentiable(name: str) -> None:
    config, _, _, _ = PLANS[name]
    drawn = plan(config, 0, 0, 3, 5, 6)
    view: Callable[[Tensor], Tensor] = lambda images: render(images, drawn, slice(0, 3))  # noqa: E731
    assert torch.autograd.gradcheck(view, pictures(3, 2, 5, 6).requires_grad_())


def test_one_box_may_be_shared_by_a_batch() -> None:
    images = pictures(4, 3, 10, 10)
    box, flip = torch.tensor([[2, 1, 5, 7]]), torch.tensor([True])
    one_each = crop_flip(images, box.expand(4, 4), flip.expand(4))
    torch.testing.assert_close(crop_flip(images, box, flip), one_each, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_sums_of_lines_equal_products_with_matrices(k: int, n_channels: int) -> None:
    """Also beyond the image, at whole pixels, and in their gradients."""
    random = np.random.default_rng(k)
    images = pictures(12, n_channels, 7, 9).requires_grad_()
    down, across = (torch.from_numpy(random.uniform(-2.5, size + 1.5, (k, size))) for size in (7, 9))
    down[0, :3] = torch.tensor([-1.0, 0.0, 6.0])
    across[-1, :3] = torch.tensor([0.0, 8.0, 9.0])
    upstream = pictures(12, n_channels, 7, 9)
    seen, gradients = [], []
    for form in (by_lines, by_products):
        views = form(images, down, across)
        assert views.stride() == (7 * 9 * n_channels, 1, 9 * n_channels, n_channels)
        seen.append(views)
        gradients.append(torch.autograd.grad(views, images, upstream)[0])
    torch.testing.assert_close(seen[0], seen[1], atol=1e-12, rtol=0.0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0.0)
    assert (seen[0][0, :, 0] == 0).all()


def plain_resampling(images: Tensor, down: list[list[float]], across: list[list[float]]) -> np.ndarray:
    """Bilinear interpolation, one output pixel at a time, in float64; beyond the image everything is 0."""
    n, c, h, w = images.shape
    source, seen = images.double().numpy(), np.zeros((n, c, h, w))
    for i in range(n):
        of = i * len(down) // n
        for o, y in enumerate(down[of]):
            for p, x in enumerate(across[of]):
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < h and 0 <= column < w:
                            share = (1 - abs(y - row)) * (1 - abs(x - column))
                            seen[i, :, o, p] += share * source[i, :, row, column]
    return seen


@pytest.mark.parametrize("k", [1, 2, 6])
@pytest.mark.parametrize("form", [by_lines, by_products])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("channels", "planes"), [(1, False), (3, False), (3, True)])
def test_resampling_is_bilinear_interpolation(
    k: int, form: Callable[[Tensor, Tensor, Tensor], Tensor], gradients: bool, channels: int, planes: bool
) -> None:
    """With gradients and without, which a CPU sums in other ways, and from both layouts of memory."""
    random = np.random.default_rng(k)
    images = pictures(6, channels, 5, 4)
    images = (images.contiguous() if planes else images).requires_grad_(gradients)
    down, across = (torch.from_numpy(random.uniform(-2.5, size + 1.5, (k, size))) for size in (5, 4))
    down[0, :3] = torch.tensor([-1.0, 0.0, 4.0])
    across[-1, :3] = torch.tensor([0.0, 3.0, 4.0])
    expected = plain_resampling(images.detach(), down.tolist(), across.tolist())
    seen = form(images, down, across)
    assert seen.requires_grad == gradients
    np.testing.assert_allclose(seen.detach().numpy(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 3), (4, 3, 1), (1, 2, 3), (3, 33, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_matrices_are_turned(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    matrices = torch.arange(math.prod(shape)).to(dtype).view(shape)
    assert turned(matrices).is_contiguous()
    assert torch.equal(turned(matrices), matrices.transpose(1, 2))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_crops_that_are_looked_up_are_those_that_are_calculated(size: int) -> None:
    """Every box in a line of pixels, flipped or not: to the bit, and in float64 by the plain formula."""
    boxes = [
        (flip, start, length) for flip in (0, 1) for length in range(1, size + 1) for start in range(size - length + 1)
    ]
    flips, starts, lengths = np.array(boxes).T
    for dtype in (torch.float32, torch.float64):
        found = known_crops(starts, lengths, size, flips, dtype)
        start, length = (torch.from_numpy(each).to(dtype)[:, None] for each in (starts, lengths))
        expected = pairs(coordinates(start, length, size, torch.from_numpy(flips).bool()[:, None], None))
        np.testing.assert_array_equal(found.lines, expected.lines)
        np.testing.assert_array_equal(found.weights, expected.weights)
    for box, (flip, first, count) in enumerate(boxes):
        for o in range(size):
            at = (size - 1 - o if flip else o) + 0.5
            source = min(max(first + at * count / size - 0.5, first), first + count - 1)
            lines = dict.fromkeys(range(size), 0.0)
            for line, weight in zip(found.lines[box, o].tolist(), found.weights[box, o].tolist(), strict=True):
                lines[line] += weight
            for line, weight in lines.items():
                assert weight == pytest.approx(max(0.0, 1 - abs(source - line)), abs=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_looked_up_where_they_are_known(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """With the same result; boxes that stick out, and rolled or large images, have their lines calculated."""
    images, drawn = pictures(37, channels, 28, 28).float(), draw("cutmix")
    boxes, flips = torch.from_numpy(drawn.boxes), torch.from_numpy(drawn.flips)
    looked_up = crop_flip(images, boxes, flips)
    monkeypatch.setattr(render_module, "known_crops", None)
    with pytest.raises(TypeError):
        crop_flip(images, boxes, flips)
    for shift in ([-28, 0], [28, 0], [0, -28], [0, 28]):
        moved = boxes + torch.tensor([*shift, 0, 0], dtype=torch.int32)
        assert (crop_flip(images, moved, flips) == 0).any()
    assert torch.equal(crop_flip(images, boxes, flips, torch.zeros(37, 2, dtype=torch.int64)), looked_up)
    monkeypatch.setattr(render_module, "KNOWN_SIZE", 27)
    assert torch.equal(crop_flip(images, boxes, flips), looked_up)


@pytest.mark.parametrize("gradients", [False, True])
def test_no_images_have_no_views(gradients: bool) -> None:
    images, boxes = torch.zeros(0, 3, 8, 6, requires_grad=gradients), torch.zeros(0, 4, dtype=torch.int32)
    assert crop_flip(images, boxes, torch.zeros(0, dtype=torch.bool)).shape == (0, 3, 8, 6)


def test_views_for_a_gradient_are_the_views_that_were_labelled() -> None:
    """Summed in another way, but equal to rounding."""
    images, drawn = pictures(37, 3, 28, 28).float(), draw("cutmix")
    differentiable = render(images.clone().requires_grad_(), drawn, slice(0, 37)).detach()
    torch.testing.assert_close(differentiable, render(images, drawn, slice(0, 37)), atol=3e-7, rtol=0.0)


@pytest.mark.parametrize("form", [by_lines, by_products])
def test_bytes_are_resampled_as_numbers_from_0_to_1(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    images = (pictures(4, 3, 6, 5) * 255).to(torch.uint8)
    down, across = torch.rand(4, 6) * 5, torch.rand(4, 5) * 4
    expected = form(images.double() / 255, down.double(), across.double())
    seen = form(images, down, across)
    assert seen.dtype is torch.float32
    torch.testing.assert_close(seen.double(), expected, atol=1e-6, rtol=0.0)


def test_autocast_does_not_coarsen_coordinates() -> None:
    images, drawn = pictures(37, 1, 28, 28).float(), draw("cutmix")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(render(images, drawn, slice(0, 37)), render(images.clone(), drawn, slice(0, 37)))
        assert render(images, drawn, slice(0, 37)).dtype is torch.float32
