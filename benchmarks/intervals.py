"""Whether intervals and planned power hold: simulated studies of known truth, by the package's own statistics.

    python benchmarks/intervals.py [--studies 20000] [--results benchmarks/results/statistics.json]

A study compares a condition with its baseline in pairs: S sets, 3 students on each. The sets' true differences have a
standard deviation of 0.8 points around the effect, a student's another 0.4 around that of its set; what a set and a
seed do to both sides alike (1 point) cancels. *Coverage* is the share of studies whose 95 % interval holds the effect;
*naive* is that of intervals that take students for independent. *Power* is the share that call the condition better,
beside what `power_of` predicts.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from condense import seeding
from condense.evaluation.statistics import Difference, paired_difference, power_of, sets_needed, t_interval

RESULTS = Path(__file__).parent / "results" / "statistics.json"
SD_SETS, SD_STUDENTS, STUDENTS = 0.8, 0.4, 3
SD = math.sqrt(SD_SETS**2 + SD_STUDENTS**2 / STUDENTS)
"""Of a set's mean difference."""
EFFECT = 1.0
SETS = (3, 5, 10)


def study(rng: np.random.Generator, n_sets: int) -> tuple[Difference, list[float]]:
    """The paired difference, and the differences of all pairs."""
    shared = 80 + rng.normal(0, 1, (n_sets, STUDENTS))
    gains = EFFECT + rng.normal(0, SD_SETS, (n_sets, 1)) + rng.normal(0, SD_STUDENTS, (n_sets, STUDENTS))
    keys = list(np.ndindex(n_sets, STUDENTS))
    difference = paired_difference(
        {key: (shared[key] + gains[key]) / 100 for key in keys}, {key: shared[key] / 100 for key in keys}
    )
    assert difference is not None
    return difference, (gains / 100).ravel().tolist()


def holds(interval: tuple[float, float] | None) -> bool:
    assert interval is not None
    return interval[0] <= EFFECT / 100 <= interval[1]


def measure(n_sets: int, studies: int, seed: int) -> dict[str, Any]:
    rng = seeding.generator(seed, "intervals", n_sets)
    found = [study(rng, n_sets) for _ in range(studies)]
    coverage = float(np.mean([holds(difference.interval) for difference, _ in found]))
    power = float(np.mean([difference.verdict == "better" for difference, _ in found]))
    return {
        "sets": n_sets,
        "coverage": coverage,
        "coverage_naive": float(np.mean([holds(t_interval(pairs)) for _, pairs in found])),
        "power": power,
        "power_predicted": power_of(EFFECT, SD, n_sets),
        "standard_errors": [math.sqrt(share * (1 - share) / studies) for share in (coverage, power)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = [measure(n_sets, args.studies, args.seed) for n_sets in SETS]
    print("sets  coverage  naive  power  predicted")
    for row in rows:
        shares = [100 * row[name] for name in ("coverage", "coverage_naive", "power", "power_predicted")]
        print(f"{row['sets']:4d}  {shares[0]:7.1f}%  {shares[1]:4.1f}%  {shares[2]:4.1f}%  {shares[3]:8.1f}%")
    needed = {str(points): sets_needed(points, SD) for points in (0.3, 0.5, 1.0, 2.0)}
    print(f"sets needed (80 % power) for a difference in points: {needed}")
    values = {
        "studies": args.studies,
        "seed": args.seed,
        "students_per_set": STUDENTS,
        "points": {"effect": EFFECT, "sd_sets": SD_SETS, "sd_students": SD_STUDENTS},
        "rows": rows,
        "sets_needed": needed,
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
    }
    args.results.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
