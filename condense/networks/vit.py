"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) without batch norm.

Pre-norm, six layers of dimension 192 with three heads, fixed sine-cosine positions and the mean of the tokens instead
of a class token (Beyer et al. 2022, arXiv 2205.01580). Weights from a normal of sd 0.02 cut at two sd, biases zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense.networks.base import InputShape, Network

__all__ = ["ViT", "patch_size"]


def patch_size(height: int, width: int) -> int:
    """Side of a patch: the power of two from 2 to 16 that cuts the longer side into at most eight (above 128 px: more).

    >>> [patch_size(side, side) for side in (8, 16, 28, 32, 64, 128, 224)]
    [2, 2, 4, 4, 8, 16, 16]
    """
    side = 2
    while side < 16 and max(height, width) > 8 * side:
        side *= 2
    return side


def sincos_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Float32 (rows * columns, dim): a quarter of ``dim`` each for sine and cosine of row and of column.

    Wave lengths run from 2 pi to 20,000 pi patches in a geometric series.
    """
    frequency = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


class Layer(nn.Module):
    """Self-attention and a four times wider perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attend(self.norm1(tokens))
        added: Tensor = self.mlp(self.norm2(tokens))
        return tokens + added

    def attend(self, tokens: Tensor) -> Tensor:
        """(N, tokens, dim) to the same."""
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*split.unbind(0))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class ViT(Network):
    """See the module. Images are zero-padded right and below to whole patches; features are (N, dim)."""

    positions: Tensor

    def __init__(self, shape: InputShape, n_classes: int, *, dim: int = 192, depth: int = 6, heads: int = 3) -> None:
        super().__init__()
        patch = patch_size(shape.height, shape.width)
        self.padding = (0, -shape.width % patch, 0, -shape.height % patch)
        self.embed = nn.Conv2d(shape.channels, dim, patch, patch)
        rows, columns = -(-shape.height // patch), -(-shape.width // patch)
        self.register_buffer("positions", sincos_positions(rows, columns, dim), persistent=False)
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, n_classes)
        self.apply(_initialise)

    def features(self, images: Tensor) -> Tensor:
        padded = F.pad(images, self.padding) if any(self.padding) else images
        tokens = self.embed(padded).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.norm(self.layers(tokens))
        return out.mean(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
