"""Networks that are used again, and, on a GPU, steps of their training that are replayed."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from condense import recorded, seeding
from condense.data import Data
from condense.device import Compute
from condense.matching import OnReal, OnSynthetic
from condense.matching.between import Around, Trainer
from condense.matching.real import RealImages
from condense.networks import build

DEVICE = os.environ.get("CONDENSE_TEST_DEVICE", "cuda:0")


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(seeding.generator(seed, "test values").standard_normal(shape)).float()


def small(device: str = "cpu", seed: int = 0) -> torch.nn.Module:
    return build("convnet2-w8-in", channels=3, height=12, width=12, n_classes=3, seed=seed).to(device)


def around_of(data: Data, device: str = "cpu") -> Around:
    items = random_images(9, 3, 12, 12).to(device)
    one = torch.ones(3, 1, 1, device=device)
    return Around(
        seed=0,
        set_index=0,
        items=items,
        targets=torch.arange(3, device=device).repeat_interleave(3),
        real=RealImages(data.train, data.spec, range(3), items),
        mean=0.5 * one,
        std=0.25 * one,
    )


TRAININGS = [OnSynthetic(epochs=3, batch=6, augment="dsa"), OnReal(images=24, batch=6, cutmix=0.5)]


@pytest.mark.parametrize("training", TRAININGS)
def test_a_network_that_begins_again_learns_as_a_new_one(training: Any, tiny_data: Data) -> None:
    """Momentum of the network before is forgotten."""
    around = around_of(tiny_data)
    used, fresh = (Trainer(small(), training, Compute()) for _ in range(2))
    used.advance(0, around)
    used.network.load_state_dict(small().state_dict())
    used.begin()
    for trainer in (used, fresh):
        trainer.advance(1, around)
        trainer.advance(2, around)
    for mine, other in zip(used.network.parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.gpu
@pytest.mark.parametrize("training", TRAININGS)
def test_replayed_steps_are_those_that_were_recorded(
    training: Any, tiny_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over batches of two sizes, mixed and not, and over two networks; and the same bits a second time."""
    compute = Compute(device=DEVICE)
    around = around_of(tiny_data, DEVICE)

    def learnt(recording: bool) -> list[Tensor]:
        monkeypatch.setattr(recorded, "recording", recording)
        trainer, found = Trainer(small(DEVICE), training, compute), []
        with compute.applied():
            for network in range(2):
                trainer.network.load_state_dict(small(DEVICE, network).state_dict())
                trainer.begin()
                for number in range(3):
                    trainer.advance(10 * network + number, around)
                found += [one.detach().cpu().clone() for one in trainer.network.parameters()]
        return found

    plain, replayed, again = learnt(False), learnt(True), learnt(True)
    for mine, same, other in zip(replayed, again, plain, strict=True):
        assert torch.equal(mine, same)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_recorded_training_is_resumed(tiny_data: Data) -> None:
    compute, around = Compute(device=DEVICE), around_of(tiny_data, DEVICE)
    whole, part, rest = (Trainer(small(DEVICE), TRAININGS[1], compute) for _ in range(3))
    with compute.applied():
        for number in range(4):
            whole.advance(number, around)
        for number in range(2):
            part.advance(number, around)
        rest.restore({name: copy.deepcopy(value) for name, value in part.state().items()})
        for number in range(2, 4):
            rest.advance(number, around)
    for mine, other in zip(whole.network.parameters(), rest.network.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.gpu
def test_resident_images_are_those_of_the_split(tiny_data: Data) -> None:
    like = torch.zeros((), device=DEVICE)
    here, there = (RealImages(tiny_data.train, tiny_data.spec, range(3), one) for one in (like, like.cpu()))
    assert here.resident is not None
    torch.testing.assert_close(here.first([1], 5).images.cpu(), there.first([1], 5).images, rtol=1e-6, atol=1e-6)
