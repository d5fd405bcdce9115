"""FerKD: labels replaced where the teacher is not sure, and views mixed with another crop of the same image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import LABELS, SPEC, write
from test_evaluation import data as grey_data
from test_evaluation import teacher as grey_teacher
from test_views import FIELDS, philox, pictures, plain_box, plain_plan, real
from torch.nn import functional

from condense.config import from_mapping, identity, to_mapping
from condense.dataset import DistilledDataset, load
from condense.device import Compute
from condense.errors import ConfigError
from condense.evaluation import ReplayBatches
from condense.labels import Calibration, LabelConfig, encode_labels, make_logits, seen_by_item
from condense.labels.calibrate import Thresholds, confidences, find_thresholds, recalibrated, truth_logits
from condense.shards import SetInfo, write_set
from condense.shards.codecs import Seen
from condense.teachers import Teacher
from condense.views import ViewConfig, plan
from condense.views.render import crop_flip, render

data, teacher = grey_data, grey_teacher

EPOCHS, N, K = 3, 40, 5


def case(mixed: bool = True) -> tuple[np.ndarray, list[Seen]]:
    """Logits float16 (EPOCHS, N, K), of which the classes are likely, and what is seen in each epoch."""
    random = np.random.default_rng(4)
    classes, seen = random.integers(0, K, N), []
    logits = random.normal(0, 2, (EPOCHS, N, K))
    for epoch in range(EPOCHS):
        partner = random.permutation(N) if mixed else np.arange(N)
        lam = random.random(N) if mixed else np.ones(N)
        seen.append(Seen(classes=classes, partner=partner, lam=lam))
        logits[epoch] += 3 * np.eye(K)[classes]
    return logits.astype(np.float16), seen


# The rules once more, one label at a time, from the paper's description


def plain_probabilities(logits: np.ndarray) -> list[float]:
    odds = [math.exp(float(z)) for z in logits]
    return [one / sum(odds) for one in odds]


def plain_classes(seen: Seen, item: int) -> dict[int, float]:
    """Weight of each class in the view."""
    weights: dict[int, float] = {}
    shares = ((item, float(seen.lam[item])), (int(seen.partner[item]), 1 - float(seen.lam[item])))
    for one, weight in shares:
        weights[int(seen.classes[one])] = weights.get(int(seen.classes[one]), 0.0) + weight
    return weights


def plain_confidence(logits: np.ndarray, seen: Seen, item: int, kind: str) -> float:
    chances = plain_probabilities(logits)
    if kind == "top":
        return max(chances)
    return sum(min(weight, chances[label]) for label, weight in plain_classes(seen, item).items())


def plain_truth(seen: Seen, item: int, s: float) -> list[float]:
    """Smoothed ground truth: s at the class and (1 - s) / (K - 1) elsewhere, those of both classes mixed."""
    made = [0.0] * K
    for label, weight in plain_classes(seen, item).items():
        for k in range(K):
            made[k] += weight * (s if k == label else (1 - s) / (K - 1))
    return [math.log(one) for one in made]


def plain_quantile(values: list[float], share: float) -> float:
    """Linear between the two nearest."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("kind", ["true", "top"])
@pytest.mark.parametrize("mixed", [True, False])
def test_confidences_one_by_one(mixed: bool, kind: Any) -> None:
    logits, seen = case(mixed)
    for held, of_epoch in zip(logits, seen, strict=True):
        wanted = [plain_confidence(held[item], of_epoch, item, kind) for item in range(N)]
        np.testing.assert_allclose(confidences(held, of_epoch, kind), wanted, rtol=1e-10)
        if kind == "true" and not mixed:
            own = [plain_probabilities(held[item])[of_epoch.classes[item]] for item in range(N)]
            np.testing.assert_allclose(wanted, own, rtol=1e-12)


def test_a_teacher_that_names_both_classes_by_their_weights_is_sure() -> None:
    seen = Seen(classes=np.array([0, 1]), partner=np.array([1, 0]), lam=np.array([0.25, 0.75]))
    logits = np.log(np.array([[0.25, 0.75, 1e-7], [0.999, 5e-4, 5e-4]])).astype(np.float16)
    found = confidences(logits, seen, "true")
    assert found[0] == pytest.approx(1, abs=1e-3)
    assert found[1] == pytest.approx(0.25 + 5e-4, abs=1e-3)


def test_the_truth_one_by_one() -> None:
    _, seen = case()
    for s in (0.3, 0.9, 0.999):
        wanted = [plain_truth(seen[0], item, s) for item in range(N)]
        np.testing.assert_allclose(truth_logits(seen[0], s, K), wanted, rtol=1e-10)
    np.testing.assert_allclose(np.exp(truth_logits(seen[0], 0.9, K)).sum(1), 1, rtol=1e-12)
    assert np.isfinite(truth_logits(seen[0], 1.0, K)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"truth": None},
        {"confidence": "top", "truth": None, "low": 0.2, "middle": 0.4, "high": 0.9},
        {"truth": 0.9, "negatives": "uniform", "high": 0.8},
        {"low": 0.3, "middle": 0.3, "negatives": "uniform"},
    ],
)
@pytest.mark.parametrize("mixed", [True, False])
def test_labels_are_replaced_by_the_rules(mixed: bool, settings: dict[str, Any]) -> None:
    logits, seen = case(mixed)
    config = Calibration(**settings)
    sure = [
        [plain_confidence(held[item], one, item, config.confidence) for item in range(N)]
        for held, one in zip(logits, seen, strict=True)
    ]
    every = [value for of_epoch in sure for value in of_epoch]
    low, middle, high = (plain_quantile(every, share) for share in (config.low, config.middle, config.high))
    s = max(middle if config.truth is None else config.truth, 1 / K)
    bounds = find_thresholds(config, (np.array(of_epoch) for of_epoch in sure), K)
    assert (bounds.low, bounds.middle, bounds.high, bounds.truth) == pytest.approx((low, middle, high, s), rel=1e-12)
    counts = {"negative": 0, "positive": 0, "kept": 0, "easy": 0}
    for held, one, of_epoch in zip(logits, seen, sure, strict=True):
        found = recalibrated(held, one, config, bounds)
        assert found.dtype == np.float16
        for item, v in enumerate(of_epoch):
            truth = np.array(plain_truth(one, item, s)).astype(np.float16)
            if v < low:
                counts["negative"] += 1
                wanted = np.zeros(K) if config.negatives == "uniform" else truth
            elif v < middle or v > high:
                counts["positive" if v < middle else "easy"] += 1
                wanted = truth
            else:
                counts["kept"] += 1
                wanted = held[item]
            np.testing.assert_array_equal(found[item], wanted)
    total = EPOCHS * N
    assert counts["negative"] == pytest.approx(config.low * total, abs=1.5)
    assert counts["positive"] == pytest.approx((config.middle - config.low) * total, abs=1.5)
    assert counts["easy"] == pytest.approx((1 - config.high) * total, abs=1.5)


def test_labels_are_continuous_where_trust_begins() -> None:
    """Of views that are not mixed: the probability of the class does not jump at the threshold."""
    logits, seen = case(mixed=False)
    config = Calibration(middle=0.4, truth=None)
    bounds = find_thresholds(config, (confidences(one, two, "true") for one, two in zip(logits, seen, strict=True)), K)
    truth = np.exp(truth_logits(seen[0], bounds.truth, K))[np.arange(N), seen[0].classes]
    np.testing.assert_allclose(truth, bounds.middle, rtol=1e-12)


def test_the_truth_never_says_less_than_chance() -> None:
    bounds = find_thresholds(Calibration(truth=None), [np.full(50, 0.01)], K)
    assert bounds.truth == 1 / K
    _, seen = case(mixed=False)
    np.testing.assert_allclose(truth_logits(seen[0], bounds.truth, K), -math.log(K), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": "tru"}, 'confidence is "tru"; did you mean "true"'),
        ({"negatives": "drop"}, 'negatives is "drop"'),
        (
            {"low": 0.3, "middle": 0.2},
            r"low, middle and high are 0\.3, 0\.2 and 1\.0; expected shares that do not fall",
        ),
        ({"high": 0.1}, "expected shares that do not fall"),
        ({"high": 1.5}, r"high is 1\.5; expected a number from 0 to 1"),
        ({"low": float("nan")}, "low is nan"),
        ({"truth": 1.0}, r"truth is 1\.0; expected a probability above 0 and below 1"),
        ({"truth": 0.0}, r"truth is 0\.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Calibration(**settings)


def test_labels_that_are_not_stored_cannot_be_calibrated() -> None:
    with pytest.raises(ConfigError, match="calibration is given, but none stores no labels"):
        LabelConfig(codec="none", calibration=Calibration())


def test_label_settings_without_calibration_are_named_as_before() -> None:
    assert "calibration" not in identity(LabelConfig())
    config = LabelConfig(calibration=Calibration(low=0.1))
    assert identity(config)["calibration"]["low"] == 0.1
    assert from_mapping(LabelConfig, identity(config)) == config
    with pytest.raises(ConfigError, match=r'no setting "labels\.calibration\.lo"'):
        from_mapping(LabelConfig, {"calibration": {"lo": 0.1}}, "labels")


# In label files

CALIBRATED = Calibration(low=0.2, middle=0.5, truth=0.8)


@pytest.mark.parametrize("codec", ["full", "static"])
def test_stored_labels_are_calibrated_over_the_whole_set(codec: str, tmp_path: Path, teacher: Teacher) -> None:
    plain = write(tmp_path / "plain", [teacher], replace(LABELS, codec=codec))
    config = replace(LABELS, codec=codec, calibration=CALIBRATED)
    made = write(tmp_path / "made", [teacher], config)
    before, after = (np.asarray(one.files.labels[0].columns["logits"]) for one in (plain, made))
    classes = np.array(plain.targets)
    seen = []
    for epoch in range(len(before)):
        drawn = plan(config.labelled_views, LABELS.seed, epoch, 15, 8, 8)
        seen.append(seen_by_item(drawn, classes))
    sure = np.stack([confidences(held, one, "true") for held, one in zip(before, seen, strict=True)])
    middle = np.quantile(sure, 0.5)
    np.testing.assert_array_equal(after[sure >= middle], before[sure >= middle])
    assert len(before) == (1 if codec == "static" else 3)
    for epoch, item in np.argwhere(sure < middle):
        rest = 0.2 / 2
        q = np.zeros(3)
        q[classes[item]] += seen[epoch].lam[item]
        q[classes[seen[epoch].partner[item]]] += 1 - seen[epoch].lam[item]
        np.testing.assert_allclose(after[epoch, item], np.log(0.8 * q + rest * (1 - q)), rtol=1e-3, atol=1e-3)
    assert 0 < (sure < middle).sum() < sure.size


def test_what_was_made_is_not_changed(teacher: Teacher) -> None:
    """Calibration makes new labels; the teachers' logits stay as they are."""
    logits, seen = case()
    before = logits.copy()
    recalibrated(logits[0], seen[0], Calibration(negatives="uniform"), Thresholds(0.9, 0.95, 0.99, 0.9))
    np.testing.assert_array_equal(logits, before)


def test_a_set_remembers_its_calibration(tmp_path: Path, teacher: Teacher) -> None:
    """In set.json: relabelling with some settings changed leaves the others as they are."""
    config = replace(LABELS, calibration=CALIBRATED)
    assert write(tmp_path / "plain", [teacher]).label_config == LABELS
    for labels, wanted in (({"labels": to_mapping(config)}, config), ({"labels": identity(LABELS)}, LABELS)):
        found = rewritten(write(tmp_path / str(len(str(labels))), [teacher], config), labels)
        assert found.label_config == wanted


def rewritten(dataset: DistilledDataset, config: Mapping[str, Any]) -> DistilledDataset:
    info: SetInfo = replace(dataset.info, config=config, files={})
    (dataset.path / "set.json").unlink()
    write_set(dataset.path, info)
    return load(dataset.path)


# SelfMix

SELFMIX: dict[str, ViewConfig] = {
    "resized": ViewConfig(mix="selfmix", batch_size=16, group_size=8),
    "pad": ViewConfig(crop="pad", pad=3, mix="selfmix", mix_alpha=0.8, batch_size=10),
    "none": ViewConfig(crop="none", flip=0.5, mix="selfmix", mix_alpha=0.2, batch_size=50),
}
HEIGHT, WIDTH = 14, 20


@pytest.mark.parametrize("n_items", [1, 2, 37])
@pytest.mark.parametrize("name", SELFMIX)
def test_selfmix_plans_follow_the_rules_bit_by_bit(name: str, n_items: int) -> None:
    """Those of CutMix, but for the partner, and a second crop and flip from streams of their own."""
    config = SELFMIX[name]
    drawn = plan(config, 5, 3, n_items, HEIGHT, WIDTH)
    rules = plain_plan(replace(config, mix="cutmix"), 5, 3, n_items, HEIGHT, WIDTH)
    rules["partner"] = [*range(n_items)]
    assert {field: getattr(drawn, field).tolist() for field in FIELDS} == rules
    words = philox("5/view-crop-inner/3")
    boxes = [plain_box(config, words, HEIGHT, WIDTH) for _ in range(n_items)]
    flips = [real(word) < config.flip for word in islice(philox("5/view-flip-inner/3"), n_items)]
    assert drawn.inner_boxes is not None
    assert drawn.inner_flips is not None
    assert drawn.inner_boxes.tolist() == [boxes[item] for item in drawn.order]
    assert drawn.inner_flips.tolist() == [flips[item] for item in drawn.order]
    assert (drawn.inner_boxes.dtype, drawn.inner_flips.dtype) == (np.int32, np.bool_)


def test_a_selfmix_plan_is_golden() -> None:
    drawn = plan(SELFMIX["resized"], 5, 3, 37, 28, 28)
    sha = hashlib.sha256()
    for name in (*FIELDS, "inner_boxes", "inner_flips"):
        sha.update(getattr(drawn, name).tobytes())
    assert sha.hexdigest() == "896c3db62b3d30e4daaad09138d682e962e3f8add332bd8e6a3145d6d953e4bc"


def test_other_plans_have_no_second_crop() -> None:
    for mix in ("none", "cutmix", "mixup"):
        drawn = plan(ViewConfig(mix=mix), 0, 0, 9, 8, 8)  # type: ignore[arg-type]
        assert drawn.inner_boxes is None
        assert drawn.inner_flips is None


@pytest.mark.parametrize("name", SELFMIX)
def test_selfmix_fills_the_box_from_another_crop_of_the_same_image(name: str) -> None:
    images, drawn = pictures(37, 3, HEIGHT, WIDTH), plan(SELFMIX[name], 1, 0, 37, HEIGHT, WIDTH)
    seen = render(images, drawn, slice(0, 37))
    assert drawn.inner_boxes is not None
    assert drawn.inner_flips is not None
    inside = 0
    for p, (top, left, h, w) in enumerate(drawn.mix_boxes.tolist()):
        item = images[int(drawn.order[p])][None]
        outer, inner = (
            crop_flip(item, torch.from_numpy(boxes[p : p + 1]), torch.from_numpy(flips[p : p + 1]))[0]
            for boxes, flips in ((drawn.boxes, drawn.flips), (drawn.inner_boxes, drawn.inner_flips))
        )
        expected = outer.clone()
        expected[:, top : top + h, left : left + w] = inner[:, top : top + h, left : left + w]
        torch.testing.assert_close(seen[p], expected, atol=1e-12, rtol=0.0)
        inside += h * w
        assert drawn.lam[p] == (HEIGHT * WIDTH - h * w) / (HEIGHT * WIDTH)
    assert inside > 0
    parts = [render(images, drawn, slice(start, stop)) for start, stop in pairwise(drawn.groups.tolist())]
    torch.testing.assert_close(torch.cat(parts), seen, atol=1e-12, rtol=0.0)


def test_selfmix_is_replayed_with_the_items_own_class(tmp_path: Path, teacher: Teacher) -> None:
    """What the teacher labelled is what the student sees, and the class of the view is the item's."""
    labels = replace(LABELS, views=replace(LABELS.views, mix="selfmix"), calibration=None)
    dataset = write(tmp_path / "set", [teacher], labels)
    for epoch in range(labels.epochs):
        batches = (ReplayBatches(dataset, kind)(epoch, 0) for kind in ("soft", "hard"))  # type: ignore[arg-type]
        for soft, hard, made in zip(*batches, dataset.epoch(epoch), strict=True):
            with torch.no_grad():
                torch.testing.assert_close(soft.targets, teacher.logits(soft.images), rtol=2e-3, atol=2e-3)
            classes = torch.tensor(dataset.targets)[made.items]
            torch.testing.assert_close(hard.targets, functional.one_hot(classes, 3).float(), rtol=0, atol=1e-7)


def test_selfmix_labels_can_be_calibrated(tmp_path: Path, teacher: Teacher) -> None:
    labels = replace(LABELS, views=replace(LABELS.views, mix="selfmix"), calibration=Calibration(middle=1.0, truth=0.9))
    dataset = write(tmp_path / "set", [teacher], labels)
    logits = dataset.logits(0)
    assert (logits.argmax(1) == torch.tensor(dataset.targets)).all()
    pixels = np.array(dataset.images)
    raw = make_logits(pixels, [teacher], SPEC, labels, compute=Compute())
    again = encode_labels(raw, np.array(dataset.targets), labels, SPEC)["logits"]
    np.testing.assert_array_equal(again[0].astype(np.float32), logits.numpy())
