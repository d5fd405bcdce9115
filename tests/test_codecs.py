"""Codecs of labels: what each gives back, how many bytes it takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from golden_codecs import EPOCHS, GOLDEN, put_codec_set
from hypothesis import given, settings
from hypothesis import strategies as st

from condense import seeding
from condense.dataset import load
from condense.shards import verify
from condense.shards.codecs import CODECS, Seen, codec_of, spell

N = 12
NAMES = ["full", "int8", "topk:2", "distances", "static"]
"""Those that store something."""


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def logits_of(n_classes: int, scale: float = 3.0, seed: int = 0) -> npt.NDArray[np.float16]:
    return (scale * seeding.generator(seed, "logits").normal(size=(N, n_classes))).astype(np.float16)


def seen_of(n_classes: int, *, mixed: bool = True) -> Seen:
    draws = seeding.generator(0, "seen")
    classes = draws.integers(0, n_classes, N)
    if not mixed:
        return Seen(classes=classes, partner=np.arange(N), lam=np.ones(N))
    return Seen(classes=classes, partner=draws.permutation(N), lam=draws.uniform(size=N))


def there_and_back(text: str, logits: npt.NDArray[Any], seen: Seen) -> npt.NDArray[np.float32]:
    name, values = codec_of(text)
    codec, n_classes = CODECS[name], logits.shape[1]
    arrays = codec.encode(logits, seen, values)
    rules = codec.columns(len(logits), n_classes, values)
    assert {key: (array.dtype, array.shape) for key, array in arrays.items()} == {
        key: (np.dtype(rule.dtype), rule.shape) for key, rule in rules.items()
    }
    assert sum(array.nbytes for array in arrays.values()) == len(logits) * codec.bytes_per_item(n_classes, values)
    assert codec.check(values, n_classes) == codec.fault(arrays, values, n_classes) == ""
    decoded = codec.decode(arrays, seen, values, n_classes)
    assert decoded.dtype == np.float32
    assert decoded.shape == logits.shape
    assert np.isfinite(decoded).all()
    return decoded


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("n_classes", [3, 10, 300, 70_000])
@pytest.mark.parametrize("text", NAMES)
def test_every_codec_keeps_its_own_sizes_and_gives_logits(text: str, n_classes: int, mixed: bool) -> None:
    there_and_back(text, logits_of(n_classes), seen_of(n_classes, mixed=mixed))


def test_full_gives_back_every_number() -> None:
    logits = logits_of(10)
    np.testing.assert_array_equal(there_and_back("full", logits, seen_of(10)), logits.astype(np.float32))


@given(st.integers(0, 10_000), st.floats(1e-3, 5_000))
@settings(max_examples=100, deadline=None)
def test_int8_is_within_half_a_step_of_every_difference(seed: int, scale: float) -> None:
    logits = logits_of(10, scale, seed).astype(np.float64)
    decoded = there_and_back("int8", logits.astype(np.float16), seen_of(10)).astype(np.float64)
    shift = (decoded - logits) - (decoded - logits).mean(1, keepdims=True)
    step = (logits.max(1) - logits.min(1)) / 254
    assert (abs(shift) <= 1.1 * step[:, None] + 2e-7).all()


def test_int8_of_equal_logits_is_even() -> None:
    decoded = there_and_back("int8", np.full((N, 5), 7, np.float16), seen_of(5))
    np.testing.assert_array_equal(decoded, 0)


@given(st.integers(1, 9), st.integers(0, 10_000), st.floats(0.01, 30))
@settings(max_examples=100, deadline=None)
def test_topk_keeps_the_greatest_and_the_weight_of_the_rest(k: int, seed: int, scale: float) -> None:
    logits = logits_of(10, scale, seed)
    exact, found = softmax(logits), softmax(there_and_back(f"topk:{k}", logits, seen_of(10)))
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")
    kept, rest = order[:, :k], order[:, k:]
    near = {"rtol": 3e-3 * max(1.0, scale), "atol": 1e-6}
    np.testing.assert_allclose(np.take_along_axis(found, kept, 1), np.take_along_axis(exact, kept, 1), **near)
    np.testing.assert_allclose(
        np.take_along_axis(found, rest, 1).sum(1), np.take_along_axis(exact, rest, 1).sum(1), **near
    )
    assert np.ptp(np.take_along_axis(found, rest, 1), axis=1).max() < 1e-7


def test_topk_of_all_but_one_is_all() -> None:
    logits = logits_of(10)
    np.testing.assert_allclose(softmax(there_and_back("topk:9", logits, seen_of(10))), softmax(logits), rtol=0.01)


@pytest.mark.parametrize("mixed", [True, False])
def test_distances_keep_the_two_classes_of_the_view(mixed: bool) -> None:
    seen, logits = seen_of(10, mixed=mixed), logits_of(10)
    exact, found = softmax(logits), softmax(there_and_back("distances", logits, seen))
    for item in range(N):
        own, partner = seen.classes[item], seen.classes[seen.partner[item]]
        for one in (own, partner):
            assert found[item, one] == pytest.approx(exact[item, one], rel=0.01, abs=1e-6)
        others = [one for one in range(10) if one not in (own, partner)]
        assert np.ptp(found[item, others]) < 1e-7


def test_distances_survive_a_certain_teacher_and_two_classes() -> None:
    certain = np.full((N, 10), -30_000, np.float16)
    certain[:, 0] = 30_000
    found = softmax(there_and_back("distances", certain, seen_of(10, mixed=False)))
    seen = seen_of(10, mixed=False)
    assert (found[seen.classes == 0, 0] > 0.999).all()
    two = logits_of(2)
    np.testing.assert_allclose(softmax(there_and_back("distances", two, seen_of(2))), softmax(two), rtol=0.01)


def test_static_mixes_probabilities_as_the_view_mixes_images() -> None:
    seen, logits = seen_of(10), logits_of(10)
    own = softmax(logits)
    expected = seen.lam[:, None] * own + (1 - seen.lam[:, None]) * own[seen.partner]
    np.testing.assert_allclose(softmax(there_and_back("static", logits, seen)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "sizes"),
    {
        "full": (20, 200, 2000, 20_900),
        "int8": (12, 102, 1002, 10_452),
        "topk:5": (17, 17, 22, 22),
        "distances": (4, 4, 4, 4),
        "static": (20, 200, 2000, 20_900),
    }.items(),
)
def test_bytes_of_an_item_are_known(text: str, sizes: tuple[int, ...]) -> None:
    name, values = codec_of(text)
    found = [CODECS[name].bytes_per_item(n_classes, values) for n_classes in (10, 100, 1000, 10_450)]
    assert tuple(found) == sizes


@pytest.mark.parametrize("text", [*NAMES, "none", "topk:100"])
def test_names_are_spelt_as_they_are_read(text: str) -> None:
    assert spell(*codec_of(text)) == text


@pytest.mark.parametrize("text", ["ful", "", "topk", "topk:", "topk:0", "topk:-1", "topk:x", "full:1", "topk:1:2"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected (one of full, int8, topk:K, |a number of at least 1)"):
        codec_of(text)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("full", {"k": 2}, 'unknown setting "k"'),
        ("topk", {}, 'no setting "k"'),
        ("topk", {"k": True}, 'no setting "k"'),
        ("topk", {"k": 2, "j": 1}, "or others"),
        ("topk", {"k": 0}, "expected 1 to 9"),
        ("topk", {"k": 10}, "expected 1 to 9"),
    ],
)
def test_settings_that_mean_nothing_are_named(name: str, values: dict[str, Any], message: str) -> None:
    assert message in CODECS[name].check(values, 10)


@pytest.mark.parametrize(
    ("text", "column", "value", "message"),
    [
        ("int8", "scale", -1, "a scale below 0"),
        ("int8", "levels", -128, "a level of -128"),
        ("topk:2", "indices", 10, "class 10 of 10"),
        ("topk:2", "indices", 3, "do not increase"),
        ("distances", "distances", -0.5, "a distance below 0"),
        ("none", "online", 2, "no 1"),
    ],
)
def test_numbers_that_mean_nothing_are_named(text: str, column: str, value: float, message: str) -> None:
    name, values = codec_of(text)
    codec = CODECS[name]
    arrays = codec.encode(logits_of(10), seen_of(10), values)
    assert codec.fault(arrays, values, 10) == ""
    arrays[column] = arrays[column].copy()
    arrays[column].reshape(-1)[-2:] = value
    assert message in codec.fault(arrays, values, 10)


@pytest.mark.parametrize("name", CODECS)
def test_golden_labels_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    """Files of every codec, with the labels of each epoch as the specification's formulas give them."""
    folder = GOLDEN / f"codec-{name}-v1"
    assert verify(folder, "deep").epochs == EPOCHS
    dataset = load(folder)
    if not CODECS[name].online:
        expected = np.load(GOLDEN / f"codec-{name}-v1.npy")
        for epoch in range(EPOCHS):
            found = dataset.logits(epoch).double().log_softmax(1).numpy()
            np.testing.assert_allclose(found, expected[epoch], atol=2e-6)
            for batch in dataset.epoch(epoch):
                assert batch.logits is not None
                of_step = batch.logits.double().log_softmax(1).numpy()
                np.testing.assert_allclose(of_step, expected[epoch][batch.items.numpy()], atol=2e-6)
    if h5py.version.hdf5_version == "2.0.0":
        for path in put_codec_set(tmp_path / "again", name).iterdir():
            assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
