"""``imagefolder:PATH``: one folder of images per class, as torchvision's ``ImageFolder`` reads them.

Either ``PATH/train/CLASS/...`` and ``PATH/test/CLASS/...`` (or ``val``, used when there is no ``test``), or
``PATH/CLASS/...`` (or only ``PATH/train/CLASS/...``), of which a seeded, stratified part is held out as the test
split. Classes are the sorted folder names; images are found at any depth below them, in sorted order.

Images are known by the suffix of their names, whatever its case. Other files, hidden ones and the litter of desktop
systems are passed over, and a note says how many. A file with the suffix of an image must be one that can be read: also
if it is of a kind that is not (`UNREAD`), since a photograph should not be left out without a word.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from condense.data.images import UNREADABLE, Geometry, common_geometry, fit, open_image, suffixes
from condense.data.parallel import in_order
from condense.data.seen import Seen, inspect, read_index, write_index
from condense.data.source import Bytes, Contents, Labels, Normalisation, Survey, digest
from condense.data.split import holdout
from condense.errors import DataError
from condense.progress import Report, note

__all__ = ["FileImages", "FolderSource", "class_folders", "note_others", "scan"]

LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"})
UNREAD = frozenset(
    (".heic", ".heif", ".jxl", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".webp", ".avif")
)
"""Suffixes of images that are not read, or not everywhere."""

NAMED = 3
TEST_FOLDERS = ("test", "val")
FILES_AT_ONCE = 32


@dataclass(frozen=True)
class FileImages:
    """Image files, by absolute path, and their labels, int64 (N,). Strings: there may be millions of paths."""

    paths: tuple[str, ...]
    labels: Labels

    def block(self, start: int, stop: int, geometry: Geometry) -> Bytes:
        return np.stack([_decode(path, geometry) for path in self.paths[start:stop]])

    def take(self, positions: Labels) -> FileImages:
        return FileImages(tuple(self.paths[i] for i in positions), self.labels[positions])


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A scanned folder. ``index`` is the file that remembers what was learnt about its images."""

    folder: Path
    classes: tuple[str, ...]
    train: FileImages
    test: FileImages
    index: Path
    others: tuple[str, ...] = ()
    """Files in the class folders that are no images, by absolute path."""
    published: Normalisation | None = None

    @property
    def name(self) -> str:
        return f"imagefolder:{self.folder.name}"

    @property
    def places(self) -> tuple[Path, ...]:
        return (self.folder,)

    def survey(self, report: Report) -> Survey:
        """Hash every file that changed since the last survey, and read its header."""
        note_others(self.others, self.folder, report)
        paths = self.train.paths + self.test.paths
        start = len(str(self.folder)) + 1
        names = [path[start:].replace(os.sep, "/") for path in paths]
        before = read_index(self.index)
        groups = [range(i, min(i + FILES_AT_ONCE, len(paths))) for i in range(0, len(paths), FILES_AT_ONCE)]
        seen: list[Seen] = []
        for found in in_order(lambda group: [inspect(paths[i], before.get(names[i])) for i in group], groups):
            seen.extend(found)
            report("reading image files", len(seen), len(paths))
        if (now := dict(zip(names, seen, strict=True))) != before:
            write_index(self.index, now)
        files = [[name, one.sha256] for name, one in now.items()]
        return Survey(digest([self.classes, len(self.train.paths), files]), common_geometry([s.look for s in seen]))

    def contents(self) -> Contents:
        return Contents(self.classes, self.train, self.test)


def scan(folder: Path, *, indices: Path, test_fraction: float, seed: int) -> FolderSource:
    """Find classes and files below ``folder``; no file is opened.

    ``indices`` is the folder that keeps one index per scanned folder.

    Raises :class:`DataError` for a folder that is missing, empty, has an empty class, has images outside the class
    folders, or has different classes in its two parts.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with a folder of images per class")
    test_folder = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    train_folder = folder / "train" if (folder / "train").is_dir() else folder
    if test_folder is not None and train_folder == folder:
        raise DataError(f"{folder} has {test_folder.name}/ but no train/; put the training images there")
    classes, train, others = class_folders(train_folder)
    if test_folder is None:
        train, test = _hold_out(folder, classes, train, test_fraction, seed)
    else:
        test_classes, test, more = class_folders(test_folder)
        others += more
        if other := set(classes) ^ set(test_classes):
            raise DataError(
                f'{test_folder} and {train_folder} must have the same classes, but "{min(other)}" is in only one'
            )
    index = indices / f"{digest(str(folder))[:32]}.json"
    return FolderSource(folder=folder, classes=classes, train=train, test=test, index=index, others=others)


def class_folders(folder: Path) -> tuple[tuple[str, ...], FileImages, tuple[str, ...]]:
    """The classes of a folder, their images, and the paths of files that are no images.

    Raises :class:`DataError` as `scan` does.
    """
    entries = sorted(entry for entry in folder.iterdir() if not _is_litter(entry.name))
    stray = next((e for e in entries if e.is_file() and _is_image(e.name)), None)
    if stray is not None:
        raise DataError(f"{stray} lies outside the class folders; move it into one of them or remove it")
    classes = [entry for entry in entries if entry.is_dir()]
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {len(classes)} class folders; expected at least 2, each with images of one class"
        )
    paths, others = zip(*map(_files_below, classes), strict=True)
    for entry, found, more in zip(classes, paths, others, strict=True):
        if not found:
            other = f" (but {_some(more, entry)}; images are known by a suffix such as .png or .jpg)" if more else ""
            raise DataError(f"class folder {entry} has no images{other}; add some or remove it")
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in paths])
    images = FileImages(tuple(chain.from_iterable(paths)), labels)
    return tuple(entry.name for entry in classes), images, tuple(chain.from_iterable(others))


def note_others(others: Sequence[str], folder: Path, report: Report) -> None:
    """Say, in one line, which files in the class folders of ``folder`` were passed over."""
    if others:
        files, were = ("file that is no image", "was") if len(others) == 1 else ("files that are no images", "were")
        note(report, f"{len(others)} {files} {were} passed over in {folder}: {_names(others, folder)}")


def _some(paths: Sequence[str], folder: Path) -> str:
    return f"{len(paths)} other file{'s' if len(paths) > 1 else ''}: {_names(paths, folder)}"


def _names(paths: Sequence[str], folder: Path) -> str:
    """The first of them, relative to ``folder``."""
    names = [os.path.relpath(path, folder) for path in paths[:NAMED]]
    return ", ".join([*names, *(["..."] if len(paths) > NAMED else [])])


@cache
def _image_suffixes() -> frozenset[str]:
    return suffixes() | UNREAD


def _is_image(name: str) -> bool:
    """Whether a file should be an image, by its name."""
    _, dot, suffix = name.rpartition(".")
    return not _is_litter(name) and f"{dot}{suffix.lower()}" in _image_suffixes()


def _files_below(folder: Path) -> tuple[list[str], list[str]]:
    """The images at any depth, and the other files, each in order."""
    images, others = list[str](), list[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_litter(name)]
        for name in files:
            (images if _is_image(name) else others).append(os.path.join(parent, name))
    return sorted(images), sorted(others)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _hold_out(
    folder: Path, classes: tuple[str, ...], images: FileImages, fraction: float, seed: int
) -> tuple[FileImages, FileImages]:
    kept, held = holdout(images.labels, fraction, seed)
    counts = np.bincount(images.labels[held], minlength=len(classes))
    if not counts.all():
        raise DataError(
            f'class "{classes[int(counts.argmin())]}" of {folder} has only one image, so none can be held out for '
            "testing; add images or a test folder"
        )
    return images.take(kept), images.take(held)


def _decode(path: str, geometry: Geometry) -> Bytes:
    try:
        with open_image(path) as image:
            return fit(image, geometry)
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
