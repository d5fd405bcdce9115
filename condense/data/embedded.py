"""``fashion-mini``: 500 training and 100 test images per class of Fashion-MNIST, inside the package.

``fashion_mini/`` is written by ``scripts/make_fashion_mini.py``: per split an xz-compressed ``.npy`` array, uint8
(class, image, height, width), beside the MIT notice of the source.
"""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from condense.data.images import Geometry
from condense.data.source import ArrayImages, Contents, Normalisation, Survey, digest
from condense.errors import DataError
from condense.files import sha256_file
from condense.progress import Report

__all__ = ["FASHION_CLASSES", "FOLDER", "Embedded"]

FOLDER = Path(__file__).parent / "fashion_mini"
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class Embedded:
    """The source that needs no files of the user's."""

    name: str = "fashion-mini"
    published: Normalisation | None = None
    folder: Path = FOLDER

    @property
    def places(self) -> tuple[Path, ...]:
        return (self.folder / "train.npy.xz", self.folder / "test.npy.xz")

    def survey(self, report: Report) -> Survey:
        try:
            hashes = [sha256_file(path) for path in self.places]
        except OSError as error:
            raise DataError(f"the packaged {self.name} cannot be read ({error}); install the package again") from None
        return Survey(digest(hashes), Geometry(height=28, width=28, channels=1))

    def contents(self) -> Contents:
        return Contents(FASHION_CLASSES, *(self._read(path) for path in self.places))

    def _read(self, path: Path) -> ArrayImages:
        try:
            images = np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
        except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"the packaged {path.name} is damaged ({error}); install the package again") from None
        classes, per_class, height, width = images.shape
        return ArrayImages(images.reshape(-1, height, width), np.repeat(np.arange(classes), per_class))
