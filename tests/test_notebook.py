"""The notebook runs from top to bottom and shows what it says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = PROJECT / "examples" / "one_model.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"


def outputs(cell: Any, kind: str) -> list[Any]:
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def test_it_is_committed_without_outputs_and_has_ten_cells() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 10
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_trains_shows_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    began = time.monotonic()
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    print(f"\nnotebook: {time.monotonic() - began:.0f} s")
    cells = notebook.cells
    (curve,) = outputs(cells[3], PLOTLY)
    assert [len(trace["x"]) for trace in curve["data"]] == [6, 6], "each epoch was drawn"
    assert curve["data"][1]["y"][-1] > 0.5, "gender of drawn faces is learned: 0.37 after one epoch, 0.77 after four"
    assert outputs(cells[5], PLOTLY)
    (pictures,) = outputs(cells[6], "text/html")
    assert pictures.count("<img") == 8
    (table,) = outputs(cells[9], "text/html")
    assert table.count("<tr") == 9
    assert "error" not in {output.output_type for cell in cells for output in cell.get("outputs", [])}
