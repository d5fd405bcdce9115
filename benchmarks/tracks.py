"""The table of baselines on the tracks, and published protocols on random real images.

    python benchmarks/tracks.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --methods random herding k-center k-means moderate el2n forgetting ccs cad-prune --ipc 10 \\
        --tracks hard budget:1 teacher --students convnet3-bn --sets 3 --seeds 3 --whole \\
        --results benchmarks/results/tracks-fashion-mnist.jsonl --work runs/tracks
    python benchmarks/tracks.py --data fashion-mnist --teacher benchmarks/teachers/fashion-mnist-resnet20 \\
        --methods random --ipc 1 10 50 --tracks native:dc native:dsa --students convnet3-in --sets 5 --seeds 3 \\
        --results benchmarks/results/native-fashion-mnist.jsonl --work runs/tracks

Sets of every method are made once and labelled by each track's rule; every student's line goes to --results at once.
Everything is kept in the store below --work, so the script can be stopped and started at will. What the jobs cost goes
to a file beside the results. `condense compare RESULTS` makes the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from condense.console import drawn
from condense.device import gpus_of, keep_buffers, resolve
from condense.engine.events import finished_jobs
from condense.engine.store import Store
from condense.pipeline import Context, DataRequest, distill, evaluate
from condense.pipeline import resolve as resolve_recipe
from condense.pipeline.execution import Execution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as condense distill takes it")
    parser.add_argument("--data-root")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["random"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[10])
    parser.add_argument("--tracks", nargs="+", default=["hard", "budget:1", "teacher"])
    parser.add_argument("--students", nargs="+", default=["convnet3-bn"])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scorer", default="resnet8", help="network whose training rules look at, of their own sets")
    parser.add_argument("--scorer-epochs", type=int, default=8)
    parser.add_argument("--whole", action="store_true", help="also the same steps on all training images")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/tracks"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    keep_buffers()
    compute = resolve(options.device, "auto", options.threads)
    with drawn(quiet=False) as report:
        context = Context(
            store=Store(options.work / "store"),
            compute=compute,
            report=report,
            execution=Execution(workers=options.workers, gpus=gpus_of(options.device, compute)),
        )
        for ipc in options.ipc:
            for track in options.tracks:
                measure(options, ipc, track, context)
        context.close()
    costs = [event for event in finished_jobs(context.store.root / "runs") if "seconds" in event]
    options.results.with_suffix(".costs.json").write_text(json.dumps(costs, indent=1) + "\n")


def measure(options: argparse.Namespace, ipc: int, track: str, context: Context) -> None:
    request = DataRequest(name=options.data, root=options.data_root)
    for place, method in enumerate(options.methods):
        recipe = {
            "data": {"name": options.data, "root": options.data_root},
            "method": method,
            "ipc": ipc,
            "sets": options.sets,
            "labels": {"codec": "none"},
            "teacher": {"network": options.scorer, "epochs": options.scorer_epochs},
        }
        out = options.work / options.results.stem / f"{method}-ipc{ipc}"
        folders = distill(resolve_recipe(recipe), context, out=out, teachers=[options.teacher])
        evaluate(
            folders,
            context,
            students=options.students,
            seeds=options.seeds,
            tracks=[track],
            against=["whole"] if options.whole and place == 0 else [],
            data=request,
            teachers=[options.teacher],
            results=options.results,
        )


if __name__ == "__main__":
    main()
