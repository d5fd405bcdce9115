"""Teachers: training, the store, import of foreign weights, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from condense.data.spec import Data, DatasetSpec, Split
from condense.data.split import holdout
from condense.device import Compute
from condense.errors import CondenseError, ConfigError, OutputError, TeacherError
from condense.networks import build
from condense.teachers import (
    TeacherInfo,
    TeacherRecipe,
    check_teacher,
    import_teacher,
    load_teacher,
    save_teacher,
    train_teacher,
)
from condense.training import OptimConfig, predict
from condense.views import plan

CPU = Compute()
CLASSES = ("dark", "middle", "bright")
NETWORK = "convnet2-w8-bn"
RECIPE = TeacherRecipe(network=NETWORK, epochs=6, batch_size=16, optim=OptimConfig(lr=0.05), pad=1, holdout=0.1, seed=3)


def split(count: int, seed: int) -> Split:
    """Grey images of 8 x 8 whose brightness is the class."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = (40 + 80 * labels)[:, None, None, None] + draws.integers(-30, 30, (count, 8, 8, 1))
    return Split(images.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def data() -> Data:
    spec = DatasetSpec(
        name="brightness",
        classes=CLASSES,
        channels=1,
        height=8,
        width=8,
        mean=(0.47,),
        std=(0.26,),
        train_sizes=(40, 40, 40),
        test_sizes=(10, 10, 10),
        fingerprint="f",
    )
    return Data(spec, split(120, 0), split(30, 1))


@pytest.fixture(scope="module")
def trained(data: Data) -> tuple[nn.Module, TeacherInfo]:
    return train_teacher(data, RECIPE, compute=CPU)


def one_line(call: Callable[[], object], error: type[CondenseError] = TeacherError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Training


def test_a_trained_teacher_knows_its_classes(trained: tuple[nn.Module, TeacherInfo], data: Data) -> None:
    network, info = trained
    assert info.accuracy_test is not None
    assert info.accuracy_test >= 0.9
    assert info.accuracy_heldout is not None
    assert info.accuracy_heldout >= 0.9
    assert (info.origin, info.epochs, info.network, info.spec) == ("trained", 6, NETWORK, data.spec)
    assert info.recipe["optim"]["lr"] == 0.05
    assert not network.training


class Killed:
    """A checkpoint in memory that stops the run once, at the ``step``-th time of asking."""

    def __init__(self, step: int) -> None:
        self.step, self.asked = step, 0
        self.held: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.held

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.step

    def save(self, state: dict[str, Tensor]) -> None:
        self.held = {name: value.clone().contiguous() for name, value in state.items()}
        raise KeyboardInterrupt


def test_training_is_repeatable_and_resumes_to_the_same_bytes(
    trained: tuple[nn.Module, TeacherInfo], data: Data
) -> None:
    checkpoint = Killed(11)
    with pytest.raises(KeyboardInterrupt):
        train_teacher(data, RECIPE, compute=CPU, checkpoint=checkpoint)
    _, info = train_teacher(data, RECIPE, compute=CPU, checkpoint=checkpoint)
    assert checkpoint.asked > 11
    assert info == trained[1]
    _, other = train_teacher(data, replace(RECIPE, seed=4, epochs=1), compute=CPU)
    _, another = train_teacher(data, replace(RECIPE, seed=5, epochs=1), compute=CPU)
    assert other.weights_sha256 != another.weights_sha256


def test_the_held_out_part_is_not_trained_on(data: Data) -> None:
    """Spoiling the held-out images changes not one bit of the weights."""
    from condense.data.split import holdout

    recipe = replace(RECIPE, epochs=1)
    _, held = holdout(data.train.labels, recipe.holdout, recipe.seed)
    spoiled = data.train.images.copy()
    spoiled[held] = 255 - spoiled[held]
    _, info = train_teacher(data, recipe, compute=CPU)
    _, other = train_teacher(replace(data, train=Split(spoiled, data.train.labels)), recipe, compute=CPU)
    assert other.weights_sha256 == info.weights_sha256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"pad": -1}, "pad is -1"),
        ({"flip": 1.5}, "flip"),
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"holdout": 0.0}, "holdout must be"),
    ],
)
def test_recipe_is_checked(values: dict[str, Any], message: str) -> None:
    assert message in one_line(lambda: TeacherRecipe(**values), ConfigError)


# The store


def test_store_round_trip(trained: tuple[nn.Module, TeacherInfo], data: Data, tmp_path: Path) -> None:
    network, info = trained
    save_teacher(tmp_path / "t", network, info)
    save_teacher(tmp_path / "t", network, info)
    teacher = load_teacher(tmp_path / "t")
    assert teacher.info == info
    assert teacher.sha256 == info.sha256
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["teacher.json", "weights.safetensors"]
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    expected = predict(network, data.test.images, info.spec, compute=CPU)
    assert torch.equal(predict(teacher.network, data.test.images, info.spec, compute=CPU), expected)


def test_identity_follows_what_decides_the_logits(trained: tuple[nn.Module, TeacherInfo]) -> None:
    info = trained[1]
    spec = info.spec
    same = replace(info, accuracy_test=0.1, epochs=None, spec=replace(spec, fingerprint="other", name="other"))
    assert same.sha256 == info.sha256
    others = [
        replace(info, weights_sha256="0" * 64),
        replace(info, network="convnet2-w8-in"),
        replace(info, spec=replace(spec, mean=(0.5,))),
        replace(info, spec=replace(spec, std=(0.5,))),
        replace(info, spec=replace(spec, classes=CLASSES[::-1])),
    ]
    assert len({other.sha256 for other in others} | {info.sha256}) == 6


def test_another_teacher_is_not_overwritten(trained: tuple[nn.Module, TeacherInfo], tmp_path: Path) -> None:
    network, info = trained
    save_teacher(tmp_path, network, info)
    message = one_line(lambda: save_teacher(tmp_path, network, replace(info, epochs=7)), OutputError)
    assert "another teacher" in message
    assert load_teacher(tmp_path).info == info
    with pytest.raises(ValueError, match="hash"):
        save_teacher(tmp_path, build(NETWORK, channels=1, height=8, width=8, n_classes=3), info)


def damage_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def edit(folder: Path, **values: Any) -> None:
    document = json.loads((folder / "teacher.json").read_text())
    (folder / "teacher.json").write_text(json.dumps({**document, **values}))


def swap_classes(folder: Path) -> None:
    document = json.loads((folder / "teacher.json").read_text())
    document["info"]["spec"]["classes"].reverse()
    edit(folder, info=document["info"])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage_weights, "damaged: weights.safetensors does not have the hash"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "cannot be read: weights.safetensors"),
        (swap_classes, "damaged: teacher.json was altered"),
        (lambda folder: (folder / "teacher.json").write_text("{"), "damaged: teacher.json was altered"),
        (lambda folder: (folder / "teacher.json").write_bytes(b"\xff\xfe"), "damaged: teacher.json was altered"),
        (lambda folder: edit(folder, info=None), "damaged: teacher.json was altered"),
        (lambda folder: edit(folder, sha256=None), "damaged: teacher.json was altered"),
        (lambda folder: edit(folder, version="1"), "damaged: teacher.json was altered"),
        (lambda folder: edit(folder, version=2), "reads up to version 1; upgrade"),
        (lambda folder: edit(folder, format="other"), "is not a teacher"),
        (lambda folder: (folder / "teacher.json").write_text("[]"), "is not a teacher"),
        (lambda folder: (folder / "teacher.json").unlink(), "is not a teacher"),
    ],
)
def test_damage_is_named(
    trained: tuple[nn.Module, TeacherInfo], tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    save_teacher(tmp_path, *trained)
    harm(tmp_path)
    assert message in one_line(lambda: load_teacher(tmp_path))


def test_weights_of_another_network_are_refused(data: Data, tmp_path: Path, trained: Any) -> None:
    network, info = trained
    save_teacher(tmp_path, network, replace(info, network="convnet2-w16-bn"))
    assert 'do not fit network "convnet2-w16-bn"' in one_line(lambda: load_teacher(tmp_path))
    assert 'not a "resnet8"' in one_line(lambda: load_teacher(tmp_path, network="resnet8"))


def test_a_file_never_decides_what_code_is_imported(trained: Any, tmp_path: Path) -> None:
    network, info = trained
    save_teacher(tmp_path, network, replace(info, network="no_such_module:make"))
    assert "name that network yourself" in one_line(lambda: load_teacher(tmp_path))
    assert "no_such_module" in one_line(lambda: load_teacher(tmp_path, network="no_such_module:make"))


# What is refused


def test_a_fitting_teacher_passes(trained: Any, data: Data) -> None:
    network, info = trained
    check_teacher(info, data.spec, needs_batchnorm=True, network=network)
    check_teacher(info, replace(data.spec, mean=(0.1,), fingerprint="other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("dark", "middle", "loud")}, '"loud" is not in both'),
        ({"classes": ("dark", "middle")}, '"bright" is not in both'),
        ({"classes": CLASSES[::-1]}, 'another order: output 0 is "dark", expected "bright"'),
        ({"height": 16}, "takes images of 8x8 with 1 channels, brightness has 16x8"),
        ({"channels": 3}, "brightness has 8x8 with 3 channels"),
    ],
)
def test_other_data_is_refused(trained: Any, data: Data, changes: dict[str, Any], message: str) -> None:
    assert message in one_line(lambda: check_teacher(trained[1], replace(data.spec, **changes)))


def test_an_inaccurate_teacher_is_refused(trained: Any, data: Data) -> None:
    info = replace(trained[1], accuracy_heldout=0.95, accuracy_test=0.43)
    assert "is 43.0%, expected at least 43.3%" in one_line(lambda: check_teacher(info, data.spec))
    check_teacher(replace(info, accuracy_test=0.44), data.spec)
    check_teacher(info, data.spec, min_accuracy=0.4)
    assert "at least 96.0%" in one_line(lambda: check_teacher(info, data.spec, min_accuracy=0.96))
    unmeasured = replace(info, accuracy_heldout=None, accuracy_test=None)
    assert "never measured" in one_line(lambda: check_teacher(unmeasured, data.spec))


@pytest.mark.parametrize("name", ["convnet2-w8-in", "convnet2-w8-none"])
def test_a_method_that_needs_batchnorm_gets_it(trained: Any, data: Data, name: str) -> None:
    network = build(name, channels=1, height=8, width=8, n_classes=3)
    message = one_line(lambda: check_teacher(trained[1], data.spec, needs_batchnorm=True, network=network))
    assert "no BatchNorm layers" in message


# Import


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"momentum": state}}}},
    "model": lambda state: {"model": state},
    "net": lambda state: {"net": state, "acc": 0.9},
    "model_state_dict": lambda state: {"epoch": 1, "model_state_dict": state},
    "nested": lambda state: {"a": {"b": state}},
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "model.": prefixed("model."),
    "net.": prefixed("net."),
    "backbone.": prefixed("backbone."),
    "two prefixes": prefixed("_orig_mod.module."),
    "wrapped and prefixed": lambda state: {"state_dict": {**prefixed("net.")(state), "loss.weight": torch.ones(3)}},
    "other head": lambda state: {name.replace("classifier", "fc"): value for name, value in state.items()},
    "prefix and head": lambda state: prefixed("module.")(
        {name.replace("classifier", "linear"): value for name, value in state.items()}
    ),
    "no counters": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrapping", sorted(WRAPPINGS))
def test_every_wrapping_is_undone(trained: Any, data: Data, tmp_path: Path, wrapping: str) -> None:
    network, info = trained
    torch.save(WRAPPINGS[wrapping](network.state_dict()), tmp_path / "weights.pth")
    imported, found = import_teacher(tmp_path / "weights.pth", data, network=NETWORK, compute=CPU)
    for name, value in network.state_dict().items():
        if not (wrapping == "no counters" and name.endswith("num_batches_tracked")):
            assert torch.equal(imported.state_dict()[name], value), name
    assert found.origin == "imported"
    assert found.accuracy_test == info.accuracy_test
    check_teacher(found, data.spec)


def test_safetensors_are_read(trained: Any, data: Data, tmp_path: Path) -> None:
    network, info = trained
    state = {f"module.{name}": value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    _, found = import_teacher(tmp_path / "weights.safetensors", data, network=NETWORK, compute=CPU)
    assert found.weights_sha256 == info.weights_sha256
    assert found.recipe["file"] == "weights.safetensors"


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(trained: Any, data: Data, tmp_path: Path, new_format: bool) -> None:
    mark = tmp_path / "executed"
    content = {**trained[0].state_dict(), "payload": Payload(mark)}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=new_format)
    message = one_line(lambda: import_teacher(tmp_path / "bad.pth", data, network=NETWORK, compute=CPU))
    assert "system" in message
    assert "could run code" in message
    assert not mark.exists()


def test_a_whole_pickled_network_is_refused(data: Data, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "network.pt")
    message = one_line(lambda: import_teacher(tmp_path / "network.pt", data, network=NETWORK, compute=CPU))
    assert "torch.nn.modules.linear.Linear" in message
    assert "state_dict()" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "does not exist"),
        ("empty.pth", b"", "empty.pth"),
        ("text.pth", b"no weights at all", "text.pth"),
        ("zip.pt", b"PK\x03\x04 cut short", "cannot be read"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "cannot be read"),
    ],
)
def test_unreadable_files_are_named(data: Data, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in one_line(lambda: import_teacher(tmp_path / name, data, network=NETWORK, compute=CPU))


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "classifier.bias"), "1 missing (classifier.bias)"),
        (lambda s: {**s, "extra.scale": torch.ones(1)}, "1 unexpected (extra.scale)"),
        (lambda s: {**s, "classifier.bias": torch.ones(5)}, "1 of another shape (classifier.bias (5,) for (3,))"),
        (lambda s: {"a.b": torch.ones(1)}, "...); 1 unexpected (a.b); name the network"),
        (lambda s: {**s, "classifier.bias": torch.full((3,), torch.nan)}, "not finite (classifier.bias)"),
        (lambda s: {"lr": 0.1}, "holds no tensors"),
        (lambda s: [1, 2], "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_listed_in_one_line(
    trained: Any, data: Data, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    torch.save(change(trained[0].state_dict()), tmp_path / "w.pt")
    assert message in one_line(lambda: import_teacher(tmp_path / "w.pt", data, network=NETWORK, compute=CPU))


def test_outputs_are_brought_to_the_order_of_the_data_set(trained: Any, data: Data, tmp_path: Path) -> None:
    """The foreign network knows a class more, in another order: its logits are picked by name, and nothing else."""
    names = ["bright", "black", "middle", "dark"]
    foreign = build(NETWORK, channels=1, height=8, width=8, n_classes=4, seed=5)
    torch.save(foreign.state_dict(), tmp_path / "w.pt")
    imported, info = import_teacher(tmp_path / "w.pt", data, network=NETWORK, class_names=names, compute=CPU)
    four = predict(foreign, data.test.images, replace(data.spec, classes=(*CLASSES, "x")), compute=CPU)
    three = predict(imported, data.test.images, data.spec, compute=CPU)
    torch.testing.assert_close(three, four[:, [names.index(name) for name in CLASSES]])
    assert info.spec.classes == CLASSES
    assert info.recipe["class_names"] == names


def test_a_wrong_order_shows_in_the_accuracy(trained: Any, data: Data, tmp_path: Path) -> None:
    network, _ = trained
    turned = [1, 2, 0]
    state = dict(network.state_dict())
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][turned]
    torch.save(state, tmp_path / "w.pt")
    _, wrong = import_teacher(tmp_path / "w.pt", data, network=NETWORK, compute=CPU)
    assert "right class names" in one_line(lambda: check_teacher(wrong, data.spec))
    names = [CLASSES[index] for index in turned]
    _, right = import_teacher(tmp_path / "w.pt", data, network=NETWORK, class_names=names, compute=CPU)
    check_teacher(right, data.spec)


@pytest.mark.parametrize("network", ["tests_foreign_head:linear_head", "tests_foreign_head:conv_head"])
def test_last_layers_of_foreign_networks_are_found(
    data: Data, tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType

    def linear_head(channels: int, height: int, width: int, n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, n_classes, 3), nn.Flatten(), nn.Linear(36 * n_classes, n_classes))

    def conv_head(channels: int, height: int, width: int, n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, n_classes, height, bias=False), nn.Flatten())

    module = ModuleType("tests_foreign_head")
    module.linear_head, module.conv_head = linear_head, conv_head  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_foreign_head", module)
    foreign = build(network, channels=1, height=8, width=8, n_classes=3)
    torch.save(foreign.state_dict(), tmp_path / "w.pt")
    imported, _ = import_teacher(tmp_path / "w.pt", data, network=network, class_names=CLASSES[::-1], compute=CPU)
    expected = predict(foreign, data.test.images, data.spec, compute=CPU).flip(1)
    torch.testing.assert_close(predict(imported, data.test.images, data.spec, compute=CPU), expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dark", "midle", "bright"], 'lack "middle" of the data set; did you mean "midle"?'),
        (["dark", "middle"], 'lack "bright"'),
        (["dark", "middle", "bright", "dark"], '"dark" is given twice'),
        (["dark", "middle", "bright", "black"], "4 class names for weights with 3 outputs"),
    ],
)
def test_wrong_class_names(trained: Any, data: Data, tmp_path: Path, names: list[str], message: str) -> None:
    torch.save(trained[0].state_dict(), tmp_path / "w.pt")
    call = lambda: import_teacher(tmp_path / "w.pt", data, network=NETWORK, class_names=names, compute=CPU)  # noqa: E731
    assert message in one_line(call)


def test_normalisation_of_the_weights_is_honoured(trained: Any, data: Data, tmp_path: Path) -> None:
    network, info = trained
    torch.save(network.state_dict(), tmp_path / "w.pt")
    elsewhere = replace(data, spec=replace(data.spec, mean=(0.9,), std=(0.01,)))
    given = ([0.47], [0.26])
    _, found = import_teacher(tmp_path / "w.pt", elsewhere, network=NETWORK, normalisation=given, compute=CPU)
    assert (found.spec.mean, found.spec.std) == ((0.47,), (0.26,))
    assert found.accuracy_test == info.accuracy_test
    _, wrong = import_teacher(tmp_path / "w.pt", elsewhere, network=NETWORK, compute=CPU)
    assert wrong.accuracy_test < 0.6


@pytest.mark.parametrize(
    ("normalisation", "message"),
    [
        (([0.5] * 3, [0.5] * 3), "3 means and 3 stds, brightness has 1 channels"),
        (([0.5], [0.0]), "stds above 0"),
        (([float("nan")], [0.5]), "finite means"),
    ],
)
def test_wrong_normalisation(data: Data, tmp_path: Path, normalisation: Any, message: str) -> None:
    call = lambda: import_teacher(tmp_path / "w", data, network=NETWORK, normalisation=normalisation, compute=CPU)  # noqa: E731
    assert message in one_line(call)


def test_a_small_data_set_is_gone_through_more_often(data: Data) -> None:
    recipe = replace(RECIPE, epochs=None, min_steps=140)
    _, info = train_teacher(data, recipe, compute=Compute())
    kept, _ = holdout(data.train.labels, recipe.holdout, recipe.seed)
    steps = plan(recipe.views, recipe.seed, 0, len(kept), data.spec.height, data.spec.width).n_steps
    assert info.epochs == -(-140 // steps) > 15
    _, info = train_teacher(data, replace(recipe, epochs=1), compute=Compute())
    assert info.epochs == 1
