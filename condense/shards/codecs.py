"""From stored labels to logits and back: the codecs of label files. NumPy only.

A label file has records; a record holds the labels of every item in one epoch of the view plan (``static``: in none).
A student is always trained from decoded labels, so what a codec costs in accuracy is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.shards.layout import Column, Columns, Settings, no_settings

__all__ = ["CODECS", "Codec", "Seen", "codec_of", "spell"]

Logits = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Decoded = npt.NDArray[np.float32]

LEAST_PROBABILITY = 2.0**-24
"""What is left of a probability that rounding has used up."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the views of one epoch show, by item: ``classes`` int64 (N,), the class of the item itself;
    ``partner`` int64 (N,), the item mixed into it (itself without mixing); ``lam`` float64 (N,), its own weight."""

    classes: npt.NDArray[np.int64]
    partner: npt.NDArray[np.int64]
    lam: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Codec:
    """A way of storing the labels of N items in K classes.

    ``columns(N, K, settings)`` are the datasets besides the checksums. ``encode(logits, seen, settings)`` makes the
    arrays of one record, without their first axis, of logits (N, K). ``decode(arrays, seen, settings, K)`` gives
    float32 (N, K), of which only the differences within a row mean something. ``check(settings, K)`` says what is
    wrong with the settings, and ``fault(arrays, settings, K)`` with the numbers of one record, or nothing.
    """

    summary: str
    columns: Callable[[int, int, Settings], dict[str, Column]]
    encode: Callable[[Logits, Seen, Settings], dict[str, npt.NDArray[Any]]]
    decode: Callable[[Columns, Seen, Settings, int], Decoded]
    check: Callable[[Settings, int], str] = lambda settings, _: no_settings(settings)
    fault: Callable[[Columns, Settings, int], str] = lambda _arrays, _settings, _n_classes: ""
    per_epoch: bool = True
    """Whether there is a record for each labelled epoch; otherwise there is one in all."""
    online: bool = False
    """Whether nothing is stored, and the teachers label the views when a student is trained."""
    parameter: str = ""
    """The setting that the number after the codec's name is, as in ``topk:10``."""

    def bytes_per_item(self, n_classes: int, settings: Settings) -> int:
        """Bytes that a record holds of one item, the checksum apart."""
        columns = self.columns(1, n_classes, settings)
        return sum(column.record_bytes for column in columns.values())


def codec_of(text: str) -> tuple[str, dict[str, Any]]:
    """``topk:10`` -> ``("topk", {"k": 10})``. Raises ValueError with what was expected."""
    name, colon, number = text.partition(":")
    codec = CODECS.get(name)
    if codec is None or bool(codec.parameter) != bool(colon):
        known = [f"{key}:{one.parameter.upper()}" if one.parameter else key for key, one in CODECS.items()]
        raise ValueError(f"expected one of {', '.join(known)}")
    if not colon:
        return name, {}
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"expected a number of at least 1 after {name}:")
    return name, {codec.parameter: int(number)}


def spell(name: str, settings: Settings) -> str:
    """The text of which :func:`codec_of` makes the same."""
    parameter = CODECS[name].parameter
    return f"{name}:{settings[parameter]}" if parameter else name


def encode_full(logits: Logits, _seen: Seen, _settings: Settings) -> dict[str, npt.NDArray[Any]]:
    return {"logits": logits.astype("<f2")}


def decode_full(arrays: Columns, _seen: Seen, _settings: Settings, _n_classes: int) -> Decoded:
    return np.asarray(arrays["logits"], dtype=np.float32)


def encode_int8(logits: Logits, _seen: Seen, _settings: Settings) -> dict[str, npt.NDArray[Any]]:
    """Steps of 1/254 of the row's range around its middle."""
    exact = logits.astype(np.float64)
    low, high = exact.min(1, keepdims=True), exact.max(1, keepdims=True)
    scale = ((high - low) / 254).astype("<f2")
    short = scale.astype(np.float64) * 127.5 < (high - low) / 2
    scale = np.where(short, np.nextafter(scale, np.float16(np.inf)), scale)
    steps = np.rint((exact - (low + high) / 2) / np.maximum(scale.astype(np.float64), 2.0**-24))
    return {"levels": steps.clip(-127, 127).astype("|i1"), "scale": scale[:, 0].astype("<f2")}


def decode_int8(arrays: Columns, _seen: Seen, _settings: Settings, _n_classes: int) -> Decoded:
    return np.asarray(arrays["levels"], dtype=np.float32) * np.asarray(arrays["scale"], dtype=np.float32)[:, None]


def fault_int8(arrays: Columns, _settings: Settings, _n_classes: int) -> str:
    if arrays["scale"].min() < 0:
        return "a scale below 0"
    return "a level of -128" if arrays["levels"].min() < -127 else ""


def topk_columns(n_items: int, n_classes: int, settings: Settings) -> dict[str, Column]:
    k = settings["k"]
    return {
        "indices": Column("|u1" if n_classes <= 2**8 else "<u2" if n_classes <= 2**16 else "<u4", (n_items, k)),
        "values": Column("<f2", (n_items, k)),
        "tail": Column("<f2", (n_items,)),
    }


def encode_topk(logits: Logits, _seen: Seen, settings: Settings) -> dict[str, npt.NDArray[Any]]:
    """The k greatest (of equal ones the first), by class, less the greatest; the log of the sum of the rest's exp."""
    n_items, n_classes = logits.shape
    k = settings["k"]
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    order = np.argsort(-exact, axis=1, kind="stable")
    chosen = np.sort(order[:, :k], axis=1)
    rest = np.take_along_axis(exact, order[:, k:], 1)
    columns = topk_columns(n_items, n_classes, settings)
    return {
        "indices": chosen.astype(columns["indices"].dtype),
        "values": np.take_along_axis(exact, chosen, 1).astype("<f2"),
        "tail": np.log(np.exp(rest).sum(1).clip(1e-300)).clip(-65504).astype("<f2"),
    }


def decode_topk(arrays: Columns, _seen: Seen, settings: Settings, n_classes: int) -> Decoded:
    """The rest share the tail alike."""
    indices = np.asarray(arrays["indices"], dtype=np.int64)
    even = np.asarray(arrays["tail"], dtype=np.float32) - np.float32(np.log(n_classes - settings["k"]))
    decoded = np.repeat(even[:, None], n_classes, axis=1)
    np.put_along_axis(decoded, indices, np.asarray(arrays["values"], dtype=np.float32), 1)
    return decoded


def check_topk(settings: Settings, n_classes: int) -> str:
    k = settings.get("k")
    if set(settings) != {"k"} or not isinstance(k, int) or isinstance(k, bool):
        return 'no setting "k", or others'
    return "" if 1 <= k < n_classes else f"k {k}; expected 1 to {n_classes - 1}, below the number of classes"


def fault_topk(arrays: Columns, _settings: Settings, n_classes: int) -> str:
    indices = np.asarray(arrays["indices"], dtype=np.int64)
    if indices.max() >= n_classes:
        return f"class {indices.max()} of {n_classes}"
    return "" if (np.diff(indices, axis=1) > 0).all() else "classes of a label that do not increase"


def encode_distances(logits: Logits, seen: Seen, _settings: Settings) -> dict[str, npt.NDArray[Any]]:
    """Minus the log-probabilities of the own class and of the partner's (DBR of arXiv 2503.18267)."""
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(1, keepdims=True))
    pairs = np.stack([seen.classes, seen.classes[seen.partner]], 1)
    distances = -np.take_along_axis(exact, pairs, 1)
    return {"distances": distances.clip(0, 65504).astype("<f2")}


def decode_distances(arrays: Columns, seen: Seen, _settings: Settings, n_classes: int) -> Decoded:
    """The two classes as stored; the others share what they leave alike."""
    distances = np.asarray(arrays["distances"], dtype=np.float64)
    own, partner = seen.classes, seen.classes[seen.partner]
    same = own == partner
    rows = np.arange(len(own))
    left = 1 - np.exp(-distances[:, 0]) - np.where(same, 0, np.exp(-distances[:, 1]))
    others = np.maximum(n_classes - np.where(same, 1, 2), 1)
    decoded = np.repeat(np.log(np.maximum(left, LEAST_PROBABILITY) / others)[:, None], n_classes, axis=1)
    decoded[rows, partner] = -distances[:, 1]
    decoded[rows, own] = -distances[:, 0]
    return decoded.astype(np.float32)


def fault_distances(arrays: Columns, _settings: Settings, _n_classes: int) -> str:
    return "a distance below 0" if arrays["distances"].min() < 0 else ""


def decode_static(arrays: Columns, seen: Seen, _settings: Settings, _n_classes: int) -> Decoded:
    """The log of the probabilities of both items, weighted as the view mixes them."""
    logits = np.asarray(arrays["logits"], dtype=np.float64)
    logits = logits - logits.max(1, keepdims=True)
    odds = np.exp(logits)
    probabilities = odds / odds.sum(1, keepdims=True)
    lam = seen.lam[:, None]
    mixed = lam * probabilities + (1 - lam) * probabilities[seen.partner]
    decoded: Decoded = np.log(mixed.clip(1e-30)).astype(np.float32)
    return decoded


def full_columns(n_items: int, n_classes: int, _settings: Settings) -> dict[str, Column]:
    return {"logits": Column("<f2", (n_items, n_classes))}


def encode_none(_logits: Logits, _seen: Seen, _settings: Settings) -> dict[str, npt.NDArray[Any]]:
    return {"online": np.array(1, dtype="|u1")}


def decode_none(_arrays: Columns, _seen: Seen, _settings: Settings, _n_classes: int) -> Decoded:
    raise ValueError("labels of the codec none are made by the teacher as they are needed")


CODECS: Mapping[str, Codec] = {
    "full": Codec("every logit in half precision", full_columns, encode_full, decode_full),
    "int8": Codec(
        "every logit in one byte, with a scale for each label",
        lambda n_items, n_classes, _: {
            "levels": Column("|i1", (n_items, n_classes)),
            "scale": Column("<f2", (n_items,)),
        },
        encode_int8,
        decode_int8,
        fault=fault_int8,
    ),
    "topk": Codec(
        "the k greatest logits and what the others weigh together",
        topk_columns,
        encode_topk,
        decode_topk,
        check=check_topk,
        fault=fault_topk,
        parameter="k",
    ),
    "distances": Codec(
        "the cross-entropy to the two classes of the view",
        lambda n_items, _n_classes, _: {"distances": Column("<f2", (n_items, 2))},
        encode_distances,
        decode_distances,
        fault=fault_distances,
    ),
    "static": Codec(
        "the logits of the whole image, once, mixed as the views are",
        full_columns,
        encode_full,
        decode_static,
        per_epoch=False,
    ),
    "none": Codec(
        "nothing: the teacher is asked while the student is trained",
        lambda *_: {"online": Column("|u1")},
        encode_none,
        decode_none,
        fault=lambda arrays, *_: "" if int(arrays["online"]) == 1 else "no 1 for labels made online",
        per_epoch=False,
        online=True,
    ),
}
