"""A tiny set for every codec, and its labels by plain loops. Run as a program it writes both to `tests/golden`.

The loops share nothing with the package but the view plan: they follow the formulas of `SPEC.md` one number at a time.
The files are written anew for a new version of the format only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from golden_canvases import LABELS, SLOTS, columns_of, spec

from condense.data.spec import DatasetSpec
from condense.labels import LabelConfig, store_labels
from condense.shards import SetInfo, image_name, write_images, write_set
from condense.shards.codecs import CODECS
from condense.views import ViewConfig
from condense.views.plan import EpochPlan, plan

GOLDEN = Path(__file__).parent / "golden"
Array = np.ndarray[Any, Any]

CLASSES, ITEMS, EPOCHS, SEED = 3, 4, 3, 11
TEXTS = {"full": "full", "int8": "int8", "topk": "topk:2", "distances": "distances", "static": "static", "none": "none"}
VIEWS = ViewConfig(crop="pad", pad=1, mix="cutmix", batch_size=2)
SPEC = {**spec(), "classes": ["a", "b", "c"], "train_sizes": [7] * 3, "test_sizes": [2] * 3}


def config_of(name: str) -> LabelConfig:
    return LabelConfig(views=VIEWS, epochs=EPOCHS, seed=SEED, codec=TEXTS[name], teacher_bn="eval")


def logits_of(name: str) -> Array:
    """float16 (labelled epochs, items, classes), from the raw bits of PCG64."""
    count = config_of(name).n_labelled * ITEMS * CLASSES
    bits = np.random.PCG64(6).random_raw(count) & 1023
    return ((bits.astype(np.float64) - 512) / 64).astype(np.float16).reshape(-1, ITEMS, CLASSES)


def labels_by_loops(name: str, columns: dict[str, Array], drawn: EpochPlan, record: int) -> Array:
    """float64 (items, classes): log-probabilities of one epoch, from the stored numbers of its record."""
    made = np.zeros((ITEMS, CLASSES))
    for position, item in enumerate(drawn.order.tolist()):
        partner = int(drawn.order[drawn.partner[position]])
        held = {key: column[record].tolist() for key, column in columns.items()}
        z = {
            "full": lambda h, i, *_: h["logits"][i],
            "int8": lambda h, i, *_: [level * h["scale"][i] for level in h["levels"][i]],
            "topk": topk,
            "distances": distances,
            "static": static,
        }[name](held, item, partner, float(drawn.lam[position]))
        total = math.log(sum(math.exp(one) for one in z))
        made[item] = [one - total for one in z]
    return made


def topk(held: dict[str, Any], item: int, partner: int, weight: float) -> list[float]:
    z = [held["tail"][item] - math.log(CLASSES - 2)] * CLASSES
    for index, value in zip(held["indices"][item], held["values"][item], strict=True):
        z[index] = value
    return z


def distances(held: dict[str, Any], item: int, partner: int, weight: float) -> list[float]:
    (own, other), (a, b) = held["distances"][item], (LABELS[item], LABELS[partner])
    left = 1 - math.exp(-own) - (0 if a == b else math.exp(-other))
    z = [math.log(max(left, 2**-24) / (CLASSES - (1 if a == b else 2)))] * CLASSES
    z[b] = -other
    z[a] = -own
    return z


def static(held: dict[str, Any], item: int, partner: int, weight: float) -> list[float]:
    def softmax(z: list[float]) -> list[float]:
        return [math.exp(one) / sum(math.exp(other) for other in z) for one in z]

    own, other = softmax(held["logits"][item]), softmax(held["logits"][partner])
    return [math.log(weight * p + (1 - weight) * q) for p, q in zip(own, other, strict=True)]


def plan_of(epoch: int) -> EpochPlan:
    return plan(VIEWS, SEED, epoch, ITEMS, SPEC["height"], SPEC["width"])


def record_of(name: str, epoch: int) -> int:
    return epoch if CODECS[name].per_epoch else 0


def put_codec_set(folder: Path, name: str) -> Path:
    """A set of four images with the labels of three epochs."""
    folder.mkdir(parents=True)
    images = folder / image_name(0)
    write_images(images, columns=columns_of("pixels"), labels=LABELS, slots=SLOTS, spec=SPEC)
    teachers = [{"network": "convnet3-bn", "sha256": "ab" * 32}]
    config, source = config_of(name), DatasetSpec.from_dict(SPEC)
    store_labels(folder, logits_of(name), config, source, images=[images], teachers=teachers)
    card = SetInfo(
        name=f"tiny-{name}", spec=SPEC, method={"name": "none", "revision": 1}, config={}, seeds={"root": 5},
        teachers=teachers, contains_real_images=False, licence="MIT",
    )  # fmt: skip
    write_set(folder, card)
    return folder


if __name__ == "__main__":
    from condense.shards import read_set

    for codec in CODECS:
        [held] = read_set(put_codec_set(GOLDEN / f"codec-{codec}-v1", codec)).labels
        stored = {key: np.asarray(column) for key, column in held.columns.items() if key != "checksums"}
        if not CODECS[codec].online:
            epochs = [labels_by_loops(codec, stored, plan_of(e), record_of(codec, e)) for e in range(EPOCHS)]
            np.save(GOLDEN / f"codec-{codec}-v1.npy", np.stack(epochs))
