"""The notebooks: committed as they were executed, and executed here again with small budgets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from nbformat import NotebookNode

from jitlab.cli import main
from jitlab.errors import UserError
from jitlab.report.closing import spread_text
from notebooks.execute import code_fingerprint

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURES = {"compare_predictions": 5, "manifold_toy": 8}
MOST_BYTES = 1_500_000
MACHINE = re.compile(r"/(?:home|root|Users|tmp|work|usr|opt)\b|site-packages|0x[0-9a-f]{6}|\b20\d\d-\d\d-\d\d\b")
SPIRAL = """
data: {source: spiral}
model: {architecture: mlp, hidden_size: 16, depth: 3}
sampler: {solver: heun, steps: 5}
train: {steps: 12, batch_size: 64, learning_rate: 2.0e-3, warmup_steps: 2, ema_decays: [0.5],
        log_every_steps: 4, checkpoint_every_steps: 12}
evaluation: {every_steps: 12, images: 40, batch_size: 40, held_out_every_steps: 12, held_out_images: 16,
             grid_every_steps: 12, grid_images: 16}
"""
pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs]


def texts(notebook: NotebookNode) -> str:
    """Everything that the outputs say in words."""
    found = [output.get("text", "") for output in outputs(notebook)]
    for output in outputs(notebook):
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(found)


def figures(notebook: NotebookNode) -> list[str]:
    return [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]


def table(notebook: NotebookNode) -> list[list[str]]:
    """The cells of the notebook's one Markdown table, without its head."""
    (found,) = (o.data["text/markdown"] for o in outputs(notebook) if "text/markdown" in o.get("data", {}))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()[2:]]


def execute(root: Path, name: str, parameters: str) -> NotebookNode:
    """Execute a copy of a notebook in a repository's folder `notebooks`, with other parameters."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = (cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", []))
    cell.source = parameters
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    # Found from the kernel's own folder, and with this source.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment.pop("JITLAB_ROOT", None)
    script = [sys.executable, str(ROOT / "notebooks" / "execute.py"), str(path)]
    process = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    assert not process.stderr
    executed: NotebookNode = nbformat.read(path, as_version=4)
    return executed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_holds_what_its_code_gave(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.source.strip() for cell in notebook.cells)
    assert notebook.metadata["executed_code"] == code_fingerprint(notebook), "changed since; make notebooks"
    assert len(figures(notebook)) == FIGURES[path.stem]
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_small_and_knows_no_machine(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < MOST_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info", "executed_code"}
    assert {key for cell in notebook.cells for key in cell.metadata} == {"tags"}
    words = texts(notebook) + "\n".join(cell.source for cell in notebook.cells)
    assert not MACHINE.findall(words)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_closing_words_say_what_the_outputs_say(path):
    notebook = nbformat.read(path, as_version=4)
    closing = notebook.cells[-1]
    assert closing.cell_type == "markdown"
    numbers = re.findall(r"\d+\.\d+ ?%?", closing.source)
    assert numbers
    assert [number for number in numbers if number.strip() not in texts(notebook)] == []


@pytest.mark.timeout(600)
def test_the_toy_notebook_finds_what_the_runs_of_its_question_find(repository):
    source = ROOT / "experiments" / "toy_manifold.yaml"
    (repository / "experiments" / "toy_manifold.yaml").write_bytes(source.read_bytes())
    (repository / "experiments" / "scales" / "spiral.yaml").write_text(SPIRAL)
    notebook = execute(repository, "manifold_toy", "STEPS = 12\nPOINTS = 40\nDIMENSIONS = (2, 512)")
    assert len(figures(notebook)) == FIGURES["manifold_toy"]
    found = {(row[1], int(row[0])): row[2:] for row in table(notebook)[:-1]}
    assert found.keys() == {(prediction, d) for prediction in ("x", "v", "eps") for d in (2, 512)}
    assert main(["run", "toy_manifold", "--arms", "x_d2,v_d512"]) == 0
    summary = json.loads((repository / "runs" / "toy_manifold-spiral" / "summary.json").read_text())
    for run in (run for run in summary["runs"] if run["status"] == "complete"):
        distance, off_plane = (run["metrics"][key] for key in ("eval/spiral_distance", "eval/off_plane"))
        prediction, _, dimensions = run["arm"].partition("_d")
        assert found.pop((prediction, int(dimensions))) == [f"{distance:.3f}", f"{off_plane:.1%}"]
    assert len(found) == 4


@pytest.mark.timeout(600)
def test_the_comparison_shows_the_numbers_of_the_run_folders(repository):
    words = ["--arms", "x,eps", "--seeds", "2", "train.steps=8", "train.log_every_steps=2", "evaluation.images=10"]
    assert main(["run", "noise_vs_x", "--scale", "tiny", *words]) == 0
    notebook = execute(repository, "compare_predictions", 'SCALE = "tiny"\nLABEL = None')
    assert len(figures(notebook)) == FIGURES["compare_predictions"]
    assert "4 finished runs, x, x-s1, eps, eps-s1" in texts(notebook)
    summary = json.loads((repository / "runs" / "noise_vs_x-tiny" / "summary.json").read_text())
    keys = ("eval/fd_pixels", "eval/off_manifold", "val/v_mse")
    for row, (arm, published) in zip(table(notebook), {"x": "8.62", "eps": "372.38"}.items(), strict=True):
        assert (row[0], row[1], row[-1]) == (arm, "2", published)
        for key, cell in zip(keys, row[2:-1], strict=True):
            values = [run["metrics"][key] for run in summary["runs"] if run["arm"] == arm and run["metrics"]]
            assert cell == spread_text(values)


def test_without_runs_the_comparison_says_what_to_type(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "true")  # put back what the notebook sets
    notebook = nbformat.read(ROOT / "notebooks" / "compare_predictions.ipynb", as_version=4)
    expected = "no finished run of noise_vs_x-digits; type: make experiment EXP=noise_vs_x"
    with matplotlib.rc_context(), pytest.raises(UserError, match=expected):
        exec("\n".join(cell.source for cell in code(notebook)), {})
