"""BatchNorm statistics of a frozen network, as outputs of a function.

Inverting a network (DeepInversion, arXiv 1912.08795; SRe2L, arXiv 2306.13092) compares the batch statistics of every
BatchNorm input with the stored running statistics. Here one function normalises a layer's input ``a`` with the
running statistics and takes its batch mean and biased variance, for several independent groups of images at once.
The loss depends on ``a`` through these and through the normalised output y only, so its gradient is affine in ``a``,
per channel c and group g:

    dL/da = s_c * dL/dy + p_gc + q_gc * a,
    s = weight / sqrt(running_var + eps),  q = 2/M * dL/dvar,  p = 1/M * dL/dmean - q * mean,

with M values per channel and group: two passes, and nothing saved but ``a``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.errors import TeacherError

__all__ = ["ClassTargets", "Statistics", "TappedNetwork", "Targets"]


@dataclass(frozen=True, eq=False)
class ClassTargets:
    """Statistics of each of K classes, joined like those of `Targets`: ``mean`` and ``var``, (K, D)."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """Running statistics of L layers, joined along their channels in order of registration.

    ``mean`` and ``var``: (D,), D the sum of ``sizes``. ``membership``: (D, L), 1 where a channel belongs to a layer,
    so that ``x @ membership`` sums over the channels of each. ``layers``: the layers' places among all registered
    ones, which differ from 0 ... L-1 where a network has layers that it does not run. ``classes``: the same class by
    class, where they are known.
    """

    mean: Tensor
    var: Tensor
    membership: Tensor
    sizes: tuple[int, ...]
    layers: tuple[int, ...]
    classes: ClassTargets | None = None


@dataclass(frozen=True, eq=False)
class Statistics:
    """Batch ``mean`` and biased ``var`` of a forward, (G, D), joined like ``targets``; float32 or wider."""

    mean: Tensor
    var: Tensor
    targets: Targets

    def per_layer(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(mean (G, C), var (G, C)) of each layer that ran."""
        sizes = list(self.targets.sizes)
        return zip(self.mean.split(sizes, 1), self.var.split(sizes, 1), strict=True)


class TappedNetwork(nn.Module):
    """A frozen eval-mode copy of ``network`` whose forward also gives its BatchNorm2d layers' batch statistics.

    ``classes``: statistics class by class, to be handed on in `Targets`. Raises `TeacherError` when no BatchNorm2d with
    running statistics is there, and at the first forward when ``classes`` are of another network.
    """

    class_mean: Tensor | None
    class_var: Tensor | None

    def __init__(self, network: nn.Module, classes: ClassTargets | None = None) -> None:
        super().__init__()
        self.register_buffer("class_mean", classes.mean if classes else None)
        self.register_buffer("class_var", classes.var if classes else None)
        self.network = copy.deepcopy(network).requires_grad_(False)
        norms = [(name, module) for name, module in self.network.named_modules() if _tappable(module)]
        if not norms:
            raise TeacherError(
                f"{type(network).__name__} has no BatchNorm2d layer with running statistics; choose a network with "
                "batch norm, for example resnet20 or convnet3-bn"
            )
        self.taps = [_Tap(cast(nn.BatchNorm2d, module)) for _, module in norms]
        for (name, _), tap in zip(norms, self.taps, strict=True):
            if name:
                self.network.set_submodule(name, tap)
            else:
                self.network = tap
        self._targets: Targets | None = None
        self.eval()

    def forward(self, images: Tensor, groups: int = 1) -> tuple[Tensor, Statistics]:
        """Logits (G*B, K), and the statistics of each of ``groups`` consecutive parts of ``images`` (G*B, C, H, W)."""
        for tap in self.taps:
            tap.groups, tap.moments = groups, None
        logits: Tensor = self.network(images)
        layers = tuple(place for place, tap in enumerate(self.taps) if tap.moments is not None)
        mean, var = torch.cat([self.taps[place].take() for place in layers], 2)
        if self._targets is None or self._targets.layers != layers:
            self._targets = self._with_classes(_join(self.taps, layers))
        return logits, Statistics(mean, var, self._targets)

    def _with_classes(self, targets: Targets) -> Targets:
        if self.class_mean is None or self.class_var is None:
            return targets
        mean, var = (each.to(targets.mean) for each in (self.class_mean, self.class_var))
        if mean.shape[1] != len(targets.mean):
            raise TeacherError(
                f"the class statistics have {mean.shape[1]} channels, but {type(self.network).__name__} normalises "
                f"{len(targets.mean)}; measure them with this teacher"
            )
        return replace(targets, classes=ClassTargets(mean, var))


def _tappable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _join(taps: list[_Tap], layers: tuple[int, ...]) -> Targets:
    means = [taps[place].mean for place in layers]
    sizes = tuple(len(mean) for mean in means)
    owner = torch.repeat_interleave(torch.tensor(sizes)).to(means[0].device)
    return Targets(
        mean=torch.cat(means),
        var=torch.cat([taps[place].var for place in layers]),
        membership=F.one_hot(owner).to(means[0].dtype),
        sizes=sizes,
        layers=layers,
    )


class _Tap(nn.Module):
    """Stands in for one BatchNorm2d."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        weight = norm.weight.detach() if norm.affine else torch.ones_like(mean)
        bias = norm.bias.detach() if norm.affine else torch.zeros_like(mean)
        scale = weight * torch.rsqrt(var + norm.eps)
        for name, value in {"mean": mean, "var": var, "weight": weight, "bias": bias, "scale": scale}.items():
            self.register_buffer(name, value)
        self.eps = norm.eps
        self.groups = 1
        self.moments: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor
        out, self.moments = _NormaliseAndTap.apply(maps, self)
        return out

    def take(self) -> Tensor:
        """The moments (2, G, C) of the last forward; kept no longer, since they hold its graph."""
        moments, self.moments = cast(Tensor, self.moments), None
        return moments


class _NormaliseAndTap(torch.autograd.Function):
    """maps (G*B, C, H, W) -> normalised maps, and their own mean and variance as (2, G, C)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, tap: _Tap) -> tuple[Tensor, Tensor]:
        maps = maps.contiguous(memory_format=torch.channels_last)
        moments = _moments(maps, tap)
        ctx.tap, ctx.groups = tap, tap.groups
        ctx.save_for_backward(maps, moments[0])
        return F.batch_norm(maps, tap.mean, tap.var, tap.weight, tap.bias, False, 0.0, tap.eps), moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        received, (to_mean, to_var) = gradients[0].contiguous(memory_format=torch.channels_last), gradients[1]
        maps, mean = ctx.saved_tensors
        n, channels, height, width = maps.shape
        count = n // ctx.groups * height * width
        q = to_var * (2 / count)
        p = torch.addcmul(to_mean / count, q, mean, value=-1)
        # Coefficients are repeated along a line of pixels, so that the passes below meet long contiguous runs.
        coefficients = torch.cat((p, q, ctx.tap.scale[None])).to(maps.dtype).repeat(1, width).unsqueeze(1)
        p, q, scale = coefficients.split((ctx.groups, ctx.groups, 1))
        a, g = (each.permute(0, 2, 3, 1).view(ctx.groups, -1, width * channels) for each in (maps, received))
        total = torch.addcmul(p, q, a).addcmul_(scale, g)
        return total.view(n, height, width, channels).permute(0, 3, 1, 2), None


def _moments(maps: Tensor, tap: _Tap) -> Tensor:
    """Mean and biased variance (2, G, C), summed in float32 or wider whatever the maps are stored in.

    On CPUs by the kernel that trains BatchNorm layers: it sums half-precision maps in float32 without writing them out
    first, and a group's maps fit the cache, where its second pass finds them. It would update the running statistics
    it is given, hence the copies.
    """
    if maps.device.type == "cpu":
        running = tap.mean.clone(), tap.var.clone()
        moments = [torch.batch_norm_update_stats(part, *running, 0.0) for part in maps.chunk(tap.groups)]
        return torch.stack([each for pair in moments for each in pair]).view(tap.groups, 2, -1).transpose(0, 1)
    rows = maps.permute(0, 2, 3, 1).reshape(tap.groups, -1, maps.shape[1])
    var, mean = torch.var_mean(rows.to(tap.mean.dtype), 1, correction=0)
    return torch.stack((mean, var))
