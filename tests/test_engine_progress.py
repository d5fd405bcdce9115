"""What a run says of how far it is: totals that are right from the start, and names that tell runs apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from engine_shop import Shop, job, tree

from condense.engine.job import Job
from condense.engine.presence import Neighbours
from condense.engine.run import Limits, run
from condense.engine.store import Store
from condense.errors import UnfinishedError


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(Store(tmp_path / "store"))


class Progressed:
    """The figures of every report of the jobs, by what they are called."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, int]]] = {}
        self.figures: list[dict[str, float]] = []

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float] = {}, /) -> None:
        self.seen.setdefault(stage, []).append((done, total))
        self.figures.append(dict(figures))


def test_the_total_is_right_from_the_start_whoever_does_the_jobs(shop: Shop) -> None:
    report = Progressed()
    run(tree, shop, report=report, what="leaves and all")
    assert report.seen == {"leaves and all": [(done, 10) for done in range(11)]}

    other = Progressed()
    jobs = [job(100 + number) for number in range(3)]

    def done_elsewhere(one: Job, outcome: object) -> None:
        if one == jobs[0]:  # another run makes the second while this one does the first
            run(lambda: [jobs[1]], Shop(shop.store))

    run(lambda: jobs, shop, report=other, finished=done_elsewhere)
    assert {total for _, total in other.seen["jobs"]} == {3}
    assert other.seen["jobs"][-1] == (3, 3)


def test_a_total_that_has_to_change_says_why(shop: Shop) -> None:
    def halves() -> list[Job]:
        whole = job(1, groups=2, title="whole", raises="MemoryError")
        parts = [job(2, title="one half"), job(3, title="other half")]
        return [job(0, job(7), *(parts if shop.store.is_halved(whole.id) else [whole]), title="top")]

    report = Progressed()
    run(halves, shop, report=report)
    assert report.seen["jobs"] == [(0, 3), (1, 3), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.figures[1:3] == [{}, {"cut in two": 1}]


def test_a_slice_has_a_total_of_its_own(shop: Shop) -> None:
    report = Progressed()
    with pytest.raises(UnfinishedError):
        run(tree, shop, report=report, limits=Limits(share=(0, 3)))
    assert {stage: reports[-1] for stage, reports in report.seen.items()} == {"jobs of slice 0/3": (3, 3)}


def test_runs_of_one_second_are_in_order(shop: Shop) -> None:
    for number in range(8):
        run(partial(list, [job(number)]), shop)
    neighbours = Neighbours(shop.store.root)
    assert [neighbours.about(name)["jobs"][0][2] for name in neighbours.runs()] == [f"add {n}" for n in range(8)]
