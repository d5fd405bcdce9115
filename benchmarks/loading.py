"""How fast a distilled set opens and gives single images, beside torchvision's `ImageFolder` over PNGs of the same.

    python benchmarks/loading.py [--images 10000] [--size 32] [--repeats 5]

Claims: a set of 10,000 images opens in under one second, and its random access is at least 5 times faster. Both are
measured in this one process, in alternation, on files just written (so both come from the page cache); what counts is
the median of the repeats. Two comparisons: PIL images from both, and float tensors from both. Writes
`benchmarks/results/loading.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import ToTensor

import condense.dataset
from condense.shards import SetInfo, image_name, write_images, write_set

RESULTS = Path(__file__).parent / "results" / "loading.json"
CLASSES = [f"class{number}" for number in range(10)]


def same(image: Any) -> Any:
    """The image as the data set hands it to transforms."""
    return image


def make_files(folder: Path, count: int, size: int) -> tuple[Path, Path]:
    """A set and a folder of PNGs with the same images: smooth noise, which compresses about as photographs do."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2) + random.integers(0, 8, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    spec = {
        "name": "noise", "classes": CLASSES, "channels": 3, "height": size, "width": size, "mean": [0.5] * 3,
        "std": [0.25] * 3, "train_sizes": [count] * 10, "test_sizes": [0] * 10, "fingerprint": "0",
    }  # fmt: skip
    distilled, pngs = folder / "set", folder / "png"
    distilled.mkdir()
    write_images(
        distilled / image_name(0), columns={"images": images}, labels=labels, slots=np.arange(count) // 10, spec=spec
    )
    method = {"name": "noise", "revision": 1}
    write_set(
        distilled, SetInfo(name="noise", spec=spec, method=method, config={}, seeds={}, contains_real_images=False)
    )
    for name in CLASSES:
        (pngs / name).mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(pngs / CLASSES[labels[index]] / f"{index:06d}.png")
    return distilled, pngs


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def visit(data: Any, order: list[int]) -> None:
    """Random access: every image of ``order``, one at a time; PIL images decoded, not just opened."""
    for index in order:
        image, _ = data[index]
        if isinstance(image, Image.Image):
            image.load()


def compare(ours: Sized, theirs: Sized, order: list[int], repeats: int) -> dict[str, Any]:
    """Microseconds per image of both, in alternation, and the ratio of the medians."""
    times: dict[str, list[float]] = {"condense": [], "imagefolder": []}
    for repeat in range(repeats + 1):
        for name, data in (("condense", ours), ("imagefolder", theirs)):
            taken = seconds(lambda data=data: visit(data, order)) / len(order) * 1e6
            if repeat:  # the first round warms up
                times[name].append(round(taken, 2))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"us_per_image": times, "ratio": round(medians["imagefolder"] / medians["condense"], 2)}


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name"))
    except (OSError, subprocess.CalledProcessError, StopIteration):
        return platform.processor() or platform.machine()


def measure(count: int, size: int, repeats: int) -> dict[str, Any]:
    """Write both forms into a temporary folder and time them."""
    with tempfile.TemporaryDirectory() as temporary:
        distilled, pngs = make_files(Path(temporary), count, size)
        order = np.random.default_rng(1).permutation(count)[:2000].tolist()
        folder = torchvision.datasets.ImageFolder
        openings = [seconds(lambda: condense.dataset.load(distilled)) for _ in range(repeats)]
        deep = [seconds(lambda: condense.dataset.load(distilled, verify="deep")) for _ in range(repeats)]
        return {
            "open_seconds": {
                "first": round(openings[0], 4),
                "median": round(statistics.median(openings), 4),
                "deep_median": round(statistics.median(deep), 4),
                "imagefolder": round(seconds(lambda: folder(str(pngs))), 4),
            },
            "random_access_tensor": compare(
                condense.dataset.load(distilled), folder(str(pngs), transform=ToTensor()), order, repeats
            ),
            "random_access_pil": compare(
                condense.dataset.load(distilled, transform=same), folder(str(pngs)), order, repeats
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "benchmark": "loading",
        **vars(options),
        **measure(options.images, options.size, options.repeats),
        "cpu": cpu_name(),
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "hdf5": h5py.version.hdf5_version,
        },
    }
    text = json.dumps(found, indent=1)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
