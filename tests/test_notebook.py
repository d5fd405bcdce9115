"""The quickstart notebook runs from top to bottom on the embedded data set, and is stored without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_stripped() -> None:
    for cell in code_cells(nbformat.read(QUICKSTART, as_version=4)):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CONDENSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(QUICKSTART, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    said = [str(output) for cell in code_cells(notebook) for output in cell.outputs]
    assert not any("error: " in text or "Traceback" in text for text in said), said
    assert {path.name for path in (tmp_path / "quickstart").iterdir()} == {"cda", "random", "cda.png"}
    assert any("'cda': 0." in text and "'random': 0." in text for text in said)
    assert "random" in said[-1]
