"""Rows of several blocks as one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from condense.methods.base import Canvas, Rows
from condense.pipeline.workers import read_rows, write_rows
from condense.shards import join_rows, read_images, take_rows, write_images


def block(seed: int, rows: int, shared: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    uses = draw.permutation(np.arange(rows * 2) % shared).reshape(rows, 2).astype("<u4")
    return {
        "images": draw.integers(0, 256, (rows, 4, 4, 1), np.uint8),
        "uses": uses,
        "compensators": draw.integers(-60, 60, (shared, 4, 4, 1)).astype("<i2"),
    }


def sums(columns: dict[str, np.ndarray]) -> np.ndarray:
    """What each row and its compensators add up to: (rows, 2, H, W, C)."""
    made: np.ndarray = columns["images"][:, None].astype(int) + columns["compensators"][columns["uses"]]
    return made


def test_joined_and_taken_rows_keep_their_compensators() -> None:
    blocks = [block(0, 3, 4), block(1, 2, 1), block(2, 4, 5)]
    joined = join_rows(blocks)
    np.testing.assert_array_equal(sums(joined), np.concatenate([sums(one) for one in blocks]))
    some = np.array([7, 0, 4, 3])
    taken = take_rows(joined, some)
    np.testing.assert_array_equal(sums(taken), sums(joined)[some])
    assert set(np.unique(taken["uses"])) == set(range(len(taken["compensators"])))
    assert taken["uses"].dtype == np.dtype("<u4")


def test_plain_rows_are_only_put_together() -> None:
    images = [np.full((n, 2, 2, 3), n, np.uint8) for n in (1, 2)]
    joined = join_rows([{"images": one} for one in images])
    np.testing.assert_array_equal(joined["images"], np.concatenate(images))
    np.testing.assert_array_equal(take_rows(joined, np.array([2, 0]))["images"], joined["images"][[2, 0]])


def test_a_block_of_rows_comes_back_with_its_canvas(tmp_path: Path) -> None:
    columns = block(3, 2, 3)
    images = columns.pop("images")
    rows = Rows(images, np.array([0, 1]), np.array([0, 0]), columns)
    canvas = Canvas("compensated", {"compensators": 2, "with_original": True})
    write_rows(tmp_path, rows, canvas)
    again, known = read_rows(tmp_path)
    assert known == canvas
    for name, array in rows.columns.items():
        np.testing.assert_array_equal(again.columns[name], array)
    spec = {"name": "x", "classes": ["a", "b"], "height": 4, "width": 4, "channels": 1}
    path = tmp_path / "images-00000.h5"
    write_images(
        path,
        columns=take_rows(join_rows([again.columns]), np.array([0, 1])),
        labels=again.labels,
        slots=again.slots,
        spec=spec,
        canvas=known.name,
        settings=known.settings,
    )
    decoded = read_images(path).decode()
    assert decoded.shape == (6, 4, 4, 1)
    np.testing.assert_array_equal(decoded.reshape(2, 3, 4, 4, 1)[:, 1:], sums(rows.columns).clip(0, 255))


def test_a_block_of_plain_pixels_has_no_canvas_file(tmp_path: Path) -> None:
    rows = Rows(np.zeros((1, 2, 2, 1), np.uint8), np.array([0]), np.array([0]))
    write_rows(tmp_path, rows, Canvas("pixels"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.npy", "pixels.npy", "slots.npy"]
    assert read_rows(tmp_path)[1] == Canvas("pixels")
