"""Every mode and size of image becomes the same uint8 array by the documented rules."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from condense.data.images import Geometry, Look, common_geometry, fit, look

RGB8 = Geometry(height=8, width=8, channels=3)
GREY8 = Geometry(height=8, width=8, channels=1)
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RAMP16 = RAMP.astype(np.uint16) * 257


def stored(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image after a trip through a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def palette_image(colours: list[int]) -> Image.Image:
    image = Image.fromarray((RAMP > 100).astype(np.uint8), "L").convert("P")
    image.putdata((RAMP > 100).astype(np.uint8).ravel().tolist())
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RAMP), RAMP),
        (stored(Image.fromarray(RAMP16), "PNG"), RAMP),
        (stored(Image.fromarray(RAMP16), "TIFF"), RAMP),
        (Image.fromarray(RAMP16.astype(np.int32)), RAMP),
        (stored(Image.fromarray(RAMP > 100), "PNG"), (RAMP > 100) * 255),
        (stored(Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (8, 8), 255)]), "PNG"), RAMP),
        (palette_image([0, 0, 0, 255, 255, 255]), (RAMP > 100) * 255),
    ],
    ids=["L", "png16", "tiff16", "I", "1", "LA", "P"],
)
def test_grey_modes(image: Image.Image, expected: np.ndarray) -> None:
    assert not look(image).colour
    np.testing.assert_array_equal(fit(image, GREY8)[..., 0], expected)
    np.testing.assert_array_equal(fit(image, RGB8), np.repeat(expected[..., None], 3, axis=2))


def test_16_bits_are_rounded_not_cut() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000 + 129
    np.testing.assert_array_equal(fit(Image.fromarray(values), GREY8)[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_colour_modes(mode: str) -> None:
    red = Image.new("RGB", (8, 8), (250, 20, 30))
    image = red.convert(mode)
    assert look(image).colour
    assert np.abs(fit(image, RGB8).astype(int) - (250, 20, 30)).max() <= 3


def test_palette_with_a_colour_has_colour() -> None:
    image = palette_image([0, 0, 0, 255, 0, 0])
    assert look(image).colour
    np.testing.assert_array_equal(fit(image, RGB8)[RAMP > 100][0], (255, 0, 0))


def test_cmyk_jpeg() -> None:
    image = stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(fit(image, RGB8).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (8, 8), (10, 20, 30, 0)),
        Image.new("LA", (8, 8), (10, 0)),
        stored(Image.new("L", (8, 8), 7), "PNG", transparency=7),
        stored(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        stored(palette_image([9, 9, 9, 9, 9, 9]), "PNG", transparency=bytes([0, 0])),
    ],
    ids=["RGBA", "LA", "L", "RGB", "P"],
)
def test_what_is_transparent_is_white(image: Image.Image) -> None:
    np.testing.assert_array_equal(fit(image, RGB8), np.full((8, 8, 3), 255))


def test_half_transparent_black_is_grey() -> None:
    assert abs(int(fit(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), RGB8)[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((8, 12), np.uint8)
    upright[:4, :6] = 255
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = stored(Image.fromarray(np.ascontiguousarray(as_stored[orientation])), "PNG", exif=exif)
    assert look(image) == Look(12, 8, colour=False)
    np.testing.assert_array_equal(fit(image, Geometry(height=8, width=12, channels=1))[..., 0], upright)


def test_centre_is_kept_and_the_rest_cut() -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 8:40] = 200
    np.testing.assert_array_equal(fit(Image.fromarray(wide), GREY8), np.full((8, 8, 1), 200))


def test_shrinking_is_antialiased() -> None:
    fine = np.indices((64, 64)).sum(axis=0) % 2 * 255
    assert np.abs(fit(Image.fromarray(fine.astype(np.uint8)), GREY8).astype(int) - 127).max() <= 3


@pytest.mark.parametrize(
    "image", [Image.new("F", (8, 8), 0.5), Image.new("I", (8, 8), 70000), Image.new("I", (8, 8), -1)]
)
def test_pixels_without_a_known_range_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="convert it to 8 or 16 bits"):
        fit(image, GREY8)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(12, 12)] * 3, (12, 12)),
        ([(32, 48)] * 2, (32, 48)),
        ([(224, 224)], (224, 224)),
        ([(225, 225)], (224, 224)),
        ([(7, 7)] * 2, (8, 8)),
        ([(300, 200)] * 2, (200, 200)),
        ([(30, 90), (41, 35), (64, 500)], (32, 32)),
        ([(4, 4), (5, 5)], (8, 8)),
        ([(3000, 2000), (2000, 4000)], (224, 224)),
    ],
)
def test_size_rule(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    made = common_geometry([Look(width, height, colour=False) for height, width in sizes])
    assert (made.height, made.width, made.channels) == (*expected, 1)


def test_one_image_with_colour_makes_three_channels() -> None:
    assert common_geometry([Look(8, 8, colour=False), Look(8, 8, colour=True)]).channels == 3
