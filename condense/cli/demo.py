"""``condense demo``: the whole way, on the data set that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from condense.cli.options import Machine, command
from condense.cli.output import program, say
from condense.cli.sets import describe, draw_set, suggest_next

__all__ = ["register"]

RECIPE: dict[str, Any] = {
    "data": "fashion-mini",
    "method": "cda",
    "ipc": 10,
    "steps": 150,
    "start": "real",
    "lr": 0.03,
    "alpha_bn": 0.1,
    "teacher": {"network": "resnet8", "epochs": 12},
    "labels": {"epochs": 150, "teacher_bn": "batch", "views": {"scale": [0.5, 1.0], "mix": "cutmix", "batch_size": 50}},
}
STUDENT = "convnet3-w32-bn"
SEEDS = 2


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "demo")(demo)


def demo(
    machine: Machine,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")] = Path("demo"),
) -> None:
    """Distil fashion-mini, evaluate the set beside random real images, draw it. A few minutes on two cores.

    Example: condense demo

    If it is interrupted, run it again: it finishes what is missing.
    """
    from condense import pipeline
    from condense.evaluation.student import StudentRecipe
    from condense.report import rows_of, show

    with machine.context() as context:
        [folder] = pipeline.distill(pipeline.resolve(RECIPE), context, out=out / "set")
        results = pipeline.evaluate(
            [folder],
            context,
            students=[STUDENT],
            seeds=SEEDS,
            targets=["soft", "hard"],
            against=["random"],
            student=StudentRecipe(),
            results=out / "results.jsonl",
        )
    describe(folder)
    draw_set(folder, out / "grid.png")
    say(f"picture {out / 'grid.png'}, results {out / 'results.jsonl'}")
    show(rows_of(results))
    suggest_next([folder], machine.store_option())
    if (call := program()) != "condense":
        activate = Path(call).with_name("activate")
        shorter = f"; after `source {activate}` it is condense" if activate.is_file() else ""
        say(f"the command is {call}{shorter}")
