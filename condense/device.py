"""Device, precision and threads, decided once at the edge and handed down."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from condense.errors import ConfigError, DeviceError

__all__ = ["Compute", "Precision", "environments", "gpus_of", "keep_buffers", "resolve", "under_compute"]

P = ParamSpec("P")
R = TypeVar("R")

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how numbers are computed. Results are the same bytes for the same ``Compute`` (see `identity`)."""

    device: str = "cpu"
    precision: Precision = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(f'precision is "{self.precision}"; expected one of {", ".join(get_args(Precision))}')
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 convolutions and products when ``precision`` is bf16; nothing otherwise."""
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """``threads`` threads and, on CUDA, deterministic kernels and a stream of its own; as before on leaving.

        Float32 on CUDA means float32: TF32 is off inside. An operation that has no deterministic form there warns.
        (What is to be recorded, see :mod:`condense.recorded`, must not be on the default stream.)
        """
        with ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.threads)
            if self.torch_device.type == "cuda":
                stack.enter_context(_deterministic_cuda())
                stack.enter_context(_own_stream(self.torch_device))
            yield

    def identity(self) -> dict[str, str | int]:
        """What the bytes of a result depend on: enters the ids of jobs."""
        if self.torch_device.type == "cuda":
            hardware = torch.cuda.get_device_name(self.torch_device)
        else:
            hardware = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        return {
            **asdict(self),
            "device": self.torch_device.type,
            "torch": torch.__version__,
            "hardware": hardware,
        }


def under_compute(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function that takes ``compute`` by keyword under ``compute.applied()``."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        compute = options["compute"]
        assert isinstance(compute, Compute)
        with compute.applied():
            return function(*args, **options)

    return run


@contextmanager
def _deterministic_cuda() -> Iterator[None]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS first starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every new tensor is filled first: one more launch, of which small networks have thousands a step.
    memory.fill_uninitialized_memory = False
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            sdpa_kernel(SDPBackend.MATH),  # the others add gradients up in any order
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Work goes to a new stream, after what the current one has been given and before what it is given next."""
    outer, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(outer)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        outer.wait_stream(own)


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions run in hardware there."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(device: str = "auto", precision: str = "auto", threads: int | None = None) -> Compute:
    """Turn what the user asked for into what this machine has.

    ``auto`` takes the first CUDA device if there is one; ``auto`` precision takes bf16 where the hardware has it.
    Raises :class:`DeviceError` for a device that is not there.
    """
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(f'device "{device}" is not a device; expected auto, cpu, cuda or cuda:N') from None
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f'device "{device}" is not supported; expected auto, cpu, cuda or cuda:N')
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise DeviceError(
                f'device "{device}" was asked for, but this machine has {count} CUDA devices; use --device cpu'
            )
        chosen = torch.device("cuda", chosen.index or 0)
    if precision == "auto":
        precision = "bf16" if has_bf16(chosen) else "float32"
    return Compute(
        device=str(chosen),
        precision=precision,  # type: ignore[arg-type]  # checked by Compute
        threads=threads if threads is not None else available_cpus(),
    )


def gpus_of(device: str, compute: Compute) -> tuple[int, ...]:
    """The GPUs that workers may take: all of them if the user named none, otherwise the one named."""
    if compute.torch_device.type != "cuda":
        return ()
    if device in ("auto", "cuda"):
        return tuple(range(torch.cuda.device_count()))
    return (compute.torch_device.index or 0,)


def environments(compute: Compute, gpus: Sequence[int], workers: int) -> list[dict[str, str]]:
    """What each of several worker processes needs in its environment.

    A GPU, which it sees as the only one, and which several share where there are more workers than GPUs; and, where
    there are more threads than cores, threads that sleep while they wait instead of keeping a core from others.
    """
    shared: dict[str, str] = {}
    if compute.torch_device.type == "cpu" and workers * compute.threads > available_cpus():
        shared = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(gpus, default=-1) + 1)]
    return [
        {**shared, **({"CUDA_VISIBLE_DEVICES": names[gpus[number % len(gpus)]]} if gpus else {})}
        for number in range(workers)
    ]


def available_cpus() -> int:
    """Cores this process may use (its affinity mask, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_buffers() -> None:
    """Ask glibc to keep freed buffers instead of returning them to the system at every step.

    Activations of a training step are freed and taken again hundreds of times a second; by default blocks above
    32 MB go back to the kernel each time and come back page by page. Process-wide; does nothing elsewhere than glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return
