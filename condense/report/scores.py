"""Scores that take several rows of a table: what is lost under plain labels, gained over random images, kept by other
networks, and whether a ranking outlives another augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from condense.evaluation.metrics import (
    Transfer,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    transfer,
)
from condense.report.table import Row

__all__ = ["Ranking", "Scores", "rankings", "score_table", "scores", "transfers"]

NONE = "-"
WHOLE = "whole data"
RANDOM = "random"
AUGMENTED = ("hard:randaugment", "hard:dsa", "hard")
PLAIN = "hard:none"

Setting = tuple[str, int, str]
"""Data, IPC, student."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of DD-Ranking (arXiv 2505.13300) of one condition, as fractions; None where a row is missing.

    ``hlr`` comes from track ``hard`` and needs whole data; ``ior`` from ``track``, whose labels are soft, and needs
    random images; ``ars`` from ``hard:none`` and the first there is of ``hard:randaugment``, ``hard:dsa``, ``hard``.
    """

    data: str
    ipc: int
    student: str
    condition: str
    track: str
    hlr: float | None
    ior: float | None
    lrs: float | None
    ars: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How alike two tracks rank the conditions they share, by their means: Spearman's correlation, from -1 to 1."""

    data: str
    ipc: int
    student: str
    tracks: tuple[str, str]
    conditions: int
    correlation: float


def scores(rows: Sequence[Row]) -> list[Scores]:
    """Of every condition but random images and whole data, for each track with soft labels that it is on."""
    means = by_setting(rows)
    found = []
    for (data, ipc, student), tracks in means.items():
        hard, plain = tracks.get("hard", {}), tracks.get(PLAIN, {})
        augmented = next((tracks[name] for name in AUGMENTED if name in tracks), {})
        for track, accuracies in tracks.items():
            for condition, accuracy in accuracies.items():
                if track.startswith("hard") or condition in (WHOLE, RANDOM):
                    continue
                hlr = hard_label_recovery(hard[WHOLE], hard[condition]) if {WHOLE, condition} <= hard.keys() else None
                ior = improvement_over_random(accuracy, accuracies[RANDOM]) if RANDOM in accuracies else None
                gains = [
                    one[condition] - one[RANDOM] for one in (augmented, plain) if {condition, RANDOM} <= one.keys()
                ]
                found.append(
                    Scores(
                        data=data,
                        ipc=ipc,
                        student=student,
                        condition=condition,
                        track=track,
                        hlr=hlr,
                        ior=ior,
                        lrs=label_robust_score(hlr, ior) if hlr is not None and ior is not None else None,
                        ars=augmentation_robust_score(*gains) if len(gains) == 2 else None,
                    )
                )
    return found


def by_setting(rows: Sequence[Row]) -> dict[Setting, dict[str, dict[str, float]]]:
    """Setting -> track without its version -> condition -> mean accuracy."""
    means: dict[Setting, dict[str, dict[str, float]]] = {}
    for row in rows:
        track = row.track.partition("@")[0] or row.place
        tracks = means.setdefault((row.data, row.ipc, row.student), {})
        tracks.setdefault(track, {})[row.condition] = row.summary.mean
    return means


def transfers(rows: Sequence[Row], makers: Sequence[str]) -> Mapping[tuple[str, int, str, str], Transfer]:
    """(data, IPC, track, condition) -> what a condition gains over random images with the networks that made it, and
    with others. Only where a network of both kinds was measured, random images beside it."""
    gains: dict[tuple[str, int, str, str], dict[str, float]] = {}
    for (data, ipc, student), tracks in by_setting(rows).items():
        for track, accuracies in tracks.items():
            for condition, accuracy in accuracies.items():
                if condition not in (WHOLE, RANDOM) and RANDOM in accuracies:
                    gains.setdefault((data, ipc, track, condition), {})[student] = accuracy - accuracies[RANDOM]
    return {
        key: transfer(values, [name for name in makers if name in values])
        for key, values in gains.items()
        if values.keys() & set(makers) and values.keys() - set(makers)
    }


def rankings(rows: Sequence[Row]) -> list[Ranking]:
    """Of every two tracks that share at least three conditions."""
    from scipy import stats

    found = []
    for (data, ipc, student), tracks in by_setting(rows).items():
        names = list(tracks)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                shared = sorted((tracks[first].keys() & tracks[second].keys()) - {WHOLE})
                if len(shared) < 3:
                    continue
                sides = [[tracks[name][condition] for condition in shared] for name in (first, second)]
                correlation = float(stats.spearmanr(*sides).statistic)
                found.append(
                    Ranking(
                        data=data,
                        ipc=ipc,
                        student=student,
                        tracks=(first, second),
                        conditions=len(shared),
                        correlation=correlation,
                    )
                )
    return found


def score_table(results: Sequence[Scores]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a terminal."""
    headings = ["condition", "data", "IPC", "student", "track", "HLR", "IOR", "LRS", "ARS"]
    return headings, [
        [
            one.condition,
            one.data,
            str(one.ipc),
            one.student,
            one.track,
            *(NONE if value is None else f"{value:.3f}" for value in (one.hlr, one.ior, one.lrs, one.ars)),
        ]
        for one in results
    ]
