"""Every notebook is carried out from top to bottom by a kernel of its own, with warnings as errors."""

import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
BEFORE = "import warnings; warnings.simplefilter('error')"
AFTER = "warnings.simplefilter('default')"  # what the kernel warns of while it ends is not the notebook's


def outputs_of(notebook):
    """What each cell of code shows, with numbers as #: they are another machine's in the file that is kept."""
    shown = [
        "".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return [re.sub(r"\d[\d.e+-]*", "#", text).split() for text in shown]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_was_kept_with(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name in ("XLA_FLAGS", "JAX_NUMPY_DTYPE_PROMOTION"):  # a reader has one device, and Optax's schedules
        monkeypatch.delenv(name)
    kept, new = (nbformat.read(path, as_version=4) for _ in range(2))
    new.cells = [nbformat.v4.new_code_cell(BEFORE), *new.cells, nbformat.v4.new_code_cell(AFTER)]
    client = NotebookClient(new, timeout=300, coalesce_streams=True, resources={"metadata": {"path": tmp_path}})
    client.execute()  # raises where a cell does
    assert outputs_of(new)[1:-1] == outputs_of(kept)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_place_of_its_machine(path):
    text = path.read_text()
    assert len(text) < 50_000
    assert not re.search(r"[\"' ](/[\w.-]+){2,}", text), "an absolute path"
    assert 'execution_count": null' not in text, "a cell was not carried out"


def test_there_are_some():
    assert NOTEBOOKS
