"""The gradient through a student's training, with the memory of one of its steps.

A student begins at parameters theta_0 and takes N steps theta_(n+1) = theta_n - a g_n, where g_n is the gradient of the
mean cross-entropy on the images of step n. Wanted is how a loss of theta_N depends on all images and on a. Unrolled,
that is a graph of N steps; here the parameters of each step are kept, and its graph is built anew on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

from condense.device import Compute
from condense.views.render import channels_last

__all__ = ["Lesson", "Passed", "Student", "pass_back", "trained"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a student is shown in one step.

    ``chosen``: int64 (n,), positions of different items. ``change`` takes these (n, C, H, W) and gives what is shown;
    it is asked twice and has to answer the same.
    """

    chosen: Tensor
    change: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Passed:
    """A loss and its derivatives in the items (n, C, H, W) and in the step size: on the device, scalars but for one."""

    loss: Tensor
    items: Tensor
    rate: Tensor


class Student:
    """A network whose parameters are handed to it: flat (P,), in the order of ``named_parameters()``.

    It is used in training mode, but for dropout, which rests: a step has to be the same when it is taken again.
    ``dtype`` is that of the items and of all results.
    """

    def __init__(self, network: nn.Module, compute: Compute, dtype: torch.dtype = torch.float32) -> None:
        self.network = network.to(compute.torch_device, dtype).requires_grad_(False).train()
        self.compute, self.dtype = compute, dtype
        for module in self.network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        self.shapes = {name: one.shape for name, one in self.network.named_parameters()}
        self.size = sum(shape.numel() for shape in self.shapes.values())

    def loss(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy on images (n, C, H, W) with ``targets`` int64 (n,), at ``theta``."""
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        with self.compute.autocast():
            logits = functional_call(self.network, named, (channels_last(images),))
        return functional.cross_entropy(logits.to(self.dtype), targets)


def trained(
    student: Student, start: Tensor, items: Tensor, targets: Tensor, lessons: Sequence[Lesson], rate: Tensor
) -> list[Tensor]:
    """theta_0 = ``start`` to theta_N, each (P,), for a lesson each step. ``items`` (n, C, H, W), ``targets`` (n,)."""
    path = [start]
    for lesson in lessons:
        theta = path[-1].detach().requires_grad_()
        shown = lesson.change(items[lesson.chosen])
        (slope,) = torch.autograd.grad(student.loss(theta, shown, targets[lesson.chosen]), theta)
        path.append(path[-1] - rate * slope)
    return path


def pass_back(
    student: Student,
    path: Sequence[Tensor],
    goal: Tensor,
    items: Tensor,
    targets: Tensor,
    lessons: Sequence[Lesson],
    rate: Tensor,
) -> Passed:
    """The distance of the end of ``path`` from ``goal``, and its derivatives.

    Source: MTT, arXiv 2203.11932, equation 3: |theta_N - goal|^2 / |theta_0 - goal|^2. With s_n = <g_n, l_(n+1)> and
    l_N the derivative of the loss in theta_N, from n = N - 1 down to 0: the images of step n get -a ds_n/dx_n, the step
    size gets -s_n, and l_n = l_(n+1) - a ds_n/dtheta_n. This is the gradient of the paper's unrolled program, by
    another order of work; it differs from TESLA's (arXiv 2211.10586), which leaves out ds_n/dtheta_n.
    """
    scale = (path[0] - goal).square().sum()
    behind = 2 * (path[-1] - goal) / scale
    to_items, to_rate = torch.zeros_like(items), torch.zeros_like(rate)
    for theta, lesson in zip(reversed(path[:-1]), reversed(lessons), strict=True):
        own = items[lesson.chosen].detach().requires_grad_()
        theta = theta.detach().requires_grad_()
        loss = student.loss(theta, lesson.change(own), targets[lesson.chosen])
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        along = (slope * behind).sum()
        to_own, to_theta = torch.autograd.grad(along, (own, theta))
        to_items[lesson.chosen] -= rate * to_own
        to_rate -= along.detach()
        behind = behind - rate * to_theta
    return Passed((path[-1] - goal).square().sum() / scale, to_items, to_rate)
