"""No damage is ever read as something else: files of every canvas and codec, cut short or with a bit flipped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from damage import content, cut, flipped, outcome, read_file

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    **{f"canvas {name}": f"canvas-{name}-v1/images-00000.h5" for name in ("pixels", "tiles", "compensated", "patches")},
    **{
        f"codec {name}": f"codec-{name}-v1/labels-00000.h5"
        for name in ("full", "int8", "topk", "distances", "static", "none")
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused_wherever_it_is_cut(name: str, tmp_path: Path) -> None:
    data = (GOLDEN / FILES[name]).read_bytes()
    right = content(read_file(GOLDEN / FILES[name]))
    for number, part in enumerate(cut(data, 1000)):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(part)
        assert outcome(path, right) in ("NotASet", "Incomplete")
        path.unlink()


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, tmp_path: Path) -> None:
    """The same 300 of the positions that `benchmarks/fuzz.py` tries 5,000 of."""
    data = (GOLDEN / FILES[name]).read_bytes()
    right = content(read_file(GOLDEN / FILES[name]))
    seen: Counter[str] = Counter()
    for number, changed in enumerate(flipped(data, 300)):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(changed)
        seen[outcome(path, right)] += 1
        path.unlink()
    assert sum(seen.values()) == 300
    assert seen["the same"] < 290
