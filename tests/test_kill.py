"""Killed at some of the worst moments, a distillation goes on and ends with the same bytes; `benchmarks/kill.py` is the
long form, with moments drawn at random."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from kill import RECIPE, Workplace, campaign, differences, distil, make_pictures, wait_for
from killing.kill_points import Order

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")


def order(place: str, point: str, victim: Any, **settings: Any) -> Order:
    phase, _, part = place.partition(": ")
    return Order(phase=phase, part=part, point=point, victim=victim, **settings)


SHORT = {**RECIPE, "teacher.epochs": 20, "steps": 150, "labels.epochs": 300}
RUNS = [
    [order("import: cache", "after rename", "driver")],
    [order("artefact write: teacher", "after rename", "group")],
    [
        order("recover step: rows", "step", "worker", countdown=10),
        order("checkpoint write: rows", "before rename", "group"),
    ],
    [
        order("artefact write: rows", "before rename", "worker"),
        order("relabel: labels", "step", "driver", countdown=50),
    ],
    [
        order("artefact write: labels", "after rename", "worker"),
        order("set assembly: out", "after rename", "driver"),
    ],
]
"""Seconds are saved by killing twice in a run: the driver goes on by itself after the death of a worker. A rename that
is not yet made durable by the fsync after it: of the decoded images, of an artefact, and of the set."""


def test_killed_again_and_again_and_then_left_alone(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures")
    place, reference = (Workplace(tmp_path / name, SHORT, checkpoint_every=0.05) for name in ("killed", "reference"))
    with distil(reference, pictures, workers=1) as undisturbed:
        found = campaign(place, pictures, RUNS)
        assert wait_for(undisturbed) == 0
    assert found.faults == []
    assert len(found.counted) == len(found.kills) == sum(map(len, RUNS))
    assert [kill["status"] for kill in found.kills] == [-signal.SIGKILL] * len(found.kills)
    assert differences(place, reference) == []
