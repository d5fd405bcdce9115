"""State of an interrupted computation, as a flat dictionary of tensors in a file.

The holder of the loop decides what is in it; it must be enough to go on bit by bit. Random state is never in it,
because every draw is keyed by its step (see :mod:`condense.seeding`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from condense.files import write_atomic

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "FileCheckpoint", "NoCheckpoint", "Paused"]

DIGEST_BYTES = 32


class Paused(BaseException):
    """The state is on disk and the process was asked to end. Not an Exception, so that nothing takes it for a fault."""


class Checkpoint(Protocol):
    """What a long loop is given to save itself with."""

    def load(self) -> dict[str, torch.Tensor] | None:
        """The state last saved, or None at the start."""

    def due(self) -> bool:
        """Whether it is time to save: enough time has passed, or the process was asked to end."""

    def save(self, state: dict[str, torch.Tensor]) -> None:
        """Keep ``state``; it replaces the one before it. Raises :class:`Paused` if the process was asked to end."""


class NoCheckpoint:
    """Keeps nothing."""

    def load(self) -> dict[str, torch.Tensor] | None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: dict[str, torch.Tensor]) -> None:
        return None


def never() -> bool:
    return False


class FileCheckpoint:
    """One file, replaced atomically, at most every ``every_s`` seconds: a SHA-256, then safetensors of that hash.

    ``stopping`` is asked at every step whether the process has to end.
    """

    def __init__(self, path: Path, every_s: float = 20.0, stopping: Callable[[], bool] = never) -> None:
        self.path = path
        self.every_s = every_s
        self.stopping = stopping
        self._last = time.monotonic()

    def load(self) -> dict[str, torch.Tensor] | None:
        """The state last saved; a damaged file counts as none."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, tensors = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(tensors).digest() != digest:
            return None
        from safetensors.torch import load

        return dict(load(tensors))

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every_s or self.stopping()

    def save(self, state: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save

        tensors = save({name: apart(tensor) for name, tensor in state.items()})
        write_atomic(self.path, hashlib.sha256(tensors).digest() + tensors)
        self._last = time.monotonic()
        if self.stopping():
            raise Paused


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """A row-major copy on the CPU that shares its memory with no other tensor, as safetensors asks."""
    import torch

    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
