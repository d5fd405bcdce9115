"""Published settings by name: what the files hold, what they resolve to, and how the commands take them."""

from __future__ import annotations

import configparser
import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torchvision import models
from typer.testing import CliRunner, Result

import condense
from condense import pipeline, recipes
from condense.cli import app
from condense.config import from_mapping, merge, to_mapping
from condense.data import DatasetSpec
from condense.errors import ConfigError
from condense.evaluation.student import StudentRecipe
from condense.evaluation.tracks import find_track
from condense.methods import METHODS
from condense.methods.infer import Infer
from condense.methods.matched import WholeSet
from condense.methods.rded import RDED
from condense.methods.recovery import RecoveryMethod
from condense.networks import batchnorm_layers, build
from condense.recipes import Expected, Recipe, at_ipc
from condense.recipes.reading import parse

ROOT = Path(__file__).parent.parent
NAMES = recipes.names()

SHAPES = {
    "fashion-mnist": (1, 28, 10, 6000),
    "cifar10": (3, 32, 10, 5000),
    "cifar100": (3, 32, 100, 500),
    "tiny-imagenet": (3, 64, 200, 500),
    "imagenet-1k": (3, 224, 1000, 732),
}
"""Channels, side, classes, and training images of the smallest class."""


def spec_of(data: str) -> DatasetSpec:
    channels, side, classes, images = SHAPES[data]
    return DatasetSpec(
        name=data,
        classes=tuple(str(label) for label in range(classes)),
        channels=channels,
        height=side,
        width=side,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        train_sizes=(images,) * classes,
        test_sizes=(50,) * classes,
        fingerprint="0" * 64,
    )


@cache
def loaded(name: str) -> Recipe:
    return recipes.load(name)


def each_ipc() -> list[tuple[str, int]]:
    return [(name, ipc) for name in NAMES for ipc in loaded(name).ipcs]


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*words: object) -> str:
    result = run(*words, code=2)
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


# What the files hold


def test_names_are_those_of_a_method_and_a_data_set_and_no_pair_comes_twice() -> None:
    pairs = [(loaded(name).values["method"], loaded(name).data) for name in NAMES]
    assert [f"{method}-{data}" for method, data in pairs] == NAMES
    assert len(set(pairs)) == len(pairs) == 71
    assert {data for _, data in pairs} == SHAPES.keys()


def test_every_decoupled_method_has_a_recipe_for_fashion_mnist() -> None:
    decoupled = {name for name, method in METHODS.items() if issubclass(method, RecoveryMethod | RDED | Infer)}
    found = {name.removesuffix("-fashion-mnist") for name in NAMES if name.endswith("fashion-mnist")}
    assert found == decoupled | MATCHING - {"ncfm"}


MATCHING = {name for name, method in METHODS.items() if issubclass(method, WholeSet)}
"""What was published for them has classes for labels."""


@pytest.mark.parametrize("name", [f"{method}-cifar10" for method in sorted(MATCHING)])
def test_students_of_methods_that_match_are_those_of_their_protocol(name: str) -> None:
    """Steps, augmentation and optimiser; and the label file says the same of the views."""
    recipe = loaded(name)
    method = recipe.values["method"]
    track = find_track("native:dsa" if method in ("dm", "mtt") else f"native:{method}", spec_of("cifar10"))
    for ipc in recipe.ipcs:
        request = pipeline.resolve(recipe.at(ipc))
        student = from_mapping(StudentRecipe, recipe.at(ipc)["student"], "student")
        assert student == replace(track.recipe(student.network, None, 10), temperature=student.temperature)
        assert replace(request.labels.views, scale=track.views.scale) == track.views  # no crop is scaled
        assert (request.labels.epochs, request.labels.codec) == (track.epochs, "none")
    assert recipe.expected[0].accuracy.keys() == {track.network}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves_to_a_distillation_that_its_data_allows(name: str) -> None:
    recipe, spec = loaded(name), spec_of(loaded(name).data)
    for ipc in recipe.ipcs:
        request = pipeline.resolve(recipe.at(ipc))
        assert (request.method.name, request.ipc) == (recipe.values["method"], ipc)
        assert request.data.name.removeprefix("imagefolder:") == recipe.data
        assert request.data.size == {"tiny-imagenet": 64, "imagenet-1k": 224}.get(recipe.data)
        request.method.check(spec, ipc)
        request.method.check_number(len(request.teachers) or 1)
        assert request.method.jobs(spec, ipc, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_comes_out(name: str) -> None:
    recipe = loaded(name)
    for ipc in recipe.ipcs:
        said, request = recipe.at(ipc), pipeline.resolve(recipe.at(ipc))
        assert_within(said["labels"], to_mapping(request.labels))
        assert_within(said.get("teacher", {}), to_mapping(request.teacher))
        own = {key: said[key] for key in said if hasattr(request.method.config, key)}
        assert_within(own, to_mapping(request.method.config))
        assert {"steps", "pool", "networks", "iterations"} & own.keys()
        student = from_mapping(StudentRecipe, said["student"], "student")
        assert_within(said["student"], to_mapping(student))
        assert student.temperature in (4, 20, 30)
        assert student.network == StudentRecipe().network  # it is named when the set is evaluated


def assert_within(said: dict[str, Any], made: dict[str, Any]) -> None:
    for key, value in said.items():
        if isinstance(value, dict):
            assert_within(value, made[key])
        else:
            assert made[key] == value, key


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_is_refused(name: str) -> None:
    values = loaded(name).at(loaded(name).ipcs[0])
    for path in ("stepz", "labels.epochz", "labels.views.batch_sise", "teacher.epochz"):
        section: dict[str, Any] = {}
        inner = section
        *outer, last = path.split(".")
        for part in outer:
            inner[part] = {}
            inner = inner[part]
        inner[last] = 1
        with pytest.raises(ConfigError, match=last):
            pipeline.resolve(merge(values, section))


def teachers() -> list[tuple[str, str]]:
    """Every network that a recipe names as a teacher, with a data set."""
    found = set()
    for name, ipc in each_ipc():
        values = loaded(name).at(ipc)
        asked = values.get("teachers") or [values.get("teacher", {}).get("network")]
        found |= {(loaded(name).data, network) for network in asked if network}
    return sorted(found)


@pytest.mark.parametrize(("data", "network"), teachers())
def test_teachers_exist_and_have_batch_norm(data: str, network: str) -> None:
    assert batchnorm_layers(made(data, network))


def made(data: str, network: str) -> nn.Module:
    if network.startswith("torchvision:"):
        with torch.device("meta"):
            return models.get_model(network.partition(":")[2], weights=None)
    spec = spec_of(data)
    return build(network, channels=spec.channels, height=spec.height, width=spec.width, n_classes=spec.n_classes)


# What is expected


@pytest.mark.parametrize("name", NAMES)
def test_what_is_expected_has_a_source_and_is_of_the_recipe(name: str) -> None:
    recipe = loaded(name)
    for one in recipe.expected:
        assert len(one.source) > 8
        assert one.accuracy
        assert {ipc for row in one.accuracy.values() for ipc in row} <= set(recipe.ipcs)
    if recipe.data == "fashion-mnist" and recipe.values["method"] not in MATCHING:
        assert recipe.expected == ()


def published(name: str, network: str, status: str) -> dict[int, float]:
    rows = [dict(one.accuracy.get(network, {})) for one in loaded(name).expected if one.status == status]
    return {ipc: value for row in reversed(rows) for ipc, value in row.items()}


@pytest.mark.parametrize(
    ("name", "network", "status", "accuracies"),
    [
        ("sre2l-imagenet-1k", "resnet18", "verified", {10: 21.3, 50: 46.8, 100: 52.8, 200: 57.0}),
        ("cda-tiny-imagenet", "resnet101", "verified", {50: 50.6, 100: 55.0}),
        ("cv-dd-cifar100", "resnet18", "verified", {1: 15.9, 10: 53.6, 50: 65.1}),
        ("sre2l++-cifar10", "resnet50", "verified", {1: 22.8, 10: 42.3, 50: 60.9}),
        ("dwa-cifar100", "resnet18", "verified", {10: 39.6, 50: 60.9}),
        ("infer-dyn-cifar100", "resnet18", "verified", {10: 53.4, 50: 68.9, 100: 73.3}),
        ("edc-cifar10", "mobilenetv2", "verified", {1: 20.2, 10: 42.0, 50: 70.8}),
        ("edc-tiny-imagenet", "resnet18", "verified", {1: 39.2, 10: 51.2, 50: 57.2}),
        ("fadrm+-imagenet-1k", "resnet50", "verified", {1: 13.8, 10: 57.5, 50: 65.8}),
        ("lpld-imagenet-1k", "resnet18", "verified", {10: 20.2, 20: 33.0, 50: 46.7, 100: 54.0, 200: 59.6}),
        ("rded-imagenet-1k", "resnet18", "verified", {10: 42.0}),
        ("rded-imagenet-1k", "resnet18", "secondary", {1: 6.6, 50: 56.5}),
        ("nrr-dd-tiny-imagenet", "resnet18", "secondary", {1: 13.5, 10: 45.2, 50: 61.2}),
        ("nrr-dd-tiny-imagenet", "resnet18", "verified", {}),
        ("sre2l-cifar100", "resnet18", "verified", {}),
        ("dc-fashion-mnist", "convnet3-in", "verified", {1: 70.5, 10: 82.3, 50: 83.6}),
        ("dsa-fashion-mnist", "convnet3-in", "verified", {1: 70.6, 10: 84.6, 50: 88.7}),
        ("dm-fashion-mnist", "convnet3-in", "secondary", {1: 71.5, 10: 83.6, 50: 88.2}),
        ("idc-fashion-mnist", "convnet3-in", "verified", {1: 81.0, 10: 86.0, 50: 86.2}),
        ("mtt-fashion-mnist", "convnet3-in", "secondary", {1: 75.1, 10: 87.2, 50: 88.3}),
        ("dsa-cifar10", "convnet3-in", "verified", {1: 28.8, 10: 52.1, 50: 60.6}),
        ("ncfm-cifar10", "convnet3-in", "verified", {1: 49.5, 10: 71.8, 50: 77.4}),
    ],
)
def test_published_accuracies(name: str, network: str, status: str, accuracies: dict[int, float]) -> None:
    assert published(name, network, status) == accuracies


def test_changes_for_an_ipc() -> None:
    pairs = loaded("cv-dd-cifar100")
    assert pairs.at(1)["teachers"][:2] == ["shufflenetv2", "mobilenetv2"]
    assert pairs.at(1)["committee"] == {**pairs.at(10)["committee"], "priors": [51.6, 59.4, 64.0, 60.6]}
    assert pairs.at(50)["committee"]["choice"] == "random"
    assert pairs.at(20) == {**pairs.values, "ipc": 20}
    assert pairs.at(10)["student"]["optim"]["schedule"] == "smoothed"
    assert pairs.at(50)["student"]["optim"]["schedule"] == "cosine"


# The form


def test_values_at_an_ipc() -> None:
    values = {"steps": 5, "labels": {"epochs": 3, "pool": 2}, "ipc": {1: None, 10: {"labels": {"epochs": 7}}}}
    assert at_ipc(values, 1) == {"steps": 5, "labels": {"epochs": 3, "pool": 2}, "ipc": 1}
    assert at_ipc(values, 10) == {"steps": 5, "labels": {"epochs": 7, "pool": 2}, "ipc": 10}
    assert at_ipc(values, 3) == {"steps": 5, "labels": {"epochs": 3, "pool": 2}, "ipc": 3}
    assert at_ipc({"ipc": 4, "steps": 2}, 9) == {"ipc": 4, "steps": 2}
    for nothing in (None, "ten", [1]):
        with pytest.raises(ConfigError, match=r"^the recipe is for an ipc of 1, 10; say which with --ipc$"):
            at_ipc(values, nothing)
    with pytest.raises(ConfigError, match=r"says 7 for an ipc of 2; expected settings"):
        at_ipc({"ipc": {2: 7}}, 2)


GOOD: dict[str, Any] = {
    "data": "cifar10",
    "method": "cda",
    "ipc": {10: {}},
    "student": {"temperature": 4.0},
    "expected": [
        {"source": "a table", "status": "verified", "protocol": "last epoch", "accuracy": {"resnet18": {10: 50.0}}}
    ],
}


def expecting(**changes: Any) -> dict[str, Any]:
    return {"expected": [{**GOOD["expected"][0], **changes}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "says no data"),
        ({"student": None}, "says no student"),
        ({"ipc": 10}, r"ipc of recipe mine is 10; expected IPCs with their changes"),
        ({"ipc": {}}, r"ipc of recipe mine is {}"),
        ({"ipc": {0: {}}}, r"ipc of recipe mine is {0: {}}"),
        ({"ipc": {10: 3}}, "says 3 for an ipc of 10"),
        ({"student": {"temperatur": 4.0}}, r'no setting "student.temperatur"; did you mean "temperature"'),
        ({"ipc": {10: {"student": {"optim": {"lr": -1.0}}}}}, "lr must be above 0 and finite, got -1.0"),
        (expecting(source=""), "source is empty"),
        (expecting(status="unsure"), "expected.status is 'unsure'"),
        (expecting(protocol="best"), "expected.protocol is 'best'"),
        (expecting(sorce="x"), r'no setting "expected.sorce"; did you mean "source"'),
        (expecting(accuracy={"resnet18": {10: 0.5e3}}), r"accuracy of resnet18 at an ipc of 10 is 500.0"),
        (expecting(accuracy={"resnet18": {20: 50.0}}), "expects something of an ipc of 20, which it is not for"),
        (expecting(sd={"resnet18": {20: 1.0}}), "sd has resnet18 at an ipc of 20, of which no accuracy is given"),
    ],
)
def test_the_form_is_checked(changes: dict[str, Any], message: str) -> None:
    assert parse("mine", yaml.safe_dump(GOOD)).ipcs == (10,)
    held = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        parse("mine", yaml.safe_dump(held))


def test_a_source_and_a_status_must_be_said() -> None:
    for missing in ("source", "status", "protocol", "accuracy"):
        held = {key: value for key, value in GOOD["expected"][0].items() if key != missing}
        with pytest.raises(ConfigError, match=missing):
            from_mapping(Expected, held, "expected")


def test_a_text_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipe mine holds list; expected a mapping"):
        parse("mine", "- 1\n")


def test_there_is_no_such_recipe() -> None:
    with pytest.raises(ConfigError, match=r'no recipe "cvdd-cifar10"; did you mean "cv-dd-cifar10"\?'):
        recipes.load("cvdd-cifar10")
    with pytest.raises(ConfigError, match=r'no recipe "\.\./x"; `condense recipes` lists all$'):
        recipes.load("../x")


def test_resolve_wants_one_ipc_and_takes_no_notice_of_what_was_published() -> None:
    values = loaded("cda-cifar100").values
    with pytest.raises(ConfigError, match="is for an ipc of 1, 10, 50; say which"):
        pipeline.resolve(values)
    with_all, without = loaded("cda-cifar100").at(10), loaded("cda-cifar100").at(10)
    del without["expected"], without["student"]
    assert pipeline.resolve(with_all).labels == pipeline.resolve(without).labels


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(("fashion-mnist", "cifar100"))])
def test_in_a_hurry_a_recipe_takes_seconds(name: str) -> None:
    recipe = loaded(name)
    request = pipeline.resolve(pipeline.hurried(recipe.at(recipe.ipcs[-1])), quick=True)
    assert request.method.optimisation_steps <= 60
    assert (request.labels.epochs, request.teacher.epochs, request.teacher.network) == (5, 2, "resnet8")
    assert request.teachers == (("resnet8", "convnet3-w32-bn") if METHODS[recipe.values["method"]].networks else ())
    request.method.check_number(len(request.teachers) or 1)


# The package


def test_recipes_are_installed_with_the_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["options.package_data"]["condense.recipes"] == "*.yaml"
    assert {one.name for one in files("condense.recipes").iterdir() if one.name.endswith(".yaml")} == {
        f"{name}.yaml" for name in NAMES
    }
    assert condense.recipes.load("cda-cifar100").name == "cda-cifar100"


# The commands


def test_the_list_names_every_recipe_with_its_ipcs_and_what_is_expected() -> None:
    lines = run("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMES
    assert "resnet18 3.3*, 43.0*, 48.7, 53.2" in next(line for line in lines if line.startswith("cda-tiny"))
    assert next(line for line in lines if line.startswith("cda-fashion")).endswith("none")
    held = json.loads(run("recipes", "--json").stdout)
    assert [one["name"] for one in held] == NAMES
    assert held[0]["expected"][0]["accuracy"]["resnet18"]["10"] == 49.8


def test_a_recipe_is_shown_as_it_is_and_at_an_ipc() -> None:
    text = files("condense.recipes").joinpath("cv-dd-cifar100.yaml").read_text()
    assert run("recipes", "show", "cv-dd-cifar100").stdout == text
    shown = yaml.safe_load(run("recipes", "show", "cv-dd-cifar100", "--ipc", 1).stdout)
    assert shown == loaded("cv-dd-cifar100").at(1)
    student = yaml.safe_load(run("recipes", "show", "cv-dd-cifar100", "--ipc", 10, "--student").stdout)
    assert student == loaded("cv-dd-cifar100").at(10)["student"]
    assert "say which with --ipc" in refused("recipes", "show", "cv-dd-cifar100", "--student")
    assert 'did you mean "cda-cifar100"?' in refused("recipes", "show", "cda-cifar1000")


def test_mistakes_end_in_one_line() -> None:
    assert "recipe cda-cifar100 is for an ipc of 1, 10, 50" in refused("distill", "--recipe", "cda-cifar100")
    assert 'did you mean "cda-cifar100"?' in refused("distill", "--recipe", "cda-cifar", "--ipc", 10)
    line = refused("distill", "--recipe", "cda-tiny-imagenet", "--ipc", 10)
    assert line.endswith(
        'is for tiny-imagenet, and there is no folder "tiny-imagenet" here; say where its images are with '
        "--data imagefolder:PATH"
    )
    assert 'no setting "stepz"' in refused("distill", "--recipe", "cda-cifar100", "--ipc", 10, "--set", "stepz=3")


def test_a_folder_of_the_recipes_name_is_found() -> None:
    with pytest.raises(ConfigError, match="no folder"):
        loaded("cda-tiny-imagenet").check_folder()
    Path("tiny-imagenet").mkdir()
    loaded("cda-tiny-imagenet").check_folder()
    loaded("cda-cifar100").check_folder()


def resolved(monkeypatch: pytest.MonkeyPatch, *words: object) -> pipeline.Request:
    """What `condense plan` with these words would plan."""
    asked: list[pipeline.Request] = []

    class Stop(Exception):
        pass

    def estimate(request: pipeline.Request, *rest: Any, **more: Any) -> None:
        asked.append(request)
        raise Stop

    monkeypatch.setattr(pipeline, "estimate", estimate)
    with pytest.raises(Stop):
        run("plan", *words)
    return asked[0]


def test_options_go_over_settings_over_the_file_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text("lr: 0.2\nsteps: 7\nlabels: {epochs: 9}\nsize: 48\n")
    words = ("--recipe", "cda-tiny-imagenet", "--config", "mine.yaml", "--set", "steps=8", "--ipc", 100)
    request = resolved(monkeypatch, *words, "--data", "imagefolder:there", "--size", 40)
    config = request.method.config
    assert (config.alpha_bn, config.lr, config.steps) == (0.05, 0.2, 8)
    assert (request.labels.epochs, request.labels.views.batch_size) == (9, 256)
    assert (request.data.name, request.data.size, request.ipc) == ("imagefolder:there", 40, 100)
    assert resolved(monkeypatch, *words, "--data", "imagefolder:there").data.size == 48


def test_a_file_may_have_changes_for_each_ipc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text(run("recipes", "show", "dwa-fashion-mnist").stdout)
    assert resolved(monkeypatch, "--config", "mine.yaml", "--ipc", 50).labels.epochs == 300
    assert resolved(monkeypatch, "--config", "mine.yaml", "--ipc", 1).labels.epochs == 1200
    assert resolved(monkeypatch, "--config", "mine.yaml", "--set", "ipc=10").labels.epochs == 600
    assert "is for an ipc of 1, 10, 50; say which" in refused("plan", "--config", "mine.yaml")


def test_quick_goes_over_the_recipe_and_settings_over_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--recipe", "cv-dd-cifar100", "--ipc", 10, "--quick")
    request = resolved(monkeypatch, *words)
    assert (request.method.config.steps, request.labels.epochs) == (30, 5)
    assert request.method.config.committee.priors == ()
    assert request.labels.views.group_size == 8
    assert resolved(monkeypatch, *words, "--set", "steps=12").method.config.steps == 12


def test_a_set_by_a_recipe_from_end_to_end() -> None:
    words = ("--recipe", "fadrm-fashion-mnist", "--data", "fashion-mini", "--ipc", 1, "--quick", "--threads", 1)
    run("distill", *words, "--quiet", "--out", "made")
    info = json.loads(Path("made/set.json").read_text())
    assert (info["method"]["name"], info["config"]["ipc"]) == ("fadrm", 1)
    assert (info["config"]["settings"]["lr"], info["config"]["settings"]["alpha_bn"]) == (0.1, 0.1)
    assert info["config"]["labels"]["views"]["group_size"] == 5
    assert len(condense.load("made")) == 10
    Path("student.yaml").write_text(run("recipes", "show", "fadrm-fashion-mnist", "--ipc", 1, "--student").stdout)
    words = ("--student", "convnet3-w32-bn", "--seeds", 1, "--against", "none", "--targets", "soft", "--threads", 1)
    run("evaluate", "made", "--config", "student.yaml", *words, "--results", "r.jsonl", "--quiet")
    recipe = json.loads(Path("r.jsonl").read_text().splitlines()[0])["config"]["recipe"]
    assert (recipe["temperature"], recipe["optim"]["lr"]) == (4.0, 0.05)


def test_python_takes_a_recipe_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[pipeline.Request] = []
    monkeypatch.setattr(pipeline, "distill", lambda request, *rest, **more: asked.append(request) or [])
    held = condense.recipes.load("dwa-fashion-mnist")
    for settings in (held.at(50), held.values):
        condense.distill(data="fashion-mini", method="dwa", ipc=50, settings=settings, quiet=True)
    for request in asked:
        assert (request.data.name, request.ipc, request.labels.epochs) == ("fashion-mini", 50, 300)
