"""A tiny set of every canvas, and its items by plain loops. Run as a program it writes both to `tests/golden`.

The loops share nothing with the package: they follow the formulas of `SPEC.md` one pixel at a time. The files are
written anew for a new version of the format only.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np

from condense.shards import SetInfo, image_name, write_images, write_set

GOLDEN = Path(__file__).parent / "golden"
Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]

SHAPE = (4, 6, 2)
LABELS, SLOTS = [0, 1, 0, 1], [0, 0, 1, 1]
SETTINGS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "tiles": {"factor": 2},
    "compensated": {"compensators": 2, "with_original": True},
    "patches": {"patch": 2, "kept": 4, "fill": "mean"},
}


def drawn(seed: int, *shape: int) -> Array:
    """uint8 from the raw bits of PCG64, which no version of NumPy changes."""
    return (np.random.PCG64(seed).random_raw(int(np.prod(shape))) & 255).astype(np.uint8).reshape(shape)


def columns_of(name: str, shape: Shape = SHAPE, settings: Mapping[str, Any] | None = None, rows: int = 4) -> Any:
    """Columns of a canvas filled from a seed: two rows a slot, each slot with compensators of its own."""
    settings = SETTINGS[name] if settings is None else settings
    if name in ("pixels", "tiles"):
        return {"images": drawn(1, rows, *shape)}
    if name == "compensated":
        each, slots = settings["compensators"], -(-rows // 2)
        first = np.arange(rows)[:, None] // 2 * each
        return {
            "images": drawn(2, rows, *shape),
            "uses": (first + np.arange(each)).astype(np.uint32),
            "compensators": drawn(3, slots * each, *shape).astype(np.int16) * 2 - 256,
        }
    side, kept = settings["patch"], settings["kept"]
    places = drawn(4, rows, shape[0] // side * (shape[1] // side)).argsort(axis=1, kind="stable")
    return {
        "patches": drawn(5, rows, kept, side, side, shape[2]),
        "places": np.sort(places[:, :kept], axis=1).astype(np.uint16),
    }


def items_by_loops(name: str, columns: Mapping[str, Array], shape: Shape, settings: Mapping[str, Any]) -> Array:
    """uint8 (items, H, W, C)."""
    items = {"pixels": pixels, "tiles": tiles, "compensated": compensated, "patches": patches}[name]
    return np.array(items(columns, shape, settings), dtype=np.uint8)


def pixels(columns: Mapping[str, Array], shape: Shape, settings: Mapping[str, Any]) -> list[Array]:
    return list(columns["images"])


def tiles(columns: Mapping[str, Array], shape: Shape, settings: Mapping[str, Any]) -> list[Array]:
    factor = settings["factor"]
    height, width = shape[0] // factor, shape[1] // factor
    return [
        enlarged(row[top : top + height, left : left + width].tolist(), shape)
        for row in columns["images"]
        for top in range(0, shape[0], height)
        for left in range(0, shape[1], width)
    ]


def enlarged(tile: list[list[list[int]]], shape: Shape) -> Array:
    """Bilinear, align_corners=False: fractions, rounded half up once."""
    image = np.zeros(shape, dtype=np.uint8)
    for y, x, channel in np.ndindex(shape):
        total = Fraction(0)
        for row, down in between(y, len(tile), shape[0]):
            for column, across in between(x, len(tile[0]), shape[1]):
                total += down * across * tile[row][column][channel]
        image[y, x, channel] = floor(total + Fraction(1, 2))
    return image


def between(output: int, length: int, size: int) -> list[tuple[int, Fraction]]:
    """Which of ``length`` pixels output pixel ``output`` of ``size`` reads, and with what weight."""
    at = (Fraction(output) + Fraction(1, 2)) * length / size - Fraction(1, 2)
    at = min(max(at, Fraction(0)), Fraction(length - 1))
    low = floor(at)
    return [(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)]


def compensated(columns: Mapping[str, Array], shape: Shape, settings: Mapping[str, Any]) -> list[Array]:
    made = []
    for image, uses in zip(columns["images"], columns["uses"], strict=True):
        if settings["with_original"]:
            made.append(image)
        for number in uses:
            total = np.zeros(shape, dtype=np.uint8)
            for place in np.ndindex(shape):
                total[place] = min(max(int(image[place]) + int(columns["compensators"][number][place]), 0), 255)
            made.append(total)
    return made


def patches(columns: Mapping[str, Array], shape: Shape, settings: Mapping[str, Any]) -> list[Array]:
    side, fill, made = settings["patch"], settings["fill"], []
    for kept, places in zip(columns["patches"], columns["places"].tolist(), strict=True):
        image = np.zeros(shape, dtype=np.uint8)
        for y, x, channel in np.ndindex(shape):
            place = y // side * (shape[1] // side) + x // side
            if place in places:
                image[y, x, channel] = kept[places.index(place), y % side, x % side, channel]
            elif fill == "mean":
                values = [int(value) for value in kept[..., channel].ravel()]
                image[y, x, channel] = floor(Fraction(sum(values), len(values)) + Fraction(1, 2))
            else:
                image[y, x, channel] = fill[channel]
        made.append(image)
    return made


def spec(shape: Shape = SHAPE) -> dict[str, Any]:
    return {
        "name": "tiny",
        "classes": ["class 0", "class 1"],
        "height": shape[0],
        "width": shape[1],
        "channels": shape[2],
        "mean": [0.5] * shape[2],
        "std": [0.25] * shape[2],
        "train_sizes": [7, 7],
        "test_sizes": [2, 2],
        "fingerprint": "00",
    }


def put_canvas_set(folder: Path, name: str) -> Path:
    """A set of four rows in one image file."""
    folder.mkdir(parents=True)
    write_images(
        folder / image_name(0), columns=columns_of(name), labels=LABELS, slots=SLOTS, spec=spec(), canvas=name,
        settings=SETTINGS[name],
    )  # fmt: skip
    card = SetInfo(
        name=f"tiny-{name}", spec=spec(), method={"name": "none", "revision": 1}, config={}, seeds={"root": 5},
        teachers=[], contains_real_images=False, licence="MIT",
    )  # fmt: skip
    write_set(folder, card)
    return folder


if __name__ == "__main__":
    for canvas, chosen in SETTINGS.items():
        put_canvas_set(GOLDEN / f"canvas-{canvas}-v1", canvas)
        np.save(GOLDEN / f"canvas-{canvas}-v1.npy", items_by_loops(canvas, columns_of(canvas), SHAPE, chosen))
