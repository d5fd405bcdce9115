"""The card of a set: a short `README.md` for people, with the front matter that dataset hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["card"]

TEMPLATE = """---
pretty_name: {title}
license: other
license_name: {licence}
task_categories:
- image-classification
tags:
- dataset-distillation
- condense
configs:
- config_name: default
  data_files: images-*.h5
---

# {name}

A distilled set: a few images per class that train a fresh network, made by `condense` from **{source}**
with method **{method}** (revision {revision}).

| | |
|---|---|
| Classes | {n_classes}: {classes} |
| Items | {height} x {width} pixels, {channels} channel(s) |
| Bytes | images {images:,}; labels {labels:,} |
| Contains real images | {real} |
| Teachers | {teachers} |
| Seeds | {seeds} |
| Licence | {licence_words} |

```python
import condense

distilled = condense.load("{name}")        # a torchvision-style Dataset
image, label = distilled[0]
```

Settings, the hash of every file and the normalisation are in `set.json`.
`condense verify PATH` checks the files; add `--deep --isolated` if you do not know who made them.
"""


def card(values: Mapping[str, Any]) -> str:
    """The card's text, from the content of ``set.json``."""
    spec, classes = values["spec"], values["spec"]["classes"]
    return TEMPLATE.format(
        name=values["name"],
        title=json.dumps(values["name"]),
        licence=json.dumps(values["licence"]),
        licence_words=f"that of the source data: {values['licence']}",
        source=spec["name"],
        method=values["method"]["name"],
        revision=values["method"]["revision"],
        n_classes=len(classes),
        classes=", ".join(classes[:20]) + (", ..." if len(classes) > 20 else ""),
        real="yes, unchanged or recognisable images of the source" if values["contains_real_images"] else "no",
        teachers=", ".join(teacher["network"] for teacher in values["teachers"]) or "none",
        seeds=", ".join(f"{name} {seed}" for name, seed in sorted(values["seeds"].items())) or "none",
        images=total_bytes(values, "images-"),
        labels=total_bytes(values, "labels-"),
        **{name: spec[name] for name in ("height", "width", "channels")},
    )


def total_bytes(values: Mapping[str, Any], prefix: str) -> int:
    """Bytes of the files whose names begin with ``prefix``."""
    return sum(entry["bytes"] for name, entry in values["files"].items() if name.startswith(prefix))
