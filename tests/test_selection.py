"""Choosing real images: every picker against its definition, written out over whole matrices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import condense
from condense import seeding
from condense.errors import MethodError
from condense.selection import (
    aum,
    cad,
    ccs,
    el2n,
    forgetting,
    herding,
    k_center,
    k_means,
    largest,
    members_of,
    moderate,
    smallest,
    window,
)
from condense.selection.kmeans import lloyd, nearest_unused, plus_plus
from condense.selection.table import Table

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def rng(*numbers: int) -> np.random.Generator:
    return seeding.generator(0, "test of selection", *numbers)


def cloud(n: int, d: int, seed: int, kind: type = np.float64) -> npt.NDArray[np.float64]:
    """Correlated features far from 0, as those after a ReLU are."""
    random = rng(seed, n, d)
    return (random.standard_normal((n, d)) @ random.standard_normal((d, d)) / np.sqrt(d) + 3.0).astype(kind)


# The definitions


def naive_herding(own: Floats, count: int) -> list[int]:
    """From the definition, without its rearrangement."""
    mean, chosen = own.mean(0), list[int]()
    for t in range(count):
        residue = (t + 1) * mean - own[chosen].sum(0)
        cost = np.linalg.norm(residue - own, axis=1)
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
    return chosen


def naive_k_center(own: Floats, count: int, start: int | None) -> list[int]:
    """With the whole matrix of distances."""
    apart = np.linalg.norm(own[:, None] - own[None], axis=2)
    chosen = [int(np.linalg.norm(own - own.mean(0), axis=1).argmin()) if start is None else start]
    while len(chosen) < count:
        nearest = apart[:, chosen].min(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def naive_lloyd(own: Floats, centres: Floats, iterations: int) -> Floats:
    for _ in range(iterations):
        nearest = np.linalg.norm(own[:, None] - centres[None], axis=2).argmin(1)
        moved = [own[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(len(centres))]
        centres = np.stack(moved)
    return centres


def naive_moderate(own: Floats, count: int) -> list[int]:
    distances = np.linalg.norm(own - np.median(own, axis=0), axis=1)
    off = np.abs(distances - np.median(distances)).round(9)  # of an even number the middle two are equally far
    return sorted(range(len(own)), key=lambda i: (off[i], i))[:count]


def naive_cad(q: Floats, window: int, windows: int) -> Floats:
    last = len(q)
    out = np.zeros(q.shape[1])
    for k in range(last - window - windows, last - window):
        middle = sum(q[k + j] for j in range(window)) / window
        out += np.sqrt(sum((q[k + j] - middle) ** 2 for j in range(window)) / (window - 1)) / windows
    return out


def naive_forgetting(right: npt.NDArray[np.bool_]) -> Floats:
    out = np.zeros(right.shape[1])
    for image in range(right.shape[1]):
        for before, after in zip(right[:-1, image], right[1:, image], strict=True):
            out[image] += before and not after
        if not right[:, image].any():
            out[image] = np.inf
    return out


Picker = Callable[..., Indices]

PICKERS: dict[str, Picker] = {
    "herding": herding,
    "k-center": k_center,
    "k-center from an image": lambda f, m, c, **o: k_center(f, m, c, start=3 % len(m), **o),
    "k-means": lambda f, m, c, **o: k_means(f, m, c, rng(1), **o),
    "moderate": moderate,
}
NESTED = [name for name in PICKERS if name != "k-means"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "d", "count"), [(1, 3, 1), (7, 2, 7), (30, 5, 12), (61, 8, 61)])
def test_greedy_and_moderate_picks_are_those_of_the_definition(n: int, d: int, count: int, seed: int) -> None:
    features = cloud(2 * n, d, seed)
    members = np.sort(rng(seed).permutation(2 * n)[:n])
    own = features[members]
    np.testing.assert_array_equal(herding(features, members, count), members[naive_herding(own, count)])
    np.testing.assert_array_equal(k_center(features, members, count), members[naive_k_center(own, count, None)])
    started = k_center(features, members, count, start=n - 1)
    np.testing.assert_array_equal(started, members[naive_k_center(own, count, n - 1)])
    np.testing.assert_array_equal(moderate(features, members, count), members[naive_moderate(own, count)])


def test_herding_stays_near_the_mean_and_keeps_no_image_twice() -> None:
    features = cloud(300, 6, 0)
    members = np.arange(300)
    picks = herding(features, members, 30)
    assert len(set(picks)) == 30
    random = [np.linalg.norm(features[rng(i).permutation(300)[:30]].mean(0) - features.mean(0)) for i in range(20)]
    assert np.linalg.norm(features[picks].mean(0) - features.mean(0)) < 0.3 * min(random)
    assert sorted(herding(features, members, 300)) == list(range(300))


@pytest.mark.parametrize("name", PICKERS)
def test_the_block_size_changes_nothing(name: str) -> None:
    features, members = cloud(90, 7, 1, np.float16), np.arange(1, 90, 2)
    whole = PICKERS[name](features, members, 20)
    for block in (1, 7, 44, 45, 1000):
        np.testing.assert_array_equal(PICKERS[name](features, members, 20, block=block), whole)


@pytest.mark.parametrize("name", PICKERS)
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_narrow_features_are_as_good_as_the_same_numbers_in_float64(name: str, kind: type, tmp_path: Path) -> None:
    """Also from a file, which is not changed."""
    features, members = cloud(70, 9, 2, kind), np.arange(70)
    np.save(tmp_path / "features.npy", features)
    before = (tmp_path / "features.npy").read_bytes()
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    wide = PICKERS[name](features.astype(np.float64), members, 15)
    np.testing.assert_array_equal(PICKERS[name](features, members, 15), wide)
    np.testing.assert_array_equal(PICKERS[name](mapped, members, 15, block=16), wide)
    assert (tmp_path / "features.npy").read_bytes() == before


@pytest.mark.parametrize("name", PICKERS)
@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_as_many_as_there_are_is_all_of_them_and_one_more_is_refused(name: str, n: int) -> None:
    features, members = cloud(40, 4, 3), np.arange(5, 5 + n)
    assert sorted(PICKERS[name](features, members, n)) == members.tolist()
    for count in (n + 1, 0):
        with pytest.raises(MethodError, match=f"{count} different images were asked for of a class of {n}$"):
            PICKERS[name](features, members, count)


@pytest.mark.parametrize("name", PICKERS)
@pytest.mark.parametrize("d", [1, 3, 512])
def test_images_that_are_the_same_tie_and_the_lowest_wins(name: str, d: int) -> None:
    """Whatever their places in a block, and however a processor sums."""
    one = cloud(1, d, 4)
    alike = np.repeat(one, 37, axis=0)
    picks = PICKERS[name](alike, np.arange(37), 12, block=10)
    assert len(set(picks)) == 12
    if name == "k-means":
        first = int(rng(1).integers(37))
        others = [i for i in range(37) if i != first]
        assert plus_plus(Table(alike, np.arange(37), 12), 12, rng(1)).tolist() == [first, *others[:11]]
    start = [3] if name.endswith("image") else []
    lowest = start + [i for i in range(37) if i not in start]
    assert picks.tolist() == lowest[:12]


@pytest.mark.parametrize("name", ["herding", "k-center", "moderate"])
def test_of_copies_the_lowest_is_picked_first(name: str) -> None:
    features = np.concatenate([cloud(20, 33, 5)] * 3)
    picks = PICKERS[name](features, np.arange(60), 60).tolist()
    for image in range(20):
        assert [pick for pick in picks if pick % 20 == image] == [image, image + 20, image + 40]


@pytest.mark.parametrize("name", NESTED)
def test_more_images_begin_with_those_of_fewer(name: str) -> None:
    features, members = cloud(50, 6, 6), np.arange(50)
    whole = PICKERS[name](features, members, 50)
    for count in (1, 2, 19, 49):
        np.testing.assert_array_equal(PICKERS[name](features, members, count), whole[:count])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    features = cloud(10, 3, 0)
    features[7, 1] = bad
    with pytest.raises(MethodError, match="features are not all finite"):
        herding(features, np.arange(10), 2)
    herding(features, np.arange(7), 2)


MEMORY = """
import sys
import numpy as np
from condense import seeding
from condense.memory import peak_memory
from condense.selection import herding, k_center, k_means, moderate

features = np.load(sys.argv[1], mmap_mode="r")
def pick(members):
    herding(features, members, 3, block=1000)
    k_center(features, members, 3, block=1000)
    k_means(features, members, 3, seeding.generator(0, "memory"), iterations=2, block=1000)
    moderate(features, members, 3, block=1000)

pick(np.arange(5000))
before = peak_memory()
pick(np.arange(len(features)))
print(peak_memory() - before)
"""


def test_memory_is_bounded_by_the_block(tmp_path: Path) -> None:
    """Of 60,000 rows of 400 numbers, 48 MB as they lie on disk (mapped pages count) and 192 MB in float64."""
    random = rng().integers(-99, 99, (60_000, 400), dtype=np.int8)
    np.save(tmp_path / "features.npy", random.astype(np.float16))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "features.npy")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(condense.__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    )
    assert int(done.stdout) < 48e6 + 90e6


# k-means


@pytest.mark.parametrize("seed", range(3))
def test_k_means_is_a_plain_k_means_and_never_gets_worse(seed: int) -> None:
    own, count = cloud(80, 4, 10 + seed), 9
    table = Table(own, np.arange(80), count, block=13)
    places = plus_plus(table, count, rng(seed))
    assert len(set(places)) == count
    centred = own - own.mean(0)
    begun = torch.from_numpy(centred[places])
    before = np.inf
    for iterations in range(12):
        centres = lloyd(table, begun, iterations).numpy()
        np.testing.assert_allclose(centres, naive_lloyd(centred, centred[places], iterations), atol=1e-9)
        inertia = (np.linalg.norm(centred[:, None] - centres[None], axis=2).min(1) ** 2).sum()
        assert inertia <= before * (1 + 1e-6)
        before = inertia
    end = lloyd(table, begun, 100)
    left, picks = list(range(80)), []
    for centre in end.numpy():
        picks.append(min(left, key=lambda i: np.linalg.norm(centred[i] - centre)))
        left.remove(picks[-1])
    assert nearest_unused(table, end).tolist() == picks
    np.testing.assert_array_equal(k_means(own, np.arange(80), count, rng(seed)), picks)


def test_a_centre_without_images_stays_where_it_is() -> None:
    own = np.array([[0.0], [1.0], [2.0], [3.0]])
    table = Table(own, np.arange(4), 3)
    far = torch.tensor([[-1.0], [1.0], [50.0]], dtype=torch.float64)
    np.testing.assert_allclose(lloyd(table, far, 5).numpy(), [[-1.0], [1.0], [50.0]])


def test_plus_plus_draws_by_squared_distance() -> None:
    own = np.array([[0.0], [1.0], [3.0]])
    table = Table(own, np.arange(3), 2)
    drawn = [plus_plus(table, 2, rng(i)).tolist() for i in range(3000)]
    after_0 = [second for first, second in drawn if first == 0]
    assert np.mean([first == 0 for first, _ in drawn]) == pytest.approx(1 / 3, abs=0.03)
    assert np.mean([second == 2 for second in after_0]) == pytest.approx(0.9, abs=0.04)
    assert all(first != second for first, second in drawn)


def test_k_means_depends_on_its_generator_alone() -> None:
    features, members = cloud(60, 5, 20), np.arange(60)
    first, again, other = (k_means(features, members, 8, rng(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.sort(first), np.sort(other))


# Scores


def log(epochs: int, n: int, seed: int, kind: type = np.float16) -> tuple[Floats, Floats, Floats]:
    """``p_true``, ``p_other``, ``error`` of random outputs for 5 classes, the first the right one."""
    logits = 2 * rng(seed).standard_normal((epochs, n, 5))
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    error = np.linalg.norm(p - np.eye(5)[0], axis=2)
    return tuple(one.astype(kind) for one in (p[..., 0], p[..., 1:].max(2), error))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_scores_are_those_of_their_formulas_in_float64(kind: type) -> None:
    p_true, p_other, error = log(11, 40, 0, kind)
    wide = [one.astype(np.float64) for one in (p_true, p_other, error)]
    np.testing.assert_allclose(el2n(error, 4), sum(wide[2][e] for e in range(4)), rtol=1e-12)
    np.testing.assert_allclose(el2n(error, 99), sum(wide[2][e] for e in range(11)), rtol=1e-12)
    np.testing.assert_allclose(aum(p_true, p_other), sum(wide[0][e] - wide[1][e] for e in range(11)), rtol=1e-9)
    np.testing.assert_array_equal(forgetting(p_true, p_other), naive_forgetting(wide[0] > wide[1]))
    for window_, windows in ((6, 2), (9, 2), (2, 9), (10, 1)):
        got = cad(p_true, window=window_, windows=windows)
        np.testing.assert_allclose(got, naive_cad(wide[0], window_, windows), rtol=1e-9)


def test_cad_never_looks_at_the_last_epoch_and_looks_at_the_first_of_its_range() -> None:
    p_true = log(12, 10, 1)[0]
    changed = p_true.copy()
    changed[-1] = 0
    np.testing.assert_array_equal(cad(changed, window=6, windows=2), cad(p_true, window=6, windows=2))
    changed[:4] = 0
    np.testing.assert_array_equal(cad(changed, window=6, windows=2), cad(p_true, window=6, windows=2))
    for epoch in (4, 10):
        changed = p_true.copy()
        changed[epoch] = 0.5
        assert (cad(changed, window=6, windows=2) != cad(p_true, window=6, windows=2)).all()


@pytest.mark.parametrize(("window_", "windows"), [(11, 2), (1, 2), (6, 0)])
def test_cad_refuses_windows_that_do_not_fit(window_: int, windows: int) -> None:
    with pytest.raises(MethodError, match=f"{windows} windows of {window_} epochs do not fit into a log of 12"):
        cad(log(12, 3, 0)[0], window=window_, windows=windows)


def test_images_never_learnt_are_the_hardest_of_all() -> None:
    right = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=bool).T
    scores = forgetting(right.astype(np.float16), np.full((3, 5), 0.5, np.float16))
    assert scores.tolist() == [0, 1, np.inf, 1, 0]
    assert largest(scores, np.arange(5), 5).tolist() == [2, 1, 3, 0, 4]
    assert smallest(scores, np.arange(5), 5).tolist() == [0, 4, 1, 3, 2]


def test_an_equal_chance_is_not_right() -> None:
    assert forgetting(np.full((4, 1), 0.5, np.float16), np.full((4, 1), 0.5, np.float16)).tolist() == [np.inf]


# Orders


def test_ends_and_windows_with_ties() -> None:
    members, scores = np.array([2, 3, 5, 7, 11, 13]), np.array([1.0, 4.0, 4.0, 0.0, 1.0, 9.0])
    assert smallest(scores, members, 4).tolist() == [7, 2, 11, 3]
    assert largest(scores, members, 4).tolist() == [13, 3, 5, 2]
    assert window(scores, members, 2, 0).tolist() == [13, 3]
    assert window(scores, members, 2, 50).tolist() == [5, 2]
    assert window(scores, members, 2, 70).tolist() == [5, 2]
    assert window(scores, members, 2, 75).tolist() == [2, 11]
    assert window(scores, members, 2, 100).tolist() == [11, 7]
    assert window(scores, members, 6, 90).tolist() == largest(scores, members, 6).tolist()
    for pick in (smallest, largest):
        with pytest.raises(MethodError, match="7 different images were asked for of a class of 6"):
            pick(scores, members, 7)


def naive_ccs(scores: Floats, count: int, beta: float, strata: int) -> tuple[list[list[int]], list[int]]:
    """The strata, hard to easy, and what each has to give, by the program of the paper."""
    n = len(scores)
    order = sorted(range(n), key=lambda i: (scores[i], i))
    kept = order[min(int(beta * n), n - count) :]
    low, high = min(scores[i] for i in kept), max(scores[i] for i in kept)
    members: list[list[int]] = [[] for _ in range(strata)]
    for i in kept:
        for stratum in range(strata):
            top = low + (high - low) * (stratum + 1) / strata
            if scores[i] < top or stratum == strata - 1:
                members[stratum].append(i)
                break
    budget, gives = count, [0] * strata
    left = list(range(strata))
    while left:
        smallest_ = min(left, key=lambda s: (len(members[s]), s))
        gives[smallest_] = min(len(members[smallest_]), budget // len(left))
        budget -= gives[smallest_]
        left.remove(smallest_)
    return members, gives


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "beta", "strata"), [(10, 0.3, 10), (37, 0.5, 7), (100, 0.9, 50), (1, 0.0, 1)])
def test_ccs_gives_what_its_formula_says(count: int, beta: float, strata: int, seed: int) -> None:
    scores = rng(seed).standard_normal(100) ** 3 - 5  # most strata nearly empty, and all below 0
    members = np.arange(100) * 3
    wanted, gives = naive_ccs(scores, count, beta, strata)
    assert sum(gives) == count
    picks = ccs(scores, members, count, rng(seed), beta=beta, strata=strata)
    assert len(set(picks)) == count
    place = 0
    for stratum, number in zip(wanted, gives, strict=True):
        assert {int(pick) // 3 for pick in picks[place : place + number]} <= set(stratum)
        place += number
    np.testing.assert_array_equal(picks, ccs(scores, members, count, rng(seed), beta=beta, strata=strata))


def test_ccs_draws_within_strata_by_chance_and_never_the_dropped() -> None:
    scores, members = np.arange(100.0), np.arange(100)
    picks = [set(ccs(scores, members, 10, rng(i), beta=0.3, strata=10).tolist()) for i in range(60)]
    assert set().union(*picks) == set(range(30, 100))
    assert all(len({(pick - 30) // 7 for pick in some}) == 10 for some in picks)


def test_ccs_of_equal_scores_is_random() -> None:
    picks = [ccs(np.zeros(20), np.arange(20), 5, rng(i), beta=0.0, strata=5) for i in range(40)]
    assert set(np.concatenate(picks).tolist()) == set(range(20))


def test_members_are_the_positions_of_a_class() -> None:
    labels = np.array([1, 0, 1, 2, 1])
    assert members_of(labels, 1).tolist() == [0, 2, 4]
    assert members_of(labels, 3).tolist() == []
