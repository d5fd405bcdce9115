"""Opening, splitting, normalising; the packaged data set."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from condense.data import DATASETS, Data, DatasetSpec, holdout, open_data
from condense.data.embedded import FOLDER
from condense.data.pixels import normalise, to_image, to_pixels
from condense.errors import ConfigError, DataError

MINI_SHA256 = {
    "train.npy.xz": "122b6373c9bc84ed1217a1af49c9bbe011fd13f0825d1a4fb7cd20cf38762798",
    "test.npy.xz": "65b54fe5cd5bd06803231cbc1ce78167019177d1d27e9759a6080199343a024b",
}
GOLDEN_TRAIN = "ce09a2b6dd115d3e5a86cf8efb22db01a172009d9ff2dc5eaddb8e3adb283ced"
GOLDEN_TEST = "90995fee5cdc5d18a85741b79f2bdd958a2294b761bfa84b333b0cdb472b1258"
GOLDEN_FINGERPRINT = "b33683fc3d951e5fc7fb96e4d07e1e35cfcd71b39a167484a8ce0e61d9738184"


@pytest.fixture
def mini() -> Data:
    return open_data("fashion-mini")


def test_mini_files_are_the_ones_the_script_writes() -> None:
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in MINI_SHA256} == MINI_SHA256
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000
    assert "MIT License" in (FOLDER / "LICENSE").read_text()


def test_mini_has_500_and_100_images_per_class(mini: Data) -> None:
    assert mini.spec.train_sizes == (500,) * 10
    assert mini.spec.test_sizes == (100,) * 10
    assert mini.train.images.shape == (5000, 28, 28, 1)
    assert mini.train.images.dtype == np.uint8
    assert mini.train.labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(mini.test.labels), mini.spec.test_sizes)


def test_mini_pixels_and_fingerprint_are_golden(mini: Data) -> None:
    assert hashlib.sha256(mini.train.images.tobytes()).hexdigest() == GOLDEN_TRAIN
    assert hashlib.sha256(mini.test.images.tobytes()).hexdigest() == GOLDEN_TEST
    assert mini.spec.fingerprint == GOLDEN_FINGERPRINT


def test_no_test_image_is_a_training_image(mini: Data) -> None:
    train = {image.tobytes() for image in mini.train.images}
    assert not any(image.tobytes() in train for image in mini.test.images)


def test_images_are_mapped_and_read_only(mini: Data) -> None:
    assert isinstance(mini.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mini.train.images[0] = 0


def test_mean_and_std_are_those_of_the_training_pixels(mini: Data) -> None:
    pixels = np.asarray(mini.train.images, dtype=np.float64) / 255
    assert mini.spec.mean == pytest.approx((pixels.mean(),), abs=1e-12)
    assert mini.spec.std == pytest.approx((pixels.std(),), abs=1e-12)


def test_opening_again_gives_the_same_spec_without_decoding(mini: Data) -> None:
    stages = []
    again = open_data("fashion-mini", report=lambda stage, *_: stages.append(stage))
    assert again.spec == mini.spec
    assert stages == []


def test_size_and_channels_can_be_asked_for(mini: Data) -> None:
    other = open_data("fashion-mini", size=16, channels=3)
    assert other.spec.image_shape == (16, 16, 3)
    assert other.spec.fingerprint != mini.spec.fingerprint
    np.testing.assert_array_equal(other.train.images[..., 0], other.train.images[..., 2])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 7}, "size is 7; expected 8 to 224"),
        ({"size": 225}, "size is 225"),
        ({"channels": 2}, "channels is 2"),
        ({"normalisation": "publshed"}, 'did you mean "published"'),
        ({"normalisation": "published"}, "no published normalisation is known for fashion-mini"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_data("fashion-mini", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fashion-mimi", "imagefolder:", "imagefolder", "", ":", "a:"])
def test_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(DataError, match=re.escape(f'there is no data set "{name}"')) as caught:
        open_data(name)
    assert "cifar10" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(DataError, match='did you mean "fashion-mnist"'):
        open_data("fashion-mnst")


def test_the_table_lists_every_form_of_name() -> None:
    assert {"fashion-mini", "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn"} < set(DATASETS)
    assert {"imagefolder:PATH", "module:callable"} < set(DATASETS)


def test_spec_survives_a_round_trip(tiny_data: Data) -> None:
    assert DatasetSpec.from_dict(tiny_data.spec.to_dict()) == tiny_data.spec


@pytest.mark.parametrize("channels", [1, 3])
def test_to_pixels_scales_and_has_channels_last_strides(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    pixels = to_pixels(images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (5, channels, 4, 6)
    assert pixels.stride() == (24 * channels, 1, 6 * channels, channels)
    np.testing.assert_array_equal(pixels.numpy(), images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    one = to_image(images[2])
    assert torch.equal(one, pixels[2])
    assert one.stride() == pixels[2].stride()


def test_to_pixels_does_not_touch_a_read_only_map(mini: Data) -> None:
    pixels = to_pixels(mini.train.images[:3])
    pixels += 1
    assert pixels.max() == 2
    assert mini.train.images[:3].max() == 255


def test_normalised_training_images_have_mean_0_and_std_1(tiny_data: Data) -> None:
    normal = normalise(to_pixels(tiny_data.train.images), tiny_data.spec)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert normal.stride() == to_pixels(tiny_data.train.images).stride()
    assert normalise(to_pixels(tiny_data.train.images).double(), tiny_data.spec).dtype == torch.float64


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_holdout_is_a_stratified_partition(fraction: float) -> None:
    sizes = [1, 2, 7, 50]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), sizes))
    kept, held = holdout(labels, fraction, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(60))
    expected = [min(max(round(fraction * n), 1), n - 1) for n in sizes]
    assert np.bincount(labels[held], minlength=4).tolist() == expected
    assert (np.diff(kept) > 0).all()


def test_holdout_depends_on_the_seed_only() -> None:
    labels = np.repeat(np.arange(3), 30)
    first, second, other = (holdout(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert first.tolist() != other.tolist()


def test_holdout_of_a_class_does_not_depend_on_the_others() -> None:
    few, many = np.repeat(np.arange(2), 30), np.repeat(np.arange(5), 30)
    np.testing.assert_array_equal(holdout(few, 0.2, 0)[1], holdout(many, 0.2, 0)[1][:12])


def test_holdout_draws_each_class_on_its_own() -> None:
    held = holdout(np.repeat(np.arange(2), 50), 0.2, 0)[1]
    assert held[:10].tolist() != (held[10:] - 50).tolist()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_holdout_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction is"):
        holdout(np.zeros(4, np.int64), fraction, 0)


def test_cache_is_where_it_was_asked_to_be(tmp_path: Path) -> None:
    data = open_data("fashion-mini", cache=tmp_path, size=8)
    assert data.cache is not None
    assert data.cache.is_relative_to(tmp_path)
    assert all(path.is_file() for path in data.places)
