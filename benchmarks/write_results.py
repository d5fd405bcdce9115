"""Make docs/results.md of the results that are stored in benchmarks/results. Nothing is computed, nothing chosen."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from condense.evaluation.results import Result, read_results
from condense.evaluation.statistics import paired_difference, summarise
from condense.files import bytes_in_words
from condense.methods import choosers
from condense.report import markdown, rows_of
from condense.shards.codecs import CODECS, codec_of

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"

HEAD = """# Measured results

Every figure here was measured by a script in `benchmarks/` and stored in `benchmarks/results/`; this page is made of
those files by `python benchmarks/write_results.py`. Accuracies are in percent, on the test images, after the last step;
nothing was chosen on test images but where a section says so. The interval is that of the mean over *sets*
(Student's t). Differences are paired:
sets by their number, students by their seed, so that both sides begin with the same weights. CDA sets that start from
real images start from the very images of the random set of the same number.

**How to read the tables.** Random real images get labels from the same teacher by the same code, and students take the
same steps. Where a distilled set stands below `random`, its images are worth less than real ones in this protocol.
"""


CODECS_HEAD = """Accuracy in percent, mean (sd, n) over students of one set. Bytes an image: of pixels, of labels,
and of all else (`set.json`; the teacher too, where it labels online); then labels and all else as a part of the
pixels."""
SIZES_HEAD = "Of an item in a labelled epoch (`static`, `none`: in all), besides 4 bytes of checksum an epoch."


def main() -> None:
    tables = [decoupled(path) for path in sorted(RESULTS.glob("decoupled-*.jsonl"), key=lambda path: path.stem)]
    tables += [on_tracks(path) for name in ("native", "tracks") for path in sorted(RESULTS.glob(f"{name}-*.jsonl"))]
    tables += [family(path) for path in sorted(RESULTS.glob("family-*.jsonl")) if path.stem.count(".") == 0]
    tables += [codecs(path) for path in sorted(RESULTS.glob("codecs-*.jsonl"))]
    parts = [
        HEAD,
        *tables,
        sizes(),
        selection(RESULTS / "selection.jsonl"),
        stored("Speed of the recover step", "recover", "recover-float32"),
        stored("Speed of a step of gradient matching", "matching"),
        stored("Several students at once", "together", "together-gpu"),
        stored("Steps on a GPU", "gpu"),
        stored("Speed of loading", "loading"),
        matched(RESULTS / "matched.jsonl"),
        stored("Statistics: coverage and power", "statistics"),
        stored("Damaged and hostile files", "fuzz"),
    ]
    PAGE.write_text("\n".join(part for part in parts if part))


def decoupled(path: Path) -> str:
    """One data set's table, settings and costs."""
    results = read_results(path)
    first = results[0]
    sets = len({result.set_index for result in results})
    lines = [f"## {first.data}, IPC {first.ipc}, {sets} sets, {first.steps} steps", ""]
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


def on_tracks(path: Path) -> str:
    """Results of `tracks.py`."""
    results = read_results(path)
    one = results[0]
    machine = f"{one.compute['hardware']}, {one.compute['threads']} thread(s), {one.compute['precision']}"
    kind = {"tracks": "all tracks", "native": "native tracks"}[path.stem.partition("-")[0]]
    return f"## {one.data}: {kind}\n\n{markdown(rows_of(results))}\n{machine}.\n"


Runs = dict[tuple[int, int], float]

FAMILY_HEAD = """Every method at its best of as many candidates, which were compared on held-out training images; labels
by the same teachers, by the rule of the track. Accuracy in percent on the test images, after the last step; sd between
sets, and between students of a set. Differences are paired. The coreset was chosen on held-out images, too. Seconds of
one set's images, with what is computed for them alone (not the teachers), and of one student."""

ORDERS = (
    ("cda", "sre2l"),
    ("sre2l++", "sre2l"),
    ("cv-dd", "sre2l++"),
    ("dwa", "sre2l"),
    ("lpld", "sre2l"),
    ("edc", "sre2l"),
    ("rded", "sre2l"),
    ("nrr-dd", "rded"),
    ("fadrm", "sre2l++"),
    ("fadrm+", "fadrm"),
    ("fadrm+", "cv-dd"),
    ("fadrm+", "edc"),
    ("infer", "sre2l"),
)
"""The first of each pair is published as the better one."""


def family(path: Path) -> str:
    """Results of `family.py`: a table for each track and student, published orderings, and what was tuned."""
    results = read_results(path)
    costs = {
        (line["method"], line["track"], line["student"]): line for line in json_lines(path.with_suffix(".costs.jsonl"))
    }
    one = results[0]
    machine = f"{one.compute['hardware']}, {one.compute['threads']} thread(s), {one.compute['precision']}"
    kind = "ablation" if any(": " in result.condition for result in results) else "all decoupled methods"
    ipc = max(result.ipc for result in results)
    parts = [f"## {one.data}, IPC {ipc}: {kind}", FAMILY_HEAD]
    for track, student in dict.fromkeys((result.track, result.student) for result in results):
        runs: dict[str, Runs] = {}
        for result in results:
            if (result.track, result.student) == (track, student):
                runs.setdefault(result.condition, {})[result.set_index, result.seed] = result.accuracy
        found = {name: costs[name, track, student] for name in runs if (name, track, student) in costs}
        parts += [f"### {track}, {student}", family_table(runs, found), orderings(runs)]
    parts += [family_tuned(json_lines(path.with_name(f"{path.stem}.tuned.jsonl"))), f"{machine}.\n"]
    return "\n\n".join(part for part in parts if part)


def family_table(runs: dict[str, Runs], costs: dict[str, dict[str, Any]]) -> str:
    """The best first."""
    coreset = next((name for name in runs if name in set(choosers()) - {"random"}), None)
    differences = f"to random | to {coreset or 'coreset'}"
    lines = [
        f"| condition | mean (sets x students) | sd | 95 % | {differences} | s/set | s/student |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(runs, key=lambda name: -summarise(runs[name]).mean):
        about = summarise(runs[name])
        cells = [
            name,
            f"{100 * about.mean:.2f} ({about.n_sets} x {about.n_students})",
            " / ".join(NO_NUMBER if sd is None else f"{100 * sd:.2f}" for sd in (about.sd_sets, about.sd_students)),
            NO_NUMBER if about.interval is None else " to ".join(f"{100 * end:.2f}" for end in about.interval),
            more(runs[name], runs.get("random"), name == "random"),
            more(runs[name], runs.get(coreset or ""), name == coreset),
            *seconds_each(costs.get(name)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


NO_NUMBER = "-"


def more(runs: Runs, base: Runs | None, same: bool) -> str:
    """Points more than the base, with a 95 % interval."""
    found = None if base is None or same else paired_difference(runs, base)
    if found is None:
        return NO_NUMBER
    if found.interval is None:
        return f"{100 * found.mean:+.2f}"
    low, high = found.interval
    return f"{100 * found.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def seconds_each(cost: dict[str, Any] | None) -> tuple[str, str]:
    """Of a set's images, and of a student with its part of the labels."""
    if cost is None:
        return NO_NUMBER, NO_NUMBER
    seconds = cost["seconds"]
    each = (seconds["labels"] + seconds["students"]) / cost["students"]
    return f"{seconds['images'] / cost['sets']:.1f}", f"{each:.1f}"


def orderings(runs: dict[str, Runs]) -> str:
    """Which of the published orderings hold here: by the 95 % interval of the paired difference."""
    words = {"better": "holds", "worse": "does not hold", "undecided": "undecided"}
    lines = []
    for better, other in ORDERS:
        found = paired_difference(runs[better], runs[other]) if {better, other} <= runs.keys() else None
        if found is not None:
            lines.append(f"- {better} above {other}: {words[found.verdict]}, {more(runs[better], runs[other], False)}")
    return "\n".join(lines)


def family_tuned(tried: list[dict[str, Any]]) -> str:
    """The best candidate of each method, and how far the candidates lie apart."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in tried:
        groups.setdefault((line["track"], line["student"], line["method"]), []).append(line)
    if not groups:
        return ""
    lines = [
        "| track, student, held out | method | best | mean, least of n | settings of the best |",
        "|---|---|---|---|---|",
    ]
    for (track, student, method), group in groups.items():
        accuracies = [100 * line["held_out_accuracy"] for line in group]
        best = max(group, key=lambda line: line["held_out_accuracy"])
        words = ", ".join(f"{key} {value}" for key, value in best["settings"].items() if value != method)
        spread = f"{statistics.mean(accuracies):.2f}, {min(accuracies):.2f} of {len(group)}"
        lines.append(f"| {track}, {student} | {method} | {max(accuracies):.2f} | {spread} | {words} |")
    return "\n".join(lines)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def codecs(path: Path) -> str:
    """Accuracy against bytes: how the labels of one set are stored."""
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        runs.setdefault((one["ipc"], one["labels"]), []).append(one)
    data = next(iter(runs.values()))[0]["data"]
    lines = [f"## {data}: labels by codec", "", CODECS_HEAD, ""]
    lines += [
        "| IPC | labels | accuracy | to `full` | pixels | labels | else | part |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (ipc, name), group in sorted(runs.items(), key=lambda run: (run[0][0], -part_of(run[1]), run[0][1])):
        one, items = group[0], ipc * group[0]["classes"]
        labels, other = one["bytes_labels"] / items, one["bytes_other"] / items
        pixels = one["pixel_bytes"] / items
        accuracy = spread([100 * line["accuracy"] for line in group])
        less = to_full(group, runs.get((ipc, "full"), []))
        cells = [ipc, name, accuracy, less, f"{pixels:.0f}", f"{labels:.0f}", f"{other:.0f}", f"{part_of(group):.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *(best_within(ipc, runs) for ipc in sorted({ipc for ipc, _ in runs}))]
    first = next(iter(runs.values()))[0]
    machine = first["compute"]
    where = f"{machine['hardware']}, {machine['threads']} thread(s), {machine['precision']}"
    lines += ["", f"{first['student']}, {first['steps']} steps; {where}.", ""]
    return "\n".join(lines)


def part_of(group: list[dict[str, Any]]) -> float:
    """Labels and everything else, as a part of the raw pixels."""
    return float((group[0]["bytes_labels"] + group[0]["bytes_other"]) / group[0]["pixel_bytes"])


def to_full(group: list[dict[str, Any]], full: list[dict[str, Any]]) -> str:
    """Points more than students of the full labels, paired by seed: mean, and a 95 % interval."""
    runs, base = ({(0, line["seed"]): line["accuracy"] for line in lines} for lines in (group, full))
    found = paired_difference(runs, base) if group is not full else None
    if found is None or found.interval is None:
        return "-"
    low, high = found.interval
    return f"{100 * found.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def best_within(ipc: int, runs: dict[tuple[int, str], list[dict[str, Any]]]) -> str:
    """The best labels that take at most as much as the pixels, and a tenth of that."""
    words = []
    for most, name in ((1.0, "as much as the pixels"), (0.1, "a tenth of that")):
        fitting = {
            label: statistics.mean(line["accuracy"] for line in group)
            for (images, label), group in runs.items()
            if images == ipc and part_of(group) <= most and label != "none"
        }
        best = max(fitting, key=lambda label: fitting[label], default=None)
        words.append(f"{name}: {f'{best} ({100 * fitting[best]:.2f} %)' if best else 'none'}")
    return f"IPC {ipc}, the best labels that take at most {'; '.join(words)}."


def sizes() -> str:
    """Bytes an item and labelled epoch, exactly."""
    counts = (10, 100, 1000, 10_450)
    lines = ["## Bytes of a label", "", SIZES_HEAD, ""]
    lines += [f"| codec | {' | '.join(f'{count:,} classes' for count in counts)} |", "|---|" + "---|" * len(counts)]
    for text in ("full", "int8", "topk:2", "topk:10", "topk:50", "distances", "static", "none"):
        name, settings = codec_of(text)
        each = [CODECS[name].bytes_per_item(count, settings) if name != "none" else 0 for count in counts]
        fits = [not CODECS[name].check(settings, count) for count in counts]
        cells = [f"{size:,}" if fit else "-" for size, fit in zip(each, fits, strict=True)]
        lines.append(f"| `{text}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def selection(path: Path) -> str:
    """Choosing a tenth of many rows: seconds and memory against their number."""
    if not path.exists():
        return ""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    sizes = sorted({line["rows"] for line in lines})
    known = {(line["picker"], line["rows"]): line for line in lines}
    cells = [["picker", *(f"{size:,} rows" for size in sizes)], ["---"] * (len(sizes) + 1)]
    for picker in dict.fromkeys(line["picker"] for line in lines):
        found = [known.get((picker, size)) for size in sizes]
        own = [f"{one['seconds']:.1f} s, {bytes_in_words(one['anonymous'])}" if one else "-" for one in found]
        cells.append([f"`{picker}`", *own])
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    first = lines[0]
    where = f"{first['width']} numbers a row, {first['classes']} classes, {first['threads']} thread, {first['machine']}"
    return (
        f"## Choosing a tenth of the images\n\nSeconds, and memory beyond the mapped features.\n\n{table}\n\n{where}.\n"
    )


def matched(path: Path) -> str:
    """Accuracy of sets of methods that match against seconds of their synthesis."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        if not line["held_out"]:
            compute = line["compute"]
            where = f"{line['device']}, {compute['threads']} thread(s), {compute['precision']}"
            key = (line["data"], line["ipc"], line["condition"], line["track"], where, line["steps"])
            groups.setdefault(key, []).append(line)
    if not groups:
        return ""
    head = ["data", "IPC", "condition", "track", "where", "networks", "sets x students", "seconds", "accuracy"]
    cells = [head, ["---"] * len(head)]
    for key in sorted(groups):
        own = groups[key]
        values = [100 * (value or 0.0) for line in own for value in line["accuracies"]]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        seconds = statistics.mean(line["seconds"] + line["seconds_beforehand"] for line in own)
        size = f"{len(own)} x {len(own[0]['accuracies'])}"
        cells.append([*map(str, key), size, f"{seconds:.0f}", f"{statistics.mean(values):.2f}{spread}"])
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return (
        "## Methods that match: accuracy against seconds\n\nSeconds of synthesis, with what networks learn beforehand;"
        " mean and standard deviation over all students of all sets. The number of real images a class was changed"
        " after accuracies on test images had been seen, so these rows are no fair comparison of settings, and what is"
        f" best of them is flattered. Other work ran on the machine meanwhile.\n\n{table}\n"
    )


def stored(title: str, *names: str) -> str:
    """Results as their scripts wrote them."""
    paths = [path for path in (RESULTS / f"{name}.json" for name in names) if path.exists()]
    return "\n".join(f"## {title}\n\n```json\n{path.read_text().strip()}\n```\n" for path in paths)


if __name__ == "__main__":
    main()
