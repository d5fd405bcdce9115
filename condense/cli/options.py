"""Options that several commands share, declared once: a group is a dataclass, its fields are the options.

A command takes a group like any other parameter; :func:`command` spreads the group's fields into the command's own
options and hands the command the filled group.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from condense.pipeline import Context, DataRequest, Request

__all__ = [
    "DataName",
    "Distillation",
    "Images",
    "Machine",
    "Quick",
    "Quiet",
    "Recipe",
    "Seed",
    "Teachers",
    "command",
    "given",
    "required",
]

MACHINE, IMAGES, RECIPE, JOBS = "Machine", "Images", "Recipe", "Jobs"

DataName = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME", help="One of `condense data list`, imagefolder:PATH or module:callable."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Root of every random draw; 0 by default.")]
Quick = Annotated[bool, typer.Option("--quick", help="A budget of seconds: shows that all works, nothing more.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Teachers = Annotated[
    list[Path] | None,
    typer.Option("--teacher", metavar="PATH", help="A teacher's folder; repeat it for several."),
]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where the data set is found, and how its images are wanted."""

    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", envvar="CONDENSE_DATA", help="Folder of downloaded data sets.", rich_help_panel=IMAGES
        ),
    ] = None
    size: Annotated[
        int | None, typer.Option(metavar="PX", help="Bring the images to this size.", rich_help_panel=IMAGES)
    ] = None
    channels: Annotated[
        int | None, typer.Option(metavar="N", help="1 (grey) or 3 (colour).", rich_help_panel=IMAGES)
    ] = None
    normalisation: Annotated[
        str | None,
        typer.Option(help="Mean and std: data (measured, the default) or published.", rich_help_panel=IMAGES),
    ] = None

    def values(self) -> dict[str, Any]:
        """What was given, by the names of :class:`condense.pipeline.DataRequest`."""
        root = str(self.data_root) if self.data_root else None
        return given(root=root, size=self.size, channels=self.channels, normalisation=self.normalisation)

    def request(self, name: str) -> DataRequest:
        from condense.pipeline import DataRequest

        return DataRequest(name=name, **self.values())

    def requested(self, name: str | None) -> DataRequest | None:
        """The same where ``--data`` may be left out."""
        return None if name is None else self.request(name)

    def over(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """These options laid over the ``data`` of a recipe, which is a name or a section."""
        from condense.config import merge

        wanted, data = self.values(), values.get("data")
        if not wanted or data is None:
            return dict(values)
        section = data if isinstance(data, Mapping) else {"name": data}
        return {**values, "data": merge(section, wanted)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings from a file, and single ones laid over them."""

    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML file of settings.", rich_help_panel=RECIPE)
    ] = None
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, over those of --config; repeatable.",
            rich_help_panel=RECIPE,
        ),
    ] = None

    def values(self, **options: object) -> dict[str, Any]:
        """The file, under the assignments, under those ``options`` that were given."""
        from condense.config import merge, parse_assignments, read_yaml
        from condense.recipes import at_ipc

        below = read_yaml(self.config) if self.config else {}
        above = merge(parse_assignments(self.assignments or []), given(**options))
        return merge(at_ipc(below, above.get("ipc")), above)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What is to be distilled, and how."""

    data: DataName = None
    method: Annotated[str | None, typer.Option(metavar="NAME", help="One of `condense methods`.")] = None
    ipc: Annotated[int | None, typer.Option(metavar="N", help="Images per class.")] = None
    sets: Annotated[int | None, typer.Option(metavar="S", help="Independent sets to make; 1 by default.")] = None
    teacher: Teachers = None
    seed: Seed = None
    quick: Quick = False
    published: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="One of `condense recipes`; --config, --set and options go over it.",
            rich_help_panel=RECIPE,
        ),
    ] = None

    def request(self, images: Images, recipe: Recipe) -> Request:
        """These options laid over those of a recipe, checked."""
        from condense import pipeline
        from condense.config import merge

        said = recipe.values(data=self.data, method=self.method, ipc=self.ipc, sets=self.sets, seed=self.seed)
        values = merge(self.published_values(said), said)
        return pipeline.resolve(images.over(values), quick=self.quick)

    def published_values(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``--recipe``, at the IPC that ``said`` says."""
        from condense import pipeline, recipes

        if self.published is None:
            return {}
        found = recipes.load(self.published)
        if "data" not in said:
            found.check_folder()
        values = found.at(said.get("ipc"))
        return pipeline.hurried(values) if self.quick else values


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where to compute, where to keep finished work, how much to say."""

    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE)] = "auto"
    precision: Annotated[str, typer.Option(help="Of convolutions: auto, float32 or bf16.", rich_help_panel=MACHINE)] = (
        "auto"
    )
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processor threads; by default one per core.", rich_help_panel=MACHINE),
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CONDENSE_STORE",
            help="Where finished work is kept; by default in the user's cache.",
            rich_help_panel=MACHINE,
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, results only.", rich_help_panel=MACHINE)
    ] = False
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Processes that do jobs side by side; by default this one.", rich_help_panel=JOBS
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory of a worker, for example 8GB.", rich_help_panel=JOBS),
    ] = None
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop after, for example, 3h; then exit status 75.", rich_help_panel=JOBS),
    ] = None
    checkpoint_every: Annotated[
        str, typer.Option(metavar="TIME", help="Between two checkpoints of a job.", rich_help_panel=JOBS)
    ] = "20s"
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice", metavar="I/N", help="Do share I (from 0) of N only; for job arrays.", rich_help_panel=JOBS
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Do jobs on a Ray cluster: auto, HOST:PORT, or local.", rich_help_panel=JOBS
        ),
    ] = None
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the figures there.", rich_help_panel=JOBS)
    ] = None

    def store_option(self) -> str:
        """The store as an option for other commands, with a space before; nothing where they find it without."""
        if self.store is None or str(self.store) == os.environ.get("CONDENSE_STORE"):
            return ""
        return f" --store {shlex.quote(str(self.store))}"

    @contextmanager
    def context(self) -> Iterator[Context]:
        """What the package's functions work with; progress is drawn while the block runs."""
        from condense.api import Machine as Resolved
        from condense.device import keep_buffers

        machine = Resolved(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            store=self.store,
            workers=self.workers,
            memory=self.memory,
            time_limit=self.time_limit,
            checkpoint_every=self.checkpoint_every,
            slice=self.slice_,
            ray_address=self.ray_address,
            tensorboard=self.tensorboard,
        )
        keep_buffers()
        with machine.context(self.quiet) as context:
            if not self.quiet:
                hint(context)
            yield context


def hint(context: Context) -> None:
    """Say so where worker processes would stand in each other's way."""
    from condense.device import available_cpus

    workers, compute = context.execution.workers or 1, context.compute
    if workers > 1 and compute.device == "cpu" and workers * compute.threads > available_cpus():
        typer.echo(
            f"note: {workers} workers of {compute.threads} threads share {available_cpus()} cores; --threads 1 is "
            "faster for many jobs (and, since sums depend on it, gives other bytes)",
            err=True,
        )


def required(option: str, value: str | None, what: str = "NAME") -> str:
    """``value``, which a command cannot do without; ``what`` is expected."""
    from condense.errors import ConfigError

    if value is None:
        raise ConfigError(f"{option} is missing; say `{option} {what}`")
    return value


def given(**options: object) -> dict[str, Any]:
    """Those that are not None or empty."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as ``name``, its option groups spread. Its docstring is the help: a line, then an example."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name)(spread(function))
        return function

    return register


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """``f(ipc, machine: Machine)`` -> ``f(ipc, device, precision, ...)``, the form that typer reads options from."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}

    def run(**values: Any) -> None:
        filled = {
            name: group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})  # type: ignore[operator]
            for name, group in groups.items()
        }
        function(**values, **filled)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))
    run.__doc__, run.__name__, run.__module__ = function.__doc__, function.__name__, function.__module__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]
