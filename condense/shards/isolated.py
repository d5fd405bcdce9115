"""`verify` in a process of its own: whatever a file does to the HDF5 library, the caller goes on.

    python -m condense.shards.isolated LEVEL PATH        answers one line of JSON

The child has a limit on its memory and on its time; files that are mapped do not count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from condense.errors import ShardError
from condense.shards import errors
from condense.shards.errors import Hostile
from condense.shards.read import Level
from condense.shards.verify import Report, SetBytes, verify

__all__ = ["verify_isolated"]

MEMORY = 10**9
PATIENCE_S = 60.0
SLOWEST = 5e6
"""Bytes per second that checking may be expected to get through on any machine."""


def verify_isolated(path: Path | str, level: Level = "deep") -> Report:
    """:func:`verify`, in a child process. Raises what it raises; :class:`Hostile` if the child crashes, takes more
    than 1 GB of memory, or far longer than files of that size can need."""
    path = Path(path)
    limit = PATIENCE_S + size_of(path) / SLOWEST
    try:
        child = subprocess.run(
            [sys.executable, "-m", "condense.shards.isolated", level, str(path.absolute())],
            capture_output=True,
            timeout=limit,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(part or str(Path.cwd()) for part in sys.path)},
        )
    except subprocess.TimeoutExpired:
        raise Hostile(f"{path}: checking it did not end in {limit:.0f} s; do not open it") from None
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise Hostile(f"{path}: checking it {ending(child.returncode)}; do not open it") from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], ShardError)
        raise kind(answer["message"])
    return Report(**{**answer, "files": tuple(answer["files"]), "bytes": SetBytes(**answer["bytes"])})


def ending(code: int) -> str:
    """How a child that gave no answer ended."""
    if code == OUT_OF_MEMORY:
        return f"takes more than {MEMORY} bytes of memory"
    return f"crashed the reader ({signal.Signals(-code).name})" if code < 0 else f"ended the reader (status {code})"


OUT_OF_MEMORY = 86


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    """The child: check, answer, end at once."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    level, path = sys.argv[1:]
    try:
        answer = asdict(verify(path, level))  # type: ignore[arg-type]
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except ShardError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
