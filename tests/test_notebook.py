"""Runs docs/first_steps.ipynb in a notebook kernel, and compares the outputs with the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import launcher
from nbclient import NotebookClient

from tests import preforked

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def cell_outputs(notebook: Any) -> list[str]:
    """Return the output of each code cell as text; an image is only a placeholder."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        "\n".join(_output_text(output) for output in cell.outputs if output.get("name") != "stderr") for cell in cells
    ]


def _output_text(output: Any) -> str:
    if output.output_type == "stream":
        return output.text
    if "image/png" in output.data:
        return "an image"
    return output.data.get("text/html") or output.data["text/plain"]


@pytest.mark.slow
def test_the_notebook_gives_what_it_shows_golden(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "Popen", preforked.Popen)
    expected = nbformat.read(NOTEBOOK, as_version=4)
    executed = nbformat.from_dict(expected)
    NotebookClient(executed, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if pytestconfig.getoption("--golden"):
        nbformat.write(_tidy(executed), NOTEBOOK)
        expected = executed
    assert cell_outputs(executed) == cell_outputs(expected)
    assert "\n".join(cell_outputs(executed)).count("an image") == 2


def _tidy(notebook: Any) -> Any:
    """Remove execution times, messages of libraries, and alternative formats of outputs."""
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [item for item in cell.outputs if item.get("name") != "stderr"]
            for output in cell.outputs:
                data = output.get("data", {})
                data.pop("image/jpeg", None)
                if "text/html" in data:
                    del data["text/plain"]
    return notebook
