"""How fast a distilled set opens, gives single images, and replays labelled epochs, beside what others do.

    python benchmarks/loading.py [--images 10000] [--size 32] [--repeats 5]

Claims: a set of 10,000 images, or of 1,000 files, opens in under one second; random access is at least 10 times faster
than `ImageFolder` over PNGs of the same images (float tensors from both; PIL images are compared too); a labelled
epoch is replayed at least 5 times faster than the same views drawn by torchvision image by image. Everything is
measured in this one process, which keeps freed memory as the commands do, in alternation, on files just written (so
all come from the page cache), with one thread; replay also with as many as there are cores. What counts is the median
of the repeats. A plain `.npz` and, where it is installed, WebDataset stand beside as references. Writes
`benchmarks/results/loading.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import ToTensor
from torchvision.transforms import functional as vision

import condense.dataset
from condense.device import keep_buffers
from condense.labels import LabelConfig, store_labels
from condense.shards import SetInfo, image_name, write_images, write_set
from condense.views import ViewConfig
from condense.views.plan import EpochPlan

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
    spec = spec_of(count, size)
    distilled, pngs = folder / "set", folder / "png"
    distilled.mkdir()
    write_images(
        distilled / image_name(0), columns={"images": images}, labels=labels, slots=np.arange(count) // 10, spec=spec
    )
    write_set(distilled, about(spec))
    for name in CLASSES:
        (pngs / name).mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(pngs / CLASSES[labels[index]] / f"{index:06d}.png")
    return distilled, pngs


def spec_of(count: int, size: int) -> dict[str, Any]:
    return {
        "name": "noise", "classes": CLASSES, "channels": 3, "height": size, "width": size, "mean": [0.5] * 3,
        "std": [0.25] * 3, "train_sizes": [count] * 10, "test_sizes": [0] * 10, "fingerprint": "0",
    }  # fmt: skip


def about(spec: dict[str, Any]) -> SetInfo:
    method = {"name": "noise", "revision": 1}
    return SetInfo(name="noise", spec=spec, method=method, config={}, seeds={}, contains_real_images=False)


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


def in_turn(works: dict[str, Callable[[], object]], repeats: int, unit: float) -> dict[str, Any]:
    """``unit`` per second of each, in alternation: the median, and all."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            rate = unit / seconds(work)
            if repeat:  # the first round warms up
                rates[name].append(round(rate, 1))
    return {name: {"median": statistics.median(values), "all": values} for name, values in rates.items()}


def replay(folder: Path, repeats: int) -> dict[str, Any]:
    """Views per second of a labelled epoch, beside the same views by torchvision's functions, image by image."""
    distilled = condense.dataset.load(folder)
    images = torch.from_numpy(np.array(distilled.images)).permute(0, 3, 1, 2).contiguous()
    logits = distilled.logits(0)

    def ours() -> None:
        for _ in distilled.epoch(0):
            pass

    def theirs() -> None:
        for _ in torchvision_epoch(images, logits, distilled.plan(0)):
            pass

    for made, expected in zip(distilled.epoch(0), torchvision_epoch(images, logits, distilled.plan(0)), strict=True):
        assert made.logits is not None
        torch.testing.assert_close(made.images, expected[0], atol=1e-4, rtol=0)
        assert torch.equal(made.logits, expected[1])
    rates = in_turn({"condense": ours, "torchvision": theirs}, repeats, len(distilled))
    return {**rates, "ratio": round(rates["condense"]["median"] / rates["torchvision"]["median"], 2)}


def torchvision_epoch(images: Tensor, logits: Tensor, drawn: EpochPlan) -> Iterator[tuple[Tensor, Tensor]]:
    """The plain form: each image cropped, resized and flipped by itself, then CutMix on the batch."""
    size = list(images.shape[2:])
    for step in range(drawn.n_steps):
        positions = range(*drawn.step(step).indices(drawn.n_items))
        views = []
        for position in positions:
            top, left, height, width = drawn.boxes[position].tolist()
            image = images[drawn.order[position]].float() / 255
            view = vision.resized_crop(image, top, left, height, width, size, antialias=False)
            views.append(vision.hflip(view) if drawn.flips[position] else view)
        batch = torch.stack(views)
        mixed = batch.clone()
        for row, position in enumerate(positions):
            top, left, height, width = drawn.mix_boxes[position].tolist()
            area = (slice(None), slice(top, top + height), slice(left, left + width))
            mixed[row][area] = batch[drawn.partner[position] - positions.start][area]
        yield mixed, logits[drawn.order[positions.start : positions.stop]]


def label(folder: Path) -> None:
    """Soft labels for three epochs of CutMix views."""
    dataset = condense.dataset.load(folder)
    config = LabelConfig(epochs=3, views=ViewConfig(scale=(0.5, 1.0), mix="cutmix", batch_size=100))
    logits = np.random.default_rng(2).normal(size=(3, len(dataset), len(CLASSES))).astype(np.float16)
    store_labels(folder, logits, config, dataset.spec, images=sorted(folder.glob("images-*.h5")), teachers=[])
    write_set(folder, dataset.info)


def many_files(folder: Path, images: npt.NDArray[np.uint8], spec: dict[str, Any]) -> dict[str, Any]:
    """Opening a set of 1,000 files, and writing them."""
    count, each = 1000, len(images) // 1000
    folder.mkdir()

    def write() -> None:
        for number in range(count):
            rows = slice(number * each, (number + 1) * each)
            slots = np.arange(rows.start, rows.stop)
            write_images(
                folder / image_name(number), columns={"images": images[rows]}, labels=slots * 0, slots=slots, spec=spec
            )

    writing = seconds(write)
    write_set(folder, about(spec))
    openings = [seconds(lambda: condense.dataset.load(folder)) for _ in range(3)]
    return {"files": count, "write_seconds": round(writing, 3), "open_seconds": [round(one, 4) for one in openings]}


def throughput(folder: Path, images: npt.NDArray[np.uint8], spec: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Megabytes per second of writing one file, made durable, beside a plain `.npz` (not made durable)."""
    labels, slots = np.arange(len(images)) % len(CLASSES), np.arange(len(images)) // len(CLASSES)

    def ours() -> None:
        (folder / "written.h5").unlink(missing_ok=True)
        write_images(folder / "written.h5", columns={"images": images}, labels=labels, slots=slots, spec=spec)

    def npz() -> None:
        np.savez(folder / "written.npz", images=images, labels=labels)

    return in_turn({"condense": ours, "npz": npz}, repeats, images.nbytes / 1e6)


def references(folder: Path, distilled: Path, pngs: Path, repeats: int) -> dict[str, Any]:
    """Images per second, one after the other as float tensors: ours, an `.npz`, and WebDataset."""
    dataset = condense.dataset.load(distilled)
    np.savez(folder / "all.npz", images=dataset.images, labels=np.asarray(dataset.targets))

    def ours() -> None:
        opened = condense.dataset.load(distilled)
        for index in range(len(opened)):
            opened[index]

    def npz() -> None:
        with np.load(folder / "all.npz") as held:
            images, labels = held["images"], held["labels"]
        for index in range(len(labels)):
            torch.from_numpy(images[index]).permute(2, 0, 1).float().div_(255), int(labels[index])

    works: dict[str, Callable[[], object]] = {"condense": ours, "npz": npz}
    try:
        import webdataset
    except ImportError:
        pass
    else:
        with webdataset.TarWriter(str(folder / "all.tar")) as sink:
            for number, path in enumerate(sorted(pngs.glob("*/*.png"))):
                sink.write(
                    {"__key__": f"{number:06d}", "png": path.read_bytes(), "cls": CLASSES.index(path.parent.name)}
                )

        def tar() -> None:
            for _ in (
                webdataset.WebDataset(str(folder / "all.tar"), shardshuffle=False)
                .decode("torchrgb")
                .to_tuple("png", "cls")
            ):
                pass

        works["webdataset"] = tar
    return in_turn(works, repeats, len(dataset))


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
        images, spec = condense.dataset.load(distilled).images, spec_of(count, size)
        found: dict[str, Any] = {
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
            "images_per_second": references(Path(temporary), distilled, pngs, repeats),
            "write_mb_per_second": throughput(Path(temporary), images, spec, repeats),
            "many_files": many_files(Path(temporary) / "many", images, spec),
        }
        label(distilled)
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            found[f"replay_views_per_second_{threads}_threads"] = replay(distilled, repeats)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_buffers()
    torch.set_num_threads(1)
    found = {
        "benchmark": "loading",
        **vars(options),
        **measure(options.images, options.size, options.repeats),
        "cpu": cpu_name(),
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
