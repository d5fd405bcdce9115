"""Distances between the characteristic functions of features: NCFM, arXiv 2502.20653, equations 5 to 8.

The characteristic function of n features f at a frequency t is the mean of exp(i <t, f>), a complex number whose size
is called amplitude. Features are brought to length 1 first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from condense.errors import ConfigError
from condense.matching.derivatives import Judge
from condense.seeding import torch_generator

__all__ = ["FrequencyNetwork", "Spectral", "Spectrum", "Waves", "discrepancy", "waves"]

Waves = tuple[Tensor, Tensor]
"""Real and imaginary parts of characteristic functions: (K, F) each, of K classes at F frequencies."""

PHASE_FLOOR = 1e-12
TINY = 1e-24
"""Least squares that a root is taken of: its slope at 0 is infinite."""

SHARED = 16
"""Frequencies to each one that the network gives: it is asked for a sixteenth of them, and all of these repeat."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Which frequencies, and how distances count. Raises `ConfigError` for a value out of range.

    ``amplitude``, ``phase``: weights of the two terms. ``scale``: of the whole loss. ``learnt``: frequencies come from
    a network that makes the loss greater, by gradient ascent with ``lr``; otherwise from N(0, 1).
    """

    frequencies: int = 4096
    amplitude: float = 0.5
    phase: float = 0.5
    scale: float = 300.0
    learnt: bool = False
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise ConfigError(f"frequencies must be at least 1, got {self.frequencies}")
        if self.learnt and self.frequencies < 2 * SHARED:
            raise ConfigError(
                f"frequencies is {self.frequencies}; a network that learns them gives one in {SHARED} and batch norm "
                f"needs two, so ask for at least {2 * SHARED}"
            )
        weights = (self.amplitude, self.phase)
        if not all(0 <= one < math.inf for one in weights) or not any(weights):
            raise ConfigError(
                f"amplitude and phase must be at least 0 and finite, and one of them above 0, got {weights[0]} and "
                f"{weights[1]}"
            )
        for name in ("scale", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} of the spectrum must be above 0 and finite, got {getattr(self, name)}")


def waves(features: Tensor, bounds: Iterable[tuple[int, int]], frequencies: Tensor) -> Waves:
    """Of features (N, D), class by class from ``bounds``, at ``frequencies`` (F, D). Differentiable."""
    angles = functional.normalize(features, dim=1) @ frequencies.T
    cosines, sines = angles.cos(), angles.sin()
    parts = [(cosines[start:stop].mean(0), sines[start:stop].mean(0)) for start, stop in bounds]
    real, imaginary = zip(*parts, strict=True)
    return torch.stack(real), torch.stack(imaginary)


def discrepancy(mine: Waves, theirs: Waves, amplitude: float, phase: float) -> Tensor:
    """Mean over frequencies of the root of amplitude * (A - B)^2 + phase * 2 (A B - Re - Im), (K,). Differentiable.

    A and B are the amplitudes, Re and Im the products of real and of imaginary parts; the second term, which is
    2 A B (1 - cosine of the difference of phases), is at least 1e-12. With both weights 1 it is the root of the squared
    distance of the two numbers.
    """
    sizes = [(real.square() + imaginary.square()).clamp(min=TINY).sqrt() for real, imaginary in (mine, theirs)]
    apart = (sizes[0] - sizes[1]).square()
    turned = 2 * (sizes[0] * sizes[1] - mine[0] * theirs[0] - mine[1] * theirs[1])
    return (amplitude * apart + phase * turned.clamp(min=PHASE_FLOOR)).clamp(min=TINY).sqrt().mean(1)


class FrequencyNetwork(nn.Module):
    """Noise (m, D) -> frequencies (m, D): three blocks of a linear layer, batch norm and an activation.

    The activations are leaky ReLU (0.2) twice, then tanh. Initial weights, PyTorch's defaults, depend on ``random``
    alone.
    """

    def __init__(self, width: int, random: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.set_rng_state(random.get_state())
            for last in (False, False, True):
                layers += [nn.Linear(width, width), nn.BatchNorm1d(width, track_running_stats=False)]
                layers += [nn.Tanh() if last else nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        made: Tensor = self.layers(noise)
        return made


class Spectral:
    """The frequencies of a run, match by match, and what features are worth at them.

    ``like``: a tensor of the dtype, and on the device, of features, which have ``width`` numbers.
    """

    def __init__(self, spectrum: Spectrum, width: int, like: Tensor, *, seed: int, set_index: int) -> None:
        self.spectrum, self.width, self.like = spectrum, width, like
        self.seed, self.set_index = seed, set_index
        self.network: FrequencyNetwork | None = None
        if spectrum.learnt:
            made = FrequencyNetwork(width, torch_generator(seed, "frequency network", set_index))
            self.network = made.to(like.device, like.dtype)

    def begin(self, number: int) -> None:
        """Draw the frequencies of match ``number``, the same for all its classes."""
        count = self.spectrum.frequencies // (SHARED if self.network else 1)
        random = torch_generator(self.seed, "frequencies", self.set_index, number)
        drawn = torch.randn(count, self.width, generator=random).to(self.like.device, self.like.dtype)
        if self.network is None:
            self.given = self.frequencies = drawn
            return
        with torch.enable_grad():
            self.given = self.network(drawn)
        self.frequencies = self.given.detach().requires_grad_()
        self.slope = torch.zeros_like(self.frequencies)

    def of(self, features: Tensor, bounds: Iterable[tuple[int, int]]) -> Waves:
        """Of real features (N, D); where frequencies are learnt, with the graph that leads to them."""
        with torch.set_grad_enabled(self.network is not None):
            return waves(features, bounds, self.frequencies)

    def judge(self, real: Waves, bounds: Iterable[tuple[int, int]]) -> Judge:
        """What synthetic features are worth beside ``real`` ones, times ``scale``."""
        bounds = list(bounds)

        def judged(features: Tensor) -> tuple[Tensor, Tensor]:
            spectrum = self.spectrum
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                mine = waves(leaf, bounds, self.frequencies)
                losses = spectrum.scale * discrepancy(mine, real, spectrum.amplitude, spectrum.phase)
                wanted = [leaf] if self.network is None else [leaf, self.frequencies]
                slope, *towards = torch.autograd.grad(losses.sum(), wanted)
            if towards:
                self.slope += towards[0]
            return losses.detach(), slope

        return judged

    @torch.no_grad()
    def ascend(self) -> None:
        """One step of the network up the loss of all classes that were judged since :meth:`begin`."""
        if self.network is None:
            return
        weights = list(self.network.parameters())
        for weight, slope in zip(weights, torch.autograd.grad(self.given, weights, self.slope), strict=True):
            weight.add_(slope, alpha=self.spectrum.lr)

    def state(self) -> dict[str, Tensor]:
        if self.network is None:
            return {}
        return {f"frequencies.{name}": value for name, value in self.network.state_dict().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if self.network is not None:
            own = self.network.state_dict()
            self.network.load_state_dict({name: state[f"frequencies.{name}"] for name in own})
