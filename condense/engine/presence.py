"""Who is at work on a store: runs, whether they are alive, and which jobs they have claimed.

    store/runs/NAME/run.json      the process, the jobs it does (id, kind, title), the finished jobs that it needs
    store/runs/NAME/beat          a counter that grows while the process lives
    store/runs/NAME/*.jsonl       events
    store/claims/JOB              the name of the run that is doing the job
    store/claims.lock             held for the moment in which a claim is taken over from a dead run

A claim saves work, never correctness: two processes that do the same job write the same artefact. So a claim is taken
over as soon as its run is known to be dead: at once on the same machine, and elsewhere when the counter stood still
for `PATIENCE_S` of the observer's own monotonic clock. No clock of one machine is compared with another's.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from condense.engine.job import Job
from condense.files import write_atomic

__all__ = ["Claims", "Neighbours", "Run", "process_identity", "process_is"]

BEAT_EVERY_S = 5.0
PATIENCE_S = 60.0


@cache
def machine() -> str:
    """Names this machine's table of processes: boot and process namespace, so that containers are told apart."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_identity(pid: int) -> dict[str, Any] | None:
    """What tells a process from a later one of the same number; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError) as error:
            return {"pid": pid} if isinstance(error, PermissionError) else None
        return {"pid": pid}
    fields = stat.rpartition(")")[2].split()
    if fields[0] == "Z":
        return None
    return {"pid": pid, "started": int(fields[19])}


def process_is(identity: dict[str, Any]) -> bool:
    """Whether the process of this identity, on this machine, is there."""
    return process_identity(int(identity["pid"])) == identity


class Run:
    """This process's own record while it drives a plan. A context manager; the record stays when it ends."""

    def __init__(self, root: Path, jobs: Sequence[Job], about: dict[str, Any]) -> None:
        now = time.time()
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}"  # names are in order
        self.name = f"{stamp}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.folder = root / "runs" / self.name
        self.claims = Claims(root, self.name, Neighbours(root))
        self.about = {
            **about,
            "machine": machine(),
            "process": process_identity(os.getpid()),
            "time": now,
            "jobs": [[job.id, job.kind, str(job)] for job in jobs],
            "needs": sorted({below.id for job in jobs for below in job.inputs} - {job.id for job in jobs}),
        }
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="beat")

    def __enter__(self) -> Run:
        (self.folder / "beat").parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "beat").write_text("0")
        write_atomic(self.folder / "run.json", json.dumps(self.about).encode())
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beating.join()
        self.claims.release_all()
        with suppress(OSError):
            (self.folder / "beat").unlink()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_EVERY_S):
            count += 1
            with suppress(OSError):
                (self.folder / "beat").write_text(str(count))


class Neighbours:
    """What one process knows of the runs of a store; it remembers when it last saw each counter move."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self.clock = clock
        self._seen: dict[str, tuple[str, float]] = {}

    def alive(self, name: str) -> bool:
        """Whether the run's process is there, as far as can be told from here."""
        folder = self.root / "runs" / name
        try:
            beat = (folder / "beat").read_text()
            about = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError):
            return False
        if about.get("machine") == machine():
            return process_is(about["process"])
        known = self._seen.get(name)
        if known is None or known[0] != beat:
            self._seen[name] = (beat, self.clock())
            return True
        return self.clock() - known[1] < PATIENCE_S

    def runs(self) -> list[str]:
        """Every run on record, oldest first."""
        return sorted(path.parent.name for path in (self.root / "runs").glob("*/run.json"))

    def about(self, name: str) -> dict[str, Any]:
        """What a run said of itself; empty if that cannot be read."""
        try:
            values = json.loads((self.root / "runs" / name / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


class Claims:
    """The jobs that the run ``name`` says it is doing."""

    def __init__(self, root: Path, name: str, neighbours: Neighbours) -> None:
        self.folder = root / "claims"
        self.name = name
        self.neighbours = neighbours
        self.held: set[str] = set()

    def take(self, job_id: str) -> bool:
        """Claim the job; False if a living run has it."""
        path = self.folder / job_id
        taken = self._place(path)
        if not taken:
            holder = self.holder(job_id)
            if holder not in ("", self.name) and self.neighbours.alive(holder):
                return False
            with self._alone():  # of several that take over from a dead run one does
                if self.holder(job_id) == holder:
                    path.unlink(missing_ok=True)
                taken = self._place(path)
        if taken:
            self.held.add(job_id)
        return taken

    def holder(self, job_id: str) -> str:
        """The name of the run that claims the job, "" for none."""
        try:
            return (self.folder / job_id).read_text()
        except OSError:
            return ""

    def release(self, job_id: str) -> None:
        """Give the job back, if it is ours."""
        self.held.discard(job_id)
        if self.holder(job_id) == self.name:
            with suppress(OSError):
                (self.folder / job_id).unlink()

    def release_all(self) -> None:
        for job_id in list(self.held):
            self.release(job_id)

    @cached_property
    def _token(self) -> Path:
        """A file that says whose claims these are; a claim is one more name of it, there with its content at once."""
        token = self.folder.with_name("runs") / self.name / "claim"
        for folder in (token.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        token.write_text(self.name)
        return token

    def _place(self, path: Path) -> bool:
        """Put the claim there, if there is none."""
        try:
            os.link(self._token, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w") as file:
                file.write(self.name)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process of all at a time, where the file system has locks."""
        with open(self.folder.with_name("claims.lock"), "ab") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
