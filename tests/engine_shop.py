"""A workshop for tests of the engine: jobs add numbers, and do whatever else their config says on the way."""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condense import errors
from condense.engine.job import Job, Task
from condense.engine.perform import Desk
from condense.engine.store import Store

__all__ = ["Shop", "job", "open_shop", "tree"]


def job(value: int, *inputs: Job, title: str = "", groups: int = 1, **does: Any) -> Job:
    """A job that adds ``value`` to its inputs. ``does``: see :class:`Shop`."""
    return Job("sum", {"value": value, **does}, inputs=inputs, title=title or f"add {value}", groups=groups)


def tree(width: int = 6, **does: Any) -> list[Job]:
    """A job that all need, ``width`` that need it, one that needs them all, and two that need that."""
    root = job(1, title="root")
    leaves = [job(10 + number, root, title=f"leaf {number}", **does) for number in range(width)]
    joined = job(2, *leaves, title="join")
    return [job(3, joined, title="top 0"), job(4, joined, title="top 1")]


class Shop:
    """Counts, in the file ``record`` beside the store, what was begun: a line for each job, in any process.

    A job's config may say: ``seconds``, to take; ``steps``, to take them in so many pieces with checkpoints; ``once``,
    a file: what follows happens only if it is not there, and makes it; ``hog``, bytes of memory to take and hold;
    ``kill``, a signal for its own process; ``exit``, a status to end with; ``raises``, the name of an error;
    ``bytes``, the size of a second file.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.record = store.root.with_name(store.root.name + ".record")

    def recipe(self) -> dict[str, Any]:
        return {"entry": "engine_shop:open_shop", "values": {"store": str(self.store.root), "record": str(self.record)}}

    def ran(self) -> list[str]:
        """The titles of the jobs that were begun, in order."""
        return [line.partition("\t")[0] for line in self._lines()]

    def processes(self) -> set[int]:
        return {int(line.split("\t")[1]) for line in self._lines()}

    def _lines(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def work(self, task: Task, inputs: Sequence[Path], desk: Desk) -> None:
        with open(self.record, "a") as file:
            file.write(f"{task.title}\t{os.getpid()}\t{os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
        config = task.config
        self._take_time(config, desk)
        if self._is_first(config):
            self._misbehave(config)
        total = config["value"] + sum(int((path / "value").read_text()) for path in inputs)
        (desk.folder / "value").write_text(str(total))
        if "bytes" in config:
            (desk.folder / "more").write_bytes(bytes(config["bytes"]))

    def _take_time(self, config: Mapping[str, Any], desk: Desk) -> None:
        steps = config.get("steps", 1)
        if steps == 1:
            time.sleep(config.get("seconds", 0))
            return
        import torch

        saved = desk.checkpoint.load()
        first = 0 if saved is None else int(saved["step"])
        for step in range(first, steps):
            time.sleep(config.get("seconds", 0) / steps)
            desk.report("steps", step + 1, steps, {"loss": 1.0})
            if desk.checkpoint.due():
                desk.checkpoint.save({"step": torch.tensor(step + 1)})

    def _is_first(self, config: Mapping[str, Any]) -> bool:
        if "once" not in config:
            return True
        mark = Path(config["once"])
        was_there = mark.exists()
        mark.touch()
        return not was_there

    def _misbehave(self, config: Mapping[str, Any]) -> None:
        if "hog" in config:
            held = b"1" * config["hog"]
            time.sleep(5)
            del held
        if "kill" in config:
            os.kill(os.getpid(), getattr(signal, config["kill"]))
            time.sleep(5)
        if "exit" in config:
            os._exit(config["exit"])
        if "raises" in config:
            kind = getattr(errors, config["raises"], None) or getattr(builtins, config["raises"])
            raise kind(f"the message of {config['value']}")


def open_shop(values: Mapping[str, Any]) -> Shop:
    shop = Shop(Store(Path(values["store"])))
    shop.record = Path(values["record"])
    return shop
