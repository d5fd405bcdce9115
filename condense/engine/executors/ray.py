"""Jobs done as tasks of Ray Core, by the machines of a Ray cluster or by a Ray of this machine alone.

    driver                                            a Ray worker, anywhere
    order: task, recipe, settings as JSON  ────────►  `carry_out` opens the workshop and performs the task
    reply: the outcome as JSON             ◄────────

With a *shared store* (the worker sees the driver's own run folder) that is all: the worker publishes in the store.
Without one, the worker has a store of its own, ``CONDENSE_STORE`` of its machine or a folder of its user among the
temporary files. It is sent the inputs that it lacks, and sends back what it made, each artefact as a *parcel*: an
uncompressed tar of plain files, checked file by file against its manifest before it is published in either store.
Checkpoints stay where the job ran.

The worker's store is put into ``recipe["values"]["store"]``; so a workshop's recipe has to have its store there. The
package must be importable where the workers run; a Ray that this executor starts gets this process's own paths.

Progress: nothing calls back. With a shared store the driver reads the event logs that the workers append to in its run
folder; without one a job is silent until it ends. What workers print stays in Ray's own logs.

Nothing is retried by Ray: what was lost goes back to the loop in :mod:`condense.engine.run`, which also halves what
does not fit into memory.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from condense.engine.events import EventLog
from condense.engine.executors.base import Progress
from condense.engine.executors.ray_worker import carry_out
from condense.engine.executors.wire import outcome_from
from condense.engine.job import Task
from condense.engine.parcel import pack, receive
from condense.engine.perform import Outcome, Settings, Workshop, log_outcome, out_of_memory
from condense.errors import CondenseError, ConfigError, DeviceError

__all__ = ["Ray"]

Shared = Literal["auto"] | bool

LOST = frozenset(
    (
        "WorkerCrashedError",
        "NodeDiedError",
        "LocalRayletDiedError",
        "ObjectLostError",  # and its children: fetch timed out, owner died, not to be reconstructed
        "RayActorError",
        "RpcError",
    )
)
"""Names of Ray's errors that say that a process, a machine or what it held went away."""

CONNECT_S = 30.0
NO_ROOM_S = 300.0
"""How long a cluster may be without any machine that could do a job: others may be on their way."""

ARRIVAL_S = 60.0
"""How late a network file system may show what a worker has published."""

COUNT_EVERY_S = 5.0
LOOK_EVERY_S = 0.5

PARCELS = 64
"""How many inputs are kept in Ray's object store for the next job that needs them."""

OBJECT_STORE = 200_000_000
"""Bytes of shared memory for the object store of a Ray of our own; what does not fit goes to disk."""


class Ray:
    """Joins Ray, or starts one, with the first run.

    address: ``"local"`` for a fresh Ray of this machine; ``"auto"``, ``"host:port"`` or ``"ray://host:port"`` to join.
    cpus, gpus: what each job takes of a machine; it sees the GPUs that it was given and no others.
    workers: the most jobs at a time; None for as many as there is room for. A local Ray has CPUs for just so many.
    shared: whether the workers see the driver's store; ``"auto"`` lets each of them look.
    connect_s: how long an address may take to answer, in seconds.

    A Ray that was joined is left as it was, but for this executor's own tasks; a local one ends with `stop`.
    Raises :class:`ConfigError` if Ray is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        cpus: int = 1,
        gpus: int = 0,
        workers: int | None = None,
        shared: Shared = "auto",
        connect_s: float = CONNECT_S,
    ) -> None:
        self.address, self.workers, self.shared, self.connect_s = address, workers, shared, connect_s
        self.needs: dict[str, float] = {"CPU": cpus, "GPU": gpus}
        if address == "local":
            keep_to_this_machine()
        self._ray = ray_package()
        self._connection = contextlib.ExitStack()
        self._connected = False
        self._flying: dict[Any, tuple[Task, Any]] = {}

    @property
    def slots(self) -> int:
        """How many jobs the machines that are there now have room for; at least one, which then waits for a machine."""
        self._count()
        return max(1, self._room if self.workers is None else min(self.workers, self._room))

    def start(self, shop: Workshop, events: Path, settings: Settings, progress: Progress) -> None:
        """Raises :class:`DeviceError` if the address does not answer, or a local Ray has no room for a single job."""
        if not self._connected:
            self._connect()
        self.store, self.recipe, self.events = shop.store, shop.recipe(), events.absolute()
        self.settings, self.progress, self.log = settings, progress, EventLog(events)
        self._tail, self._apart = Tail(events), self.shared is False
        self.needs["memory"] = settings.memory or 0
        self._remote = self._ray.remote(**self._options())(carry_out)
        self._parcel = lru_cache(PARCELS)(lambda job_id: self._ray.put(pack(self.store.path(job_id))))
        self._room_seen, self._counted = time.monotonic(), -COUNT_EVERY_S
        self._count()
        if self.address == "local" and not self._room:
            raise self._no_room()

    def submit(self, task: Task) -> None:
        order = {
            "task": task.to_dict(),
            "recipe": self.recipe,
            "events": str(self.events),
            "settings": self.settings.to_dict(),
            "shared": self.shared,
        }
        parcels = [self._parcel(below) for below in task.inputs] if self._apart else []
        if self._apart:
            self.log.write("started", task)
        reply, artefact = self._remote.remote(json.dumps(order).encode(), parcels)
        self._flying[reply] = (task, artefact)

    def wait(self, timeout: float) -> Sequence[Outcome]:
        """Raises :class:`DeviceError` when no machine that could do a job was there for `NO_ROOM_S` seconds."""
        end = time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            if not self._flying:
                time.sleep(left)
                return []
            ready, _ = self._ray.wait(list(self._flying), timeout=min(left, LOOK_EVERY_S))
            self._tell()
            ended = [outcome for reply in ready if (outcome := self._landed(reply)) is not None]
            if ended or time.monotonic() >= end:
                return ended
            self._count()
            if time.monotonic() - self._room_seen > NO_ROOM_S:
                raise self._no_room()

    def stop(self, patience: float) -> None:
        replies = list(self._flying)
        for reply in replies:
            self._ray.cancel(reply)
        if replies:
            _, late = self._ray.wait(replies, num_returns=len(replies), timeout=patience)
            for reply in late:
                self._ray.cancel(reply, force=True)
        self._flying.clear()
        self._connection.close()
        self._connected = False

    def _options(self) -> dict[str, Any]:
        """Of the remote function. A process that has used a GPU, or may hold only so much memory, does one job."""
        options: dict[str, Any] = {
            "num_cpus": self.needs["CPU"],
            "num_gpus": self.needs["GPU"],
            "memory": self.needs["memory"] or None,
            "num_returns": 2,
            "max_retries": 0,
        }
        return {**options, "max_calls": 1} if self.needs["GPU"] or self.needs["memory"] else options

    def _connect(self) -> None:
        ray = self._ray
        if ray.is_initialized():  # by the program that uses this package: its own, and left alone
            if self.address != "auto":
                raise ConfigError(f'Ray is in use by this process already; say "auto" instead of "{self.address}"')
        elif self.address == "local":
            self._begin()
        else:
            answers(self.address, self.connect_s)
            with keeping_sigterm():
                ray.init(address=self.address, log_to_driver=False, logging_level="WARNING")
            self._connection.callback(ray.shutdown)
        self._connected = True

    def _begin(self) -> None:
        """Start a Ray of this machine, its files in a folder that only this user can enter."""
        ray = self._ray
        folder = Path(tempfile.mkdtemp(prefix="condense-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
        self._connection.callback(shutil.rmtree, folder, ignore_errors=True)
        self._connection.callback(ray.shutdown)
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with keeping_sigterm():
            ray.init(
                address="local",
                num_cpus=None if self.workers is None else int(self.workers * self.needs["CPU"]),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
                _temp_dir=str(folder / "ray"),
            )
        if ray.util.get_node_ip_address() not in ("127.0.0.1", "::1"):
            self._connection.close()
            raise ConfigError(
                "Ray was imported before condense could keep it to this machine; set "
                'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that, or call ray.init() yourself and say "auto"'
            )

    def _count(self) -> None:
        """Look now and then which machines are there."""
        if time.monotonic() - self._counted < COUNT_EVERY_S:
            return
        self._counted = time.monotonic()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._room = sum(room_of(resources, self.needs) for resources in nodes)
        if self._room:
            self._room_seen = self._counted

    def _no_room(self) -> DeviceError:
        wanted = ", ".join(f"{need:g} {name}" for name, need in self.needs.items() if need)
        return DeviceError(
            f"no machine of Ray has room for a job, which takes {wanted}; give fewer --threads or less --memory, "
            "or add a machine"
        )

    def _tell(self) -> None:
        """Hand on the progress that is in the logs."""
        running = {task.id: task for task, _ in self._flying.values()}
        for event in self._tail.news():
            if event.get("event") == "progress" and event["job"] in running:
                figures = event["stage"], event["done"], event["total"], event["figures"]
                self.progress(running[event["job"]], *figures)

    def _landed(self, reply: Any) -> Outcome | None:
        """How a task ended; None if it was sent out again, with its inputs."""
        task, artefact = self._flying.pop(reply)
        try:
            values = json.loads(self._ray.get(reply))
            if values["lacks"]:
                self._apart = True
                self.submit(task)
                return None
            outcome = outcome_from(task, values["outcome"])
            if outcome.status == "done" and not values["apart"] and not self._arrived(task):
                return self._noted(Outcome(task, "lost", why="what it made did not appear in the store"))
            if outcome.status == "done" and values["apart"]:
                receive(self.store, task.id, self._ray.get(artefact))
            return self._noted(outcome) if values["apart"] else outcome
        except self._ray.exceptions.RayError as error:
            self._parcel.cache_clear()  # the machine that held them may be the one that went away
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(artefact, timeout=0)  # Ray prints errors that nobody has looked at
            return self._noted(broken(task, error))
        except CondenseError as error:
            return self._noted(Outcome(task, "failed", error, why=str(error)))

    def _noted(self, outcome: Outcome) -> Outcome:
        log_outcome(self.log, outcome)
        return outcome

    def _arrived(self, task: Task) -> bool:
        """Whether the artefact is seen from here. A network file system may show it late; a listing hurries it."""
        path, end = self.store.path(task.id), time.monotonic() + ARRIVAL_S
        while not path.exists():
            if time.monotonic() >= end:
                return False
            with contextlib.suppress(OSError):
                list(path.parent.iterdir())
            time.sleep(LOOK_EVERY_S)
        return True


class Tail:
    """What is new in the event logs of a folder since the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, int] = {}

    def news(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)


def broken(task: Task, error: Exception) -> Outcome:
    """What an error of Ray's own says of a job, by the names of its classes."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & LOST:
        return Outcome(task, "lost", why=f"its Ray worker was lost ({type(error).__name__})")
    if "OutOfMemoryError" in names or out_of_memory(error):
        return Outcome(task, "memory", why="its machine ran out of memory")
    if "failed to import on the worker" in str(error):
        error = ConfigError(
            "condense cannot be imported by a worker of Ray; install the same version on every machine it runs on"
        )
    return Outcome(task, "failed", error, why=str(error))


def ray_package() -> Any:
    """The package ``ray``. Raises :class:`ConfigError` if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError('ray is not installed; pip install "condense-dd[ray]"') from None


def keep_to_this_machine() -> None:
    """Let a local Ray listen on the loopback interface only, and ask for a token that nobody else knows.

    Ray reads both from the environment, once in the life of a process, so they stay set. It asks for a token unless the
    user says ``RAY_AUTH_MODE=disabled``; a token of the user's own is taken as it is.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def answers(address: str, seconds: float) -> None:
    """Join the cluster for a moment from another process, since Ray itself would try for minutes.

    Raises :class:`DeviceError`, with what Ray said, if that fails or takes longer.
    """
    script = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    with subprocess.Popen(
        [sys.executable, "-c", script, address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as tried:
        late = threading.Timer(seconds, tried.kill)
        late.start()
        why = "it ended without a word"
        for line in tried.stderr or ():
            why = line.strip() or why
            if "InvalidAuthToken" in line or "AuthenticationError" in line:
                why = "its token is another, or none was given; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
                tried.kill()
        status, is_late = tried.wait(), late.finished.is_set()
        late.cancel()
    if status != 0:
        why = f"no answer within {seconds:g} s; check the address, and the token" if is_late else why
        raise DeviceError(f'Ray at "{address}" cannot be joined: {why}')


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM for itself; the program that uses this package keeps its own way of ending."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def room_of(resources: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many jobs with these needs a machine with these resources has room for."""
    return int(min(resources.get(name, 0.0) // need for name, need in needs.items() if need))
