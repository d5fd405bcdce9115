"""Class activation maps: where in an image a network sees a class.

A network that averages its last maps and ends in a linear layer adds up evidence place by place: the logit of class y
is the mean over places of ``sum_k W[y, k] F_k``, and a bias. That sum, before the mean, is the map (Zhou et al. 2016,
arXiv 1512.04150). One forward makes it; no gradient is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.data.pixels import normalise, to_pixels
from condense.device import Compute, under_compute
from condense.errors import NetworkError, TeacherError
from condense.networks.base import InputShape
from condense.networks.last_layer import last_layer
from condense.seeding import torch_generator
from condense.teachers.teacher import Teacher

__all__ = ["ActivationMaps", "activation_maps", "activation_maps_of", "spread"]

BATCH = 500

Form = Callable[[Tensor], Tensor]
"""What the network does to a module's output before it pools or flattens it: nothing, or a ReLU."""


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """A network whose last linear layer sees pooled or flattened maps. Made by :func:`activation_maps_of`.

    ``source``: the module whose output, after ``form``, are the maps F (N, K, h, w). ``layer`` is given their means
    (N, K), or, if ``flattened``, all of them (N, K*h*w): then each place has weights of its own.
    """

    network: nn.Module
    source: nn.Module
    layer: nn.Linear
    form: Form
    flattened: bool

    @torch.no_grad()
    def evidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """For each image the sum over channels of W[label] F, by place, of any sign: float32 or wider (N, h, w).

        ``images`` (N, C, H, W), normalised as the network expects; ``labels`` int64 (N,). With the bias its mean over
        places (its sum, if flattened) is the logit.
        """
        seen: list[Tensor] = []
        handle = self.source.register_forward_hook(lambda _, __, out: seen.append(out))
        try:
            self.network(images)
        finally:
            handle.remove()
        maps = self.form(seen[-1])
        exact = torch.promote_types(maps.dtype, torch.float32)
        weights = self.layer.weight[labels].to(exact)
        weights = weights.view_as(maps) if self.flattened else weights[:, :, None, None]
        return (maps.to(exact) * weights).sum(1)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The maps as large as the images and in [0, 1]: (N, H, W). See :func:`spread`."""
        return spread(self.evidence(images, labels), *images.shape[2:])


def spread(evidence: Tensor, height: int, width: int) -> Tensor:
    """ReLU, bilinear enlargement (align_corners=False) to ``height`` x ``width``, and each map stretched to [0, 1].

    (N, h, w) -> (N, height, width). A map without differences, such as one of negative evidence alone, becomes 0.
    """
    with torch.autocast(evidence.device.type, enabled=False):
        large = F.interpolate(evidence.relu()[:, None], (height, width), mode="bilinear")[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    tiny = torch.finfo(large.dtype).tiny
    return (large - low) / (high - low).clamp(min=tiny)


@torch.no_grad()
def activation_maps_of(name: str, network: nn.Module, shape: InputShape) -> ActivationMaps:
    """Find the maps by running two images of noise through ``network``, in eval mode, and comparing.

    Of the modules whose output, with or without a ReLU, becomes what the last layer is given, the last one counts.
    Raises :class:`TeacherError`, calling the network ``name``, where there is none, or where its maps have one place.
    """
    try:
        layer = last_layer(name, network, shape)
    except NetworkError as error:
        raise TeacherError(f"{error}; class activation maps need its weights") from None
    outputs, features = _outputs(network, layer, shape)
    found = [
        (maps, ActivationMaps(network, module, layer, form, flattened))
        for module, maps in outputs
        for form in (torch.relu, _as_it_is)
        for flattened in (False, True)
        if _gives(form(maps), features, flattened=flattened)
    ]
    if not found:
        raise TeacherError(
            f'teacher "{name}" has no class activation maps: its last layer is not given pooled or flattened maps; '
            "use a network that pools, for example resnet20 or convnet3-bn, or another start"
        )
    larger = [one for maps, one in found if maps.shape[2] * maps.shape[3] > 1]
    if not larger:
        raise TeacherError(
            f'teacher "{name}" has class activation maps of a single place for images of {shape.height} x '
            f"{shape.width} pixels; use a network that shrinks them less, for example resnet20 or convnet3-bn"
        )
    return larger[-1]


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _outputs(network: nn.Module, layer: nn.Linear, shape: InputShape) -> tuple[list[tuple[nn.Module, Tensor]], Tensor]:
    """Every module with a copy of its output, where that is maps, in the order of their ends; what ``layer`` got.

    Copies, since networks add and rectify in place.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []
    features: list[Tensor] = []

    def keep(module: nn.Module, _: object, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4:
            outputs.append((module, out.clone()))

    first = next(network.parameters())
    noise = torch.randn(2, *shape, generator=torch_generator(0, "probe of maps")).to(first.device, first.dtype)
    with ExitStack() as stack:
        stack.callback(network.train, network.training)
        for module in network.modules():
            stack.callback(module.register_forward_hook(keep).remove)
        stack.callback(layer.register_forward_pre_hook(lambda _, given: features.append(given[0].clone())).remove)
        network.eval()(noise)
    return outputs, features[-1]


def _gives(maps: Tensor, features: Tensor, *, flattened: bool) -> bool:
    """Whether ``maps`` (N, K, h, w), pooled or flattened, are ``features`` (N, D)."""
    made = maps.flatten(1) if flattened else maps.mean((2, 3))
    return made.shape == features.shape and torch.allclose(
        made, features, rtol=1e-3, atol=1e-5 * float(made.abs().max())
    )


@torch.no_grad()
@under_compute
def activation_maps(
    teachers: Sequence[Teacher], images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], *, compute: Compute
) -> npt.NDArray[np.float32]:
    """Maps of ``images`` uint8 (N, H, W, C), each for its own of ``labels`` (N,): float32 (N, H, W) in [0, 1].

    Of several teachers the mean of their maps. Each is fed by its own normalisation. Raises :class:`TeacherError` for
    one without maps.
    """
    device, made = compute.torch_device, np.zeros(images.shape[:3], dtype=np.float32)
    for teacher in teachers:
        maps = activation_maps_of(teacher.info.network, teacher.network.to(device), InputShape(*_shape(teacher)))
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            pixels = normalise(to_pixels(images[part]).to(device), teacher.info.spec)
            with compute.autocast():
                each = maps(pixels, torch.from_numpy(labels[part]).to(device))
            made[part] += each.cpu().numpy() / np.float32(len(teachers))
    return made


def _shape(teacher: Teacher) -> tuple[int, int, int]:
    spec = teacher.info.spec
    return spec.channels, spec.height, spec.width
