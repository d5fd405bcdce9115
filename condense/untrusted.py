"""Tensors from files of other people: data, never code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

from condense.errors import CondenseError

__all__ = ["read_tensors"]


def read_tensors(path: Path, *, what: str, error: type[CondenseError], expected: str, advice: str) -> Any:
    """What a ``.safetensors`` file or a file of ``torch.save`` holds, on the CPU, without running anything in it.

    ``.safetensors`` holds nothing but tensors, and everything else goes through torch's weights-only reader; what that
    refuses is refused here. Raises ``error``, whose message names ``what`` was read, what was ``expected``, and for a
    file that would run code the ``advice``.
    """
    import torch

    if not path.is_file():
        raise error(f"{what} {path} does not exist; expected {expected}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        found = re.search(r"GLOBAL (\S+)", str(refused))
        why = f'it needs "{found[1]}", which could run code' if found else "it is not a plain file of tensors"
        raise error(f"{what} {path} is refused: {why}; {advice}") from None
    except Exception as broken:  # readers of broken files raise nearly anything
        lines = str(broken).splitlines()
        reason = lines[0] if lines else type(broken).__name__
        raise error(f"{what} {path} cannot be read ({reason}); expected {expected}") from None
