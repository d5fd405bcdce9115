"""Make docs/results.md of the results that are stored in benchmarks/results. Nothing is computed, nothing chosen."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from condense.evaluation.results import Result, read_results
from condense.files import bytes_in_words
from condense.report import markdown, rows_of

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"

HEAD = """# Measured results

Every figure here was measured by a script in `benchmarks/` and stored in `benchmarks/results/`; this page is made of
those files by `python benchmarks/write_results.py`. Accuracies are in percent, on the test images, after the last step;
nothing was chosen on test images. The interval is that of the mean over *sets* (Student's t). Differences are paired:
sets by their number, students by their seed, so that both sides begin with the same weights. CDA sets that start from
real images start from the very images of the random set of the same number.

**How to read the tables.** Random real images get labels from the same teacher by the same code, and students take the
same steps. Where a distilled set stands below `random`, its images are worth less than real ones in this protocol.
"""


def main() -> None:
    tables = [decoupled(path) for path in sorted(RESULTS.glob("decoupled-*.jsonl"), key=lambda path: path.stem)]
    parts = [HEAD, *tables, recover(), loading()]
    PAGE.write_text("\n".join(part for part in parts if part))


def decoupled(path: Path) -> str:
    """One data set's table, settings and costs."""
    results = read_results(path)
    first = results[0]
    lines = [f"## {first.data}, IPC {first.ipc}, {first.steps} steps", ""]
    if path.stem.endswith("-published"):
        lines += ["With the published step size of the images (0.25) and BatchNorm weight (0.01), 400 steps.", ""]
    lines += [markdown(rows_of(results)), "", settings(results), ""]
    costs = path.with_suffix(".costs.json")
    if costs.exists():
        lines += [costs_table(json.loads(costs.read_text())), ""]
    tuned = path.with_name(path.name.replace("decoupled-", "tune-"))
    if tuned.exists():
        lines += [tuning_table([json.loads(line) for line in tuned.read_text().splitlines()]), ""]
    return "\n".join(lines)


def tuning_table(tried: list[dict[str, Any]]) -> str:
    """What was tried on held-out training images, one set and one ResNet-20 each."""
    lines = ["| tried on held-out training images (1 set x 1 student) | accuracy there |", "|---|---|"]
    for one in sorted(tried, key=lambda one: -one["held_out_accuracy"]):
        words = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
        lines.append(f"| {words} | {100 * one['held_out_accuracy']:.2f} |")
    return "\n".join(lines)


def settings(results: list[Result]) -> str:
    """What all runs had in common."""
    one = next(result for result in results if result.targets == "soft")
    recipe, views, optim = one.config["recipe"], one.config["views"], one.config["recipe"]["optim"]
    images = views["batch_size"]
    machine = f"{one.compute['hardware']}, {one.compute['threads']} thread(s), {one.compute['precision']}"
    return (
        f"Students: {one.steps} steps of {images} views ({optim['optimizer']}, lr {optim['lr']}, weight decay "
        f"{optim['weight_decay']}, cosine to 0; soft targets at temperature {recipe['temperature']:g}). Views: "
        f"crops of {views['scale'][0]:g} to {views['scale'][1]:g} of the area, flips, {views['mix']}. Machine: "
        f"{machine}; torch {one.versions['torch']}. Seconds per student: {spread([r.seconds for r in results])}."
    )


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} (sd {sd:.1f}, n = {len(values)})"


def costs_table(events: list[dict[str, Any]]) -> str:
    """Seconds of synthesis per set and of labels, and the peak memory of the process that made them."""
    lines = ["| job | seconds, mean (sd, n) | peak memory of the process |", "|---|---|---|"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        title = event["title"].split(",")[0] if event["kind"] == "rows" else event["kind"]
        name = f"block of {event['title'].rsplit('slots ', 1)[-1]}" if event["kind"] == "rows" else ""
        if event["kind"] in ("rows", "labels"):
            groups.setdefault(f"{title} {name}".strip(), []).append(event)
    for name, group in groups.items():
        peak = bytes_in_words(max(event["peak_memory_bytes"] for event in group))
        lines.append(f"| {name} | {spread([event['seconds'] for event in group])} | {peak} |")
    return "\n".join(lines)


def recover() -> str:
    """The recover step against the plain form."""
    path = RESULTS / "recover.json"
    return f"## Speed of the recover step\n\n```json\n{path.read_text().strip()}\n```\n" if path.exists() else ""


def loading() -> str:
    """Opening and reading a set."""
    path = RESULTS / "loading.json"
    return f"## Speed of loading\n\n```json\n{path.read_text().strip()}\n```\n" if path.exists() else ""


if __name__ == "__main__":
    main()
