"""The training loop: resume, BatchNorm groups, schedules, weight decay, prediction, divergence."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from condense import seeding
from condense.checkpoint import Checkpoint, FileCheckpoint, NoCheckpoint
from condense.config import identity
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, MethodError
from condense.training import Batch, Batches, OptimConfig, accuracy, fit, predict

CPU = Compute()
cross_entropy = nn.functional.cross_entropy


def tiny_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )


def random_batches(n: int = 6, steps: int = 4, dtype: torch.dtype = torch.float32) -> Batches:
    """``steps`` batches an epoch of ``n`` images (2, 5, 5) with random labels, keyed by epoch and step."""

    def batches(epoch: int, first_step: int) -> Iterator[Batch]:
        for step in range(first_step, steps):
            draws = seeding.torch_generator(0, "batch", epoch, step)
            images = torch.randn(n, 5, 5, 2, generator=draws, dtype=dtype).permute(0, 3, 1, 2)
            yield Batch(images, torch.randint(0, 3, (n,), generator=draws))

    return batches


class DueAt:
    """A checkpoint in memory that is due after the steps given, and then stops the run like a kill would."""

    def __init__(self, *steps: int, held: dict[str, Tensor] | None = None) -> None:
        self.steps, self.held, self.asked = steps, held, 0

    def load(self) -> dict[str, Tensor] | None:
        return self.held

    def due(self) -> bool:
        self.asked += 1
        return self.asked in self.steps

    def save(self, state: dict[str, Tensor]) -> None:
        self.held = {name: value.detach().clone().contiguous() for name, value in state.items()}
        raise KeyboardInterrupt


def spec_of(images: np.ndarray, n_classes: int = 3) -> DatasetSpec:
    _, height, width, channels = images.shape
    return DatasetSpec(
        name="toy",
        classes=tuple(f"class {c}" for c in range(n_classes)),
        channels=channels,
        height=height,
        width=width,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        train_sizes=(1,) * n_classes,
        test_sizes=(1,) * n_classes,
        fingerprint="0",
    )


def test_learns_what_is_separable() -> None:
    images = torch.randn(64, 2, 5, 5, generator=seeding.torch_generator(0, "toy"))
    labels = (images[:, 0].mean((1, 2)) > 0).long()
    images[:, 0] += (2 * labels - 1).view(-1, 1, 1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 2))
    record = fit(
        network,
        lambda epoch, first: iter([Batch(images, labels)]),
        cross_entropy,
        OptimConfig(lr=0.5),
        epochs=30,
        steps_per_epoch=1,
        compute=CPU,
    )
    assert accuracy(network(images), labels.numpy()) == 1.0
    assert record.steps == 30
    assert len(record.losses) == 30
    assert record.losses[-1] < 0.1 < record.losses[0]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stops", [(1,), (3, 2), (4,), (5, 1, 1), (11,)])
@pytest.mark.parametrize("averaged", [0.0, 0.9])
def test_resumed_run_equals_uninterrupted_bit_by_bit(
    optimizer: str, precision: str, stops: tuple[int, ...], averaged: float
) -> None:
    optim = OptimConfig(optimizer=optimizer, lr=0.05, warmup_steps=2, averaged=averaged)  # type: ignore[arg-type]
    settings = {"epochs": 3, "steps_per_epoch": 4, "compute": Compute(precision=precision)}  # type: ignore[arg-type]
    whole = tiny_network()
    expected = fit(whole, random_batches(), cross_entropy, optim, **settings)
    held = None
    for stop in stops:
        checkpoint = DueAt(stop, held=held)
        start = tiny_network(0 if held is None else 1)  # a resumed run takes nothing from the weights it is given
        with pytest.raises(KeyboardInterrupt):
            fit(start, random_batches(), cross_entropy, optim, checkpoint=checkpoint, **settings)
        held = checkpoint.held
    resumed = tiny_network(2)
    record = fit(resumed, random_batches(), cross_entropy, optim, checkpoint=DueAt(held=held), **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert record.losses == expected.losses


def test_dropout_resumes_and_leaves_the_global_generator_alone() -> None:
    def network() -> nn.Module:
        return nn.Sequential(tiny_network()[:5], nn.Dropout(0.5), nn.Linear(16, 3).requires_grad_(False))

    def run(network: nn.Module, checkpoint: Checkpoint = NoCheckpoint()) -> tuple[float, ...]:
        settings = {"epochs": 2, "steps_per_epoch": 4, "compute": CPU, "checkpoint": checkpoint}
        return fit(network, random_batches(), cross_entropy, OptimConfig(), **settings).losses

    with torch.random.fork_rng(devices=[]):
        start = network()
        before = torch.get_rng_state()
        expected = run(copy.deepcopy(start))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(1)
        checkpoint = DueAt(3)
        with pytest.raises(KeyboardInterrupt):
            run(copy.deepcopy(start), checkpoint)
        assert run(network(), DueAt(held=checkpoint.held)) == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumes_from_a_file(tmp_path: Path, optimizer: str) -> None:
    """Saved after every step but the last: the second run does that one only."""
    optim = OptimConfig(optimizer=optimizer, lr=0.05)  # type: ignore[arg-type]
    networks, asked = (tiny_network(), tiny_network(1)), []

    def batches(epoch: int, first_step: int) -> Iterable[Batch]:
        asked.append((epoch, first_step))
        return random_batches()(epoch, first_step)

    for network in networks:
        checkpoint = FileCheckpoint(tmp_path / "state.safetensors", every_s=0.0)
        fit(network, batches, cross_entropy, optim, epochs=2, steps_per_epoch=4, compute=CPU, checkpoint=checkpoint)
    assert asked == [(0, 0), (1, 0), (1, 3)]
    for name, value in networks[0].state_dict().items():
        assert torch.equal(value, networks[1].state_dict()[name]), name


def test_groups_equal_accumulation_by_hand() -> None:
    """One step on a batch of groups 4 + 2: statistics per group, gradient of the mean over all six images."""
    network = tiny_network().double()
    by_hand = copy.deepcopy(network)
    (batch,) = random_batches(steps=1, dtype=torch.float64)(0, 0)
    optim = OptimConfig(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant")
    grouped = batch._replace(groups=(4, 2))
    record = fit(
        network, lambda epoch, first: [grouped], cross_entropy, optim, epochs=1, steps_per_epoch=1, compute=CPU
    )

    by_hand.train()
    logits = torch.cat([by_hand(batch.images[:4]), by_hand(batch.images[4:])])
    value = cross_entropy(logits, batch.targets)
    value.backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.1 * parameter.grad
    for name, expected in by_hand.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], expected, rtol=1e-12, atol=1e-14, msg=name)
    assert record.losses[0] == pytest.approx(float(value.detach()), rel=1e-6)


def test_groups_are_not_one_batch() -> None:
    (batch,) = random_batches(steps=1)(0, 0)
    networks = []
    for groups in ((), (3, 3)):
        networks.append(tiny_network())
        once = batch._replace(groups=groups)
        fit(
            networks[-1],
            lambda e, f, b=once: [b],
            cross_entropy,
            OptimConfig(),
            epochs=1,
            steps_per_epoch=1,
            compute=CPU,
        )
    assert not torch.allclose(networks[0][0].weight, networks[1][0].weight)
    assert int(networks[1][1].num_batches_tracked) == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimConfig(lr=1.0), [1.0, 0.85355339, 0.5, 0.14644661]),
        (OptimConfig(lr=1.0, warmup_steps=2), [0.5, 1.0, 1.0, 0.5]),
        (OptimConfig(lr=1.0, warmup_steps=8), [0.125, 0.25, 0.375, 0.5]),
        (OptimConfig(lr=0.3, schedule="constant"), [0.3, 0.3, 0.3, 0.3]),
        (OptimConfig(lr=0.3, schedule="constant", warmup_steps=3), [0.1, 0.2, 0.3, 0.3]),
    ],
)
def test_schedule_golden_values(config: OptimConfig, expected: list[float]) -> None:
    assert [config.lr_at(step, 4) for step in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_decay_may_leave_out_vectors(optimizer: str, decay_norms: bool) -> None:
    """With no gradient from the loss only weight decay moves parameters."""
    network = tiny_network()
    before = copy.deepcopy(network)
    optim = OptimConfig(
        optimizer=optimizer,  # type: ignore[arg-type]
        lr=0.1,
        weight_decay=0.5,
        decay_norms=decay_norms,
        schedule="constant",
        momentum=0.0,
        nesterov=False,
    )
    fit(network, random_batches(steps=1), lambda z, t: z.sum() * 0, optim, epochs=1, steps_per_epoch=1, compute=CPU)
    for (name, now), was in zip(network.named_parameters(), before.parameters(), strict=True):
        factor = 0.95 if decay_norms or was.ndim > 1 else 1.0
        torch.testing.assert_close(now, was * factor, msg=name)


def test_divergence_names_stage_and_first_bad_step() -> None:
    calls = iter(range(100))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets) * (float("nan") if next(calls) == 2 else 1.0)

    with pytest.raises(MethodError, match=r"teacher diverged: the loss of step 3 of 8 is not finite; lower") as caught:
        fit(
            tiny_network(),
            random_batches(),
            loss,
            OptimConfig(),
            epochs=2,
            steps_per_epoch=4,
            compute=CPU,
            name="teacher",
        )
    assert "\n" not in str(caught.value)


def test_diverged_state_is_never_saved() -> None:
    checkpoint = DueAt(2)
    with pytest.raises(MethodError):
        fit(
            tiny_network(),
            random_batches(),
            lambda z, t: z.mean() / 0,
            OptimConfig(),
            epochs=1,
            steps_per_epoch=4,
            compute=CPU,
            checkpoint=checkpoint,
        )
    assert checkpoint.held is None


def test_the_rate_falls_in_steps() -> None:
    config = OptimConfig(lr=1.0, schedule="step", milestones=(0.5, 0.75), factor=0.1)
    assert [config.lr_at(step, 8) for step in range(8)] == pytest.approx([1.0] * 4 + [0.1] * 2 + [0.01] * 2)
    published = OptimConfig(lr=1.0, schedule="step", milestones=(152 / 301,))
    assert [published.lr_at(epoch, 301) for epoch in (151, 152)] == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize(("stretch", "warmup"), [(2.0, 0), (1.0, 0), (2.5, 0), (2.0, 5)])
def test_a_smoothed_rate_is_a_part_of_a_longer_cosine(stretch: float, warmup: int) -> None:
    """EDC: (1 + cos(pi e / (zeta E))) / 2, with e counted from the end of a warm-up."""
    config = OptimConfig(lr=0.3, schedule="smoothed", stretch=stretch, warmup_steps=warmup)
    for e in range(warmup, 40):
        expected = 0.3 * (1 + math.cos(math.pi * (e - warmup) / (stretch * (40 - warmup)))) / 2
        assert config.lr_at(e, 40) == pytest.approx(expected, rel=1e-12)
    assert OptimConfig(lr=1.0, schedule="smoothed").lr_at(10**6 - 1, 10**6) == pytest.approx(0.5, abs=1e-5)


def test_what_came_later_does_not_rename_trainings() -> None:
    assert set(identity(OptimConfig())) == {
        "optimizer", "lr", "momentum", "nesterov", "weight_decay", "decay_norms", "schedule", "warmup_steps",
    }  # fmt: skip
    assert identity(OptimConfig(schedule="smoothed", averaged=0.99))["averaged"] == 0.99


def test_averaged_weights_are_those_of_a_plain_loop() -> None:
    """e <- r e + (1 - r) w after every step, from the initial weights; BatchNorm's buffers are the live ones."""
    optim = OptimConfig(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant", averaged=0.9)
    trained, plain = tiny_network().double(), tiny_network().double()
    average = {name: value.detach().clone() for name, value in plain.named_parameters()}
    fit(trained, random_batches(dtype=torch.float64), cross_entropy, optim, epochs=2, steps_per_epoch=4, compute=CPU)
    plain.train()
    for epoch in range(2):
        for batch in random_batches(dtype=torch.float64)(epoch, 0):
            plain.zero_grad()
            cross_entropy(plain(batch.images), batch.targets).backward()
            for name, weight in plain.named_parameters():
                weight.data = weight.data - 0.1 * weight.grad
                average[name] = 0.9 * average[name] + 0.1 * weight.data
    live = dict(plain.named_parameters())
    for name, weight in trained.named_parameters():
        torch.testing.assert_close(weight.detach(), average[name], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(trained[5].weight, live["5.weight"])
    for name, buffer in trained.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adam"}, "expected one of sgd, adamw"),
        ({"schedule": "stairs"}, "expected one of cosine, constant, step"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0}, "nesterov needs"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"warmup_steps": -1}, "warmup_steps must be"),
        ({"milestones": (1.0,)}, "milestones are"),
        ({"factor": 0.0}, "factor must be"),
        ({"stretch": 0.5}, "stretch must be"),
        ({"averaged": 1.0}, r"averaged must be in \[0, 1\)"),
    ],
)
def test_settings_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**values)  # type: ignore[arg-type]


def test_too_few_batches_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        fit(
            tiny_network(),
            random_batches(steps=3),
            cross_entropy,
            OptimConfig(),
            epochs=1,
            steps_per_epoch=4,
            compute=CPU,
        )


def test_reports_steps_and_loss_and_ends_at_the_total() -> None:
    heard: list[tuple[str, int, int, dict[str, float]]] = []
    fit(
        tiny_network(),
        random_batches(),
        cross_entropy,
        OptimConfig(),
        epochs=2,
        steps_per_epoch=4,
        compute=CPU,
        report=lambda stage, done, total, figures={}: heard.append((stage, done, total, dict(figures))),
        name="student",
    )
    stage, done, total, figures = heard[-1]
    assert (stage, done, total) == ("steps", 8, 8)
    assert np.isfinite(figures["loss"])


def test_modes_and_threads_are_put_back() -> None:
    network = tiny_network().train()
    network[1].eval()
    threads = torch.get_num_threads()
    compute = Compute(threads=threads + 1)
    fit(network, random_batches(), cross_entropy, OptimConfig(), epochs=1, steps_per_epoch=4, compute=compute)
    predict(network, np.zeros((3, 5, 5, 2), np.uint8), spec_of(np.zeros((3, 5, 5, 2))), compute=compute)
    assert network.training
    assert not network[1].training
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_predict_is_the_network_on_normalised_pixels_in_any_blocks(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 5, 5, channels), dtype=np.uint8)
    images.flags.writeable = False
    network = tiny_network()
    network[0] = nn.Conv2d(channels, 4, 3, padding=1)
    fit_free = copy.deepcopy(network).eval()
    pixels = (images.astype(np.float32) / 255 - 0.5) / 0.25
    expected = fit_free(torch.from_numpy(pixels).permute(0, 3, 1, 2)).detach()
    for batch_size in (1, 4, 11, 500):
        logits = predict(network, images, spec_of(images), compute=CPU, batch_size=batch_size)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert predict(network, images[:0], spec_of(images), compute=CPU).shape == (0, 3)


def test_predictions_can_be_targets_of_training() -> None:
    images = np.zeros((3, 5, 5, 2), np.uint8)
    logits = predict(tiny_network(), images, spec_of(images), compute=Compute(precision="bf16"))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    loss = (torch.ones(3, 3, requires_grad=True) * logits).sum()
    loss.backward()


def test_accuracy_is_a_fraction() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    assert accuracy(logits, np.array([0, 1, 1, 1])) == 0.75
