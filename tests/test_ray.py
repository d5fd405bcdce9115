"""Ray: the same bytes from its workers, with and without a shared store, and whatever happens to them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_shop import Shop, job
from test_executors import content, tree
from test_pipeline import RECIPE, REQUEST
from test_pipeline import content as files_of

from condense.data import Data
from condense.device import Compute
from condense.engine.events import finished_jobs, read_events
from condense.engine.executors.ray import Ray, answers, broken, ray_package, room_of
from condense.engine.executors.ray_worker import own_store
from condense.engine.parcel import pack, receive
from condense.engine.perform import Settings
from condense.engine.run import Limits, run
from condense.engine.store import Store
from condense.errors import (
    ConfigError,
    DeviceError,
    MemoryShortError,
    MethodError,
    StoreError,
    UnfinishedError,
    WorkerLostError,
)
from condense.pipeline import Context, distill, resolve
from condense.pipeline.execution import Execution

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

DOCS = Path(__file__).parents[1] / "docs" / "clusters.md"


@pytest.fixture(scope="module")
def here() -> Iterator[Ray]:
    """A Ray of this machine, started as by ``--ray-address local``, that is told that it has two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"GPU": 2}))
        handler = signal.getsignal(signal.SIGTERM)
        executor = Ray("local", workers=2)
        executor._connect()
        assert signal.getsignal(signal.SIGTERM) is handler
        yield executor
        executor.stop(1.0)
        assert not ray_package().is_initialized()


@pytest.fixture
def joined(here: Ray) -> Iterator[Callable[..., Ray]]:
    """Makes executors that use it."""
    made: list[Ray] = []

    def make(kind: type[Ray] = Ray, **options: Any) -> Ray:
        made.append(kind("auto", **options))
        return made[-1]

    yield make
    for one in made:
        one.stop(1.0)
    assert ray_package().is_initialized()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(Store(tmp_path / "store"))


class Elsewhere(Ray):
    """Sends its workers to a run folder that they do not see, as they would on a machine with another disk."""

    def start(self, shop: Any, events: Path, settings: Any, progress: Any) -> None:
        super().start(shop, events, settings, progress)
        self.events = events.with_name("not there")


def expected(tmp_path: Path) -> dict[str, bytes]:
    reference = Shop(Store(tmp_path / "reference"))
    run(tree, reference)
    return content(reference.store)


def side_by_side(shop: Shop, executor: Ray, happened: Callable[[], bool]) -> None:
    """Let two jobs start at the same time, again and again until a busy machine has begun both before one has ended."""
    for attempt in range(20):
        run(
            lambda first=2 * attempt: [job(first + number, seconds=0.5) for number in range(2)], shop, executor=executor
        )
        if happened():
            return
    pytest.fail("waited in vain")


@needs_ray
def test_the_same_bytes_as_in_this_process(shop: Shop, joined: Callable[..., Ray], tmp_path: Path) -> None:
    executor = joined()
    run(tree, shop, executor=executor)
    assert content(shop.store) == expected(tmp_path)
    assert len(shop.ran()) == len(set(shop.ran())) == 10
    assert os.getpid() not in shop.processes()
    assert executor.slots == 2
    side_by_side(shop, executor, lambda: len(shop.processes()) == 2)


@needs_ray
@pytest.mark.parametrize(("kind", "shared"), [(Ray, False), (Elsewhere, "auto")])
def test_without_a_shared_store_inputs_go_out_and_artefacts_come_back(
    kind: type[Ray], shared: Any, shop: Shop, joined: Callable[..., Ray], tmp_path: Path
) -> None:
    root = tree()[0].inputs[0].inputs[0].inputs[0]
    run(lambda: [root], shop)
    theirs = Store(own_store())
    shutil.rmtree(theirs.root, ignore_errors=True)
    run(tree, shop, executor=joined(kind, shared=shared))
    assert content(shop.store) == content(theirs) == expected(tmp_path)
    assert len(shop.ran()) == len(set(shop.ran())) == 10
    done = [event["title"] for event in finished_jobs(shop.store.root / "runs")]
    assert sorted(done) == sorted(shop.ran())


@needs_ray
def test_a_store_that_is_said_to_be_shared_has_to_be(shop: Shop, joined: Callable[..., Ray]) -> None:
    with pytest.raises(StoreError, match=r"does not see .*store, where the store is said to be"):
        run(lambda: [job(1)], shop, executor=joined(Elsewhere, shared=True))


@needs_ray
def test_a_killed_worker_is_replaced_and_its_job_done_again(
    shop: Shop, joined: Callable[..., Ray], tmp_path: Path
) -> None:
    below = job(2, kill="SIGKILL", once=str(tmp_path / "once"))
    (path,) = run(lambda: [job(1, below, title="top")], shop, executor=joined())
    assert (path / "value").read_text() == "3"
    assert shop.ran() == ["add 2", "add 2", "top"]
    (folder,) = (shop.store.root / "runs").iterdir()
    lost = [event["why"] for event in read_events(folder) if event["event"] == "lost"]
    assert lost == ["its Ray worker was lost (WorkerCrashedError)"]


@needs_ray
@pytest.mark.parametrize("shared", [True, False])
def test_an_error_comes_back_once_with_its_message(shared: bool, shop: Shop, joined: Callable[..., Ray]) -> None:
    good = job(2, title="good")
    with pytest.raises(MethodError, match=r"^the message of 1$"):
        run(lambda: [job(1, raises="MethodError", title="bad"), good], shop, executor=joined(shared=shared))
    assert shop.ran().count("bad") == 1
    assert shop.store.has(good.id)


@needs_ray
def test_two_declared_gpus_are_given_to_a_job_each(shop: Shop, joined: Callable[..., Ray]) -> None:

    def gpus() -> set[str]:
        return {line.split("\t")[2] for line in shop.record.read_text().splitlines()}

    side_by_side(shop, joined(gpus=1), lambda: len(gpus()) == 2)
    assert gpus() == {"0", "1"}


@needs_ray
def test_a_job_over_the_memory_budget_is_ended(shop: Shop, joined: Callable[..., Ray]) -> None:
    settings = Settings(memory=5 * 10**8)
    with pytest.raises(MemoryShortError, match="its process held more than the memory budget"):
        run(lambda: [job(0, hog=10**9)], shop, executor=joined(), settings=settings)


@needs_ray
def test_the_time_limit_leaves_a_checkpoint_and_progress_is_seen(shop: Shop, joined: Callable[..., Ray]) -> None:
    told: list[int] = []
    executor = joined()
    run(lambda: [job(1, steps=2)], shop, executor=executor)  # what has to be imported is imported
    long = job(2, seconds=20, steps=400, title="long")
    with pytest.raises(UnfinishedError, match="0 jobs done, 1 left"):
        run(
            lambda: [long],
            shop,
            executor=executor,
            limits=Limits(deadline=time.monotonic() + 3.0),
            settings=Settings(log_every_s=0.1),
            watch=lambda task, stage, done, total, figures: told.append(done),
        )
    assert shop.store.checkpoint_path(long.id).exists()
    assert len(told) > 2
    assert told == sorted(set(told))


@needs_ray
def test_a_set_is_the_same_bytes_by_ray(tmp_path: Path, tiny_data: Data, here: Ray, joined: Callable[..., Ray]) -> None:
    folders = []
    for name, address in (("here", None), ("ray", "auto")):
        execution = Execution(ray_address=address)
        store = Store(tmp_path / name)
        context = Context(store=store, compute=Compute(), opened={REQUEST: tiny_data}, execution=execution)
        assert isinstance(context.executor, Ray) == (address is not None)
        folders += distill(resolve(RECIPE), context, out=tmp_path / f"{name} set")
        context.close()
    assert files_of(folders[1]) == files_of(folders[0])


@needs_ray
def test_only_this_user_of_this_machine_reaches_a_local_ray(here: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ray_package().get_runtime_context().gcs_address
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=2).close()
    with pytest.raises(ConnectionRefusedError):  # a socket of all interfaces would answer here too
        socket.create_connection(("127.0.0.2", int(port)), timeout=2)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    answers(address, 30)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(DeviceError, match="cannot be joined: its token is another"):
        answers(address, 30)


@needs_ray
def test_an_address_without_ray_is_one_line_in_bounded_time(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(DeviceError, match=rf'^Ray at "{address}" cannot be joined: no answer within 2 s;'):
        answers(address, 2)
    assert time.monotonic() - began < 5
    with pytest.raises(DeviceError, match=r'^Ray at "nonsense" cannot be joined: .*Invalid address'):
        answers("nonsense", 30)


JOIN = """
import sys
from pathlib import Path
from engine_shop import Shop, job
from condense.engine.executors.ray import Ray, ray_package
from condense.engine.run import run
from condense.engine.store import Store
executor = Ray(sys.argv[1])
run(lambda: [job(1)], Shop(Store(Path(sys.argv[2]))), executor=executor)
executor.stop(1.0)
assert not ray_package().is_initialized()
"""


@needs_ray
def test_a_ray_that_was_joined_goes_on(here: Ray, shop: Shop) -> None:
    context = ray_package().get_runtime_context()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", JOIN, context.gcs_address, str(shop.store.root)]
    subprocess.run(command, env=environment, cwd=Path(__file__).parent, check=True)
    assert shop.store.has(job(1).id)
    assert [node["Alive"] for node in ray_package().nodes()] == [True]


@needs_ray
def test_a_job_that_is_said_to_be_done_has_to_be_in_the_store(
    shop: Shop, joined: Callable[..., Ray], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Astray(Shop):
        def recipe(self) -> dict[str, Any]:
            return Shop(Store(self.store.root.with_name("astray"))).recipe()

    monkeypatch.setattr("condense.engine.executors.ray.ARRIVAL_S", 0.0)
    with pytest.raises(WorkerLostError, match="did not appear in the store"):
        run(lambda: [job(1)], Astray(shop.store), executor=joined())


@needs_ray
def test_another_ray_than_the_one_in_use_is_refused(here: Ray, shop: Shop) -> None:
    with pytest.raises(ConfigError, match='say "auto" instead of "elsewhere:1"'):
        run(lambda: [job(1)], shop, executor=Ray("elsewhere:1"))


@needs_ray
def test_a_job_for_which_no_machine_has_room_is_refused(
    shop: Shop, joined: Callable[..., Ray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condense.engine.executors.ray.NO_ROOM_S", 0.5)
    with pytest.raises(
        DeviceError, match="no machine of Ray has room for a job, which takes 64 CPU, 1 GPU; give fewer"
    ):
        run(lambda: [job(1)], shop, executor=joined(cpus=64, gpus=1))


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'^ray is not installed; pip install "condense-dd\[ray\]"$'):
        Execution(ray_address="auto").executor(Compute())


def test_room_is_counted_by_machine() -> None:
    assert room_of({"CPU": 7.0, "memory": 10.0}, {"CPU": 2, "GPU": 0, "memory": 0}) == 3
    assert room_of({"CPU": 7.0, "memory": 10.0}, {"CPU": 2, "GPU": 0, "memory": 9}) == 1
    assert room_of({"CPU": 7.0}, {"CPU": 2, "GPU": 1}) == 0


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["WorkerCrashedError"], "lost"),
        (["NodeDiedError"], "lost"),
        (["ObjectLostError", "OwnerDiedError"], "lost"),
        (["RayActorError", "ActorUnavailableError"], "lost"),
        (["LocalRayletDiedError"], "lost"),
        (["OutOfMemoryError"], "memory"),
        (["RayTaskError"], "failed"),
        (["RaySystemError"], "failed"),
    ],
)
def test_ray_s_errors_are_told_apart_by_name(names: list[str], status: str) -> None:
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {})
    assert broken(job(1).task(), kind("")).status == status


def test_a_worker_that_cannot_import_the_package_is_one_line() -> None:
    outcome = broken(job(1).task(), RuntimeError("The remote function failed to import on the worker. ..."))
    assert isinstance(outcome.error, ConfigError)
    assert "install the same version" in str(outcome.error)


def test_a_store_among_temporary_files_belongs_to_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONDENSE_STORE")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert own_store() == own_store() == tmp_path / f"condense-store-{os.getuid()}"
    own_store().rmdir()
    (tmp_path / "of somebody else").mkdir()
    (tmp_path / f"condense-store-{os.getuid()}").symlink_to(tmp_path / "of somebody else")
    with pytest.raises(StoreError, match="belongs to somebody else"):
        own_store()


def entry(name: str, content: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def made(shop: Shop) -> tuple[str, bytes, bytes]:
    """A job's id, its manifest and the content of its one file."""
    (path,) = run(lambda: [job(1)], shop)
    return job(1).id, (path / "manifest.json").read_bytes(), (path / "value").read_bytes()


def test_a_parcel_gives_the_same_artefact(shop: Shop, made: Any, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    receive(other, made[0], pack(shop.store.path(made[0])))
    assert content(other) == content(shop.store)
    receive(other, made[0], pack(shop.store.path(made[0])))


def with_file(manifest: bytes, name: str) -> bytes:
    """The manifest with its file under another name."""
    values = json.loads(manifest)
    values["files"] = {name: values["files"]["value"]}
    return json.dumps(values).encode()


ABOVE = f"{tempfile.gettempdir()}/condense-hostile-{os.getpid()}"
PASSWORDS = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}


def changed(manifest: bytes, name: str = "value", **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    """The manifest with its one file under another name, or said to be other than it is."""
    values = json.loads(manifest)
    values["files"] = {name: {**values["files"]["value"], **facts}}
    return entry("manifest.json", json.dumps(values).encode())


def plain(manifest: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return entry("manifest.json", manifest)


Build = Callable[[bytes, bytes], bytes]
"""Makes a parcel of a manifest and the content of its file."""

HOSTILE: dict[str, tuple[Build, str]] = {
    "absolute name": (lambda m, v: tar_of(changed(m, ABOVE), entry(ABOVE, v)), "no place"),
    "upwards": (lambda m, v: tar_of(changed(m, "../x"), entry("../x", v)), "no place"),
    "no name": (lambda m, v: tar_of(changed(m, "."), entry(".", v)), "no place"),
    "unknown name": (lambda m, v: tar_of(plain(m), entry("more", v)), "no place"),
    "twice": (lambda m, v: tar_of(plain(m), entry("value", v), entry("value", v)), "no place"),
    "symbolic link": (lambda m, v: tar_of(changed(m, bytes=0), entry("value", **PASSWORDS)), "not a plain file"),
    "hard link": (
        lambda m, v: tar_of(changed(m, bytes=0), entry("value", type=tarfile.LNKTYPE, linkname="manifest.json")),
        "not a plain file",
    ),
    "device": (lambda m, v: tar_of(changed(m, bytes=0), entry("value", type=tarfile.CHRTYPE)), "not a plain file"),
    "folder": (lambda m, v: tar_of(changed(m, bytes=0), entry("value", type=tarfile.DIRTYPE)), "not a plain file"),
    "wrong hash": (lambda m, v: tar_of(plain(m), entry("value", b"9")), "SHA-256"),
    "wrong size": (lambda m, v: tar_of(plain(m), entry("value", v * 2)), "has 2 bytes"),
    "missing": (lambda m, v: tar_of(plain(m)), '"value" is not in it'),
    "another job": (
        lambda m, v: tar_of(plain(m.replace(b'"value":1', b'"value":2')), entry("value", v)),
        "another job",
    ),
    "no manifest": (lambda m, v: tar_of(entry("value", v)), "does not begin"),
    "manifest of no sense": (lambda m, v: tar_of(plain(b"[1]")), ""),
    "link as manifest": (lambda m, v: tar_of(entry("manifest.json", **PASSWORDS)), "not a plain file"),
    "torn": (lambda m, v: tar_of(plain(m), entry("value", v))[: len(m) + 600], ""),
    "no tar": (lambda m, v: b"x" * 5000, ""),
    "nothing": (lambda m, v: b"", ""),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_hostile_parcel_is_refused_whole(what: str, made: tuple[str, bytes, bytes], tmp_path: Path) -> None:
    job_id, manifest, value = made
    build, said = HOSTILE[what]
    store = Store(tmp_path / "victim" / "store")
    try:
        with pytest.raises(StoreError, match=rf"^the parcel of {job_id[:12]} is damaged: .*{re.escape(said)}"):
            receive(store, job_id, build(manifest, value))
        assert not [path for path in (tmp_path / "victim").rglob("*") if path.is_file()]
        assert not Path(ABOVE).exists()
    finally:
        Path(ABOVE).unlink(missing_ok=True)


def blocks(language: str) -> list[str]:
    """The examples of the page on clusters in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)


def test_every_script_of_the_page_is_one_and_every_option_exists(tmp_path: Path) -> None:
    from typer.main import get_command

    from condense.cli import app

    for script in blocks("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    manifest = yaml.safe_load(blocks("yaml")[0])
    text = DOCS.read_text().replace("\\\n", " ") + manifest["spec"]["template"]["spec"]["containers"][0]["args"][0]
    commands = "\n".join(re.findall("condense distill (.*)", text))
    used = set(re.findall(r"--[a-z][a-z-]*", commands))
    known = {name for parameter in get_command(app).commands["distill"].params for name in parameter.opts}
    assert {"--workers", "--slice", "--ray-address", "--time-limit", "--threads", "--store"} <= used <= known


def test_the_kubernetes_job_shares_out_as_many_slices_as_it_completes() -> None:
    (manifest,) = (yaml.safe_load(text) for text in blocks("yaml"))
    spec = manifest["spec"]
    assert (manifest["apiVersion"], manifest["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert f'--slice "$JOB_COMPLETION_INDEX/{spec["completions"]}"' in container["args"][0]
    assert "\n" not in container["args"][0]
    assert pod["restartPolicy"] == "Never"  # as a podFailurePolicy demands
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    again, _, never = spec["podFailurePolicy"]["rules"]
    assert (again["action"], again["onExitCodes"]["values"]) == ("Ignore", [75])
    assert (never["action"], never["onExitCodes"]["values"]) == ("FailIndex", [2])
    assert again["onExitCodes"]["containerName"] == never["onExitCodes"]["containerName"] == container["name"]


class Cluster:
    """Runs the page's SLURM script as a task of an array, with a ``condense`` that does what is said."""

    def __init__(self, folder: Path, does: str) -> None:
        self.folder = folder
        (self.script,) = (text for text in blocks("bash") if "#SBATCH" in text)
        for name, line in (("condense", does), ("scontrol", f'echo "$@" > "{folder}/queued"')):
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    def task(self, index: int, count: int, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CONDENSE_SHARED": str(self.folder / "shared"),
            "SLURM_ARRAY_JOB_ID": "100",
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_ARRAY_TASK_COUNT": str(count),
            "SLURM_CPUS_PER_TASK": "1",
        }
        command = ["bash", "-c", self.script, "array.sh", *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_slurm_script_makes_the_sets(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, f'exec "{sys.executable}" -m condense "$@"')
    options = ["--data", "fashion-mini", "--method", "cda", "--ipc", "1", "--sets", "2", "--quick", "-q"]
    for setting in ("steps=2", "labels.epochs=1", "teacher.network=convnet2-w8-bn", "teacher.epochs=1"):
        options += ["--set", setting]
    first = cluster.task(1, 2, *options)
    assert "slice 1 of 2 has done its share; 1 jobs of other slices are missing" in first.stderr
    assert first.returncode == cluster.task(0, 2, *options).returncode == 0
    assert sorted(path.name for path in (tmp_path / "shared" / "sets").iterdir()) == ["set-0", "set-1"]
    assert not (tmp_path / "queued").exists()


def test_the_slurm_script_is_queued_again_when_its_time_is_up(tmp_path: Path) -> None:
    assert Cluster(tmp_path, "exit 75").task(3, 8).returncode == 75
    assert (tmp_path / "queued").read_text() == "requeue 100_3\n"
    (tmp_path / "queued").unlink()
    assert Cluster(tmp_path, "exit 2").task(3, 8).returncode == 2
    assert not (tmp_path / "queued").exists()
