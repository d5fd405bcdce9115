"""Draw ``fashion-mini`` from Fashion-MNIST: 500 training and 100 test images per class, the same bytes every time.

    python scripts/make_fashion_mini.py FOLDER [--out condense/data/fashion_mini]

FOLDER holds the four original idx files (``train-images-idx3-ubyte.gz`` and so on). Training images come from the
original training part only, test images from the test part only. Within a class the drawn images keep their order.
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path

import numpy as np
import numpy.typing as npt

from condense import seeding
from condense.data.embedded import FOLDER
from condense.data.idx import find_idx, read_idx
from condense.errors import DataError
from condense.files import write_atomic

SEED = 0
PER_CLASS = {"train": 500, "test": 100}
# Literal context and no position bits: images are bytes without alignment. A tenth smaller than the preset alone.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]

NOTICE = """\
The images in this folder are a part of Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist),
drawn by scripts/make_fashion_mini.py.

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def draw(labels: npt.NDArray[np.uint8], per_class: int, split: str) -> npt.NDArray[np.int64]:
    """Positions (class, image): ``per_class`` of each class, sorted within the class."""
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rng = seeding.generator(SEED, f"fashion-mini {split}", int(label))
        rows.append(np.sort(rng.permutation(members)[:per_class]))
    return np.stack(rows)


def packed(images: npt.NDArray[np.uint8]) -> bytes:
    """The array as an xz-compressed ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return lzma.compress(buffer.getvalue(), filters=FILTERS)


def make(source: Path, out: Path) -> None:
    """Read the four idx files of ``source`` and write the two arrays and the notice to ``out``."""
    paths = find_idx(source)
    if paths is None:
        raise DataError(f"{source} does not hold the four idx files of Fashion-MNIST")
    for split, (images, labels) in {"train": paths[:2], "test": paths[2:]}.items():
        chosen = draw(read_idx(labels, 1), PER_CLASS[split], split)
        write_atomic(out / f"{split}.npy.xz", packed(read_idx(images, 3)[chosen]))
    write_atomic(out / "LICENSE", NOTICE.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    make(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
