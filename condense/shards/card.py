"""The card of a set: a `README.md` for people, with the front matter that dataset hubs read.

Names come from other people's data, so they are quoted for YAML in the front matter and made plain in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from condense.shards.read import ImageFile

__all__ = ["card"]

TEMPLATE = """---
pretty_name: {title}
{licence}
task_categories:
- image-classification
task_ids:
- multi-class-image-classification
size_categories:
- {size}
source_datasets:
- extended
tags:
- dataset-distillation
- condense
configs:
- config_name: default
  data_files:
  - split: train
    path: images-*.h5
{features}---

# {name}

A distilled set of **{source}**: a few images per class that train a fresh network.
Method **{method}** (revision {revision}), written by `condense`.

| | |
|---|---|
| Classes | {n_classes}: {classes} |
| Items | {items:,} of {height} x {width} pixels, {channels} channel(s) |
| Bytes | images {images:,}; labels {labels:,} |
| Contains real images | {real} |
| Teachers | {teachers} |
| Seeds | {seeds} |
| Licence of the images | {licence_words} |

```python
import condense

distilled = condense.load("PATH")        # the folder of this card: a torchvision-style Dataset
image, label = distilled[0]
```

Settings, the hash of every file and the normalisation are in `set.json`. `condense verify PATH` checks the files; add
`--deep --isolated` if you do not know who made them. The stored rows open with `datasets.load_dataset("PATH")` as well;
`condense export PATH --to parquet -o FILE` writes the items as pictures.
"""

LICENCES = frozenset(
    {"mit", "apache-2.0", "afl-3.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
     "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
     "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0",
     "odbl", "odc-by", "pddl", "unlicense", "unknown"}
)  # fmt: skip
"""Identifiers that hubs know, of the licences that data sets of images have."""

SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M",
         10**8: "10M<n<100M", 10**9: "100M<n<1B"}  # fmt: skip


def card(values: Mapping[str, Any], images: Sequence[ImageFile]) -> str:
    """The card's text, from the content of ``set.json`` and the set's image files."""
    spec, classes = values["spec"], values["spec"]["classes"]
    rows = sum(file.n_rows for file in images)
    return TEMPLATE.format(
        title=quoted(values["name"]),
        name=plain(values["name"]),
        licence=licence_lines(values["licence"]),
        licence_words=plain(values["licence"]),
        size=next((words for limit, words in SIZES.items() if rows < limit), "1B<n<10B"),
        features="".join(f"{line}\n" for line in feature_lines(images[0], classes)),
        source=plain(spec["name"]),
        method=plain(values["method"]["name"]),
        revision=values["method"]["revision"],
        n_classes=len(classes),
        classes=", ".join(plain(name) for name in classes[:20]) + (", ..." if len(classes) > 20 else ""),
        items=sum(file.n_items for file in images),
        real="yes, unchanged or recognisable images of the source" if values["contains_real_images"] else "no",
        teachers=", ".join(plain(teacher["network"]) for teacher in values["teachers"]) or "none",
        seeds=", ".join(f"{plain(name)} {seed}" for name, seed in sorted(values["seeds"].items())) or "none",
        images=total_bytes(values, "images-"),
        labels=total_bytes(values, "labels-"),
        **{name: spec[name] for name in ("height", "width", "channels")},
    )


def licence_lines(licence: str) -> str:
    """``license`` by an identifier that hubs know; ``other`` with a name of their alphabet for any other."""
    if (known := licence.lower()) in LICENCES:
        return f"license: {known}"
    name = re.sub(r"[^a-z0-9.-]+", "-", known).strip("-") or "unknown"
    return f"license: other\nlicense_name: {quoted(name)}"


def feature_lines(file: ImageFile, classes: Sequence[str]) -> Iterator[str]:
    """Types of the columns as the library ``datasets`` reads them, with the names of the classes.

    None where a column has a shape that the library has no array type for.
    """
    if any(array.ndim == 2 or array.ndim > 6 for array in file.columns.values()):
        return
    yield "dataset_info:"
    yield "  features:"
    for name, array in sorted(file.columns.items()):
        yield f"  - name: {name}"
        kind = np.dtype(array.dtype).name
        if name == "labels":
            yield "    dtype:"
            yield "      class_label:"
            yield "        names:"
            yield from (f"          '{number}': {quoted(name)}" for number, name in enumerate(classes))
        elif array.ndim == 1:
            yield f"    dtype: {kind}"
        else:
            yield "    dtype:"
            yield f"      array{array.ndim - 1}_d:"
            yield f"        shape: {list(array.shape[1:])}"
            yield f"        dtype: {kind}"


def quoted(text: str) -> str:
    """A YAML string. JSON's are, once characters that YAML does not print or takes for line ends are escaped."""
    return re.sub(
        r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(text, ensure_ascii=False),
    )


def plain(text: str) -> str:
    """One line of Markdown that shows ``text`` as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def total_bytes(values: Mapping[str, Any], prefix: str) -> int:
    """Bytes of the files whose names begin with ``prefix``."""
    return sum(entry["bytes"] for name, entry in values["files"].items() if name.startswith(prefix))
