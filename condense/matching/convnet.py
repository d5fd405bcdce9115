"""Class gradients of a ConvNet and their change with the pixels, written out: no autograd, no graph of a gradient.

With g_c the gradient of the mean cross-entropy of class c, D a distance and v_c its derivative in g_c, the gradient of
D in the pixels is that of <g_c, v_c>, which is the derivative of the loss along v_c. So it takes one pass forward that
carries tangents along v_c, and one pass backward over values and tangents; the adjoints of the tangents are those of
the ordinary backward pass, which the class gradients needed anyway.

All classes go through the network together: images do not meet in instance norm, and only the reduction to weight
gradients and the products with v_c are class by class.

Maps are (n, h, w, channels), contiguous, which a convolution sees as channels-last. Everything between convolutions is
done on a CPU a few images at a time, which stay in its cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.matching.derivatives import Batch, Gradients, Judge, matched_means
from condense.matching.distances import Distance
from condense.networks.convnet import ConvNet
from condense.networks.instance_norm import InstanceNorm

__all__ = ["Fast", "has_fast_form", "image_bytes"]

CACHED = 2**18
"""Numbers of a map that are worked on at once on a CPU."""

PIECE = 64
"""Real images in a forward on a CPU: more are not faster."""

_convolution_backward = torch.ops.aten.convolution_backward.default


def has_fast_form(network: nn.Module) -> bool:
    """Whether it is a ConvNet with instance norm or none."""
    return isinstance(network, ConvNet) and not any(isinstance(one, nn.BatchNorm2d) for one in network.modules())


def image_bytes(network: ConvNet, height: int, width: int, *, synthetic: bool, itemsize: int = 4) -> int:
    """About what one image holds at once while it goes through ``network``, in bytes."""
    maps, size = 0, (height, width)
    for layer in convolutions(network):
        grown = [side + 2 * padding - 2 for side, padding in zip(size, layer.padding, strict=True)]  # type: ignore[operator]
        maps += layer.out_channels * grown[0] * grown[1]
        size = (grown[0] // 2, grown[1] // 2)
    return maps * itemsize * (7 if synthetic else 4)


def convolutions(network: ConvNet) -> list[nn.Conv2d]:
    return [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]


def across(maps: Tensor) -> Tensor:
    """(n, h, w, c) as convolutions take it, (n, c, h, w); no copy."""
    return maps.permute(0, 3, 1, 2)


def along(maps: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h, w, c), contiguous; a copy only where the strides are not those of channels-last."""
    return maps.permute(0, 2, 3, 1).contiguous()


@dataclass(eq=False)
class Trace:
    """What a block remembers of a batch. ``inputs``: of its convolution; the others as :class:`Block` says."""

    inputs: Tensor
    normed: Tensor | None
    inverse_std: Tensor
    gate: Tensor
    arriving: Tensor | None = None  # adjoint of the pooled maps
    leaving: Tensor | None = None  # adjoint of the convolution's output
    sent: Tensor | None = None  # the same as convolutions compute
    overlap: Tensor | None = None  # mean of normed * (adjoint of the norm's output)
    tangent: Tensor | None = None  # of the norm's output before its weight
    drift: Tensor | None = None  # mean of normed * (tangent of the convolution's output)
    pooled_tangent: Tensor | None = None


class Block:
    """Convolution, instance norm or none, ReLU, 2x2 average pooling; and its derivatives but for the convolution's.

    With a the convolution's output and means m over the pixels of a channel, the norm is x = (a - m(a)) s with
    s = (var(a) + eps)^-1/2 (``normed``, ``inverse_std``), then w x + b. Its derivative in the direction u is J u =
    s (u - m(u) - x m(x u)), a symmetric map. ``gate`` is w / 4 where the ReLU is open, else 0: pooling is the sum of
    four gated pixels.
    """

    def __init__(self, convolution: nn.Conv2d, norm: InstanceNorm | None, half: bool) -> None:
        assert convolution.bias is not None
        self.convolution, self.half = convolution, half
        self.weight, self.bias = convolution.weight.detach(), convolution.bias.detach()
        self.padding = list(cast("tuple[int, int]", convolution.padding))
        self.scale = torch.ones_like(self.bias) if norm is None else norm.weight.detach()
        self.shift = None if norm is None else norm.bias.detach()
        self.eps = 0.0 if norm is None else norm.eps

    # --- the convolution, with its own weight or a class's ---

    def cast(self, values: Tensor) -> Tensor:
        """As convolutions compute."""
        return values.bfloat16() if self.half else values

    def convolve(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        own = None if bias is None else self.cast(bias)
        return along(functional.conv2d(across(inputs), self.cast(weight), own, padding=self.padding))

    def spread(self, adjoint: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """The adjoint of the convolution's inputs, which are shaped ``like``."""
        return along(self._backward(adjoint, like, weight, [True, False, False])[0])

    def weight_gradient(self, adjoint: Tensor, inputs: Tensor) -> Tensor:
        return self._backward(adjoint, inputs, self.weight, [False, True, False])[1]

    def _backward(self, adjoint: Tensor, inputs: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
        given = (across(self.cast(adjoint)), across(inputs), self.cast(weight), None)
        found: list[Tensor] = _convolution_backward(*given, [1, 1], self.padding, [1, 1], False, [0, 0], 1, wanted)
        return found

    # --- what follows it ---

    def parts(self, maps: Tensor) -> Iterator[slice]:
        """So many images that they stay in the cache; on a GPU, all."""
        images = len(maps)
        at_once = images if maps.is_cuda else max(1, CACHED // max(1, maps[:1].numel()))
        return (slice(start, start + at_once) for start in range(0, images, at_once))

    def look(self, inputs: Tensor) -> Tensor:
        """Inputs (n, h, w, c) in the convolution's dtype -> the pooled maps, and nothing remembered."""
        maps = self.convolve(inputs, self.weight, self.bias)
        pooled = []
        for part in self.parts(maps):
            values = maps[part].to(self.weight.dtype)
            if self.shift is not None:
                values = values - values.mean((1, 2), keepdim=True)
                spread = values.square().mean((1, 2), keepdim=True).add_(self.eps).rsqrt_()
                values = torch.addcmul(self.shift, values.mul_(spread), self.scale)
            pooled.append(halved(values.relu()))
        return torch.cat(pooled)

    def forward(self, inputs: Tensor) -> tuple[Trace, Tensor]:
        """The same, and what to remember."""
        maps = self.convolve(inputs, self.weight, self.bias)
        shape, dtype = maps.shape, self.weight.dtype
        gate = maps.new_empty(shape, dtype=dtype)
        normed = None if self.shift is None else torch.empty_like(gate)
        inverse_std = maps.new_empty(len(maps), 1, 1, shape[3], dtype=dtype)
        pooled = maps.new_empty(len(maps), shape[1] // 2, shape[2] // 2, shape[3], dtype=dtype)
        quarter = self.scale / 4
        for part in self.parts(maps):
            values = maps[part].to(dtype)
            if normed is not None and self.shift is not None:
                own = torch.sub(values, values.mean((1, 2), keepdim=True), out=normed[part])
                inverse_std[part] = own.square().mean((1, 2), keepdim=True).add_(self.eps).rsqrt_()
                values = torch.addcmul(self.shift, own.mul_(inverse_std[part]), self.scale)
            opened = values.relu()
            pooled[part] = halved(opened)
            torch.sign(opened, out=gate[part]).mul_(quarter)
        return Trace(inputs, normed, inverse_std, gate), pooled

    def backward(self, trace: Trace, arriving: Tensor) -> Tensor:
        """The adjoint of the convolution's output, given that of the pooled maps; both are remembered."""
        leaving, overlap = torch.empty_like(trace.gate), torch.empty_like(trace.inverse_std)
        for part in self.parts(leaving):
            values = gated(trace.gate[part], arriving[part], out=leaving[part])
            if trace.normed is not None:
                normed = trace.normed[part]
                overlap[part] = (normed * values).mean((1, 2), keepdim=True)
                project(values, normed, overlap[part]).mul_(trace.inverse_std[part])
        trace.arriving, trace.leaving, trace.overlap = arriving, leaving, overlap
        trace.sent = self.cast(leaving)
        return trace.sent

    def carry(self, trace: Trace, direction: Tensor) -> Tensor:
        """The tangent of the pooled maps, given that of the convolution's output (n, h, w, c), which is overwritten."""
        tangent, drift = torch.empty_like(trace.gate), torch.empty_like(trace.inverse_std)
        size = list(tangent.shape)
        size[1], size[2] = size[1] // 2, size[2] // 2
        pooled = tangent.new_empty(size)
        for part in self.parts(tangent):
            values = tangent[part]
            values.copy_(direction[part])
            if trace.normed is not None:
                normed = trace.normed[part]
                drift[part] = (normed * values).mean((1, 2), keepdim=True)
                project(values, normed, drift[part]).mul_(trace.inverse_std[part])
            pooled[part] = halved(values * trace.gate[part]).mul_(4)
        trace.tangent, trace.drift, trace.pooled_tangent = tangent, drift, pooled
        return pooled

    def backward_again(self, trace: Trace, arriving: Tensor) -> Tensor:
        """The adjoint of the convolution's output in the pass over values and tangents.

        Besides J of what arrives: how J itself moves with a, in the direction that was carried. With u the adjoint of
        x and t the tangent of a in the pass before, that is -s (x m(u J t) + m(x t) J u + m(x u) J t); J u and J t are
        at hand, and the sum of u J t over the pixels equals that over pooled adjoints and tangents.
        """
        assert trace.arriving is not None
        assert trace.leaving is not None
        assert trace.tangent is not None
        assert trace.pooled_tangent is not None
        leaving = torch.empty_like(trace.gate)
        pixels = leaving.shape[1] * leaving.shape[2]
        for part in self.parts(leaving):
            values = gated(trace.gate[part], arriving[part], out=leaving[part])
            if trace.normed is not None and trace.overlap is not None and trace.drift is not None:
                normed = trace.normed[part]
                both = (trace.arriving[part] * trace.pooled_tangent[part]).sum((1, 2), keepdim=True).div_(pixels)
                project(values, normed, (normed * values).mean((1, 2), keepdim=True).add_(both))
                values.addcmul_(trace.leaving[part], trace.drift[part], value=-1)
                values.addcmul_(trace.tangent[part], trace.overlap[part], value=-1)
                values.mul_(trace.inverse_std[part])
        return leaving


def project(values: Tensor, normed: Tensor, share: Tensor) -> Tensor:
    """values - m(values) - normed * share, in place."""
    return values.sub_(values.mean((1, 2), keepdim=True)).addcmul_(normed, share, value=-1)


def halved(maps: Tensor) -> Tensor:
    """The mean of every 2x2 pixels of (n, h, w, c)."""
    return functional.avg_pool2d(across(maps), 2).permute(0, 2, 3, 1)


def gated(gate: Tensor, pooled: Tensor, out: Tensor) -> Tensor:
    """The adjoint of :func:`halved`, times ``gate`` (n, h, w, c); 0 in a last row or column that pooling drops."""
    height, width = 2 * pooled.shape[1], 2 * pooled.shape[2]
    out[:, height:], out[:, :, width:] = 0, 0
    gates, places = (quartered(each[:, :height, :width]) for each in (gate, out))
    torch.mul(gates, doubled(pooled), out=places)
    return out


def quartered(maps: Tensor) -> Tensor:
    """(n, h, w, c) with every 2x2 pixels along axes of their own: (n, h/2, 2, w/2, 2, c)."""
    n, h, w, c = maps.shape
    return maps.view(n, h // 2, 2, w // 2, 2, c)


def doubled(pooled: Tensor) -> Tensor:
    """(n, h/2, w/2, c), to be spread over what :func:`quartered` gives."""
    return pooled[:, :, None, :, None, :]


class Fast:
    """:class:`~condense.matching.derivatives.Derivatives` of a ConvNet with instance norm or none.

    Weights are read from ``network`` as they are at the time. ``half``: convolutions in bfloat16, all else as the
    weights. ``piece``: most real images in a forward.
    """

    def __init__(self, network: ConvNet, *, linear: bool, half: bool = False, piece: int = PIECE) -> None:
        norms: list[InstanceNorm | None] = [layer for layer in network.layers if isinstance(layer, InstanceNorm)]
        layers = convolutions(network)
        self.blocks = [
            Block(layer, norm, half) for layer, norm in zip(layers, norms or [None] * len(layers), strict=True)
        ]
        classifier = cast("nn.Linear", network.classifier)
        self.weight, self.bias = classifier.weight.detach(), classifier.bias.detach()
        self.linear, self.piece = linear, piece

    @torch.no_grad()
    def gradients(self, batch: Batch) -> Gradients:
        labels, weights = batch.per_image(self.weight.dtype)
        found = self._zeros(len(batch.sizes))
        for start in range(0, len(batch.images), self.piece):
            part = slice(start, start + self.piece)
            traces, features = self._forward(batch.images[part])
            errors = self._errors(features, labels[part])[0].mul_(weights[part])
            self._backward(traces, errors)
            self._collect(found, traces, features, errors, overlaps(batch, start, start + len(features)))
        return found

    @torch.no_grad()
    def match_gradients(self, batch: Batch, real: Gradients, distance: Distance) -> tuple[Tensor, Tensor]:
        labels, weights = batch.per_image(self.weight.dtype)
        traces, features = self._forward(batch.images)
        errors, chances = self._errors(features, labels)
        errors.mul_(weights)
        self._backward(traces, errors)
        mine = self._zeros(len(batch.sizes))
        bounds = list(enumerate(batch.bounds))
        self._collect(mine, traces, features, errors, bounds)
        pairs = [
            distance(*(layer.reshape(*layer.shape[:2], -1) for layer in pair)) for pair in zip(mine, real, strict=True)
        ]
        losses = torch.stack([loss for loss, _ in pairs]).sum(0)
        towards = [slope.view(layer.shape) for (_, slope), layer in zip(pairs, mine, strict=True)]
        return losses, self._along(traces, features, errors, chances, weights, towards, bounds)

    @torch.no_grad()
    def means(self, batch: Batch) -> Tensor:
        _, weights = batch.per_image(self.weight.dtype)
        found = self.weight.new_zeros(len(batch.sizes), self.weight.shape[1])
        for start, features in self._looked(batch):
            part = slice(start, start + len(features))
            for number, (first, last) in overlaps(batch, start, start + len(features)):
                found[number] += (features[first:last] * weights[part][first:last]).sum(0)
        return found

    @torch.no_grad()
    def match_means(self, batch: Batch, real: Tensor) -> tuple[Tensor, Tensor]:
        _, weights = batch.per_image(self.weight.dtype)

        def judge(features: Tensor) -> tuple[Tensor, Tensor]:
            found = torch.stack([features[start:stop].mean(0) for start, stop in batch.bounds])
            losses, slope = matched_means(found, real)
            sizes = torch.tensor(batch.sizes).to(slope.device, non_blocking=True)
            return losses, slope.repeat_interleave(sizes, 0, output_size=len(features)) * weights

        return self.match_features(batch, judge)

    @torch.no_grad()
    def features(self, batch: Batch) -> Tensor:
        return torch.cat([features for _, features in self._looked(batch)])

    @torch.no_grad()
    def match_features(self, batch: Batch, judge: Judge) -> tuple[Tensor, Tensor]:
        traces, features = self._forward(batch.images)
        losses, slope = judge(features)
        arriving = self._maps(slope, traces)
        for block, trace in zip(reversed(self.blocks), reversed(traces), strict=True):
            arriving = block.spread(block.backward(trace, arriving.to(trace.gate.dtype)), block.weight, trace.inputs)
        return losses, across(arriving).to(self.weight.dtype)

    # --- the passes ---

    def _looked(self, batch: Batch) -> Iterator[tuple[int, Tensor]]:
        """The features of some images after another, (n, D), and where they begin."""
        for start in range(0, len(batch.images), self.piece):
            maps = along(batch.images[start : start + self.piece])
            for block in self.blocks:
                maps = block.look(block.cast(maps))
            yield start, across(maps).flatten(1)

    def _forward(self, images: Tensor) -> tuple[list[Trace], Tensor]:
        """What each block remembers, and the features (n, D) in the order of the network's."""
        maps, traces = along(images), []
        for block in self.blocks:
            trace, maps = block.forward(block.cast(maps))
            traces.append(trace)
        return traces, across(maps).flatten(1)

    def _errors(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Derivative of each image's cross-entropy in its logits, (n, classes), and the softmax of these."""
        chances = torch.addmm(self.bias, features, self.weight.T).softmax(1)
        classes = torch.arange(chances.shape[1], device=labels.device)
        return chances - (labels[:, None] == classes).to(chances.dtype), chances

    def _maps(self, features: Tensor, traces: list[Trace]) -> Tensor:
        """Features (n, D) as the maps (n, h, w, c) that they are."""
        _, height, width, channels = traces[-1].gate.shape
        return along(features.view(len(features), channels, height // 2, width // 2))

    def _backward(self, traces: list[Trace], errors: Tensor) -> None:
        """Adjoints of every convolution's output, into the traces."""
        arriving = self._maps(errors @ self.weight, traces)
        for number in reversed(range(len(self.blocks))):
            block, trace = self.blocks[number], traces[number]
            leaving = block.backward(trace, arriving.to(trace.gate.dtype))
            if number:
                arriving = block.spread(leaving, block.weight, trace.inputs)

    def _along(
        self,
        traces: list[Trace],
        features: Tensor,
        errors: Tensor,
        chances: Tensor,
        weights: Tensor,
        towards: Gradients,
        bounds: list[tuple[int, tuple[int, int]]],
    ) -> Tensor:
        """The gradient in the images of the loss's derivative along ``towards``."""
        carried: Tensor | None = None
        for block, trace, own in zip(self.blocks, traces, towards, strict=False):
            direction = None if carried is None else block.convolve(block.cast(carried), block.weight)
            parts = [block.convolve(trace.inputs[first:last], own[k]) for k, (first, last) in bounds]
            moved = torch.cat(parts) if direction is None else direction.add_(torch.cat(parts))
            carried = block.carry(trace, moved)
        assert carried is not None
        moved = across(carried).flatten(1) @ self.weight.T
        if self.linear:
            moved += torch.cat([features[first:last] @ towards[-1][k].T for k, (first, last) in bounds])
        change = chances * (moved - (chances * moved).sum(1, keepdim=True)) * weights
        back = change @ self.weight
        if self.linear:
            back += torch.cat([errors[first:last] @ towards[-1][k] for k, (first, last) in bounds])
        arriving = self._maps(back, traces)
        for block, trace, own in reversed(list(zip(self.blocks, traces, towards, strict=False))):
            leaving = block.backward_again(trace, arriving.to(trace.gate.dtype))
            arriving = block.spread(leaving, block.weight, trace.inputs)
            assert trace.sent is not None
            parts = [
                block.spread(trace.sent[first:last], own[k], trace.inputs[first:last]) for k, (first, last) in bounds
            ]
            arriving = arriving.add_(torch.cat(parts))
        return across(arriving).to(self.weight.dtype)

    def _zeros(self, classes: int) -> Gradients:
        weights = [block.weight for block in self.blocks] + ([self.weight] if self.linear else [])
        return [weight.new_zeros(classes, *weight.shape) for weight in weights]

    def _collect(
        self,
        found: Gradients,
        traces: list[Trace],
        features: Tensor,
        errors: Tensor,
        bounds: list[tuple[int, tuple[int, int]]],
    ) -> None:
        """Add the gradients of these images to those of their classes."""
        for k, (first, last) in bounds:
            for layer, block, trace in zip(found, self.blocks, traces, strict=False):
                assert trace.sent is not None
                layer[k] += block.weight_gradient(trace.sent[first:last], trace.inputs[first:last])
            if self.linear:
                found[-1][k].addmm_(errors[first:last].T, features[first:last])


def overlaps(batch: Batch, start: int, stop: int) -> list[tuple[int, tuple[int, int]]]:
    """The classes that have images from ``start`` to ``stop``, and where these lie, counted from ``start``."""
    return [
        (number, (max(first, start) - start, min(last, stop) - start))
        for number, (first, last) in enumerate(batch.bounds)
        if first < stop and last > start
    ]
