"""Files nobody should open: damage and malice in image and label files, read with every check on.

    python benchmarks/fuzz.py [--cpu-minutes 60] [--results benchmarks/results/fuzz.json]

First every golden file is cut short at 1,000 places and has each of 5,000 bits flipped. Then, until the processor time
is used up, files are changed by somebody who knows the format: bytes of HDF5's headers with the header's checksum
mended, attributes and numbers replaced by extreme ones with the records' checksums mended, pieces moved or doubled.
Reading happens in a child process that may hold 1 GB and take 20 seconds a file. What must never happen: a crash, more
memory, more time, an exception that is no named error, numbers that no file may hold, or another outcome behind a
whole file of the same set than alone. What does is listed in the results with the number of its case, which draws it
again, beside how often each kind of change had which outcome. The results are written every minute, and a run goes on
where the one before was stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from damage import content, cut, flipped, outcome, read_file  # noqa: E402
from test_damage import FILES  # noqa: E402
from test_shards import lookup3  # noqa: E402

from condense.errors import ShardError  # noqa: E402
from condense.shards import read_image_files  # noqa: E402
from condense.shards.layout import all_checksums  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
MEMORY, PATIENCE_S = 10**9, 20
EXTREMES = [0, 1, 2, 3, -1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]
TEXTS = ["", "{}", "[]", "null", "0", '{"k":1}', '{"k":-1}', '{"factor":0}', '{"factor":1e9}', "\x00", "é" * 50]
TEXTS += [
    "{" * 3000,
    "pixels",
    "tiles",
    "compensated",
    "patches",
    "full",
    "int8",
    "topk",
    "distances",
    "static",
    "none",
]
TEXTS += ["none", "with", "without", "all"]

Draws = np.random.Generator
Change = Callable[[bytes, Draws], bytes]


def header_bytes(data: bytes, draws: Draws) -> bytes:
    """A few bytes of one object header, its checksum mended: HDF5 itself sees nothing wrong."""
    starts = [at for at in range(len(data) - 4) if data[at : at + 4] in (b"OHDR", b"OCHK")]
    start = starts[draws.integers(len(starts))]
    changed = bytearray(data)
    if data[start : start + 4] != b"OHDR":
        return splice(data, draws)
    width = 1 << (data[start + 5] & 3)
    end = start + 6 + width + int.from_bytes(data[start + 6 : start + 6 + width], "little")
    if end + 4 > len(data):
        return splice(data, draws)
    for _ in range(draws.integers(1, 4)):
        at = int(draws.integers(start + 6 + width, end))
        changed[at] = int(draws.choice([0, 1, 2, 127, 128, 254, 255, draws.integers(256)]))
    changed[end : end + 4] = lookup3(bytes(changed[start:end])).to_bytes(4, "little")
    return bytes(changed)


def superblock(data: bytes, draws: Draws) -> bytes:
    """Bytes of the superblock, its checksum mended."""
    changed = bytearray(data)
    at = int(draws.integers(8, 44))
    changed[at] = int(draws.integers(256))
    changed[44:48] = lookup3(bytes(changed[:44])).to_bytes(4, "little")
    return bytes(changed)


def splice(data: bytes, draws: Draws) -> bytes:
    """A piece left out, doubled, moved, or overwritten by another."""
    a, b, c = sorted(draws.integers(0, len(data), 3).tolist())
    return [data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:],
            data[:a] + data[b : b + c - a] + data[c:]][draws.integers(4)]  # fmt: skip


def attributes(data: bytes, draws: Draws) -> bytes:
    """Attributes replaced by extreme ones."""
    return rewritten(data, lambda held, _: swap(held, draws, attribute))


def numbers(data: bytes, draws: Draws) -> bytes:
    """Numbers replaced by extreme ones, and the records' checksums mended."""
    return rewritten(data, lambda _, arrays: swap(arrays, draws, disturbed))


def both(data: bytes, draws: Draws) -> bytes:
    return attributes(numbers(data, draws), draws)


def swap(held: dict[str, Any], draws: Draws, make: Callable[[Any, Draws], Any]) -> None:
    for name in draws.permutation(sorted(held))[: draws.integers(1, 3)].tolist():
        held[name] = make(held[name], draws)


def attribute(value: Any, draws: Draws) -> Any:
    if isinstance(value, bytes | np.bytes_):
        text = bytes(value)
        piece = int(draws.integers(len(text) + 1))
        mixed = text[:piece] + bytes(draws.integers(32, 127, 2).astype(np.uint8)) + text[piece + 1 :]
        return np.bytes_([mixed, TEXTS[draws.integers(len(TEXTS))].encode()][draws.integers(2)] or b" ")
    shape = np.shape(value)
    return np.array([EXTREMES[n] for n in draws.integers(len(EXTREMES), size=shape or 1)], "<i8").reshape(shape)


def disturbed(array: Any, draws: Draws) -> Any:
    changed = array.copy().reshape(-1)
    for at in draws.integers(len(changed), size=draws.integers(1, 4)).tolist():
        if changed.dtype.kind == "f":
            changed[at] = draws.choice([np.nan, np.inf, -np.inf, -1, 0, 65504, -65504, 6e-8])
        else:
            low, high = np.iinfo(changed.dtype).min, np.iinfo(changed.dtype).max
            changed[at] = int(np.clip(EXTREMES[draws.integers(len(EXTREMES))], low, high))
    return changed.reshape(array.shape)


def rewritten(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The same file once more, with other attributes or arrays, written as plainly as ours are."""
    with h5py.File(io.BytesIO(data)) as file:
        held, arrays = dict(file.attrs), {name: file[name][...] for name in file if "checksums" not in name}
        shared = ["compensators"] if "compensators" in arrays else []
    change(held, arrays)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="v110") as file:
        for name, value in held.items():
            text = isinstance(value, bytes | np.bytes_)
            file.attrs.create(name, np.array(value, h5py.string_dtype("utf-8", max(1, len(value)))) if text else value)
        for name, array in {**arrays, **all_checksums(arrays, shared)}.items():
            file.create_dataset(name, data=array)
    return buffer.getvalue()


CHANGES: dict[str, Change] = {
    "header bytes": header_bytes,
    "superblock": superblock,
    "pieces": splice,
    "attributes": attributes,
    "numbers": numbers,
    "attributes and numbers": both,
}


def child(first: int) -> None:
    """Go on with case ``first``: say what is about to be read, read it, say what came of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    golden = {name: (TESTS / "golden" / path).read_bytes() for name, path in FILES.items()}
    names, kinds = sorted(golden), sorted(CHANGES)
    case = first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.h5"
        while True:
            draws = np.random.default_rng(case)
            name, kind = names[case % len(names)], kinds[draws.integers(len(kinds))]
            path.write_bytes(CHANGES[kind](golden[name], draws))
            print(json.dumps({"case": case, "file": name, "change": kind}), flush=True)
            signal.alarm(PATIENCE_S)
            found = reading(path, TESTS / "golden" / FILES[name])
            signal.alarm(0)
            cpu, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({"case": case, "found": found, "cpu": cpu, "peak": 1024 * peak}), flush=True)
            case += 1


def reading(path: Path, whole: Path) -> str:
    """What comes of reading a file alone, and behind the whole file that it was made of."""
    try:
        held = read_file(path)
        content(held)
        found = "accepted"
    except ShardError as error:
        found = type(error).__name__
    except BaseException as error:  # what must not happen is to be told
        return f"FAULT {type(error).__name__}: {error}"
    if whole.name.startswith("images"):
        try:
            content(read_image_files([whole, path], deep=True)[1])
            behind = "accepted"
        except ShardError as error:
            behind = type(error).__name__
        if behind != found:
            return f"FAULT alone {found}, behind a whole file {behind}"
    return found


def random_changes(minutes: float, before: dict[str, Any], keep: Callable[[dict[str, Any]], None]) -> None:
    """Children one after the other until the processor time is used up, after what was counted ``before``."""
    counts = {kind: Counter(before.get("outcomes", {}).get(kind, {})) for kind in sorted(CHANGES)}
    faults: list[dict[str, Any]] = before.get("faults", [])
    used, case, peak = 60 * before.get("cpu_minutes", 0.0), before.get("cases", 0), before.get("peak_memory_bytes", 0)
    told = time.monotonic()

    def report(seconds: float) -> None:
        keep({
            "cpu_minutes": round(seconds / 60, 1),
            "cases": case,
            "peak_memory_bytes": peak,
            "outcomes": {kind: dict(sorted(counter.items())) for kind, counter in counts.items()},
            "faults": faults,
            "mended": before.get("mended", []),
        })  # fmt: skip

    while used < 60 * minutes:
        process = subprocess.Popen([sys.executable, __file__, "--child", str(case)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        about: dict[str, Any] = {}
        cpu = 0.0
        for line in process.stdout:
            said = json.loads(line)
            if "change" in said:
                about, case = said, said["case"] + 1
                continue
            counts[about["change"]][said["found"].split(":")[0]] += 1
            cpu, peak = said["cpu"], max(peak, said["peak"])
            if said["found"].startswith("FAULT"):
                faults.append({**about, "found": said["found"]})
            about = {}
            if time.monotonic() - told > 60:
                told = time.monotonic()
                report(used + cpu)
            if used + cpu >= 60 * minutes:
                process.kill()
                break
        process.wait()
        used += cpu
        if about and used < 60 * minutes:
            faults.append({**about, "found": f"the reader ended with status {process.returncode}"})
            counts[about["change"]]["ENDED"] += 1
    report(used)


def look_again(before: dict[str, Any]) -> None:
    """Faults of earlier runs that the present code refuses by name are ``mended``."""
    golden = {name: (TESTS / "golden" / path).read_bytes() for name, path in FILES.items()}
    left = []
    for fault in before["faults"]:
        draws = np.random.default_rng(fault["case"])
        kind = sorted(CHANGES)[draws.integers(len(CHANGES))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "case.h5"
            path.write_bytes(CHANGES[kind](golden[fault["file"]], draws))
            now = reading(path, TESTS / "golden" / FILES[fault["file"]]) if "FAULT" in fault["found"] else ""
        if now and not now.startswith("FAULT"):
            before.setdefault("mended", []).append({**fault, "now": now})
        else:
            left.append(fault)
    before["faults"] = left


def plain_damage() -> dict[str, Any]:
    """Every golden file cut at 1,000 places, and each of 5,000 bits flipped."""
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.h5"
        for name, golden in FILES.items():
            data, right = (TESTS / "golden" / golden).read_bytes(), content(read_file(TESTS / "golden" / golden))
            counts: dict[str, Counter[str]] = {"cut": Counter(), "flipped": Counter()}
            for kind, cases in (("cut", cut(data, 1000)), ("flipped", flipped(data, 5000))):
                for changed in cases:
                    path.write_bytes(changed)
                    counts[kind][outcome(path, right)] += 1
            made[name] = {kind: dict(sorted(counter.items())) for kind, counter in counts.items()}
            print(f"{name}: {made[name]}", file=sys.stderr)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-minutes", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return
    held: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    versions = {"python": platform.python_version(), "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}
    held["versions"] = versions

    def keep(changed: dict[str, Any]) -> None:
        held["changed"] = changed
        options.results.write_text(json.dumps(held, indent=1) + "\n")

    if "plain" not in held:
        held["plain"] = plain_damage()
    if "changed" in held:
        look_again(held["changed"])
    random_changes(options.cpu_minutes, held.get("changed", {}), keep)


if __name__ == "__main__":
    main()
