"""The classics: read from files that are there already, fetched through torchvision where they are not.

Every set is looked for in torchvision's layout below the data root, and below a folder of the set's own name there.
The idx sets are also four files, plain or gzipped, in the root itself or where a system package puts them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from condense.data.embedded import FASHION_CLASSES
from condense.data.idx import find_idx, read_idx
from condense.data.images import Geometry
from condense.data.source import ArrayImages, Contents, Normalisation, Survey, digest
from condense.errors import DataError
from condense.files import disk_errors, sha256_file
from condense.progress import Report

__all__ = ["KNOWN", "Known", "KnownSource", "find_known"]

Paths = tuple[Path, ...]

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where the package ``dataset-fashion-mnist`` of Debian and Ubuntu puts the four gzipped files."""

LABEL_OWNERS = {"657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": "fashion-mnist"}
"""SHA-256 of unpacked training labels: idx files have the same names in every set, so the names prove nothing."""


@dataclass(frozen=True, kw_only=True)
class Known(ABC):
    """A data set with a name and a class in torchvision.

    ``published`` are the constants of the DC code (Zhao et al., arXiv 2006.05929).
    """

    name: str
    torchvision: str
    geometry: Geometry
    published: Normalisation

    @property
    def dataset(self) -> Any:
        """torchvision's class. Imported late: most commands never need it."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.torchvision)

    def folders(self, root: Path) -> Paths:
        """Where the files are looked for, in this order."""
        return (root, root / self.name, root / self.torchvision)

    @abstractmethod
    def files(self, folder: Path) -> Paths | None:
        """The files in one folder, or None unless all are there."""

    @abstractmethod
    def read(self, files: Paths) -> Contents:
        """Both splits. Raises :class:`DataError`, or what torchvision raises."""

    def fetch(self, folder: Path) -> None:
        """Download into ``folder``, in torchvision's layout."""
        self.dataset(folder, download=True)


@dataclass(frozen=True, kw_only=True)
class IdxSet(Known):
    """MNIST and its relatives."""

    classes: tuple[str, ...]
    system: Paths = ()

    def folders(self, root: Path) -> Paths:
        return (root / self.torchvision / "raw", *super().folders(root), *self.system)

    def files(self, folder: Path) -> Paths | None:
        return find_idx(folder)

    def read(self, files: Paths) -> Contents:
        arrays = [read_idx(path, dimensions) for path, dimensions in zip(files, (3, 1, 3, 1), strict=True)]
        owner = LABEL_OWNERS.get(hashlib.sha256(arrays[1].tobytes()).hexdigest(), self.name)
        if owner != self.name:
            raise DataError(f"{files[0].parent} holds {owner}, not {self.name}; name another folder with --data-root")
        for path, images, labels in zip(files[::2], arrays[::2], arrays[1::2], strict=True):
            if len(images) != len(labels):
                raise DataError(
                    f"{path} holds {len(images)} images, but there are {len(labels)} labels; fetch both again"
                )
        return Contents(self.classes, *(ArrayImages(i, l.astype(np.int64)) for i, l in (arrays[:2], arrays[2:])))


@dataclass(frozen=True, kw_only=True)
class CifarSet(Known):
    """CIFAR-10 and CIFAR-100, as pickled batches whose MD5 torchvision checks before it unpickles them."""

    def folders(self, root: Path) -> Paths:
        return (*super().folders(root), root.parent)

    def files(self, folder: Path) -> Paths | None:
        made = self.dataset
        names = [made.meta["filename"], *(name for name, _ in made.train_list + made.test_list)]
        paths = tuple(folder / made.base_folder / name for name in names)
        return paths if all(path.is_file() for path in paths) else None

    def read(self, files: Paths) -> Contents:
        train, test = (self.dataset(files[0].parent.parent, train=part) for part in (True, False))
        splits = (ArrayImages(part.data, np.asarray(part.targets, np.int64)) for part in (train, test))
        return Contents(tuple(train.classes), *splits)


@dataclass(frozen=True, kw_only=True)
class SvhnSet(Known):
    """The cropped digits of SVHN, two MATLAB files; the 531,131 extra images are not used."""

    classes: tuple[str, ...]

    def files(self, folder: Path) -> Paths | None:
        paths = tuple(folder / self.dataset.split_list[part][1] for part in ("train", "test"))
        return paths if all(path.is_file() for path in paths) else None

    def read(self, files: Paths) -> Contents:
        splits = (self.dataset(files[0].parent, split=part) for part in ("train", "test"))
        arrays = (ArrayImages(np.ascontiguousarray(s.data.transpose(0, 2, 3, 1)), s.labels) for s in splits)
        return Contents(self.classes, *arrays)

    def fetch(self, folder: Path) -> None:
        for part in ("train", "test"):
            self.dataset(folder, split=part, download=True)


GREY28 = Geometry(height=28, width=28, channels=1)
COLOUR32 = Geometry(height=32, width=32, channels=3)
DIGITS = tuple("0123456789")

SETS = (
    IdxSet(
        name="fashion-mnist",
        torchvision="FashionMNIST",
        geometry=GREY28,
        published=Normalisation(mean=(0.2861,), std=(0.3530,)),
        classes=FASHION_CLASSES,
        system=(DEBIAN_FASHION,),
    ),
    IdxSet(
        name="mnist",
        torchvision="MNIST",
        geometry=GREY28,
        published=Normalisation(mean=(0.1307,), std=(0.3081,)),
        classes=DIGITS,
    ),
    CifarSet(
        name="cifar10",
        torchvision="CIFAR10",
        geometry=COLOUR32,
        published=Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    ),
    CifarSet(
        name="cifar100",
        torchvision="CIFAR100",
        geometry=COLOUR32,
        published=Normalisation(mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    ),
    SvhnSet(
        name="svhn",
        torchvision="SVHN",
        geometry=COLOUR32,
        published=Normalisation(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
        classes=DIGITS,
    ),
)
KNOWN: dict[str, Known] = {known.name: known for known in SETS}


@dataclass(frozen=True)
class KnownSource:
    """One of :data:`KNOWN`, with its files found."""

    known: Known
    places: Paths

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def published(self) -> Normalisation:
        return self.known.published

    def survey(self, report: Report) -> Survey:
        return Survey(digest([self.name, *(sha256_file(path) for path in self.places)]), self.known.geometry)

    def contents(self) -> Contents:
        try:
            return self.known.read(self.places)
        except (RuntimeError, ValueError, OSError) as error:
            folder = self.places[0].parent
            raise DataError(f"the files of {self.name} in {folder} are damaged ({error}); fetch them again") from None


def find_known(name: str, root: Path) -> KnownSource:
    """Locate the files of a known set below ``root``, or fetch them into it.

    Raises :class:`DataError` naming the places when they are nowhere and cannot be fetched.
    """
    known = KNOWN[name]
    places = _find(known, root)
    if places is None:
        _fetch(known, root)
        places = _find(known, root)
    if places is None:
        raise DataError(f"the files of {name} in {root} are incomplete; remove them and run the same command again")
    return KnownSource(known, places)


def _find(known: Known, root: Path) -> Paths | None:
    return next((files for folder in known.folders(root) if (files := known.files(folder)) is not None), None)


def _fetch(known: Known, root: Path) -> None:
    """Download into a temporary folder, then move what came into the root, so that a kill leaves nothing half-done."""
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as folder:
            try:
                known.fetch(Path(folder))
            except (RuntimeError, OSError) as error:
                looked = ", ".join(str(place) for place in known.folders(root))
                why = str(error).strip().splitlines()[-1]
                raise DataError(
                    f"{known.name} is in none of {looked}, and fetching it failed ({why}); "
                    "put its files there or name their folder with --data-root"
                ) from None
            for path in Path(folder).iterdir():
                _move(path, root / path.name)


def _move(path: Path, target: Path) -> None:
    """Rename, unless another process brought the same in the meantime."""
    try:
        os.replace(path, target)
    except OSError:
        if not target.exists():
            raise
