"""A distilled set as a data set: torchvision's manners, workers of every kind, and the replay of labelled epochs."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from condense.dataset import DistilledDataset, ReplayBatch, load, replay_step
from condense.errors import ConfigError
from condense.shards import SetInfo, image_name, label_name, write_images, write_labels, write_set
from condense.shards.errors import BadHash, BadStructure, ForeignLabels, NoLabels, UnknownVersion
from condense.views.config import VIEW_VERSION, ViewConfig
from condense.views.plan import plan
from condense.views.render import render

IPC, K, EPOCHS = 5, 3, 3
N = IPC * K
TEACHER = {"network": "convnet3-bn", "sha256": "cd" * 32}
VIEWS = ViewConfig(crop="resized", mix="cutmix", batch_size=8, group_size=4)


def spec(shape: tuple[int, int, int]) -> dict[str, Any]:
    height, width, channels = shape
    return {
        "name": "tiny", "classes": ["ant", "bee", "cat"], "height": height, "width": width, "channels": channels,
        "mean": [0.5] * channels, "std": [0.25] * channels, "train_sizes": [9] * K, "test_sizes": [2] * K,
        "fingerprint": "00",
    }  # fmt: skip


def pixels(shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (N, *shape), dtype=np.uint8)


def logits() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(EPOCHS, N, K)).astype(np.float16)


def make(
    folder: Path,
    shape: tuple[int, int, int] = (6, 8, 3),
    *,
    files: int = 1,
    views: dict[str, Any] | None = None,
    view_version: int = VIEW_VERSION,
    labelled: bool = True,
    epochs: int = EPOCHS,
    draw: str = "all",
) -> Path:
    """A set of N items in one or more image files, with labels in two files."""
    folder.mkdir(parents=True, exist_ok=True)
    labels, slots = np.tile(np.arange(K), IPC), np.repeat(np.arange(IPC), K)
    images = [folder / image_name(number) for number in range(files)]
    for path, rows in zip(images, np.array_split(np.arange(N), files), strict=True):
        write_images(
            path, columns={"images": pixels(shape)[rows]}, labels=labels[rows], slots=slots[rows], spec=spec(shape)
        )
    for number, held in enumerate([range(2), range(2, EPOCHS)] if labelled else []):
        write_labels(
            folder / label_name(number), columns={"logits": logits()[held.start : held.stop]}, images=images,
            views=views or VIEWS.to_dict(), view_version=view_version, seed=7, epochs=epochs, pool=EPOCHS, draw=draw,
            first_record=held.start, teachers=[TEACHER], teacher_bn="batch",
        )  # fmt: skip
    write_set(
        folder,
        SetInfo(name="tiny-ipc5", spec=spec(shape), method={"name": "random", "revision": 1}, config={},
                seeds={"root": 7}, contains_real_images=True),
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "set")


def double(target: Any) -> Any:
    return target * 2


FEW_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


def shape_of(image: Image.Image) -> Tensor:
    return torch.tensor([*image.size, len(image.getbands())])


def test_looks_like_a_data_set_of_torchvision(folder: Path) -> None:
    distilled = load(folder)
    assert isinstance(distilled, torch.utils.data.Dataset)
    assert len(distilled) == N
    assert distilled.classes == ["ant", "bee", "cat"]
    assert distilled.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert distilled.targets == [0, 1, 2] * IPC
    assert [target for _, target in distilled] == distilled.targets
    assert (distilled.info.name, distilled.spec.image_shape, distilled.epochs) == ("tiny-ipc5", (6, 8, 3), EPOCHS)
    assert "15 items of 6x8x3" in repr(distilled)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("files", [1, 3])
def test_images_are_those_that_were_stored(tmp_path: Path, channels: int, files: int) -> None:
    shape = (6, 8, channels)
    distilled = load(make(tmp_path / "set", shape, files=files))
    np.testing.assert_array_equal(distilled.images, pixels(shape))
    for index in (0, 5, -1):
        image, target = distilled[index]
        expected = torch.from_numpy(pixels(shape)[index].transpose(2, 0, 1)).float() / 255
        assert torch.equal(image, expected)
        assert image.stride() == (1, 8 * channels, channels)
        assert target == index % K


def test_indices_end_where_the_set_ends(folder: Path) -> None:
    distilled = load(folder)
    for index in (N, -N - 1):
        with pytest.raises(IndexError):
            distilled[index]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_transforms_get_pil_images(tmp_path: Path, channels: int, mode: str) -> None:
    seen: list[Image.Image] = []
    distilled = load(make(tmp_path / "set", (6, 8, channels)), transform=seen.append, target_transform=double)
    assert distilled[4] == (None, 2)
    (image,) = seen
    assert (image.mode, image.size) == (mode, (8, 6))
    np.testing.assert_array_equal(np.asarray(image).reshape(6, 8, channels), pixels((6, 8, channels))[4])


def test_other_channel_counts_reach_transforms_as_arrays(tmp_path: Path) -> None:
    distilled = load(make(tmp_path / "set", (6, 8, 2)), transform=np.shape)
    assert distilled[0][0] == (6, 8, 2)


def test_soft_targets_are_the_mean_probabilities(folder: Path) -> None:
    distilled = load(folder, targets="soft")
    expected = torch.from_numpy(logits()).double().softmax(2).mean(0)
    for index in range(N):
        target = distilled[index][1]
        assert target.dtype == torch.float32
        torch.testing.assert_close(target.double(), expected[index], atol=1e-6, rtol=0)
    torch.testing.assert_close(load(folder, targets="soft", target_transform=double)[2][1], distilled[2][1] * 2)


@FEW_CORES
@pytest.mark.parametrize(("context", "files"), [("fork", 1), ("fork", 2), ("spawn", 2), ("forkserver", 1)])
def test_workers_of_every_kind(tmp_path: Path, context: str, files: int) -> None:
    """Batches of 6 from 15 items, twice: forked workers inherit the maps, others open their own, and all keep them."""
    distilled = load(make(tmp_path / "set", files=files), targets="soft" if context == "fork" else "hard")
    alone = list(DataLoader(distilled, batch_size=6))
    assert [len(images) for images, _ in alone] == [6, 6, 3]
    shared = DataLoader(
        distilled, batch_size=6, num_workers=2, multiprocessing_context=context, persistent_workers=True
    )
    for _ in range(2):
        for (images, targets), (others, other_targets) in zip(alone, shared, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(targets, other_targets)


@FEW_CORES
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers_replay_labelled_epochs(folder: Path, context: str) -> None:
    distilled = load(folder)
    alone = [batch for epoch in range(distilled.epochs) for batch in distilled.epoch(epoch)]
    replay = distilled.replay()
    assert len(replay) == len(alone)
    shared = DataLoader(
        replay, batch_size=None, num_workers=2, multiprocessing_context=context, persistent_workers=True
    )
    for _ in range(2):
        for mine, other in zip(alone, shared, strict=True):
            assert isinstance(other, ReplayBatch)
            assert tuple(other.groups) == mine.groups
            assert other.images.stride() == mine.images.stride()
            for name in ("images", "logits", "targets", "items"):
                assert torch.equal(getattr(mine, name), getattr(other, name))
    with pytest.raises(IndexError):
        replay[len(alone)]
    assert torch.equal(replay[-1].images, alone[-1].images)


def test_collating_transformed_images(folder: Path) -> None:
    (batch, _) = next(iter(DataLoader(load(folder, transform=shape_of), batch_size=N)))
    assert batch.tolist() == [[8, 6, 3]] * N


@pytest.mark.parametrize("again", [lambda made: pickle.loads(pickle.dumps(made)), copy.deepcopy])
def test_pickles_by_path(folder: Path, again: Any) -> None:
    distilled = load(folder, target_transform=double)
    received = again(distilled)
    assert len(pickle.dumps(distilled)) < 3000
    assert received[3][1] == distilled[3][1]
    assert torch.equal(received[3][0], distilled[3][0])


def test_pickles_across_working_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    frozen = pickle.dumps(load(folder.name))
    monkeypatch.chdir("/")
    assert len(pickle.loads(frozen)) == N


def test_a_set_that_changed_in_between_is_refused(folder: Path) -> None:
    frozen = pickle.dumps(load(folder))
    for path in folder.iterdir():
        path.unlink()
    make(folder, labelled=False)
    with pytest.raises(ForeignLabels, match="has changed"):
        pickle.loads(frozen)


# Replay

CONFIGS = {
    "plain": ViewConfig(crop="none", flip=0.0, batch_size=60),
    "cutmix": VIEWS,
    "mixup": ViewConfig(crop="pad", pad=2, mix="mixup", mix_alpha=0.8, batch_size=4),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("files", [1, 3])
def test_an_epoch_is_its_plan_with_the_stored_labels(tmp_path: Path, name: str, files: int) -> None:
    """Against the plain form: all images as one float tensor, rendered by the whole plan."""
    config, shape = CONFIGS[name], (6, 8, 3)
    distilled = load(make(tmp_path / "set", shape, files=files, views=config.to_dict()))
    everything = torch.from_numpy(pixels(shape)).permute(0, 3, 1, 2).float() / 255
    one_hot = torch.eye(K)[torch.tensor(distilled.targets)].double()
    for epoch in range(EPOCHS):
        drawn = plan(config, 7, epoch, N, *shape[:2])
        batches = list(distilled.epoch(epoch))
        assert len(batches) == drawn.n_steps
        for index, batch in enumerate(batches):
            at = drawn.step(index)
            order, partner = drawn.order[at], drawn.order[drawn.partner[at]]
            lam = torch.from_numpy(drawn.lam[at])[:, None]
            torch.testing.assert_close(batch.images, render(everything, drawn, at), atol=1e-6, rtol=0)
            assert batch.images.stride() == (6 * 8 * 3, 1, 8 * 3, 3)
            assert batch.logits is not None
            assert torch.equal(batch.logits, torch.from_numpy(logits()[epoch, order]).float())
            expected = lam * one_hot[order] + (1 - lam) * one_hot[partner]
            torch.testing.assert_close(batch.targets.double(), expected, atol=1e-6, rtol=0)
            assert batch.groups == drawn.step_groups(index)
            assert sum(batch.groups) == len(batch.items)
            assert batch.items.tolist() == order.tolist()


def test_without_views_an_epoch_shows_every_item_once(tmp_path: Path) -> None:
    distilled = load(make(tmp_path / "set", views=CONFIGS["plain"].to_dict()))
    (batch,) = distilled.epoch(1)
    np.testing.assert_array_equal(np.sort(batch.items), np.arange(N))
    np.testing.assert_array_equal(batch.targets.argmax(1), np.asarray(distilled.targets)[batch.items])
    shown = (batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(shown, distilled.images[batch.items.numpy()])


def test_images_without_labels_can_be_replayed_too(folder: Path) -> None:
    distilled = load(folder)
    drawn = plan(VIEWS, 7, 0, N, 6, 8)
    labels = np.asarray(distilled.targets, dtype=np.int64)
    for step, full in enumerate(distilled.epoch(0)):
        bare = replay_step(pixels((6, 8, 3)).__getitem__, labels, drawn, step, K)
        assert bare.logits is None
        assert torch.equal(bare.images, full.images)
        assert torch.equal(bare.targets, full.targets)


def test_an_epoch_can_be_taken_up_in_its_middle(folder: Path) -> None:
    distilled = load(folder)
    (_, last) = distilled.epoch(1)
    (again,) = distilled.epoch(1, first_step=1)
    assert torch.equal(again.images, last.images)
    assert torch.equal(again.items, last.items)


def test_views_are_those_of_the_labels(folder: Path) -> None:
    assert load(folder).views == VIEWS


@pytest.mark.parametrize("draw", ["with", "without", "shuffled"])
def test_a_pool_lends_whole_steps(tmp_path: Path, draw: str) -> None:
    """Every step of every epoch is one of the pool, with its images and its labels; the pool is used up evenly."""
    pooled = load(make(tmp_path / "pooled", epochs=200, draw=draw))
    plain = load(make(tmp_path / "plain"))
    pool = {tuple(batch.items.tolist()): batch for epoch in range(EPOCHS) for batch in plain.epoch(epoch)}
    used: Counter[tuple[int, ...]] = Counter()
    for epoch in range(pooled.epochs):
        steps = [tuple(batch.items.tolist()) for batch in pooled.epoch(epoch)]
        assert len(steps) == plain.plan(0).n_steps
        assert draw == "with" or len(set(steps)) == len(steps)
        used.update(steps)
        for batch in pooled.epoch(epoch) if epoch < 5 else ():
            stored = pool[tuple(batch.items.tolist())]
            for name in ("images", "logits", "targets"):
                assert torch.equal(getattr(batch, name), getattr(stored, name))
            assert batch.groups == stored.groups
    assert set(used) == set(pool)
    assert max(used.values()) <= (1 if draw == "shuffled" else 0.5 * min(used.values())) + min(used.values())
    (last,) = list(pooled.epoch(7))[1:]
    (again,) = pooled.epoch(7, first_step=1)
    assert torch.equal(last.items, again.items)


# What is refused


@pytest.mark.parametrize("epoch", [-1, EPOCHS])
def test_epochs_without_labels_are_refused_before_the_first_batch(folder: Path, epoch: int) -> None:
    with pytest.raises(ConfigError, match="epochs 0 to 2"):
        load(folder).epoch(epoch)


def test_a_set_without_labels_has_hard_targets_only(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", labelled=False)
    assert (load(folder)[4][1], load(folder).epochs) == (1, 0)
    with pytest.raises(NoLabels, match="condense relabel"):
        load(folder, targets="soft")
    with pytest.raises(NoLabels):
        load(folder).epoch(0)


def test_unknown_kinds_of_targets_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "soft"'):
        load(folder, targets="softt")  # type: ignore[arg-type]


@pytest.mark.parametrize("views", [{"crop": "round"}, {"zoom": 1}, {"scale": 3}, {"flip": "often"}])
def test_views_that_cannot_be_drawn_are_refused(tmp_path: Path, views: dict[str, Any]) -> None:
    with pytest.raises(BadStructure, match="views cannot be drawn"):
        load(make(tmp_path / "set", views=views)).epoch(0)


def test_views_of_another_version_are_refused_but_the_images_load(tmp_path: Path) -> None:
    distilled: DistilledDataset = load(make(tmp_path / "set", view_version=VIEW_VERSION + 1))
    assert distilled[0][1] == 0
    with pytest.raises(UnknownVersion, match="views of version"):
        distilled.epoch(0)


def test_hashes_on_request(folder: Path) -> None:
    path = folder / image_name(0)
    data = bytearray(path.read_bytes())
    data[2100] ^= 1
    path.write_bytes(bytes(data))
    assert len(load(folder)) == N
    with pytest.raises(BadHash):
        load(folder, verify="hashes")
