"""A stored label is what the teacher says about the view that the plan gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from condense import seeding
from condense.checkpoint import NoCheckpoint
from condense.data.spec import DatasetSpec
from condense.device import Compute
from condense.errors import ConfigError, DataError, TeacherError
from condense.labels import LabelConfig, make_logits, relabel
from condense.teachers import Teacher, TeacherInfo
from condense.views import ViewConfig, plan
from condense.views.render import render

N, EPOCHS, SIZE = 45, 2, 10
CPU = Compute()

VIEWS = {
    "crop": ViewConfig(batch_size=8),
    "cutmix": ViewConfig(mix="cutmix", batch_size=16, group_size=8),
    "mixup": ViewConfig(crop="pad", pad=2, mix="mixup", mix_alpha=0.8, batch_size=20, group_size=5),
}


def spec_of(channels: int = 3, mean: float = 0.5, std: float = 0.25) -> DatasetSpec:
    return DatasetSpec(
        name="tiny", classes=("a", "b", "c"), channels=channels, height=SIZE, width=SIZE, mean=(mean,) * channels,
        std=(std,) * channels, train_sizes=(9, 9, 9), test_sizes=(3, 3, 3), fingerprint="0" * 64,
    )  # fmt: skip


def teacher_of(seed: int, spec: DatasetSpec, gain: float = 1.0) -> Teacher:
    """An untrained network whose running statistics are far from those of any batch, with dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(spec.channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3),
        )  # fmt: skip
    network[1].running_mean.fill_(0.3)
    network[1].running_var.fill_(2.0)
    network[7].weight.data.mul_(gain)
    info = TeacherInfo(
        network="tiny", spec=spec, accuracy_heldout=None, accuracy_test=0.9, epochs=1, recipe={}, origin="trained",
        weights_sha256="0" * 64,
    )  # fmt: skip
    return Teacher(network.eval().requires_grad_(False), info)


def items(channels: int = 3) -> np.ndarray:
    return seeding.generator(0, "items").integers(0, 256, (N, SIZE, SIZE, channels), dtype=np.uint8)


def by_running_statistics(teacher: Teacher, views: Tensor, groups: tuple[int, ...]) -> Tensor:
    return teacher.network(views)


def by_group_statistics(teacher: Teacher, views: Tensor, groups: tuple[int, ...]) -> Tensor:
    """The layers by hand: each group normalised by its own mean and biased variance."""
    conv, norm, _, _, _, last_norm, _, linear = teacher.network
    out = []
    for group in views.split(groups):
        maps = conv(group)
        var, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
        features = ((maps - mean) / (var + norm.eps).sqrt()).relu().mean((2, 3))
        var, mean = torch.var_mean(features, 0, correction=0)
        out.append(linear((features - mean) / (var + last_norm.eps).sqrt()))
    return torch.cat(out)


SPEAK: dict[str, Callable[[Teacher, Tensor, tuple[int, ...]], Tensor]] = {
    "eval": by_running_statistics,
    "batch": by_group_statistics,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("teacher_bn", SPEAK)
@pytest.mark.parametrize("views", VIEWS)
def test_every_label_is_the_teachers_word_on_the_replayed_view(views: str, teacher_bn: str, channels: int) -> None:
    spec, pixels = spec_of(channels), items(channels)
    teacher = teacher_of(0, spec)
    config = LabelConfig(views=VIEWS[views], epochs=EPOCHS, seed=3, teacher_bn=teacher_bn)  # type: ignore[arg-type]
    logits = make_logits(pixels, [teacher], spec, config, compute=CPU)
    assert logits.dtype == np.float16
    assert logits.shape == (EPOCHS, N, 3)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for epoch in range(EPOCHS):
        drawn = plan(VIEWS[views], 3, epoch, N, SIZE, SIZE)
        for step in range(drawn.n_steps):
            seen = (render(images, drawn, drawn.step(step)) - 0.5) / 0.25
            expected = SPEAK[teacher_bn](teacher, seen, drawn.step_groups(step))
            stored = torch.from_numpy(logits[epoch, drawn.order[drawn.step(step)]]).float()
            torch.testing.assert_close(stored, expected, atol=2e-3, rtol=2e-3)
    assert np.ptp(logits[0] - logits[1]) > 0.01


@pytest.mark.parametrize("teacher_bn", SPEAK)
def test_the_teacher_stays_as_it_was(teacher_bn: str) -> None:
    spec = spec_of()
    teacher = teacher_of(0, spec)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    config = LabelConfig(views=VIEWS["crop"], epochs=1, teacher_bn=teacher_bn)  # type: ignore[arg-type]
    make_logits(items(), [teacher], spec, config, compute=CPU)
    after = teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in teacher.network.modules())


def test_several_teachers_are_averaged_each_with_its_own_normalisation() -> None:
    spec, pixels = spec_of(), items()
    teachers = [teacher_of(0, spec), teacher_of(1, spec_of(mean=0.1, std=2.0))]
    config = LabelConfig(views=VIEWS["cutmix"], epochs=1)
    alone = [make_logits(pixels, [t], spec, config, compute=CPU).astype(np.float64) for t in teachers]
    mean = make_logits(pixels, teachers, spec, config, compute=CPU)
    np.testing.assert_allclose(mean, (alone[0] + alone[1]) / 2, atol=2e-3)
    weighted = make_logits(pixels, teachers, spec, replace(config, weights=(3.0, 1.0)), compute=CPU)
    np.testing.assert_allclose(weighted, 0.75 * alone[0] + 0.25 * alone[1], atol=2e-3)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


@pytest.mark.parametrize("teacher_bn", SPEAK)
def test_how_many_steps_share_a_forward_does_not_matter(teacher_bn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of()
    config = LabelConfig(views=VIEWS["mixup"], epochs=1, teacher_bn=teacher_bn)  # type: ignore[arg-type]
    many = make_logits(items(), [teacher_of(0, spec)], spec, config, compute=CPU)
    monkeypatch.setattr(relabel, "_at_once", lambda spec: 1)
    one = make_logits(items(), [teacher_of(0, spec)], spec, config, compute=CPU)
    np.testing.assert_allclose(one.astype(np.float32), many.astype(np.float32), atol=1e-3)


class Memory(NoCheckpoint):
    """Saves at every chance; after ``limit`` saves the process "dies"."""

    def __init__(self, limit: int) -> None:
        self.state: dict[str, Tensor] | None = None
        self.limit = limit

    def load(self) -> dict[str, Tensor] | None:
        return self.state

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}
        self.limit -= 1
        if self.limit == 0:
            raise KeyboardInterrupt


def test_resumed_labels_are_the_same_bytes_and_do_not_start_over() -> None:
    spec, config = spec_of(), LabelConfig(views=VIEWS["cutmix"], epochs=4, teacher_bn="batch")
    through = make_logits(items(), [teacher_of(0, spec)], spec, config, compute=CPU)
    memory, seen = Memory(limit=2), []
    with pytest.raises(KeyboardInterrupt):
        make_logits(items(), [teacher_of(0, spec)], spec, config, compute=CPU, checkpoint=memory)

    def report(stage: str, done: int, total: int, figures: object = None, /) -> None:
        seen.append((stage, done, total))

    resumed = make_logits(items(), [teacher_of(0, spec)], spec, config, compute=CPU, checkpoint=memory, report=report)
    assert resumed.tobytes() == through.tobytes()
    assert seen[0][1] > 2 * N
    assert seen[-1] == ("labels", 4 * N, 4 * N)


def test_logits_beyond_half_precision_are_refused() -> None:
    spec = spec_of()
    with pytest.raises(TeacherError, match=r"epoch 0 are not finite in float16 \(greatest size 65504\)"):
        make_logits(
            items(), [teacher_of(0, spec, gain=1e7)], spec, LabelConfig(views=VIEWS["crop"], epochs=1), compute=CPU
        )


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    spec, config = spec_of(), LabelConfig(views=VIEWS["crop"], epochs=1)
    good = teacher_of(0, spec)
    other = replace(good, info=replace(good.info, spec=replace(spec, classes=("b", "a", "c"))))
    with pytest.raises(TeacherError, match="at least one"):
        make_logits(items(), [], spec, config, compute=CPU)
    with pytest.raises(TeacherError, match="another order"):
        make_logits(items(), [good, other], spec, config, compute=CPU)
    with pytest.raises(DataError, match=r"images are \(10, 10, 1\); expected \(10, 10, 3\)"):
        make_logits(items(1), [good], spec, config, compute=CPU)
    with pytest.raises(ConfigError, match="expected 1 positive numbers"):
        make_logits(items(), [good], spec, replace(config, weights=(1.0, 1.0)), compute=CPU)
    for weight in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"weights are .* expected numbers above 0"):
            replace(config, weights=(weight,))


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"codec": "ful"},
        {"codec": "topk"},
        {"codec": "full:2"},
        {"pool": 0},
        {"pool": 2, "codec": "static"},
        {"draw": "all"},
        {"teacher_bn": "train"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    (name, _) = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"^{name} is "):
        LabelConfig(**settings)  # type: ignore[arg-type]
