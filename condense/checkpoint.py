"""State of an interrupted computation, as a flat dictionary of tensors in a safetensors file.

The holder of the loop decides what is in it; it must be enough to go on bit by bit. Random state is never in it,
because every draw is keyed by its step (see :mod:`condense.seeding`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from condense.files import write_atomic

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "FileCheckpoint", "NoCheckpoint"]

State = "dict[str, torch.Tensor]"


class Checkpoint(Protocol):
    """What a long loop is given to save itself with."""

    def load(self) -> dict[str, torch.Tensor] | None:
        """The state last saved, or None at the start."""

    def due(self) -> bool:
        """Whether enough time has passed since the last save."""

    def save(self, state: dict[str, torch.Tensor]) -> None:
        """Keep ``state``; it replaces the one before it."""


class NoCheckpoint:
    """Keeps nothing."""

    def load(self) -> dict[str, torch.Tensor] | None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, torch.Tensor]) -> None:
        return None


class FileCheckpoint:
    """One file, replaced atomically, at most every ``every_s`` seconds."""

    def __init__(self, path: Path, every_s: float = 20.0) -> None:
        self.path = path
        self.every_s = every_s
        self._last = time.monotonic()

    def load(self) -> dict[str, torch.Tensor] | None:
        if not self.path.exists():
            return None
        from safetensors.torch import load_file

        return dict(load_file(self.path))

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every_s

    def save(self, state: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save

        write_atomic(self.path, save({name: apart(tensor) for name, tensor in state.items()}))
        self._last = time.monotonic()


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """A row-major copy on the CPU that shares its memory with no other tensor, as safetensors asks."""
    import torch

    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
