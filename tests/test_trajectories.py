"""Trajectory matching: the backward walk against an unrolled program, the loop against a plain one, experts as jobs."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import condense
from condense import seeding
from condense.canvas import Pixels
from condense.checkpoint import NoCheckpoint
from condense.config import from_mapping
from condense.data import Data, DatasetSpec
from condense.data.pixels import normalise, to_pixels
from condense.device import Compute
from condense.engine.events import finished_jobs
from condense.engine.job import Job, in_order
from condense.engine.store import Store
from condense.errors import CondenseError, ConfigError, MethodError
from condense.matching import Following, PixelOptim, Problem, Rate, follow
from condense.matching.adjoint import Lesson, Student, pass_back, trained
from condense.methods import Rows
from condense.methods.base import Canvas
from condense.methods.mtt import MTT, MTTConfig, published
from condense.networks import build
from condense.pipeline import Context, DataRequest, distill, estimate, resolve
from condense.pipeline.estimate import _Prober
from condense.pipeline.plans import set_jobs
from condense.pipeline.workers import read_rows, write_rows
from condense.progress import silent
from condense.shards import verify
from condense.teachers.experts import ExpertRecipe, Experts, train_expert, untrained_expert, write_expert
from condense.training import Diverged
from condense.views import augment as views

F64 = torch.float64
CPU = Compute()


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(seeding.generator(seed, "test values").standard_normal(shape))


# --- the way back through a student --------------------------------------------------------------------------------

NETWORKS = ["convnet2-w4-in", "convnet2-w4-bn", "convnet1-w3-none", "dropout", "tied"]


class Tied(nn.Module):
    """Two layers that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 8 * 8, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.third.weight = self.second.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(images.flatten(1))))))[:, :3]


def network_like(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "tied":
            return Tied()
        if name == "dropout":
            return nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3)
            )
    return build(name, channels=3, height=8, width=8, n_classes=3)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log softmax, image by image."""
    parts = [row.exp().sum().log() - row[label] for row, label in zip(logits, targets, strict=True)]
    return torch.stack(parts).sum() / len(parts)


def unrolled(
    network: nn.Module,
    start: Tensor,
    goal: Tensor,
    items: Tensor,
    targets: Tensor,
    batches: list[tuple[list[int], Any]],
    rate: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's program: all steps in one graph, and one backward through it."""
    items, rate = items.clone().requires_grad_(), rate.clone().requires_grad_()
    names = [name for name, _ in network.named_parameters()]
    sizes = [one.shape for one in network.parameters()]
    weights = [
        part.view(size).clone().requires_grad_()
        for part, size in zip(start.split([size.numel() for size in sizes]), sizes, strict=True)
    ]
    first = torch.cat([weight.flatten() for weight in weights]).detach()
    for chosen, change in batches:
        shown = change(torch.stack([items[position] for position in chosen]))
        logits = torch.func.functional_call(network, dict(zip(names, weights, strict=True)), (shown,))
        slopes = torch.autograd.grad(cross_entropy(logits, targets[chosen]), weights, create_graph=True)
        weights = [weight - rate * slope for weight, slope in zip(weights, slopes, strict=True)]
    last = torch.cat([weight.flatten() for weight in weights])
    loss = ((last - goal) ** 2).sum() / ((first - goal) ** 2).sum()
    to_items, to_rate = torch.autograd.grad(loss, (items, rate))
    return loss.detach(), to_items, to_rate


def problem_of_a_student(name: str) -> tuple[nn.Module, Student, Tensor, Tensor, Tensor, Tensor]:
    network = network_like(name).double()
    student = Student(network_like(name), CPU, F64)
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.eval()
    start = torch.cat([one.detach().flatten() for one in network.parameters()])
    goal = start + 0.1 * random_tensor(len(start), seed=4)
    return network, student, start, goal, random_tensor(7, 3, 8, 8, seed=5), torch.tensor([0, 1, 2, 0, 1, 2, 2])


def changed(number: int, images: Tensor) -> Tensor:
    """Not the same for all images, and not linear."""
    return torch.sin((1 + number) * images) * torch.arange(1, len(images) + 1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([[0, 1, 2, 3, 4, 5, 6]] * 3, id="all images in each step"),
        pytest.param([[3, 1, 6], [0, 2, 5], [4, 6], [2, 1, 0]], id="several batches, images in some of them"),
        pytest.param([[2, 5]], id="one step: a gradient is matched"),
    ],
)
def test_the_way_back_is_the_unrolled_gradient(name: str, batches: list[list[int]]) -> None:
    network, student, start, goal, items, targets = problem_of_a_student(name)
    rate = torch.tensor(0.3, dtype=F64)
    changes = [lambda images, number=number: changed(number, images) for number in range(len(batches))]
    wanted = unrolled(network, start, goal, items, targets, list(zip(batches, changes, strict=True)), rate)
    lessons = [Lesson(torch.tensor(chosen), change) for chosen, change in zip(batches, changes, strict=True)]
    path = trained(student, start, items, targets, lessons, rate)
    found = pass_back(student, path, goal, items, targets, lessons, rate)
    for mine, other in zip((found.loss, found.items, found.rate), wanted, strict=True):
        assert other.abs().max() > 1e-9
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_the_loss_is_one_for_a_student_that_stays_and_zero_for_one_that_arrives() -> None:
    _, student, start, goal, items, targets = problem_of_a_student("convnet1-w3-none")
    lessons = [Lesson(torch.arange(7), lambda images: images)]
    still = trained(student, start, items, targets, lessons, torch.zeros((), dtype=F64))
    passed = pass_back(student, still, goal, items, targets, lessons, torch.zeros((), dtype=F64))
    assert float(passed.loss) == 1
    assert not passed.items.any()
    rate = torch.tensor(0.2, dtype=F64)
    path = trained(student, start, items, targets, lessons, rate)
    there = pass_back(student, path, path[-1], items, targets, lessons, rate)
    assert float(there.loss) == 0
    assert not there.items.any()


def test_the_order_of_images_in_a_step_does_not_matter() -> None:
    _, student, start, goal, items, targets = problem_of_a_student("convnet2-w4-in")
    rate, found = torch.tensor(0.2, dtype=F64), []
    for order in (torch.arange(7), torch.tensor([4, 2, 0, 6, 1, 5, 3])):
        lessons = [Lesson(order, lambda images: images)] * 2
        path = trained(student, start, items, targets, lessons, rate)
        found.append(pass_back(student, path, goal, items, targets, lessons, rate))
    torch.testing.assert_close(found[0].items, found[1].items, rtol=1e-10, atol=1e-14)


class _Held:
    """What autograd holds for its backward, in bytes; gone with the graph."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
        _Held.now += self.size
        _Held.most = max(_Held.most, _Held.now)

    def __del__(self) -> None:
        _Held.now -= self.size


def held_by(work: Any) -> int:
    gc.collect()
    _Held.now = _Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Held, lambda held: held.tensor):
        work()
    return _Held.most


def test_graphs_do_not_grow_with_the_steps() -> None:
    network, student, start, goal, items, targets = problem_of_a_student("convnet1-w3-none")
    rate = torch.tensor(0.1, dtype=F64)

    def walk(steps: int) -> None:
        lessons = [Lesson(torch.arange(7), lambda images: images)] * steps
        path = trained(student, start, items, targets, lessons, rate)
        pass_back(student, path, goal, items, targets, lessons, rate)

    def unroll(steps: int) -> None:
        unrolled(network, start, goal, items, targets, [(list(range(7)), lambda images: images)] * steps, rate)

    mine, plain = ([held_by(partial(work, steps)) for steps in (2, 12)] for work in (walk, unroll))
    assert mine[0] == mine[1] > 0
    assert plain[1] > 4 * plain[0] > 4 * mine[0]


# --- augmentation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", views.FAMILIES)
def test_each_image_is_changed_as_dsa_changes_it(family: views.Family) -> None:
    images = random_tensor(5, 3, 9, 12).requires_grad_()
    made = views.each_by_itself(images, family, seeding.generator(3, "draws"))
    operation = {"rotate": views.rotate}.get(family, getattr(views, family))
    wanted = operation(images, seeding.generator(3, "draws"))
    torch.testing.assert_close(made, wanted, rtol=1e-9, atol=1e-9)
    towards = random_tensor(*made.shape, seed=1)
    slopes = [torch.autograd.grad(one, images, towards)[0] for one in (made, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


# --- the loop ------------------------------------------------------------------------------------------------------

NETWORK = "convnet2-w4-in"


def problem_of(data: Data, network: str = NETWORK) -> Problem:
    return Problem(name="mtt", spec=data.spec, seed=5, set_index=1, classes=(0, 1, 2), network=network)


def canvas_of(data: Data, slots: int = 2, dtype: torch.dtype = F64) -> Pixels:
    return Pixels(0.5 * random_tensor(slots, 3, 3, 12, 12, seed=9).to(dtype), data.spec)


def experts_of(data: Data, epochs: int = 3, count: int = 2) -> Experts:
    recipes = [ExpertRecipe(network=NETWORK, epochs=epochs, seed=number) for number in range(count)]
    return Experts(tuple(untrained_expert(recipe, data.spec) for recipe in recipes))


def following_of(**settings: Any) -> Following:
    return Following(**{"iterations": 3, "steps": 3, "ahead": 2, "max_start": 2, "batch": 4, **settings})


def run(data: Data, following: Following, canvas: Pixels, **given: Any) -> tuple[Tensor, float]:
    settings: dict[str, Any] = {"optim": PixelOptim(lr=0.5), "experts": experts_of(data), "clamp": False, **given}
    rate = follow(
        canvas,
        following,
        settings.pop("optim"),
        problem_of(data),
        settings.pop("experts"),
        compute=CPU,
        **settings,
    )
    return canvas.values, rate


def test_the_loop_is_the_plain_program(tiny_data: Data) -> None:
    """Experts, epochs, batches and changes by their keys; momentum of pixels and of the step size."""
    families: tuple[views.Family, ...] = ("color", "crop", "cutout", "scale", "rotate")
    following = following_of(families=families, rate=Rate(start=0.01, lr=1e-6, momentum=0.25))
    experts = experts_of(tiny_data)
    values, found = run(tiny_data, following, canvas_of(tiny_data), optim=PixelOptim(lr=1e-3))

    network = build(NETWORK, channels=3, height=12, width=12, n_classes=3).double()
    items = canvas_of(tiny_data).values.flatten(0, 1)
    targets, rate = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor(0.01, dtype=F64)
    speed, rate_speed = torch.zeros_like(items), torch.zeros_like(rate)
    drawn = set()
    for iteration in range(3):
        draws = seeding.generator(5, "expert and start", 1, iteration)
        expert, epoch = int(draws.integers(2)), int(draws.integers(2))
        drawn.add((expert, epoch))
        start, goal = (torch.tensor(experts.weights[expert][at], dtype=F64) for at in (epoch, epoch + 2))
        batches = []
        for step in range(3):  # six images in batches of four and two
            order = seeding.generator(5, "student order", 1, iteration, step // 2).permutation(6).tolist()
            chosen = order[:4] if step % 2 == 0 else order[4:]

            def change(images: Tensor, key: tuple[int, int] = (iteration, step)) -> Tensor:
                draws = seeding.generator(5, "student augmentation", 1, *key)
                family = families[draws.integers(5)]
                operation = {"rotate": views.rotate}.get(family, getattr(views, family))
                return operation(images, draws)

            batches.append((chosen, change))
        _, to_items, to_rate = unrolled(network, start, goal, items, targets, batches, rate)
        speed, rate_speed = 0.5 * speed + to_items, 0.25 * rate_speed + to_rate
        items, rate = items - 1e-3 * speed, rate - 1e-6 * rate_speed
    assert len(drawn) > 1
    assert float(speed.abs().max()) > 1e-6
    torch.testing.assert_close(values.flatten(0, 1), items, rtol=1e-9, atol=1e-11)
    assert found == pytest.approx(float(rate), rel=1e-9)
    assert abs(found - 0.01) > 1e-7


def test_pixels_are_kept_valid_and_the_step_size_above_its_least(tiny_data: Data) -> None:
    following = following_of(rate=Rate(start=0.01, lr=1e6, least=1e-3))
    canvas = canvas_of(tiny_data)
    values, rate = run(tiny_data, replace(following, iterations=1), canvas, clamp=True, optim=PixelOptim(lr=1e4))
    assert rate >= 1e-3
    assert bool(((values >= canvas.low) & (values <= canvas.high)).all())


class Stopped(Exception):
    pass


class At:
    """Stops a run when it asks the ``number``-th time, with a copy of its state."""

    def __init__(self, number: int) -> None:
        self.number, self.asked = number, 0
        self.held: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.held

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.number

    def save(self, state: dict[str, Tensor]) -> None:
        self.held = {key: value.clone() for key, value in state.items()}
        raise Stopped


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_interrupted_loop_goes_on_to_the_same_bits(optimizer: str, tiny_data: Data) -> None:
    given: dict[str, Any] = {"optim": PixelOptim(lr=0.1, optimizer=optimizer)}  # type: ignore[arg-type]
    following = following_of(iterations=4, families=views.FAMILIES, rate=Rate(lr=1e-7))
    whole = run(tiny_data, following, canvas_of(tiny_data, dtype=torch.float32), **given)
    checkpoint = At(2)
    with pytest.raises(Stopped):
        run(tiny_data, following, canvas_of(tiny_data, dtype=torch.float32), checkpoint=checkpoint, **given)
    resumed = run(tiny_data, following, canvas_of(tiny_data, dtype=torch.float32), checkpoint=checkpoint, **given)
    assert torch.equal(whole[0], resumed[0])
    assert whole[1] == resumed[1] > 1e-3  # not at its least


def test_a_loss_that_is_not_finite_ends_the_run(tiny_data: Data) -> None:
    message = r"mtt diverged \(seed 5, set 1\): the loss, a pixel or the step size is not finite at step 3; lower lr"
    with pytest.raises(MethodError, match=message):
        run(tiny_data, following_of(rate=Rate(start=1e30)), canvas_of(tiny_data, dtype=torch.float32))


@pytest.mark.parametrize(
    ("following", "experts", "message"),
    [
        ({"ahead": 3}, {}, r"at up to 1 epochs \(max_start=2\) and are compared 3 later, but experts have 3; set exp"),
        ({"max_start": 3}, {"epochs": 3}, "set experts.epochs to at least 4, or lower max_start or ahead"),
    ],
)
def test_experts_that_are_too_short_are_refused(
    following: dict[str, Any], experts: dict[str, Any], message: str, tiny_data: Data
) -> None:
    with pytest.raises(MethodError, match=message):
        run(tiny_data, following_of(**following), canvas_of(tiny_data), experts=experts_of(tiny_data, **experts))


def test_experts_of_another_network_are_refused(tiny_data: Data) -> None:
    other = Experts((np.zeros((4, 10), np.float32),))
    with pytest.raises(MethodError, match=r"experts have 10 parameters and convnet2-w4-in has \d+; match in the netw"):
        run(tiny_data, following_of(), canvas_of(tiny_data), experts=other)


# --- experts -------------------------------------------------------------------------------------------------------

EXPERT = ExpertRecipe(network=NETWORK, epochs=2, batch_size=50, lr=0.05, seed=3)


def test_an_expert_is_the_plain_training(tiny_data: Data) -> None:
    """120 images in three steps an epoch; gradient descent written out."""
    data, found = tiny_data, train_expert(tiny_data, EXPERT, compute=CPU)
    network = build(NETWORK, channels=3, height=12, width=12, n_classes=3, seed=3).train()
    parameters = list(network.parameters())
    wanted = [torch.cat([one.detach().flatten() for one in parameters]).numpy()]
    for epoch in range(2):
        order = seeding.generator(3, "expert order", epoch).permutation(120)
        for step in range(3):
            chosen = order[40 * step :][:40]
            images = normalise(to_pixels(data.train.images[chosen]), data.spec)
            shown = views.dsa(images, seeding.generator(3, "expert augmentation", epoch, step))
            loss = cross_entropy(network(shown), torch.from_numpy(data.train.labels[chosen]))
            for one, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                one.data -= 0.05 * slope
        wanted.append(torch.cat([one.detach().flatten() for one in parameters]).numpy())
    assert found.shape == (3, len(wanted[0]))
    assert found.dtype == np.float32
    assert np.abs(np.diff(found, axis=0)).max() > 1e-3
    np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-4, atol=1e-5)


def test_an_interrupted_expert_goes_on_to_the_same_bits(tiny_data: Data) -> None:
    whole = train_expert(tiny_data, EXPERT, compute=CPU)
    checkpoint = At(5)  # in the second epoch
    with pytest.raises(Stopped):
        train_expert(tiny_data, EXPERT, compute=CPU, checkpoint=checkpoint)
    np.testing.assert_array_equal(train_expert(tiny_data, EXPERT, compute=CPU, checkpoint=checkpoint), whole)


def test_a_longer_expert_begins_as_a_shorter_one(tiny_data: Data) -> None:
    short, long = (train_expert(tiny_data, replace(EXPERT, epochs=n), compute=CPU) for n in (1, 2))
    np.testing.assert_array_equal(long[:2], short)


def test_an_expert_that_diverges_says_so(tiny_data: Data) -> None:
    with pytest.raises(Diverged, match="expert convnet2-w4-in diverged"):
        train_expert(tiny_data, replace(EXPERT, lr=1e30), compute=CPU)


def test_experts_are_read_as_memory_maps(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_expert(folder, np.full((3 + number, 4), number, np.float32))
    experts = Experts.read(folders)
    assert all(isinstance(one, np.memmap) for one in experts.weights)
    assert (len(experts), experts.epochs) == (2, 2)
    assert experts.at(1, 2).tolist() == [1.0] * 4
    for bad in (np.zeros((3, 5), np.float32), np.zeros((3, 4)), np.zeros(4, np.float32)):
        np.save(folders[1] / "weights.npy", bad)
        with pytest.raises(MethodError, match=r"weights.npy holds .* expected float32 \(epochs \+ 1, 4\)"):
            Experts.read(folders)


# --- the method ----------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "network": NETWORK,
    "experts": {"count": 2, "epochs": 3, "batch": 60},
    "iterations": 2,
    "student_steps": 2,
    "ahead": 2,
    "max_start": 2,
    "lr": 10.0,
    "lr_rate": 1e-3,
}


def method_of(**settings: Any) -> MTT:
    return MTT(from_mapping(MTTConfig, {**SHORT, **settings}))


REQUEST = DataRequest(name="tiny")


def context_of(store: Path, data: Data) -> Context:
    return Context(store=Store(store), compute=CPU, opened={REQUEST: data})


def request_of(**changes: Any) -> Any:
    return resolve({"data": "tiny", "method": "mtt", "ipc": 2, **SHORT, **changes})


def planned(context: Context, **changes: Any) -> list[Job]:
    return in_order(set_jobs(request_of(**changes), context.data(REQUEST).spec, context, (), name="set"))


def of_kind(jobs: list[Job], kind: str) -> list[Job]:
    return [job for job in jobs if job.kind == kind]


def test_published_values() -> None:
    spec = DatasetSpec(
        name="cifar10",
        classes=tuple("abcdefghij"),
        channels=3,
        height=32,
        width=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        train_sizes=(5000,) * 10,
        test_sizes=(1000,) * 10,
        fingerprint="0" * 64,
    )
    method = MTT(MTTConfig())
    for name, ipc, wanted in (
        ("cifar10", 1, (50, 2, 2, 100, 1e-7, 0.01, 0)),
        ("cifar10", 10, (30, 2, 20, 100, 1e-5, 0.001, 0)),
        ("cifar10", 200, (30, 2, 40, 1000, 1e-5, 0.001, 0)),
        ("cifar100", 1, (20, 3, 20, 1000, 1e-5, 0.01, 0)),
        ("cifar100", 50, (80, 2, 40, 1000, 1e-5, 0.01, 125)),
        ("tiny-imagenet", 10, (20, 2, 40, 10_000, 1e-4, 0.01, 200)),
        ("imagefolder:tiny-imagenet", 1, (10, 2, 10, 10_000, 1e-4, 0.01, 0)),
        ("somebody's", 10, (30, 2, 20, 100, 1e-5, 0.001, 0)),
    ):
        known = replace(spec, name=name)
        one = method.chosen(known, ipc)
        assert one == published(known, ipc)
        assert (one.student_steps, one.ahead, one.max_start, one.lr, one.lr_rate, one.rate, one.batch_student) == wanted
        method.check(known, ipc)
    following = method.following(spec, 10)
    assert (following.iterations, following.rate.momentum, method.optim(spec, 10).momentum) == (5000, 0.5, 0.5)
    assert following.families == views.FAMILIES
    assert "flip" not in method.following(replace(spec, name="svhn"), 10).families
    recipes = method.expert_recipes(spec, 7)
    assert (len(recipes), recipes[0].epochs, recipes[0].lr, recipes[0].augment) == (100, 50, 0.01, "dsa")
    assert len({recipe.seed for recipe in recipes}) == 100
    assert recipes != method.expert_recipes(spec, 8)


def test_more_experts_are_those_before_and_some_more(tiny_data: Data) -> None:
    few, many = (method_of(experts={"count": count}).expert_recipes(tiny_data.spec, 0) for count in (2, 4))
    assert few == many[:2]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"iterations": 0}, ConfigError, "iterations must be at least 1, got 0"),
        ({"student_steps": 0}, ConfigError, "student_steps must be at least 1, got 0"),
        ({"max_start": 0}, ConfigError, "max_start must be at least 1, got 0"),
        ({"batch_student": -1}, ConfigError, "batch_student must be at least 0, got -1"),
        ({"lr": float("nan")}, ConfigError, "lr must be above 0 and finite, got nan"),
        ({"rate": 0.0}, ConfigError, "rate must be above 0 and finite, got 0.0"),
        ({"lr_rate": -1.0}, ConfigError, "lr_rate must be at least 0 and finite, got -1.0"),
        ({"augment": "flips"}, CondenseError, "augment"),
        ({"momentum": 1.0}, ConfigError, r"momentum must be in \[0, 1\), got 1.0"),
        ({"experts": {"count": 0}}, ConfigError, "experts.count must be at least 1, got 0"),
        ({"experts": {"epochs": 0}}, ConfigError, "epochs of an expert must be at least 1, got 0"),
        ({"experts": {"lr": 0.0}}, ConfigError, "lr must be above 0 and finite, got 0.0"),
        ({"ahead": 3}, MethodError, "mtt: students begin at up to 1 epochs .* set experts.epochs to at least 4"),
        ({"network": "convnet4-in"}, CondenseError, "convnet4 halves the image 4 times .* at least 16 px"),
    ],
)
def test_bad_input_is_refused_in_a_line(
    settings: dict[str, Any], kind: type[CondenseError], message: str, tiny_data: Data
) -> None:
    with pytest.raises(kind, match=message) as caught:
        method_of(**settings).check(tiny_data.spec, 2)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_refused(tiny_data: Data) -> None:
    method = method_of()
    [job] = method.jobs(tiny_data.spec, 2, 0, 3)
    given: dict[str, Any] = {"teachers": (), "compute": CPU, "report": silent, "checkpoint": NoCheckpoint()}
    with pytest.raises(MethodError, match="mtt needs the trajectories of experts"):
        method.synthesise(job, train=tiny_data.train, precomputed=None, **given)
    with pytest.raises(MethodError, match="mtt needs the training images"):
        method.synthesise(job, train=None, precomputed=experts_of(tiny_data), **given)


def test_matching_brings_students_nearer(tiny_data: Data) -> None:
    """The distance that is left is less after many iterations than after few, at one step size."""
    weights = train_expert(tiny_data, replace(EXPERT, augment="none"), compute=CPU)
    losses: list[float] = []

    def report(stage: str, done: int, total: int, figures: Any = None) -> None:
        losses.append(figures["loss"])

    for iterations in (1, 40):
        following = following_of(
            iterations=iterations, steps=4, ahead=1, max_start=1, batch=0, rate=Rate(start=0.05, lr=0.0)
        )
        canvas = canvas_of(tiny_data, dtype=torch.float32)
        run(tiny_data, following, canvas, experts=Experts((weights,)), optim=PixelOptim(lr=5.0), report=report)
    assert losses[-1] < 0.8 * losses[0]


# --- the whole way -------------------------------------------------------------------------------------------------


def test_a_set_and_its_experts_from_a_command(tmp_path: Path, tiny_data: Data) -> None:
    """Two sets share experts and say the step size that was learnt; no teacher is trained; again nothing is done."""
    context = context_of(tmp_path / "store", tiny_data)
    folders = distill(request_of(sets=2), context, out=tmp_path / "sets")
    done = finished_jobs(context.store.root / "runs")
    kinds = [event["kind"] for event in done]
    assert sorted(kinds) == sorted(["expert"] * 2 + ["rows", "images", "labels", "set"] * 2)
    sets = [condense.load(folder) for folder in folders]
    rates = [made.info.config["learned"]["lr"] for made in sets]
    assert all(rate > 0 for rate in rates)
    assert rates[0] != rates[1]
    assert not np.array_equal(sets[0].images, sets[1].images)
    assert sets[0].only_hard
    assert sets[0].info.contains_real_images
    assert not sets[0].info.teachers
    assert verify(folders[0], "deep").rows == 6
    for again, kinds_again in ((request_of(sets=2), []), (request_of(sets=2, iterations=3), ["rows"])):
        distill(again, context, out=tmp_path / f"again{len(kinds_again)}")
        more = [event["kind"] for event in finished_jobs(context.store.root / "runs")][len(done) :]
        assert set(more) >= set(kinds_again)
        assert "expert" not in more
    experts = [context.store.path(job.id) for job in of_kind(planned(context), "expert")]
    recipe = method_of().expert_recipes(tiny_data.spec, 0)[1]
    np.testing.assert_array_equal(Experts.read(experts).weights[1], train_expert(tiny_data, recipe, compute=CPU))


def test_experts_are_named_by_their_training_alone(tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    experts = [job.id for job in of_kind(planned(context), "expert")]
    assert len(set(experts)) == 2
    for changes, same in (
        ({"iterations": 9, "lr": 1.0, "ipc": 5, "augment": "none"}, True),
        ({"experts": {"count": 4, "epochs": 3, "batch": 60}}, True),
        ({"experts": {"count": 2, "epochs": 3, "batch": 30}}, False),
        ({"network": "convnet1-w4-in"}, False),
        ({"seed": 1}, False),
    ):
        found = [job.id for job in of_kind(planned(context, **changes), "expert")]
        assert (found[:2] == experts) == same


def test_a_plan_knows_experts_and_a_probe_has_one(tmp_path: Path, tiny_data: Data) -> None:
    context = context_of(tmp_path / "store", tiny_data)
    said = estimate(request_of(), context, probe=False)
    assert {kind.kind: (kind.jobs, kind.steps) for kind in said.kinds} == {
        "expert": (2, 2 * 3 * 2),  # 120 images in batches of 60
        "rows": (1, 2),
        "images": (1, 0),
        "labels": (1, 0),
        "set": (1, 0),
    }
    size = sum(one.numel() for one in build(NETWORK, channels=3, height=12, width=12, n_classes=3).parameters())
    images, labels = 6 * 12 * 12 * 3, 2 * 6 * 3 * request_of().labels.epochs
    assert said.store_bytes == 2 * 4 * size * (3 + 1) + 3 * images + 2 * labels
    jobs = planned(context)
    [rows] = of_kind(jobs, "rows")
    with _Prober(request_of(), context, tiny_data, jobs) as prober:
        probed = prober._with_slots(rows, 1)
        [expert] = probed.inputs
        found = Experts.read([prober.scratch.store.path(expert.id)])
        assert found.epochs == 3
        method_of().synthesise(
            method_of().jobs(tiny_data.spec, 2, 0, 0)[0],
            teachers=(),
            train=tiny_data.train,
            precomputed=found,
            compute=CPU,
            report=silent,
            checkpoint=NoCheckpoint(),
        )
    assert not context.store.root.exists()


def test_what_was_learnt_is_kept_with_the_rows(tmp_path: Path) -> None:
    rows = Rows(np.zeros((1, 2, 2, 1), np.uint8), np.array([0]), np.array([0]), learned={"lr": 0.1})
    write_rows(tmp_path, rows, Canvas("pixels"))
    assert read_rows(tmp_path)[0].learned == {"lr": 0.1}
