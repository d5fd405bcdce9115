"""Tracks: frozen recipes, so that two numbers on one track differ in the images and in nothing else.

On a track every set gets labels by the track's rule from the same teachers, whatever labels it came with, and every
student takes the same number of the same steps. The learning rate belongs to the data set, the network and the track:
it was searched on training images that were held out, and is stored with what the search found (`rates.yaml`), or is
searched once where that file has none. A track that changes gets a new version.

``hard``: classes, no teacher (``hard:none``, ``hard:dsa``, ``hard:randaugment``: under other augmentations than crops
and flips). ``budget:B``: stored soft labels, which with all metadata take at most B times the bytes
of the raw images. ``teacher``: the teachers are asked about every view, so labels cost no bytes and the teachers do.
``native:NAME``: a published protocol, whose numbers are compared with that paper's only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from condense.config import identity, to_mapping
from condense.data import DatasetSpec, mirrors
from condense.dataset import Targets
from condense.errors import ConfigError, suggest
from condense.evaluation.student import StudentRecipe
from condense.labels import LabelConfig
from condense.shards.codecs import CODECS
from condense.shards.setfile import SetInfo
from condense.training import OptimConfig
from condense.views.augment import Augment
from condense.views.config import ViewConfig
from condense.views.plan import step_offsets

__all__ = ["NATIVE", "TRACKS", "USUAL_NETWORK", "Track", "all_tracks", "find_track"]

USUAL_NETWORK = "convnet3-bn"

LABEL_FILE = 4096
"""Bytes of a label file besides its labels, at most: HDF5's headers, the plan's settings, the teachers' names."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One recipe for one data set.

    ``views`` and ``teacher_bn`` are those of the labels, ``student`` all of the recipe but network and learning rate,
    ``steps`` the optimiser steps, or ``epochs`` the passes over a set of any size. ``rates`` are searched where the
    learning rate is not known; without any, that of ``student`` is part of the protocol. ``known``: network -> rate.
    ``network`` is the one to train if nobody says. ``learned``: a set that learnt a step size with its images is
    trained with that.
    """

    name: str
    version: int = 1
    summary: str
    views: ViewConfig
    student: StudentRecipe
    network: str = USUAL_NETWORK
    steps: int | None = None
    epochs: int | None = None
    rates: tuple[float, ...] = ()
    known: Mapping[str, float]
    online: bool = False
    budget: float | None = None
    learned: bool = False

    @property
    def title(self) -> str:
        """Name and version: what results are filed under."""
        return f"{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; settings of schedules that came later only where they are set."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        student = {key: value for key, value in to_mapping(self.student).items() if key not in ("network", "epochs")}
        student["schedule"] = identity(self.student.schedule)
        if not self.student.cutmix:
            del student["cutmix"]
        if not self.learned:
            del plain["learned"]
        return {**plain, "views": self.views.to_dict(), "student": student, "rates": list(self.rates)}

    @property
    def targets(self) -> Targets:
        return self.student.targets

    def shortened(self) -> Track:
        """A run of seconds that says nothing: few steps, no search, and a name of its own."""
        steps, epochs = (QUICK_STEPS, None) if self.epochs is None else (None, 2)
        return replace(self, name=f"{self.name} (quick)", rates=(), steps=steps, epochs=epochs)

    def epochs_for(self, n_items: int) -> int:
        """Passes over a set of ``n_items``."""
        if self.epochs is not None:
            return self.epochs
        assert self.steps is not None
        return max(1, round(self.steps / (len(step_offsets(n_items, self.views.batch_size)) - 1)))

    def labels(self, *, n_items: int, n_classes: int, raw_bytes: int, metadata: int) -> LabelConfig:
        """How a set is labelled.

        ``raw_bytes``: of its images as uint8, which the budget is a multiple of; ``metadata``: of its ``set.json``.
        Raises :class:`ConfigError` for a budget that not even one label an image fits into.
        """
        config = LabelConfig(views=self.views, epochs=self.epochs_for(n_items), codec="none", teacher_bn="batch")
        if self.budget is None:
            return config
        room = int(self.budget * raw_bytes) - metadata - LABEL_FILE
        return fitted(config, room, n_items, n_classes, f"{self.name} of {raw_bytes} bytes of images")

    def rate_of(self, info: SetInfo, rate: float) -> float:
        """The learning rate for a set: ``rate``, or the step size that it learnt, where the protocol asks for that."""
        found = info.config.get("learned")
        return float(found["lr"]) if self.learned and isinstance(found, Mapping) and "lr" in found else rate

    def recipe(self, network: str, rate: float | None, n_items: int) -> StudentRecipe:
        """Of a student; ``rate`` None for the protocol's own."""
        optim = self.student.optim if rate is None else replace(self.student.optim, lr=rate)
        return replace(self.student, network=network, optim=optim, epochs=self.epochs_for(n_items))


def fitted(config: LabelConfig, room: int, n_items: int, n_classes: int, what: str) -> LabelConfig:
    """The most exact labels for ``config``'s epochs that take at most ``room`` bytes.

    Float16 logits of every epoch, else 8 bits of every epoch, else 8 bits of as many epochs as fit, from which the
    student draws its steps.
    """

    def record(codec: str) -> int:
        return n_items * CODECS[codec].bytes_per_item(n_classes, {}) + 4

    if config.epochs * record("full") <= room:
        return replace(config, codec="full")
    if (fitting := room // record("int8")) >= 1:
        return replace(config, codec="int8", pool=-(-config.epochs // min(fitting, config.epochs)))
    least = record("int8") - room
    raise ConfigError(f"{what} leaves no room for one label an image: {least} bytes are missing; take a larger budget")


def sgd(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"optimizer": "sgd", "lr": 0.03, "weight_decay": 5e-4, "warmup_steps": 40, **changes})


QUICK_STEPS = 20
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
STEPS = 1200


def hard(spec: DatasetSpec) -> Track:
    side = min(spec.height, spec.width)
    return Track(
        name="hard",
        summary="classes as labels, padded crops and flips: what the images teach by themselves",
        views=ViewConfig(crop="pad", pad=side // 8, flip=0.5 if mirrors(spec) else 0.0, batch_size=50),
        student=StudentRecipe(targets="hard", optim=sgd()),
        steps=STEPS,
        rates=RATES,
        known={},
    )


def hard_with(spec: DatasetSpec, augmentation: str) -> Track:
    """The hard track under another augmentation: what a ranking owes to the one it was made with."""
    plain = hard(spec)
    still = replace(plain.views, crop="none", flip=0.0)
    kinds: dict[str, Augment] = {
        "none": "none",
        "dsa": "dsa" if mirrors(spec) else "dsa-unmirrored",
        "randaugment": "randaugment",
    }
    return replace(
        plain,
        name=f"hard:{augmentation}",
        summary=f"the same with {AUGMENTATIONS[augmentation]}",
        views=plain.views if augmentation == "randaugment" else still,
        student=replace(plain.student, augment=kinds[augmentation]),
    )


def soft(spec: DatasetSpec) -> Track:
    """What ``teacher`` and ``budget`` have in common."""
    return Track(
        name="teacher",
        summary="the teachers label every view as it comes: labels without end, and their weights are charged",
        views=ViewConfig(scale=(0.5, 1.0), flip=0.5 if mirrors(spec) else 0.0, mix="cutmix", batch_size=50),
        student=StudentRecipe(temperature=4.0, squared_temperature=True, optim=sgd()),
        steps=STEPS,
        rates=RATES,
        known={},
        online=True,
    )


def budget(spec: DatasetSpec, times: float) -> Track:
    return replace(
        soft(spec),
        name=f"budget:{times:g}",
        summary=f"stored soft labels, with all metadata at most {times:g} times the bytes of the raw images",
        online=False,
        budget=times,
    )


def dc(_spec: DatasetSpec) -> Track:
    """DC (arXiv 2006.05929): 300 epochs without augmentation (the loop runs once more).

    Departs in keeping the momentum where the rate falls, and in steps of equal size, where the last is smaller there.
    """
    return Track(
        name="native:dc",
        summary="DC, DM: SGD 0.01, 300 epochs, hard labels, no augmentation; network convnet3-in",
        network="convnet3-in",
        views=ViewConfig(crop="none", flip=0.0, batch_size=256),
        student=StudentRecipe(
            targets="hard",
            optim=OptimConfig(
                lr=0.01, momentum=0.9, nesterov=False, weight_decay=5e-4, schedule="step", milestones=(152 / 301,)
            ),
        ),
        epochs=301,
        known={},
    )


def dsa(spec: DatasetSpec) -> Track:
    """DSA (arXiv 2102.08259): DC's with 1000 epochs, each batch augmented by one family of operations."""
    plain = dc(spec)
    optim = replace(plain.student.optim, milestones=(502 / 1001,))
    return replace(
        plain,
        name="native:dsa",
        summary="DSA: SGD 0.01, 1000 epochs, hard labels, siamese augmentation; network convnet3-in",
        student=replace(plain.student, optim=optim, augment="dsa" if mirrors(spec) else "dsa-unmirrored"),
        epochs=1001,
    )


def idc(spec: DatasetSpec) -> Track:
    """IDC (arXiv 2205.14959) on images of up to 64 px: flips, color, one of crop, scale and rotate, and CutMix.

    The authors measure four times and print the best next to the last; here it is the last. Departs in leaving CutMix
    in on MNIST in mosaics, and in steps of equal size.
    """
    return Track(
        name="native:idc",
        summary="IDC: SGD 0.01, 1000 epochs, hard labels, its augmentation with CutMix; network convnet3-in",
        network="convnet3-in",
        views=ViewConfig(crop="none", flip=0.0, batch_size=64),
        student=StudentRecipe(
            targets="hard",
            optim=OptimConfig(
                lr=0.01,
                momentum=0.9,
                nesterov=False,
                weight_decay=5e-4,
                schedule="step",
                milestones=(666 / 1000, 833 / 1000),
                factor=0.2,
            ),
            augment="idc" if mirrors(spec) else "idc-unmirrored",
            cutmix=0.5,
        ),
        epochs=1000,
        known={},
    )


def ncfm(spec: DatasetSpec) -> Track:
    """NCFM (arXiv 2502.20653) on small images: the augmentation of IDC, AdamW, and a rate that is halved four times.

    The authors test every 100 epochs and print the best; here it is the last.
    """
    plain = idc(spec)
    optim = OptimConfig(
        optimizer="adamw", lr=0.001, weight_decay=0.01, schedule="step", milestones=(0.2, 0.4, 0.6, 0.8), factor=0.5
    )
    return replace(
        plain,
        name="native:ncfm",
        summary="NCFM: AdamW 0.001, 2000 epochs, hard labels, IDC's augmentation with CutMix; network convnet3-in",
        views=replace(plain.views, batch_size=128),
        student=replace(plain.student, optim=optim),
        epochs=2000,
    )


def mtt(spec: DatasetSpec) -> Track:
    """MTT (arXiv 2203.11932): DSA's, at the step size that was learnt with the images (0.01 where there is none).

    The authors test every 100 iterations of distillation and print the best; here it is the set as it is given.
    """
    return replace(
        dsa(spec),
        name="native:mtt",
        summary="MTT: DSA's with SGD at the step size that the set learnt, 0.01 where it has none; network convnet3-in",
        learned=True,
    )


def sre2l(spec: DatasetSpec) -> Track:
    """SRe2L (arXiv 2306.13092) on images of up to 64 px: the teacher, in training mode, labels mixed views online."""
    return Track(
        name="native:sre2l",
        summary="SRe2L, CDA up to 64 px: AdamW 0.001, 400 epochs, Mixup, the teacher online; network resnet18",
        network="resnet18",
        views=ViewConfig(crop="pad", pad=min(spec.height, spec.width) // 8, mix="mixup", mix_alpha=0.8, batch_size=128),
        student=StudentRecipe(
            temperature=30.0, optim=OptimConfig(optimizer="adamw", lr=0.001, weight_decay=0.01, decay_norms=False)
        ),
        epochs=400,
        known={},
        online=True,
    )


TRACKS = {"hard": hard, "teacher": soft}
AUGMENTATIONS = {
    "none": "no augmentation",
    "dsa": "the augmentation of DSA instead",
    "randaugment": "RandAugment behind crops and flips",
}
NATIVE = {"dc": dc, "dsa": dsa, "idc": idc, "ncfm": ncfm, "mtt": mtt, "sre2l": sre2l}
KINDS = ["hard", *(f"hard:{one}" for one in AUGMENTATIONS), "budget:1", "teacher", *(f"native:{one}" for one in NATIVE)]
"""The names of tracks; a budget may have another number."""


def all_tracks(spec: DatasetSpec) -> list[Track]:
    """One of every kind."""
    return [find_track(name, spec) for name in KINDS]


def find_track(text: str, spec: DatasetSpec) -> Track:
    """The track of that name for a data set. Raises :class:`ConfigError` for one that there is not."""
    name, colon, rest = text.partition(":")
    if name == "budget":
        return with_rates(budget(spec, positive(text, rest)), spec)
    if name == "native" and rest in NATIVE:
        return NATIVE[rest](spec)
    if name == "hard" and rest in AUGMENTATIONS:
        return with_rates(hard_with(spec, rest), spec)
    if colon or name not in TRACKS:
        raise ConfigError(f'there is no track "{text}"; {suggest(text, KINDS)}')
    return with_rates(TRACKS[name](spec), spec)


def positive(text: str, number: str) -> float:
    try:
        times = float(number)
    except ValueError:
        times = 0.0
    if not 0 < times < 1e6:
        raise ConfigError(f'track "{text}" has no budget; expected a number above 0 behind the colon, such as budget:1')
    return times


def with_rates(track: Track, spec: DatasetSpec) -> Track:
    """The track with the learning rates that are known for this very data set."""
    held = stored_rates().get(spec.fingerprint, {})
    found = held.get("tracks", {}).get(track.title, {})
    return replace(track, known={network: one["rate"] for network, one in found.items()})


@cache
def stored_rates() -> Mapping[str, Any]:
    """`rates.yaml`: data set's fingerprint -> its name, and track -> network -> the rate and what every rate gave."""
    return yaml.safe_load((files("condense.evaluation") / "rates.yaml").read_text(encoding="utf-8")) or {}
