"""Makes ``condense/views/tables.npz``: the quantile tables that turn uniforms into aspect ratios and Beta numbers.

Run once per view version; stored labels depend on every bit of the file, and ``betaincinv`` may differ in its last
bits between versions of SciPy, so the file is kept in the repository and never made again under the same version.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

POINTS = 4097
ALPHAS = (0.2, 0.4, 0.5, 0.8)
TARGET = Path(__file__).parents[1] / "condense" / "views" / "tables.npz"


def aspect() -> npt.NDArray[np.float64]:
    """Quantiles of exp(uniform(log 3/4, log 4/3))."""
    return np.asarray(0.75 * (16 / 9) ** np.linspace(0.0, 1.0, POINTS))


def beta(alpha: float) -> npt.NDArray[np.float64]:
    """Quantiles of Beta(alpha, alpha), made exactly symmetric: Q(1 - u) = 1 - Q(u)."""
    lower = betaincinv(alpha, alpha, np.linspace(0.0, 1.0, POINTS)[: POINTS // 2])
    return np.concatenate([lower, [0.5], 1.0 - lower[::-1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TARGET)
    tables = {"aspect": aspect(), **{f"beta_{alpha}": beta(alpha) for alpha in ALPHAS}}
    arrays: dict[str, Any] = {name: table.astype("<f8") for name, table in tables.items()}
    np.savez_compressed(parser.parse_args().out, **arrays)


if __name__ == "__main__":
    main()
