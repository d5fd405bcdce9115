"""Search the learning rates of tracks and write them to `condense/evaluation/rates.yaml`.

    python benchmarks/tune_tracks.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --tracks hard budget:1 teacher --students convnet3-bn resnet20 --work runs/tune-tracks

For each track and network students of every rate are trained on random real images that are not held out, with the
track's labels, and tested on the training images that are held out (`condense.pipeline.tracks.rate_search`); test
images are never looked at. What is known already is not searched again. Jobs are kept in the store below --work, so the
script can be stopped and started at will; every rate that is found goes into the file at once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from condense.console import drawn
from condense.device import gpus_of, keep_buffers, resolve
from condense.engine.store import Store
from condense.evaluation import tracks
from condense.evaluation.tracks import find_track
from condense.pipeline import Context, DataRequest
from condense.pipeline.execution import Execution
from condense.pipeline.teachers import given_teachers
from condense.pipeline.tracks import OnTrack, rate_search

RATES = Path(tracks.__file__).with_name("rates.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as condense distill takes it")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--tracks", nargs="+", default=["hard", "budget:1", "teacher"])
    parser.add_argument("--students", nargs="+", default=["convnet3-bn"])
    parser.add_argument("--work", type=Path, default=Path("runs/tune-tracks"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    keep_buffers()
    compute = resolve(options.device, "auto", 1)
    with drawn(quiet=False) as report:
        context = Context(
            store=Store(options.work / "store"),
            compute=compute,
            report=report,
            execution=Execution(workers=options.workers, gpus=gpus_of(options.device, compute)),
        )
        search(options, context)
        context.close()


def search(options: argparse.Namespace, context: Context) -> None:
    request = DataRequest(name=options.data, root=options.data_root)
    data = context.data(request)
    teachers = given_teachers(data.spec, [options.teacher])
    for name in options.tracks:
        track = find_track(name, data.spec)
        for network in options.students:
            if network in track.known or not track.rates:
                continue
            found = rate_search(OnTrack(replace(track, known={}), request, data, context, teachers), network)
            tried = {rate: round(accuracy, 4) for rate, accuracy in found.tried.items()}
            keep(data.spec.fingerprint, data.spec.name, track.title, network, {"rate": found.rate, "tried": tried})


def keep(fingerprint: str, name: str, track: str, network: str, found: dict[str, Any]) -> None:
    """Add one rate to the file, whose first lines say what it is."""
    text = RATES.read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    held = yaml.safe_load(text) or {}
    entry = held.setdefault(fingerprint, {"name": name.partition(":")[0] if "/" in name else name, "tracks": {}})
    entry["tracks"].setdefault(track, {})[network] = found
    RATES.write_text(head + yaml.safe_dump(held, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main()
