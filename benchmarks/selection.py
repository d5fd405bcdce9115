"""Seconds and memory of choosing 10 % of up to a million images, by each rule, with growth against their number.

    python benchmarks/selection.py [--rows 62500 125000 250000 500000 1000000] [--pickers herding ...] \\
        [--width 512] [--classes 100] [--work runs/selection]

Features are random float16 rows with a centre for each class and a decaying spectrum, in a memory-mapped file below
--work, written once for each number of rows; the log that scores are made of has 15 epochs. Images of a class lie
apart, as in a shuffled data set. Every measurement is made in a process of its own with --threads threads, class after
class as the methods do it, and appended to benchmarks/results/selection.jsonl at once; what is there already is not
measured again. Seconds are those of choosing alone. Peak memory counts the mapped pages of the features, so what the
process held beyond them and what it began with is given as well: ``anonymous``.

Classes are as many whatever their size, so herding, k-center and k-means (rows x picks of a class) grow with the square
of the number of rows, the others a little faster than in proportion. The table gives the exponent from one number of
rows to the next: log(seconds / seconds before) / log(rows / rows before).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condense import seeding
from condense.memory import peak_memory
from condense.selection import (
    aum,
    cad,
    ccs,
    el2n,
    forgetting,
    herding,
    k_center,
    k_means,
    largest,
    members_of,
    moderate,
    pick_random,
    smallest,
)
from condense.selection.picking import Indices
from condense.selection.table import Matrix

RESULTS = Path(__file__).parent / "results" / "selection.jsonl"
KEEP = 0.1
EPOCHS = 15
BLOCK = 50_000

LOG = ("p_true", "p_other", "error")
PICKERS = ("random", "el2n", "forgetting", "ccs", "cad-prune", "moderate", "herding", "k-center", "k-means")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[62_500, 125_000, 250_000, 500_000, 1_000_000])
    parser.add_argument("--pickers", nargs="+", choices=PICKERS, default=PICKERS)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/selection"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", choices=PICKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    done = {key_of(line) for line in lines_of(options.results)}
    for rows in sorted(options.rows):
        folder = written(options.work, rows, options.width, options.classes)
        for picker in options.pickers:
            if (picker, rows, options.width, options.classes, options.threads) in done:
                continue
            line = in_child(picker, rows, options, folder)
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with open(options.results, "a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    show(options)


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("picker", "rows", "width", "classes", "threads"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def written(work: Path, rows: int, width: int, classes: int) -> Path:
    """The folder of features, labels and log for so many rows; written whole or not at all."""
    folder = work / f"{rows}x{width}-{classes}"
    if (folder / "labels.npy").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    spectrum = (1 + np.arange(width)) ** -0.5
    centres = seeding.generator(0, "centres").standard_normal((classes, width)) * spectrum
    labels = seeding.generator(0, "labels").permutation(np.arange(rows) % classes)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, width))
    logs = [np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (EPOCHS, rows)) for name in LOG]
    for start in range(0, rows, BLOCK):
        some = slice(start, min(start + BLOCK, rows))
        random = seeding.generator(0, "rows", start)
        noise = random.standard_normal((some.stop - start, width), dtype=np.float32) * spectrum
        features[some] = np.maximum(noise + centres[labels[some]] + 1, 0)
        for log in logs:
            log[:, some] = random.random((EPOCHS, some.stop - start), dtype=np.float32)
    for array in (features, *logs):
        array.flush()
    temporary = folder / "labels.tmp.npy"
    np.save(temporary, labels)
    os.replace(temporary, folder / "labels.npy")
    return folder


def in_child(picker: str, rows: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", picker, "--rows", str(rows), "--width", str(options.width)]
    command += ["--classes", str(options.classes), "--threads", str(options.threads), "--work", str(options.work)]
    threads = {"OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads})
    return {**json.loads(done.stdout), "features_bytes": (folder / "features.npy").stat().st_size}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Choose 10 % of every class; seconds, and memory beyond what the process held before."""
    torch.set_num_threads(options.threads)
    [rows] = options.rows
    folder = written(options.work, rows, options.width, options.classes)
    known = Known.read(folder)
    watch, before = Watch(), peak_memory()
    with watch:
        began = time.perf_counter()
        picks = [pick(options.child, known, label) for label in range(options.classes)]
        seconds = time.perf_counter() - began
    chosen = np.concatenate(picks)
    assert len(np.unique(chosen)) == len(chosen)
    return {
        "picker": options.child,
        "rows": rows,
        "width": options.width,
        "classes": options.classes,
        "threads": options.threads,
        "picked": len(chosen),
        "seconds": round(seconds, 3),
        "peak_memory": peak_memory(),
        "memory_before": before,
        "anonymous": watch.most - watch.first,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


class Watch:
    """The most anonymous memory that the process held, seen every 20 ms; zeros where the system does not say."""

    def __init__(self) -> None:
        self.first = self.most = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, anonymous())

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def anonymous() -> int:
    """Bytes that are not pages of files."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@dataclass(frozen=True)
class Known:
    """What is on disk of all images."""

    labels: Indices
    features: Matrix
    p_true: Matrix
    p_other: Matrix
    error: Matrix

    @classmethod
    def read(cls, folder: Path) -> Known:
        mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", *LOG)}
        return cls(np.load(folder / "labels.npy"), **mapped)


def pick(name: str, known: Known, label: int) -> Indices:
    """A tenth of one class, by the rule ``name``."""
    members = members_of(known.labels, label)
    count = round(KEEP * len(members))
    random = seeding.generator(0, "benchmark of selection", label)
    match name:
        case "random":
            return pick_random(known.labels, [label], range(count), seed=0, set_index=0)[:, 0]
        case "el2n":
            return smallest(el2n(known.error[:, members], 10), members, count)
        case "forgetting":
            return smallest(forgetting(known.p_true[:, members], known.p_other[:, members]), members, count)
        case "ccs":
            scores = aum(known.p_true[:, members], known.p_other[:, members])
            return ccs(scores, members, count, random, beta=0.3, strata=50)
        case "cad-prune":
            return largest(cad(known.p_true[:, members], window=EPOCHS - 2, windows=2), members, count)
        case "moderate":
            return moderate(known.features, members, count)
        case "herding":
            return herding(known.features, members, count)
        case "k-center":
            return k_center(known.features, members, count)
        case _:
            return k_means(known.features, members, count, random)


def show(options: argparse.Namespace) -> None:
    """The table: seconds, exponent of growth, memory."""
    same = (options.width, options.classes, options.threads)
    lines = [line for line in lines_of(options.results) if key_of(line)[2:] == same]
    for picker in options.pickers:
        before: dict[str, Any] | None = None
        for line in sorted((one for one in lines if one["picker"] == picker), key=lambda one: one["rows"]):
            growth = ""
            if before:
                grown = math.log(line["seconds"] / before["seconds"]) / math.log(line["rows"] / before["rows"])
                growth = f"N^{grown:.2f}"
            held, peak = line["anonymous"] / 1e6, line["peak_memory"] / 1e6
            print(
                f"{picker:12} {line['rows']:>9,} rows {line['seconds']:>9.2f} s {growth:>7}  "
                f"{held:>6.0f} MB held, peak {peak:>6.0f} MB with mapped pages"
            )
            before = line


if __name__ == "__main__":
    main()
