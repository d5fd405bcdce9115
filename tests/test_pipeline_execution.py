"""The pipeline through workers and slices: the same bytes as in one process, and results that are all there once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_pipeline import RECIPE, REQUEST, STUDENT, content, done_jobs, fresh_context, make

import condense
from condense.checkpoint import NoCheckpoint
from condense.data import Data
from condense.engine.perform import Desk
from condense.engine.store import Store
from condense.errors import ConfigError, DataError, DeviceError, UnfinishedError
from condense.evaluation.results import read_results
from condense.pipeline import distill, evaluate, resolve
from condense.pipeline.execution import Execution
from condense.pipeline.plans import teacher_job
from condense.progress import silent


def test_two_workers_make_the_same_bytes_as_this_process(tmp_path: Path, tiny_data: Data) -> None:
    """The data set is in memory only, so it has to be handed over; then IPC is raised in the same store."""
    alone = fresh_context(tmp_path / "alone", tiny_data)
    several = fresh_context(tmp_path / "several", tiny_data)
    several.execution = Execution(workers=2, checkpoint_every=0.1)
    for ipc in (3, 6):
        one = make(alone, tmp_path / f"one {ipc}", ipc=ipc)
        two = make(several, tmp_path / f"two {ipc}", ipc=ipc)
        assert content(one) == content(two)
    at_once = make(fresh_context(tmp_path / "third", tiny_data), tmp_path / "at once", ipc=6)
    assert {name: text for name, text in content(at_once).items() if name.endswith(".h5")} == {
        name: text for name, text in content(two).items() if name.endswith(".h5")
    }
    several.close()
    assert sorted(done_jobs(alone.store.root)) == sorted(done_jobs(several.store.root))


def test_slices_distil_and_evaluate_like_one_process(tmp_path: Path, tiny_data: Data) -> None:
    whole = fresh_context(tmp_path / "whole", tiny_data)
    reference = distill(resolve({**RECIPE, "sets": 3}), whole, out=tmp_path / "reference")
    for index in (2, 0, 1):
        context = fresh_context(tmp_path / "sliced", tiny_data)
        context.execution = Execution(share=(index, 3))
        arguments = {"request": resolve({**RECIPE, "sets": 3}), "context": context, "out": tmp_path / "sets"}
        if index == 1:
            folders = distill(**arguments)  # type: ignore[arg-type]
        else:
            with pytest.raises(UnfinishedError, match=f"slice {index} of 3 has done its share"):
                distill(**arguments)  # type: ignore[arg-type]
    assert len(done_jobs(tmp_path / "sliced")) == len(set(done_jobs(tmp_path / "sliced")))
    for one, other in zip(reference, folders, strict=True):
        assert {name: text for name, text in content(one).items() if name.endswith(".h5")} == {
            name: text for name, text in content(other).items() if name.endswith(".h5")
        }
    collected = []
    for index in (1, 0):
        context = fresh_context(tmp_path / "sliced", tiny_data)
        context.execution = Execution(share=(index, 2))
        try:
            collected = evaluate(
                [tmp_path / "sets"],
                context,
                students=["convnet2-w8-bn"],
                seeds=1,
                targets=["hard"],
                data=REQUEST,
                student=STUDENT,
                results=tmp_path / "results.jsonl",
            )
        except UnfinishedError as error:
            assert index == 1
            assert "3 jobs of other slices are missing" in str(error)  # noqa: PT017
    assert len(collected) == 6
    assert sorted(one.key for one in collected) == sorted(one.key for one in read_results(tmp_path / "results.jsonl"))


def test_a_block_that_does_not_fit_is_cut_and_the_set_says_so(tmp_path: Path, tiny_data: Data) -> None:
    from condense.pipeline import workers

    real = workers.WORKERS["rows"]
    context = fresh_context(tmp_path / "store", tiny_data)
    with pytest.MonkeyPatch.context() as patch:

        def small(task, *rest) -> None:  # type: ignore[no-untyped-def]
            if len(task.config["slots"]) > 2:
                raise MemoryError
            real(task, *rest)

        patch.setitem(workers.WORKERS, "rows", small)
        folder = make(context, tmp_path / "set", ipc=5)
    cut = condense.load(folder)
    assert cut.info.config["blocks"] == [[0], [1, 2], [3, 4]]
    whole = condense.load(make(fresh_context(tmp_path / "other", tiny_data), tmp_path / "whole", ipc=5))
    assert whole.info.config["blocks"] == [[0], [1, 2, 3, 4]]
    assert cut.images.shape == whole.images.shape
    again = make(fresh_context(context.store.root, tiny_data), tmp_path / "again", ipc=5)
    assert content(again) == content(folder)


def test_a_machine_with_other_data_of_the_same_name_is_found_out(tmp_path: Path, tiny_data: Data) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)

    def other() -> Data:
        return Data(replace(tiny_data.spec, fingerprint="1" * 64), tiny_data.train, tiny_data.test)

    request = resolve(RECIPE)
    task = teacher_job(request.data, tiny_data, request.teacher, context).task()
    context.opened[REQUEST] = other()
    with pytest.raises(DataError, match="is not the one that teacher convnet2-w8-bn was planned for"):
        context.data_of(task)


def test_a_machine_of_another_kind_is_found_out(tmp_path: Path, tiny_data: Data) -> None:
    context = fresh_context(tmp_path / "store", tiny_data)
    request = resolve(RECIPE)
    task = teacher_job(request.data, tiny_data, request.teacher, context).task()
    task.description["config"]["compute"]["hardware"] = "another"
    with pytest.raises(DeviceError, match="teacher convnet2-w8-bn was planned for hardware another, but this machine"):
        context.work(task, (), Desk(tmp_path, silent, NoCheckpoint()))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"time_limit": 0.0}, "time limit must be above 0 seconds"),
        ({"checkpoint_every": 0.0}, "checkpoint interval must be above 0"),
        ({"memory": 1000}, "memory is 1000 bytes; expected at least"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Execution(**values)  # type: ignore[arg-type]


def test_the_store_of_one_ends_the_work_of_another(tmp_path: Path, tiny_data: Data) -> None:
    """Two contexts on one store, one after the other: the second finds everything."""
    first = fresh_context(tmp_path / "store", tiny_data)
    make(first, tmp_path / "first")
    jobs = done_jobs(first.store.root)
    second = fresh_context(tmp_path / "store", tiny_data)
    second.execution = Execution(workers=2)
    make(second, tmp_path / "second")
    assert done_jobs(Store(tmp_path / "store").root) == jobs
