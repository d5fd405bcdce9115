"""The items of a set, decoded, in the formats of other programs."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from condense.data.folders import LITTER
from condense.dataset import DistilledDataset, load
from condense.errors import ConfigError, suggest
from condense.exchange.output import new_file, new_folder, one_set
from condense.progress import Report, silent

__all__ = ["FORMATS", "export_set", "folder_names"]

BLOCK = 256  # items decoded at once
NAME_LENGTH = 60  # characters, of at most four bytes each; file systems end at 255 bytes
RESERVED = LITTER | {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def export_set(path: Path | str, to: str, out: Path | str, *, soft: bool = False, report: Report = silent) -> Path:
    """Write the items of the set in ``path`` to ``out``, which must not exist; returns ``out``.

    to: one of :data:`FORMATS`.

    - ``imagefolder``: ``out/train/CLASS/NUMBER.png`` with the item's number, and ``out/classes.json``, a list of
      ``{"label", "class", "folder"}``: names of folders are names of classes, made safe for file systems.
    - ``parquet``: columns ``image`` (a struct of PNG ``bytes`` and ``path``) and ``label`` (int64), with the features
      that the library ``datasets`` reads: Image and ClassLabel.
    - ``safetensors``: ``images`` uint8 (N, H, W, C), ``labels`` int64 (N,); its metadata has one entry, ``condense``: a
      JSON object of ``name``, ``classes``, ``mean`` and ``std`` (per channel, of pixels in [0, 1]).
    - ``npz``: the same arrays, and ``classes`` (text), ``mean`` and ``std`` (float64); nothing is pickled.

    soft: also ``probabilities`` float32 (N, K), the mean of the stored labels over their epochs; safetensors and npz.

    Raises :class:`ConfigError` for what a format cannot hold, children of :class:`ShardError` for a set that is
    damaged or has no soft labels, :class:`OutputError` if ``out`` exists.
    """
    if to not in FORMATS:
        raise ConfigError(f'--to is "{to}"; {suggest(to, FORMATS)}')
    if soft and to not in WITH_SOFT:
        raise ConfigError(f"--soft goes with {' or '.join(WITH_SOFT)}; {to} holds classes only")
    dataset = load(one_set(Path(path)), targets="soft" if soft else "hard", verify="hashes")
    if to in AS_PNG and dataset.spec.channels not in (1, 3):
        raise ConfigError(
            f"{path} has {dataset.spec.channels} channels, a picture 1 or 3; export it --to {' or '.join(WITH_SOFT)}"
        )
    FORMATS[to](dataset, Path(out), report)
    return Path(out)


def to_imagefolder(dataset: DistilledDataset, out: Path, report: Report) -> None:
    names = folder_names(dataset.classes)
    table = [
        {"label": label, "class": name, "folder": folder}
        for label, (name, folder) in enumerate(zip(dataset.classes, names, strict=True))
    ]
    with new_folder(out) as folder:
        (folder / "classes.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for label in sorted(set(dataset.targets)):
            (folder / "train" / names[label]).mkdir(parents=True)
        for number, image in enumerate(items(dataset, report)):
            (folder / "train" / names[dataset.targets[number]] / picture_name(number, dataset)).write_bytes(png(image))


def to_parquet(dataset: DistilledDataset, out: Path, report: Report) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("parquet needs pyarrow; install it with: pip install 'condense-dd[hub]'") from None
    features = {"image": {"_type": "Image"}, "label": {"names": dataset.classes, "_type": "ClassLabel"}}
    image_type = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    schema = arrow.schema(
        [("image", image_type), ("label", arrow.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    with new_file(out) as file, parquet.ParquetWriter(file, schema) as writer:
        for numbers, images in blocks(dataset, report):
            pictures = [
                {"bytes": png(image), "path": picture_name(number, dataset)}
                for number, image in zip(numbers, images, strict=True)
            ]
            labels = [dataset.targets[number] for number in numbers]
            writer.write_table(arrow.table([arrow.array(pictures, image_type), arrow.array(labels)], schema=schema))


def to_safetensors(dataset: DistilledDataset, out: Path, report: Report) -> None:
    from safetensors.numpy import save

    spec = dataset.spec
    about = {"name": dataset.info.name, "classes": dataset.classes, "mean": list(spec.mean), "std": list(spec.std)}
    with new_file(out) as file:  # one entry of metadata, since several are written in an order of chance
        file.write(save(arrays_of(dataset, report), {"condense": json.dumps(about, ensure_ascii=False)}))


def to_npz(dataset: DistilledDataset, out: Path, report: Report) -> None:
    about: dict[str, npt.NDArray[Any]] = {
        "classes": np.array(dataset.classes),
        "mean": np.array(dataset.spec.mean, dtype=np.float64),
        "std": np.array(dataset.spec.std, dtype=np.float64),
    }
    with new_file(out) as file:
        np.savez(file, **{**arrays_of(dataset, report), **about})  # type: ignore[arg-type]


FORMATS: dict[str, Callable[[DistilledDataset, Path, Report], None]] = {
    "imagefolder": to_imagefolder,
    "npz": to_npz,
    "parquet": to_parquet,
    "safetensors": to_safetensors,
}
WITH_SOFT = ("safetensors", "npz")
AS_PNG = ("imagefolder", "parquet")


def arrays_of(dataset: DistilledDataset, report: Report) -> dict[str, npt.NDArray[Any]]:
    """``images``, ``labels`` and, where the set was loaded with soft targets, ``probabilities``."""
    shape = dataset.spec.image_shape
    images = np.empty((len(dataset), *shape), dtype=np.uint8)
    for numbers, block in blocks(dataset, report):
        images[numbers.start : numbers.stop] = block
    arrays: dict[str, npt.NDArray[Any]] = {"images": images, "labels": np.array(dataset.targets, dtype=np.int64)}
    if dataset.soft is not None:
        arrays["probabilities"] = dataset.soft.numpy()
    return arrays


def blocks(dataset: DistilledDataset, report: Report) -> Iterator[tuple[range, npt.NDArray[np.uint8]]]:
    """Numbers of items, and the items: uint8 (b, H, W, C)."""
    for start in range(0, len(dataset), BLOCK):
        numbers = range(start, min(start + BLOCK, len(dataset)))
        yield numbers, dataset.files.take(np.arange(numbers.start, numbers.stop))
        report("exporting", numbers.stop, len(dataset))


def items(dataset: DistilledDataset, report: Report) -> Iterator[npt.NDArray[np.uint8]]:
    for _, images in blocks(dataset, report):
        yield from images


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """uint8 (H, W, C), C 1 or 3, as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def picture_name(number: int, dataset: DistilledDataset) -> str:
    """The same width for all, so that the order of names is that of the items."""
    return f"{number:0{len(str(len(dataset) - 1))}d}.png"


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class: different ones, also where capitals do not count, that any file system takes.

    >>> folder_names(["cat", "T-shirt/top", "Cat", ".."])
    ['cat', 'T-shirt_top', 'Cat-2', '_-3']
    """
    made: list[str] = []
    taken = set(RESERVED)
    for label, name in enumerate(classes):
        plain = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name))[:NAME_LENGTH]
        if plain in ("", "_") or plain.casefold() in taken:
            plain += f"-{label}"
        while plain.casefold() in taken:
            plain += "_"
        taken.add(plain.casefold())
        made.append(plain)
    return made
