"""docs/first_steps.ipynb runs from its first cell to its last in a notebook's kernel, and prints what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import launcher
from nbclient import NotebookClient

from tests import preforked

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def told(notebook: Any) -> list[str]:
    """What each cell printed or ended with, as text; of a picture only that it is there."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(_told(one) for one in cell.outputs if one.get("name") != "stderr") for cell in cells]


def _told(output: Any) -> str:
    if output.output_type == "stream":
        return output.text
    if "image/png" in output.data:
        return "a picture"
    return output.data.get("text/html") or output.data["text/plain"]


def test_the_notebook_gives_what_it_shows_golden(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "Popen", preforked.Popen)
    shown = nbformat.read(NOTEBOOK, as_version=4)
    run = nbformat.from_dict(shown)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if pytestconfig.getoption("--golden"):
        nbformat.write(_tidied(run), NOTEBOOK)
        shown = run
    assert told(run) == told(shown)
    assert "\n".join(told(run)).count("a picture") == 2


def _tidied(notebook: Any) -> Any:
    """Leave out when each cell ran, what libraries had to say, and second forms of an output."""
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in cell.outputs:
                data = output.get("data", {})
                data.pop("image/jpeg", None)
                if "text/html" in data:
                    del data["text/plain"]
    return notebook
