"""The one loop of the methods that match real images with synthetic ones in random networks.

For each network and match: for every class a real and a synthetic batch, changed alike; the distance of what the
network says of them (gradients, mean features or characteristic functions of features), its gradient in the pixels; one
step on all pixels; then, where the method does that, a step on the pixels' cross-entropy in a trained network, and the
network is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.canvas import Pixels
from condense.checkpoint import Checkpoint, NoCheckpoint
from condense.data.spec import DatasetSpec, Split
from condense.device import Compute, under_compute
from condense.errors import MethodError
from condense.matching.between import Around, Trainer, Training
from condense.matching.characteristic import Spectral, Spectrum, Waves
from condense.matching.convnet import PIECE, Fast, has_fast_form, image_bytes
from condense.matching.derivatives import Batch, Derivatives, Gradients, Judge, Plain
from condense.matching.distances import DISTANCES, DistanceName
from condense.matching.grown import Grown, Stock, Taken, flat_weights, load_flat
from condense.matching.mover import Mover, PixelOptim
from condense.matching.real import Alike, RealImages, batch_of
from condense.networks import Network, batchnorm_layers, build
from condense.networks.convnet import ConvNet
from condense.progress import Report, silent
from condense.seeding import generator, key

__all__ = ["Matching", "Problem", "check_memory", "match", "network_of"]

CHECK_EVERY = 25
"""Steps between looks for values that are not finite: looking waits for the device."""

REPORT_EVERY_S = 1.0

BN_IMAGES = 16
"""Real images of each class that batch norm takes its statistics from before gradients are matched, as DC does."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """What is matched, and when.

    ``networks``: how many are drawn, each matched ``matches`` times, with ``training`` in between. ``linear``: whether
    the gradients of linear layers count. ``batch_real``, ``batch_synthetic``: most images of a class in a match; 0
    synthetic ones: all. ``pool``: that many networks instead of a fresh one each time, whose real side is computed once
    (0: none); for real images that nothing changes, and one match a network.
    ``taken``: whether networks are fresh or come from a stock of those that learnt before, one for each match; where
    ``alike`` is none a snapshot sees one real batch, whose side is computed once while those kept are no more than
    ``keep`` bytes. ``spectrum``: of characteristic functions. ``first``: real images are the first of a class, not
    drawn. ``calibration``: weight of the cross-entropy of the synthetic images in the last snapshot of the network
    that was matched in, a step of its own after each match; 0: none.
    ``memory``: bytes that activations may hold at once.
    """

    what: Literal["gradients", "features", "characteristic"]
    distance: DistanceName = "row-cosine"
    linear: bool = True
    networks: int
    matches: int = 1
    training: Training | None = None
    alike: Alike | None = None
    batch_real: int
    batch_synthetic: int = 0
    pool: int = 0
    taken: Taken = "fresh"
    keep: int = 2**30
    spectrum: Spectrum = field(default_factory=Spectrum)
    first: bool = False
    calibration: float = 0.0
    memory: int = 2**30

    @property
    def keeps_real_sides(self) -> bool:
        """Whether a network's real batch is always the same, and nothing changes it."""
        return self.pool > 0 or (self.taken == "snapshots" and self.alike is None)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be made: images of ``classes``; ``network`` is a name; ``name`` is who to blame in messages."""

    name: str
    spec: DatasetSpec
    seed: int
    set_index: int
    classes: tuple[int, ...]
    network: str


def network_of(problem: Problem, number: int) -> nn.Module:
    """Fresh network ``number`` of a set, on the CPU. Raises `NetworkError` for one that cannot take the images."""
    spec = problem.spec
    return build(
        problem.network,
        channels=spec.channels,
        height=spec.height,
        width=spec.width,
        n_classes=spec.n_classes,
        seed=key(problem.seed, "matching network", problem.set_index, number),
    )


@under_compute
def match(
    canvas: Pixels,
    matching: Matching,
    optim: PixelOptim,
    problem: Problem,
    train: Split,
    *,
    clamp: bool = True,
    grown: Sequence[Grown] = (),
    compute: Compute,
    report: Report = silent,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Optimise ``canvas``, whose values are (slots, classes, C, H, W) in the order of the problem's classes, in place.

    ``clamp``: pixels are kept valid at every step. ``grown``: the stock that networks are taken from. Goes on bit by
    bit from ``checkpoint``. Raises `MethodError` when a loss or a pixel is no longer finite, and for a memory in which
    not one class fits.
    """
    checkpoint = checkpoint or NoCheckpoint()
    run = _Run(canvas, matching, optim, problem, train, grown, compute, report)
    total, reported = matching.networks * matching.matches, time.monotonic()
    saved = checkpoint.load()
    first = 0 if saved is None else run.restore(saved)
    for number in range(first, total):
        loss = run.step(number)
        if clamp:
            canvas.project()
        if matching.calibration:
            loss = loss + run.calibrate(number)
            if clamp:
                canvas.project()
        run.mover.see(loss * len(problem.classes))
        run.train(number)
        if (number + 1) % CHECK_EVERY == 0 or number + 1 == total:
            _refuse_divergence(loss, canvas, problem, number)
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S or number + 1 == total:
            reported = now
            report("images", number + 1, total, {"loss": float(loss)})
        if checkpoint.due():
            checkpoint.save(run.state(number + 1))


class _Run:
    """The state of a run: the canvas, its optimiser, the network at hand, and the pool."""

    def __init__(
        self,
        canvas: Pixels,
        matching: Matching,
        optim: PixelOptim,
        problem: Problem,
        train: Split,
        grown: Sequence[Grown],
        compute: Compute,
        report: Report,
    ) -> None:
        self.canvas, self.matching, self.problem, self.compute = canvas, matching, problem, compute
        self.mover = Mover(canvas, optim)
        self.real = RealImages(train, problem.spec, problem.classes, canvas.values)
        self.pool: dict[int, _Member] = {}
        self.stock: Stock | None = None
        if matching.taken != "fresh":
            self.stock = Stock(grown, matching.taken, seed=problem.seed, set_index=problem.set_index)
        self.loaded: dict[str, _Member] = {}
        self.kept = 0
        probe = network_of(problem, 0)
        self.spectral: Spectral | None = None
        if matching.what == "characteristic":
            given = {"seed": problem.seed, "set_index": problem.set_index}
            self.spectral = Spectral(matching.spectrum, width_of(probe, problem.spec), canvas.values, **given)
        self.chunk, self.piece = _sizes(matching, problem, probe, canvas, compute)
        if not has_fast_form(probe):
            report(f"no fast form for {problem.network}: class by class, which is slow", 0, 1)

    def step(self, number: int) -> Tensor:
        """Match ``number``, and move the pixels; the mean loss of the classes, on the device."""
        if number % self.matching.matches == 0:
            self.begin(number // self.matching.matches)
        if self.member.settles and not self.matching.pool:
            self._settle(self.member.number if self.matching.keeps_real_sides else number)
        if self.spectral is not None:
            self.spectral.begin(number)
        loss = self._move(self._match, number)
        if self.spectral is not None:
            self.spectral.ascend()
        return loss

    def calibrate(self, number: int) -> Tensor:
        """Move the pixels down their cross-entropy in the trained network behind the one that was matched in.

        The mean of the classes' losses.
        """
        assert self.stock is not None
        self.trained = self._loaded("trained", number, self.stock.last(self.member.origin))
        return self._move(self._calibrated, number)

    def _move(self, judged: Callable[[int, slice], tuple[Tensor, Tensor]], number: int) -> Tensor:
        """One step on all pixels; the mean of the classes' losses, on the device."""
        gradient, losses = torch.empty_like(self.canvas.values), []
        for classes in parts(len(self.problem.classes), self.chunk):
            loss, gradient[:, classes] = judged(number, classes)
            losses.append(loss)
        self.mover.step(self.canvas.values, gradient)
        return torch.cat(losses).mean()

    def begin(self, network: int) -> None:
        """Take network ``network``: a fresh one, one of the pool, or one of the stock."""
        pool = self.matching.pool
        if self.stock is not None:
            origin, named, weights = self.stock.draw(network)
            self.member = self._loaded("matched", named, weights)
            self.member.origin = origin
        elif pool:
            drawn = generator(self.problem.seed, "member of a pool", self.problem.set_index, network).integers(pool)
            known = int(drawn) in self.pool
            self.member = self.pool[int(drawn)] if known else self._made(int(drawn))
            self.pool[int(drawn)] = self.member
            if self.member.settles and not known:
                self._settle(int(drawn))
        else:
            drawn_weights = flat_weights(network_of(self.problem, network))
            self.member = self._loaded("fresh", network, drawn_weights)
            if self.member.trainer is not None:
                self.member.trainer.begin()

    def train(self, number: int) -> None:
        """Train the network, unless match ``number`` was its last."""
        if self.member.trainer is None or (number + 1) % self.matching.matches == 0:
            return
        with torch.no_grad():
            images = self.canvas.images()
        items = images.transpose(0, 1).flatten(0, 1)
        targets = torch.tensor(self.problem.classes, device=items.device).repeat_interleave(len(images))
        around = Around(
            seed=self.problem.seed,
            set_index=self.problem.set_index,
            items=items,
            targets=targets,
            real=self.real,
            mean=self.canvas.mean,
            std=self.canvas.std,
        )
        self.member.trainer.advance(number, around)

    def state(self, done: int) -> dict[str, Tensor]:
        """All that step ``done`` depends on."""
        held = {"done": torch.tensor(done), "values": self.canvas.values, **self.mover.state()}
        if self.spectral is not None:
            held |= self.spectral.state()
        if done % self.matching.matches and self.member.trainer is not None:
            held |= self.member.trainer.state()
        return held

    def restore(self, state: dict[str, Tensor]) -> int:
        """Take back what :meth:`state` gave; the number of steps done."""
        done = int(state["done"])
        self.canvas.values.copy_(state["values"])
        self.mover.restore(state)
        if self.spectral is not None:
            self.spectral.restore(state)
        if done % self.matching.matches:
            self.begin(done // self.matching.matches)
            if self.member.trainer is not None:
                self.member.trainer.restore(state)
        return done

    def _made(self, number: int) -> _Member:
        network = network_of(self.problem, number).to(self.canvas.values.device, self.canvas.values.dtype)
        derivatives = _derivatives(network, self.matching, self.compute, self.piece)
        training = self.matching.training if self.matching.matches > 1 else None
        trainer = None if training is None else Trainer(network, training, self.compute)
        has_batchnorm, features = bool(batchnorm_layers(network)), self.matching.what != "gradients"
        shares, settles = has_batchnorm and features, has_batchnorm and not features
        return _Member(number, network, derivatives, trainer, shares, settles)

    def _loaded(self, place: str, number: int, weights: Tensor) -> _Member:
        """A network with weights of the stock; there is one for each ``place``, which is filled again and again."""
        if place not in self.loaded:
            self.loaded[place] = self._made(0)
        member = self.loaded[place]
        load_flat(member.network.train(), weights)
        member.number = number
        return member

    def _shown(self, classes: slice, number: int, purpose: str = "siamese") -> tuple[Batch, Tensor, Tensor]:
        """The synthetic images of some classes, changed: without a graph, with one, and the values it leads to."""
        labels = self.problem.classes[classes]
        values = self.canvas.values[:, classes].detach().requires_grad_()
        images = self.canvas.decode(values).transpose(0, 1)
        some = [self._some(own, label, number) for own, label in zip(images, labels, strict=True)]
        batch = self._alike(batch_of(some, labels), number, purpose)
        return Batch(batch.images.detach(), batch.labels, batch.sizes), batch.images, values

    def _match(self, number: int, classes: slice) -> tuple[Tensor, Tensor]:
        """The losses of some classes (K,), and the gradient in their values."""
        derivatives = self.member.derivatives
        plain, images, values = self._shown(classes, number)
        real = self._real_side(number, classes)
        if self.spectral is not None:
            judge = self.spectral.judge(cast(Waves, real), plain.bounds)
            losses, moved = derivatives.match_features(plain, judge)
        elif self.matching.what == "features":
            losses, moved = derivatives.match_means(plain, cast(Tensor, real))
        else:
            distance = DISTANCES[self.matching.distance]
            losses, moved = derivatives.match_gradients(plain, cast(Gradients, real), distance)
        return losses, torch.autograd.grad(images, values, moved)[0]

    def _calibrated(self, number: int, classes: slice) -> tuple[Tensor, Tensor]:
        """Some classes' weighted cross-entropies in the trained network (K,), and the gradient in their values."""
        plain, images, values = self._shown(classes, number, "siamese of calibration")
        judge = calibrated(self.trained.network, plain, self.matching.calibration)
        losses, moved = self.trained.derivatives.match_features(plain, judge)
        return losses, torch.autograd.grad(images, values, moved)[0]

    def _some(self, images: Tensor, label: int, number: int) -> Tensor:
        """At most ``batch_synthetic`` of a class's images."""
        most = self.matching.batch_synthetic
        if not 0 < most < len(images):
            return images
        draws = generator(self.problem.seed, "synthetic batch", self.problem.set_index, number, label)
        chosen = torch.from_numpy(draws.choice(len(images), most, replace=False))
        return images[chosen.to(images.device, non_blocking=True)]

    def _alike(self, batch: Batch, number: int, purpose: str = "siamese") -> Batch:
        if self.matching.alike is None:
            return batch
        seed, set_index = self.problem.seed, self.problem.set_index
        return self.matching.alike(
            batch, [generator(seed, purpose, set_index, number, label) for label in batch.labels]
        )

    def _real_side(self, number: int, classes: slice) -> RealSide:
        """Of real images of some classes; of a pool's member, or a snapshot that nothing changes, always the same."""
        if not self.matching.keeps_real_sides:
            return self._real(number, classes, "real batch", number)
        known, name = self.member.real, (self.member.number, classes.start)
        if name in known:
            return known[name]
        made = self._real(number, classes, "real batch of a pool", self.member.number)
        size = sum(one.nbytes for one in made)
        if self.stock is None or self.kept + size <= self.matching.keep:
            known[name] = made
            self.kept += size
        return made

    def _real(self, number: int, classes: slice, purpose: str, drawn_by: int) -> RealSide:
        labels, count = self.problem.classes[classes], self.matching.batch_real
        found: list[Sequence[Tensor]] = []
        at_once = len(labels) if self.member.shares else max(1, self.piece // count)
        for some in parts(len(labels), at_once):
            batch = self._alike(self._drawn(labels[some], count, purpose, drawn_by), number)
            if self.spectral is not None:
                found.append(self.spectral.of(self.member.derivatives.features(batch), batch.bounds))
            elif self.matching.what == "features":
                found.append([self.member.derivatives.means(batch)])
            else:
                found.append(self.member.derivatives.gradients(batch))
        joined = [torch.cat(layer) for layer in zip(*found, strict=True)]
        if self.spectral is not None:
            return joined[0], joined[1]
        return joined[0] if self.matching.what == "features" else joined

    def _drawn(self, labels: Sequence[int], count: int, purpose: str, drawn_by: int) -> Batch:
        """Real images of some classes."""
        if self.matching.first:
            return self.real.first(labels, count)
        return self.real.draw(labels, count, purpose, self.problem.set_index, drawn_by, seed=self.problem.seed)

    def _settle(self, number: int) -> None:
        """Let batch norm see real images of all classes, and then use what it has kept of them."""
        key_ = ("images for batch norm", self.problem.set_index, number)
        seen = self.real.draw(self.problem.classes, BN_IMAGES, *key_, seed=self.problem.seed).images
        self.member.network.train()
        with torch.no_grad(), self.compute.autocast():
            self.member.network(seen)
        for layer in batchnorm_layers(self.member.network):
            layer.eval()


RealSide = Gradients | Tensor | Waves
"""Of some classes: gradients, mean features, or characteristic functions."""


@dataclass(eq=False)
class _Member:
    """A network, and what goes with it.

    ``shares``: real images of all classes have to be shown at once; ``settles``: batch norm takes its statistics
    beforehand. ``real``: the real sides by what names the weights and by the first class of a chunk, in a pool.
    ``origin``: which network of the stock it is taken from.
    """

    number: int
    network: nn.Module
    derivatives: Derivatives
    trainer: Trainer | None
    shares: bool
    settles: bool
    origin: int = 0
    real: dict[tuple[int, int], RealSide] = field(default_factory=dict)


def width_of(network: nn.Module, spec: DatasetSpec) -> int:
    """How many features it has of an image. Raises `MethodError` for a network that does not say what these are."""
    if not isinstance(network, Network):
        raise MethodError(
            f"nothing says what the features of {type(network).__name__} are; use one of the package's own networks, "
            "for example convnet3-in"
        )
    network.eval()
    with torch.no_grad():
        return network.features(torch.zeros(2, spec.channels, spec.height, spec.width)).shape[1]


def calibrated(network: nn.Module, batch: Batch, weight: float) -> Judge:
    """The mean cross-entropy of each class's features in the last layer of ``network``, times ``weight``."""
    classifier = cast(Network, network).classifier

    def judge(features: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            logits = classifier(leaf)
            losses = torch.stack(
                [
                    weight
                    * functional.cross_entropy(
                        logits[start:stop], leaf.new_full((stop - start,), label, dtype=torch.int64)
                    )
                    for label, (start, stop) in zip(batch.labels, batch.bounds, strict=True)
                ]
            )
            return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    return judge


def parts(count: int, size: int) -> Iterator[slice]:
    """0 ... count in consecutive slices of at most ``size``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _derivatives(network: nn.Module, matching: Matching, compute: Compute, piece: int) -> Derivatives:
    if has_fast_form(network):
        half = compute.precision == "bf16" and next(network.parameters()).dtype == torch.float32
        return Fast(cast(ConvNet, network), linear=matching.linear, half=half, piece=piece)
    return Plain(network, compute, linear=matching.linear)


def _sizes(
    matching: Matching, problem: Problem, network: nn.Module, canvas: Pixels, compute: Compute
) -> tuple[int, int]:
    """How many classes are matched at once, and how many real images are shown at once."""
    if not has_fast_form(network):
        together = matching.what != "gradients" and bool(batchnorm_layers(network))
        return (len(problem.classes) if together else 1), 1
    itemsize = canvas.values.element_size()
    items = canvas.images().shape[0]
    classes, piece = check_memory(
        matching, cast(ConvNet, network), problem.spec, items=items, name=problem.name, itemsize=itemsize
    )
    return min(classes, len(problem.classes)), piece if compute.torch_device.type == "cuda" else min(piece, PIECE)


def check_memory(
    matching: Matching, network: ConvNet, spec: DatasetSpec, *, items: int, name: str, itemsize: int = 4
) -> tuple[int, int]:
    """How many classes of ``items`` synthetic images, and how many real images, fit into the memory at once.

    Raises `MethodError` where one class does not.
    """
    shown = min(items, matching.batch_synthetic or items)
    one, real = (
        image_bytes(network, spec.height, spec.width, synthetic=synthetic, itemsize=itemsize)
        for synthetic in (True, False)
    )
    if shown * one > matching.memory:
        need = -(-shown * one // 2**20)
        raise MethodError(
            f"{name} needs about {need} MB for the {shown} synthetic images of one class, and step_memory is "
            f"{matching.memory // 2**20}; raise it to {need}, or lower batch_synthetic, which is the most images of a "
            "class in a step"
        )
    return matching.memory // (shown * one), max(1, matching.memory // real)


def _refuse_divergence(loss: Tensor, canvas: Pixels, problem: Problem, number: int) -> None:
    if bool(loss.isfinite() & canvas.values.isfinite().all()):
        return
    raise MethodError(
        f"{problem.name} diverged (seed {problem.seed}, set {problem.set_index}): the loss or a pixel is not finite at "
        f"step {number + 1}; lower lr, or use --precision float32"
    )
