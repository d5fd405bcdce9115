"""Teachers pushed a little way from what they learnt, so that every set of images is pulled elsewhere (DWA)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.errors import ConfigError, TeacherError

__all__ = ["perturb"]

TINY = 1e-12
"""Added to the gradient's norm, as the paper's program does."""


def perturb(
    network: nn.Module, images: Tensor, targets: Tensor, *, radius: float = 0.015, steps: int = 12
) -> nn.Module:
    """A frozen eval-mode copy of ``network`` that has unlearnt ``images`` (B, C, H, W), normalised, a little.

    ``steps`` times every parameter moves by ``radius / steps * g / (||g||_2 + 1e-12)``, up the gradient g of the mean
    cross-entropy with ``targets``, int64 (B,). The norm is one over all parameters, so the copy is at most ``radius``
    away. BatchNorm uses its running statistics and leaves them alone, and nothing reaches ``network`` or ``images``.
    In float32, or the network's wider type, also under autocast. The bits depend on threads and kernels: to be called
    where ``compute.applied()`` holds, as it does in `Hooks.prepare`.

    Source: "Diversity-Driven Synthesis" (NeurIPS 2024, arXiv 2409.17612), its directed weight adjustment, with the
    normalised steps of its program. Differs from that program: every batch begins from the teacher as trained, where
    there the moves of one index's batches add up; the gradient of these steps does not enter the first step of the
    images.

    Raises `ConfigError` for a radius or a number of steps out of range, `TeacherError` for a gradient that is not
    finite.
    """
    if not 0 <= radius < math.inf:
        raise ConfigError(f"radius must be at least 0 and finite, got {radius}")
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    moved = copy.deepcopy(network).eval().requires_grad_(True)
    norms = [_climb(moved, images.detach(), targets, radius / steps) for _ in range(steps)]
    if not bool(torch.stack(norms).isfinite().all()):
        raise TeacherError(
            f"{type(network).__name__} has no finite gradient on the images that it is perturbed with; lower "
            "perturb.radius, or check the teacher's weights"
        )
    return moved.requires_grad_(False)


def _climb(network: nn.Module, images: Tensor, targets: Tensor, length: float) -> Tensor:
    """One step of this length up the cross-entropy, in place; the norm of the gradient."""
    parameters = list(network.parameters())
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        loss = F.cross_entropy(network(images), targets)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(one, gradient) for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    norm = torch.stack([gradient.square().sum() for _, gradient in used]).sum().sqrt()
    with torch.no_grad():
        for parameter, gradient in used:
            parameter.add_(gradient * (length / (norm + TINY)))
    return norm
