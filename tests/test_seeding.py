"""Keyed generators: golden values, independence, and the stated formulas."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from condense import seeding

GOLDEN = [591644217077719887, 396224313234484361, 16937703965029410610]


def test_the_key_is_the_documented_hash() -> None:
    expected = hashlib.sha256(b"7/views/3/1").digest()[:16]
    assert seeding.key(7, "views", 3, 1) == int.from_bytes(expected, "little")


def test_raw_words_are_golden() -> None:
    assert [int(word) for word in seeding.raw(3, 0, "golden")] == GOLDEN


def test_streams_differ_by_every_part_of_the_key() -> None:
    first = seeding.raw(4, 1, "a", 2)
    for other in (
        seeding.raw(4, 2, "a", 2),
        seeding.raw(4, 1, "b", 2),
        seeding.raw(4, 1, "a", 3),
        seeding.raw(4, 1, "a"),
    ):
        assert not np.array_equal(first, other)


def test_a_longer_draw_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(seeding.raw(100, 5, "x")[:10], seeding.raw(10, 5, "x"))


def test_uniform_follows_its_formula_and_stays_below_one() -> None:
    words = np.array([0, 1 << 11, 2**64 - 1], dtype=np.uint64)
    np.testing.assert_array_equal(seeding.uniform(words), [0.0, 2.0**-53, 1.0 - 2.0**-53])


def test_integers_follow_their_formula() -> None:
    words = seeding.raw(1000, 3, "integers")
    drawn = seeding.integers(words, 7)
    assert [int(n) for n in drawn] == [((int(word) >> 32) * 7) >> 32 for word in words]
    assert set(drawn.tolist()) == set(range(7))


def test_global_generators_are_left_alone() -> None:
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    seeding.generator(0, "x").random(5)
    torch.randn(5, generator=seeding.torch_generator(0, "x"))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)
