"""What a network is shown in one step of training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Step"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step's images (n, C, H, W) and targets (n,); if mixed, also others and the share of ``targets``.

    Of a step that is held in place the shares are tensors: that of ``targets`` and that of ``others``.
    """

    images: Tensor
    targets: Tensor
    others: Tensor | None = None
    share: float = 1.0
    shares: Tensor | None = None

    def loss(self, logits: Tensor) -> Tensor:
        own = functional.cross_entropy(logits, self.targets)
        if self.others is None:
            return own
        other = functional.cross_entropy(logits, self.others)
        if self.shares is not None:
            return self.shares[0] * own + self.shares[1] * other
        return self.share * own + (1 - self.share) * other

    @property
    def kind(self) -> tuple[torch.Size, bool]:
        """Steps of one kind can be filled into one another."""
        return self.images.shape, self.others is None

    def held(self) -> Step:
        """A copy to be filled with other steps of its kind, the images channels-last."""
        images = self.images.detach().clone(memory_format=torch.channels_last)
        others = None if self.others is None else self.others.clone()
        return Step(images, self.targets.clone(), others, self.share, self._shares())

    @torch.no_grad()
    def fill(self, step: Step) -> None:
        """Take over what a step of the same kind has, in place."""
        self.images.copy_(step.images)
        self.targets.copy_(step.targets)
        if self.others is not None and step.others is not None and self.shares is not None:
            self.others.copy_(step.others)
            self.shares.copy_(step._shares(), non_blocking=True)

    def _shares(self) -> Tensor:
        return torch.tensor([self.share, 1 - self.share]).to(self.images.device, self.images.dtype, non_blocking=True)
