"""The notebooks run from top to bottom on a short run of the demo, and print nothing on stderr."""

import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from experiments.runs.run_training import run_training
from tests.helpers.configs import composed
from tests.helpers.small_runs import SMALL_DEMO

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Lines of a cell of code.
LONGEST = 12


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The demo after a few steps."""
    output = tmp_path_factory.mktemp("runs") / "demo"
    run_training(composed("train", *SMALL_DEMO, f"output={output}"), output)
    return output


#: The first one runs in `make test`, all of them in `make test-all`.
CASES = [
    pytest.param(path, id=path.stem, marks=[] if path.stem.startswith("1_") else pytest.mark.full) for path in NOTEBOOKS
]


@pytest.fixture(params=CASES)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def sources(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="session")
def prefix_run(tmp_path_factory):
    """The demo with a visual prefix after a few steps."""
    output = tmp_path_factory.mktemp("runs") / "prefix"
    architecture = ("model/fusion=prefix", "model/connector=mlp_projector")
    run_training(composed("train", *SMALL_DEMO, *architecture, f"output={output}"), output)
    return output


def test_it_runs(notebook, run, tmp_path, monkeypatch):
    execute(notebook, run, tmp_path, monkeypatch)
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output for output in shown), "its figures are not displayed"


@pytest.mark.full
def test_the_inside_of_a_model_with_a_visual_prefix_is_shown(prefix_run, tmp_path, monkeypatch):
    notebook = nbformat.read(FOLDER / "2_inside_the_model.ipynb", as_version=4)
    execute(notebook, prefix_run, tmp_path, monkeypatch)
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("without ()" in text for text in texts)


def execute(notebook, run, tmp_path, monkeypatch):
    """Executes a notebook in place, on a run."""
    monkeypatch.setenv("FLAMINGO_RUN", str(run))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):  # it leaves nothing elsewhere
        monkeypatch.setenv(name, str(tmp_path))
    # Without the kernels that are installed on the machine there is one left: this Python.
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(notebook, timeout=600, km=kernel, resources={"metadata": {"path": str(FOLDER)}}).execute()
    errors = []
    for cell in notebook.cells:
        errors += [output.text for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert errors == []


def test_it_is_saved_without_what_a_run_leaves(notebook):
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None and not cell.metadata
    assert notebook.metadata.keys() <= {"kernelspec", "language_info"}


def test_it_begins_with_what_you_see_and_ends_with_what_to_try(notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# \d\. .*\n\n\*\*You will see\*\* ", first.source)
    assert last.source.startswith("## What to try\n\n- ")


def test_its_cells_are_short(notebook):
    longest = max(sources(notebook), key=lambda source: source.count("\n"))
    assert longest.count("\n") < LONGEST, longest


def test_they_are_numbered_in_their_order():
    numbers = [re.match(r"(\d+)_[a-z_]+$", path.stem)[1] for path in NOTEBOOKS]
    assert numbers == [str(number) for number in range(1, len(NOTEBOOKS) + 1)]
