"""Methods that choose real images: what is computed beforehand, what they make of it, and the whole way to a set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from test_selection import cloud, log, rng
from torch import Tensor, nn

import condense
from condense import seeding
from condense.checkpoint import FileCheckpoint, NoCheckpoint
from condense.config import from_mapping
from condense.data import Data, Split
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.engine.job import Job, in_order
from condense.engine.store import Store
from condense.errors import CondenseError, ConfigError, MethodError, NetworkError, TeacherError
from condense.methods import METHODS, Method, SynthesisJob
from condense.methods.base import JobSizes
from condense.methods.coreset import Coreset
from condense.networks import NETWORKS, build
from condense.networks.base import InputShape, Network
from condense.networks.last_layer import features_seen, last_layer
from condense.pipeline import Context, DataRequest, distill, estimate, resolve
from condense.pipeline.estimate import _Prober
from condense.pipeline.plans import set_jobs
from condense.pipeline.teachers import teacher_jobs
from condense.progress import silent
from condense.selection import (
    aum,
    cad,
    ccs,
    el2n,
    forgetting,
    k_center,
    largest,
    members_of,
    smallest,
    window,
)
from condense.shards import verify
from condense.teachers import Dynamics, Features, Teacher, TeacherRecipe, save_teacher, train_teacher
from condense.teachers.dynamics import _seen, log_dynamics
from condense.teachers.features import write_features
from condense.teachers.recipe import fit_recipe, network_of
from condense.training import predict

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# The last layer


@pytest.mark.parametrize(
    "name", [*NETWORKS, "convnet2-w8-in", "torchvision:resnet18", "torchvision:mobilenet_v3_small"]
)
def test_features_are_what_the_last_layer_is_given(name: str) -> None:
    network = build(name, channels=3, height=32, width=32, n_classes=5)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    layer = last_layer(name, network, InputShape(3, 32, 32))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    images = torch.randn(2, 3, 32, 32, generator=seeding.torch_generator(0, "images"))
    with torch.no_grad(), features_seen(layer) as seen:
        logits = network(images)
        assert seen[0].shape == (2, layer.in_features)
        torch.testing.assert_close(layer(seen[0]), logits)
        if isinstance(network, Network):
            torch.testing.assert_close(seen[0], network.features(images))


class TwoHeads(nn.Module):
    """Its last linear layer is not the one that the logits come from."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        logits = self.head(flat)
        self.other(flat)
        return logits


class NotFlat(nn.Module):
    """A linear layer at every place of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.movedim(1, -1)).mean((1, 2))


@pytest.mark.parametrize("network", [TwoHeads(), NotFlat(), nn.Sequential(nn.Flatten(), nn.Softmax(1))])
def test_a_network_that_does_not_end_in_a_linear_layer_is_refused(network: nn.Module) -> None:
    with pytest.raises(
        NetworkError, match='network "mine" does not end in a linear layer, so nothing says what its features are'
    ):
        last_layer("mine", network, InputShape(3, 2, 2))
    assert not any(module._forward_hooks for module in network.modules())


# Features and dynamics

RECIPE = TeacherRecipe(network="convnet2-w8-bn", epochs=3, min_steps=0, batch_size=16, pad=1)
CPU = Compute()


class Interrupted(Exception):
    pass


class Interrupting:
    """Due at every ``every``-th question; saves into a file and interrupts, as a process that is asked to end does."""

    def __init__(self, path: Path, every: int) -> None:
        self.file, self.every, self.asked = FileCheckpoint(path), every, 0

    def load(self) -> dict[str, Tensor] | None:
        return self.file.load()

    def due(self) -> bool:
        self.asked += 1
        return self.asked % self.every == 0

    def save(self, state: dict[str, Tensor]) -> None:
        self.file.save(state)
        raise Interrupted


def resumed(work: Callable[[Interrupting], Any], path: Path, every: int) -> tuple[Any, int]:
    """What ``work`` returns in the end, and how often it was interrupted."""
    checkpoint, times = Interrupting(path, every), 0
    while True:
        try:
            return work(checkpoint), times
        except Interrupted:
            times += 1


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def teacher(tiny_data: Data) -> Teacher:
    return Teacher(*train_teacher(tiny_data, RECIPE, compute=CPU))


def test_features_are_those_of_whole_images_in_eval_mode(teacher: Teacher, tiny_data: Data, tmp_path: Path) -> None:
    """Also of a teacher with a normalisation of its own."""
    teacher.network.eval()
    for spec in (tiny_data.spec, replace(tiny_data.spec, mean=(0.0,) * 3, std=(0.5,) * 3)):
        one = Teacher(teacher.network, replace(teacher.info, spec=spec))
        folder = tmp_path / str(spec.std[0])
        folder.mkdir()
        write_features(folder, one, tiny_data.train.images, compute=CPU)
        made = Features.read(folder)
        assert made.features.dtype == made.logits.dtype == np.float16
        images = normalise(to_pixels(tiny_data.train.images), spec)
        with torch.no_grad():
            wanted, logits = teacher.network.features(images), teacher.network(images)
        np.testing.assert_allclose(made.features, wanted.numpy(), rtol=2e-3, atol=1e-3)
        np.testing.assert_allclose(made.logits, logits.numpy(), rtol=2e-3, atol=1e-3)


def test_an_interrupted_pass_goes_on_to_the_same_bytes(
    teacher: Teacher, tiny_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.teachers.features.BATCH", 32)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write_features(whole, teacher, tiny_data.train.images, compute=CPU)

    def again(checkpoint: Interrupting) -> None:
        for left in parts.iterdir():
            left.unlink()
        write_features(parts, teacher, tiny_data.train.images, compute=CPU, checkpoint=checkpoint)

    _, times = resumed(again, tmp_path / "checkpoint", 2)
    assert times == 2
    assert content(parts) == content(whole)


def test_features_beyond_float16_are_refused(teacher: Teacher, tiny_data: Data, tmp_path: Path) -> None:
    huge = build("convnet2-w8-bn", channels=3, height=12, width=12, n_classes=3).eval()
    with torch.no_grad():
        huge.layers[1].weight.mul_(1e6)  # type: ignore[index, union-attr]
    with pytest.raises(TeacherError, match="has features beyond 65504"):
        write_features(tmp_path, Teacher(huge, teacher.info), tiny_data.train.images, compute=CPU)


def test_what_is_logged_of_an_image() -> None:
    logits = torch.from_numpy(3 * rng().standard_normal((50, 4)))
    labels = torch.from_numpy(rng(1).integers(0, 4, 50))
    p = logits.softmax(1).numpy()
    p_true, p_other, error = _seen(logits.float(), labels).numpy()
    for i, label in enumerate(labels.tolist()):
        assert p_true[i] == pytest.approx(p[i, label], abs=1e-6)
        assert p_other[i] == pytest.approx(np.delete(p[i], label).max(), abs=1e-6)
        assert error[i] == pytest.approx(np.linalg.norm(p[i] - np.eye(4)[label]), abs=1e-6)


def test_easy_images_are_told_apart_by_their_error() -> None:
    """Though their probability is 1 in float16."""
    logged = _seen(torch.tensor([[12.0, 0.0], [11.0, 0.0], [10.0, 0.0]]), torch.zeros(3, dtype=torch.int64)).half()
    assert logged[0].tolist() == [1, 1, 1]
    assert logged[2, 0] < logged[2, 1] < logged[2, 2]
    assert _seen(torch.tensor([[3.0]]), torch.tensor([0])).tolist() == [[1], [0], [0]]


def test_the_log_is_of_a_training_on_all_images_that_nothing_disturbs(tiny_data: Data) -> None:
    network = network_of(RECIPE, tiny_data.spec)
    made = log_dynamics(tiny_data, RECIPE, compute=CPU)
    assert made.p_true.shape == made.p_other.shape == made.error.shape == (3, 120)
    assert made.p_true.dtype == made.p_other.dtype == made.error.dtype == np.float16
    fit_recipe(network, tiny_data, np.arange(120), RECIPE, name="plain", compute=CPU)
    p = predict(network, tiny_data.train.images, tiny_data.spec, compute=CPU).double().softmax(1).numpy()
    own = p[np.arange(120), tiny_data.train.labels]
    np.testing.assert_array_equal(made.p_true[-1], own.astype(np.float16))
    wanted = np.linalg.norm(p - np.eye(3)[tiny_data.train.labels], axis=1)
    np.testing.assert_allclose(made.error[-1], wanted, rtol=1e-3, atol=1e-6)
    assert made.p_true[0].mean() < made.p_true[-1].mean()


def test_an_interrupted_scoring_run_goes_on_to_the_same_bytes(tiny_data: Data, tmp_path: Path) -> None:
    whole = log_dynamics(tiny_data, RECIPE, compute=CPU)
    steps = 3 * 8  # 120 images, 15 at a time
    for every in (1, 5, 8):

        def again(checkpoint: Interrupting) -> Dynamics:
            return log_dynamics(tiny_data, RECIPE, compute=CPU, checkpoint=checkpoint)

        made, times = resumed(again, tmp_path / f"{every}", every)
        assert times == (steps - 1) // every
        for name in ("p_true", "p_other", "error"):
            assert getattr(made, name).tobytes() == getattr(whole, name).tobytes()


def test_a_log_is_kept_whole(tmp_path: Path) -> None:
    made = Dynamics(*log(4, 9, 0))
    made.write(tmp_path)
    read = Dynamics.read(tmp_path)
    assert read.epochs == 4
    for name in ("p_true", "p_other", "error"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
        np.testing.assert_array_equal(getattr(read.of(np.array([7, 2])), name), getattr(made, name)[:, [7, 2]])


# Methods

CORESETS = ["herding", "k-center", "k-means", "moderate", "el2n", "forgetting", "ccs", "cad-prune"]
BY_LOG = CORESETS[4:]
NO = NoCheckpoint()
REQUEST = DataRequest(name="tiny")
TEACHER = {"network": "convnet2-w8-bn", "epochs": 2, "min_steps": 0, "batch_size": 16, "pad": 1}
LABELS = {"epochs": 2, "views": {"batch_size": 4, "mix": "cutmix"}}


def method_of(name: str, **settings: Any) -> Method:
    return METHODS[name](from_mapping(METHODS[name].Config, settings))


def fresh_context(store: Path, data: Data) -> Context:
    return Context(store=Store(store), compute=CPU, opened={REQUEST: data})


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    save_teacher(folder, teacher.network, teacher.info)
    return folder


def request_of(name: str, **changes: Any) -> Any:
    recipe = {"data": "tiny", "method": name, "ipc": 4, "teacher": TEACHER, "labels": LABELS}
    if name == "cad-prune":
        recipe["student_epochs"] = 50
    return resolve({**recipe, **changes})


def titles(store: Path) -> list[str]:
    return [event["title"] for event in finished_jobs(store / "runs")]


def test_the_coresets_are_these() -> None:
    assert [name for name, method in METHODS.items() if issubclass(method, Coreset)] == CORESETS


@pytest.mark.parametrize("name", CORESETS)
def test_every_coreset_goes_the_whole_way(name: str, tmp_path: Path, tiny_data: Data, teacher_folder: Path) -> None:
    """Real images of their classes, none twice, from a command to a checked set; again, nothing is done."""
    context = fresh_context(tmp_path / "store", tiny_data)
    [folder] = distill(request_of(name), context, out=tmp_path / "set", teachers=[teacher_folder])
    assert verify(folder, "deep").rows == 4 * 3
    made = condense.load(folder)
    assert made.info.contains_real_images
    assert made.targets == [0, 1, 2] * 4
    found = [np.flatnonzero((tiny_data.train.images == image).all((1, 2, 3))) for image in made.images]
    assert [tiny_data.train.labels[places].tolist() for places in found] == [[label] for label in made.targets]
    assert len(set(np.concatenate(found).tolist())) == 12
    done = titles(context.store.root)
    again = fresh_context(context.store.root, tiny_data)
    [other] = distill(request_of(name), again, out=tmp_path / "other", teachers=[teacher_folder])
    assert content(other) == content(folder)
    assert titles(context.store.root) == done


def test_what_is_precomputed_is_computed_once(tmp_path: Path, tiny_data: Data, teacher_folder: Path) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    for name in CORESETS:
        for ipc in (2, 4):
            request = request_of(name, ipc=ipc)
            distill(request, context, out=tmp_path / f"{name}{ipc}", teachers=[teacher_folder])
    counted = [title for title in titles(context.store.root) if title.startswith(("features", "scoring"))]
    # cad-prune has a run of its own for each IPC
    assert sorted(counted) == ["features, teacher", *["scoring run of convnet2-w8-bn"] * 3]


@pytest.mark.parametrize("name", CORESETS)
def test_sets_of_one_request_differ(name: str, tmp_path: Path, tiny_data: Data, teacher_folder: Path) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    settings = {"scoring": {"vary": False}} if name in ("forgetting", "ccs") else {}
    sets = distill(
        request_of(name, sets=2, ipc=8, **settings), context, out=tmp_path / "sets", teachers=[teacher_folder]
    )
    first, second = (condense.load(folder).images for folder in sets)
    assert {image.tobytes() for image in first} != {image.tobytes() for image in second}
    trained = [title for title in titles(context.store.root) if title.startswith(("teacher conv", "scoring"))]
    wanted = {"herding": 1, "moderate": 1, "k-center": 0, "k-means": 0, "forgetting": 1, "ccs": 1}
    assert len(trained) == wanted.get(name, 2)


@pytest.mark.parametrize("name", ["herding", "moderate", "el2n", "cad-prune"])
def test_several_sets_that_would_be_the_same_are_refused(name: str) -> None:
    settings = {"vary": False} if name in ("herding", "moderate") else {"scoring": {"vary": False}}
    request_of(name, **settings)
    with pytest.raises(ConfigError, match=f"sets is 3, but {name} without vary chooses the same images for each"):
        request_of(name, sets=3, **settings)
    with pytest.raises(ConfigError, match="sets is 3"):
        request_of("forgetting", sets=3, ties="first", scoring={"vary": False})


@pytest.mark.parametrize("name", ["el2n", "herding"])
def test_a_killed_distillation_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path, tiny_data: Data, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    [whole] = distill(request_of(name), context, out=tmp_path / "whole", teachers=[teacher_folder])
    monkeypatch.setattr("condense.teachers.features.BATCH", 50)
    monkeypatch.setattr(FileCheckpoint, "due", lambda self: True)
    saves, save = 0, FileCheckpoint.save

    def save_and_die(self: FileCheckpoint, state: Any) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(FileCheckpoint, "save", save_and_die)
    for _ in range(50):
        try:
            again = fresh_context(tmp_path / "killed", tiny_data)
            [made] = distill(request_of(name), again, out=tmp_path / "made", teachers=[teacher_folder])
            break
        except KeyboardInterrupt:
            continue
    assert saves > 6 or name == "herding"
    np.testing.assert_array_equal(condense.load(made).images, condense.load(whole).images)


def known_of(name: str, count: int, seed: int = 0) -> Any:
    if name in BY_LOG:
        return Dynamics(*log(9, count, seed))
    return Features(cloud(count, 6, seed, np.float16), cloud(count, 3, seed, np.float16))


def images_of(method: Method, data: Data, ipc: int, known: Any, set_index: int = 0) -> npt.NDArray[np.uint8]:
    """(ipc, classes, H, W, C), by the method's own jobs."""
    jobs = method.jobs(data.spec, ipc, set_index, 0)
    blocks = [
        method.synthesise(
            job, teachers=[], train=data.train, precomputed=known, compute=CPU, report=silent, checkpoint=NO
        )
        for job in jobs
    ]
    labels, slots = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("labels", "slots"))
    assert sorted(zip(slots.tolist(), labels.tolist(), strict=True)) == [(s, c) for s in range(ipc) for c in range(3)]
    pixels = np.concatenate([block.pixels for block in blocks])[np.lexsort((labels, slots))]
    return pixels.reshape(ipc, 3, *data.spec.image_shape)


@pytest.mark.parametrize("name", CORESETS)
def test_larger_sets_begin_with_smaller_ones_where_the_method_says_so(name: str, tiny_data: Data) -> None:
    method, known = method_of(name), known_of(name, 120)
    assert isinstance(method, Coreset)
    whole = images_of(method, tiny_data, 20, known)
    starts = [np.array_equal(images_of(method, tiny_data, ipc, known), whole[:ipc]) for ipc in (1, 7, 12)]
    if name in ("k-means", "ccs"):
        assert not any(starts)
    else:
        assert all(starts)  # cad-prune's too, of one log
    assert method.nested == (name not in ("k-means", "ccs", "cad-prune"))
    assert all(job.ipc == (None if method.nested else 20) for job in method.jobs(tiny_data.spec, 20, 0, 0))
    assert not method_of("el2n", end="window").nested  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CORESETS)
def test_jobs_may_be_cut_by_class_and_by_slot(name: str, tiny_data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    method, known = method_of(name), known_of(name, 120)
    whole = images_of(method, tiny_data, 6, known)
    part = SynthesisJob(
        spec=tiny_data.spec,
        set_index=0,
        seed=0,
        slots=(3, 5),
        classes=(2,),
        ipc=method.jobs(tiny_data.spec, 6, 0, 0)[0].ipc,
    )
    one = method.synthesise(
        part, teachers=[], train=tiny_data.train, precomputed=known, compute=CPU, report=silent, checkpoint=NO
    )
    np.testing.assert_array_equal(one.pixels, whole[[3, 5], 2])
    monkeypatch.setattr(type(method), "sizes", JobSizes(classes=1000, images=12))
    assert [job.classes for job in method.jobs(tiny_data.spec, 6, 0, 0)] == [(0, 1), (2,)]
    np.testing.assert_array_equal(images_of(method, tiny_data, 6, known), whole)


@pytest.mark.parametrize("name", CORESETS)
def test_a_set_may_be_all_there_is_even_of_one_class(name: str, tiny_data: Data) -> None:
    few = np.r_[:9, 40:49, 80:89]
    spec = replace(tiny_data.spec, train_sizes=(9, 9, 9))
    data = Data(spec, Split(tiny_data.train.images[few], tiny_data.train.labels[few]), tiny_data.test)
    method = method_of(name)
    method.check(spec, 9)
    made = images_of(method, data, 9, known_of(name, 27))
    for label in range(3):
        own = {image.tobytes() for image in data.train.images[data.train.labels == label]}
        assert {image.tobytes() for image in made[:, label]} == own
    with pytest.raises(MethodError, match="needs 10 real images per class"):
        method.check(spec, 10)
    alone = SynthesisJob(spec=spec, set_index=0, seed=0, slots=(0,), classes=(1,), ipc=1)
    one = method.synthesise(
        alone, teachers=[], train=data.train, precomputed=known_of(name, 27), compute=CPU, report=silent, checkpoint=NO
    )
    assert one.labels.tolist() == [1]


@pytest.mark.parametrize("name", CORESETS)
def test_an_interrupted_choice_goes_on_to_the_same_images(name: str, tiny_data: Data, tmp_path: Path) -> None:
    method, known = method_of(name), known_of(name, 120)
    [job] = method.jobs(tiny_data.spec, 5, 1, 0)

    def work(checkpoint: Any) -> Any:
        return method.synthesise(
            job,
            teachers=[],
            train=tiny_data.train,
            precomputed=known,
            compute=CPU,
            report=silent,
            checkpoint=checkpoint,
        )

    made, times = resumed(work, tmp_path / "checkpoint", 1)
    assert times == 3
    np.testing.assert_array_equal(made.pixels, work(NO).pixels)


@pytest.mark.parametrize("name", CORESETS)
def test_what_a_method_needs_must_be_there(name: str, tiny_data: Data) -> None:
    method = method_of(name)
    wrong = known_of("el2n" if name not in BY_LOG else "herding", 120)
    [job] = method.jobs(tiny_data.spec, 2, 0, 0)
    common: dict[str, Any] = {"teachers": [], "compute": CPU, "report": silent, "checkpoint": NO}
    with pytest.raises(MethodError, match=f"{name} needs the (features of a teacher|log of a scoring run)"):
        method.synthesise(job, train=tiny_data.train, precomputed=wrong, **common)
    with pytest.raises(MethodError, match=f"{name} needs the training images"):
        method.synthesise(job, train=None, precomputed=known_of(name, 120), **common)


def test_settings_choose_what_they_say(tiny_data: Data) -> None:
    known, labels = known_of("el2n", 120), tiny_data.train.labels
    members = members_of(labels, 0)
    own = known.of(members)

    def of(name: str, **settings: Any) -> list[bytes]:
        return [image.tobytes() for image in images_of(method_of(name, **settings), tiny_data, 6, known)[:, 0]]

    def those(picks: Indices) -> list[bytes]:
        return [image.tobytes() for image in tiny_data.train.images[picks]]

    errors = el2n(own.error, 10)
    assert of("el2n") == those(smallest(errors, members, 6))
    assert of("el2n", end="hard") == those(largest(errors, members, 6))
    assert of("el2n", end="window", offset=20) == those(window(errors, members, 6, 20))
    assert of("el2n", first=1) == those(smallest(el2n(own.error, 1), members, 6))
    forgotten = forgetting(own.p_true, own.p_other)
    assert of("forgetting", ties="first") == those(smallest(forgotten, members, 6))
    assert of("forgetting", end="hard", ties="first") == those(largest(forgotten, members, 6))
    score = dict(zip(those(members), forgotten.tolist(), strict=True))
    assert [score[image] for image in of("forgetting")] == np.sort(forgotten)[:6].tolist()
    assert of("forgetting") != of("forgetting", ties="first")
    assert of("cad-prune") == those(largest(cad(own.p_true, window=7, windows=2), members, 6))
    assert of("cad-prune", window=3, windows=4) == those(largest(cad(own.p_true, window=3, windows=4), members, 6))
    random = seeding.generator(0, "picks of ccs", 0, 0)
    score = aum(own.p_true, own.p_other)
    assert of("ccs", beta=0.5, strata=4) == those(ccs(score, members, 6, random, beta=0.5, strata=4))
    random = seeding.generator(0, "picks of ccs", 0, 0)
    assert of("ccs") == those(ccs(score, members, 6, random, beta=0.3, strata=6))


def test_k_center_starts_by_chance_but_for_the_first_set(tiny_data: Data) -> None:
    known, members = known_of("k-center", 120), members_of(tiny_data.train.labels, 0)
    start = k_center(known.features, members, 1)
    firsts = {
        (start_, index): images_of(method_of("k-center", start=start_), tiny_data, 2, known, index)[0, 0].tobytes()
        for start_ in ("mean", "random")
        for index in range(4)
    }
    assert firsts["mean", 0] == tiny_data.train.images[start[0]].tobytes()
    assert len({firsts["random", index] for index in range(4)}) > 1
    assert all(firsts["mean", index] == firsts["random", index] for index in range(1, 4))


def test_networks_of_sets(tiny_data: Data) -> None:
    spec, base = tiny_data.spec, TeacherRecipe(network="resnet8", epochs=7, seed=5)

    def of(name: str, ipc: int = 1, index: int = 0, seed: int = 0, **settings: Any) -> TeacherRecipe | None:
        return method_of(name, **settings).network_recipe(base, spec, ipc, index, seed)

    assert of("herding") is of("k-means", index=3) is of("moderate", index=3, vary=False) is None
    second = of("herding", index=1)
    assert second == replace(base, seed=second.seed) != base  # type: ignore[union-attr]
    runs = [of("el2n", index=index, seed=seed) for index in (0, 1) for seed in (0, 1)]
    assert len({run.seed for run in runs if run}) == 4
    assert of("el2n") == of("ccs", ipc=9) == of("forgetting")
    assert of("el2n", scoring={"vary": False}, index=4) == base
    scoring = {"network": "convnet3", "epochs": 30, "vary": False}
    assert of("ccs", scoring=scoring) == replace(base, network="convnet3", epochs=30)


@pytest.mark.parametrize(
    ("ipc", "settings", "epochs"),
    [(10, {}, 6), (50, {}, 30), (100, {}, 60), (1, {}, 4), (1, {"window": 6}, 8), (10, {"scoring": {"epochs": 9}}, 9)],
)
def test_cad_prune_trains_as_long_as_the_student(
    ipc: int, settings: dict[str, Any], epochs: int, tiny_data: Data
) -> None:
    """The paper's figures for CIFAR-100 and a student of 300 epochs."""
    names = tuple(map(str, range(100)))
    spec = replace(tiny_data.spec, classes=names, train_sizes=(500,) * 100, test_sizes=(100,) * 100)
    recipe = method_of("cad-prune", **settings).network_recipe(TeacherRecipe(), spec, ipc, 0, 0)
    assert recipe is not None
    assert recipe.epochs == epochs


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("el2n", {"end": "middle"}, "end is"),
        ("el2n", {"offset": 101.0}, "offset must be from 0 to 100, got 101.0"),
        ("el2n", {"first": 0}, "first must be at least 1, got 0"),
        ("forgetting", {"ties": "last"}, "ties is"),
        ("ccs", {"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
        ("ccs", {"strata": 0}, "strata must be at least 1, got 0"),
        ("cad-prune", {"window": 1}, "window must be at least 2, got 1"),
        ("cad-prune", {"windows": 0}, "windows must be at least 1, got 0"),
        ("cad-prune", {"student_epochs": 0}, "student_epochs must be at least 1, got 0"),
        ("cad-prune", {"scoring": {"epochs": 3}}, r"scoring.epochs is 3; expected at least 4"),
        ("cad-prune", {"window": 6, "scoring": {"epochs": 7}}, r"scoring.epochs is 7; expected at least 8"),
        ("k-center", {"start": "edge"}, "start is"),
        ("k-means", {"iterations": -1}, "iterations must be at least 0, got -1"),
        ("ccs", {"scoring": {"epochs": 0}}, "scoring.epochs must be at least 1, got 0"),
        ("ccs", {"scoring": {"epoch": 3}}, 'no setting "scoring.epoch"; did you mean "epochs"'),
    ],
)
def test_bad_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        method_of(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("herding", {"ipc": 41}, "herding needs 41 real images per class"),
        ("el2n", {"scoring": {"network": "resnet9"}}, 'unknown network "resnet9"'),
        ("herding", {"teacher": {"network": "test_coresets:headless"}}, "does not end in a linear layer"),
        ("moderate", {"teacher": {"network": "test_coresets:headless"}, "sets": 2}, "does not end in a linear layer"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path, tiny_data: Data
) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    with pytest.raises(CondenseError, match=message) as caught:
        distill(request_of(name, **changes), context, out=tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def headless(**shape: int) -> nn.Module:
    """A network with a convolution at its end."""
    return nn.Sequential(nn.Conv2d(shape["channels"], shape["n_classes"], 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def planned(name: str, context: Context, **changes: Any) -> list[Job]:
    request = request_of(name, **changes)
    data = context.data(request.data)
    return in_order(set_jobs(request, data.spec, context, teacher_jobs(request, data, context, []), name="set"))


def test_the_jobs_of_other_methods_are_called_what_they_were(tmp_path: Path, tiny_data: Data) -> None:
    """Their ids are hashes of these: nothing finished is lost."""
    context = fresh_context(tmp_path / "store", tiny_data)
    known = {"method", "settings", "set_index", "seed", "slots", "classes", "compute"}
    for name in ("random", "cda", "herding"):
        rows = [job for job in planned(name, context) if job.kind == "rows"]
        assert all(set(job.config) == known for job in rows)
    assert [set(job.config) for job in planned("ccs", context) if job.kind == "rows"] == [{*known, "ipc"}]
    first, other = (
        next(job.id for job in planned("k-means", context, ipc=ipc) if job.kind == "rows") for ipc in (4, 5)
    )
    assert first != other


def test_a_plan_knows_what_is_precomputed(tmp_path: Path, tiny_data: Data) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    for name, kinds in (
        ("herding", ["teacher", "features", "rows", "images", "labels", "set"]),
        ("el2n", ["dynamics", "rows", "images", "teacher", "labels", "set"]),
    ):
        said = estimate(request_of(name), context, probe=False)
        assert [kind.kind for kind in said.kinds] == kinds
        steps = {kind.kind: kind.steps for kind in said.kinds}
        assert steps["teacher"] == 2 * 8  # 114 images
        assert steps.get("dynamics", 16) == 2 * 8


@pytest.mark.parametrize("name", ["herding", "el2n"])
def test_a_probe_has_something_like_what_is_precomputed(name: str, tmp_path: Path, tiny_data: Data) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    jobs = planned(name, context)
    [below] = [job for job in jobs if job.kind in ("features", "dynamics")]
    with _Prober(request_of(name), context, tiny_data, jobs) as prober:
        prober._have(below)
        folder = prober.scratch.store.path(below.id)
        if name == "herding":
            assert Features.read(folder).features.shape == (120, 8 * 3 * 3)
        else:
            assert Dynamics.read(folder).error.shape == (2, 120)
    assert not context.store.root.exists()


@pytest.mark.parametrize("name", ["k-means", "herding"])
def test_a_job_that_needs_too_much_memory_is_done_in_halves(
    name: str, tmp_path: Path, tiny_data: Data, teacher_folder: Path
) -> None:
    """To the same images, though the halves of a set that is not nested must know its whole size."""
    whole, halved = (fresh_context(tmp_path / store, tiny_data) for store in ("whole", "halved"))
    request = request_of(name)
    makers = teacher_jobs(request, tiny_data, halved, [teacher_folder])
    jobs = in_order(set_jobs(request, tiny_data.spec, halved, makers, name="set"))
    [rows] = [job for job in jobs if job.kind == "rows"]
    halved.store.halve(rows.id)
    made = [
        condense.load(distill(request, context, out=tmp_path / f"set{number}", teachers=[teacher_folder])[0])
        for number, context in enumerate((whole, halved))
    ]
    np.testing.assert_array_equal(made[0].images, made[1].images)
    assert [title for title in titles(halved.store.root) if "slots" in title] == [
        f"{name}, set 0, slots 0 to 1",
        f"{name}, set 0, slots 2 to 3",
    ]
