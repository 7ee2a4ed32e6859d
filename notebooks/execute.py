"""Executes notebooks in place, each in its folder with this Python, and writes nothing of the machine or the moment."""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets.config import Config

CELL_SECONDS = 3600
EXIT_FAILED = 1


def execute(path: Path) -> None:
    """Execute a notebook from its first cell and write it back; one whose cell fails stays as it was.

    Raises CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        # Nobody else on the machine reads along; without it, the kernel warns of that.
        config=Config(KernelManager={"transport_encryption": "auto"}),
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    # Of tqdm, about a widget that a file could not hold anyway.
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"})
    _settle(notebook)
    nbformat.write(notebook, path)


def code_fingerprint(notebook: NotebookNode) -> str:
    """Return a hash of the code cells: that of the code which gave the outputs stands in the notebook's metadata."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\n".join(sources).encode()).hexdigest()


def _settle(notebook: NotebookNode) -> None:
    # What is the same on every machine, so that only what was found changes a committed file.
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(name="python3", display_name="Python 3", language="python"),
        language_info=NotebookNode(name="python"),
        executed_code=code_fingerprint(notebook),
    )
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place:02d}"


def main(paths: Sequence[str]) -> int:
    """Execute the notebooks in turn; say on one line what a failing cell said, and return the exit code."""
    for path in paths:
        print(f"executing {path}", flush=True)
        try:
            execute(Path(path))
        except CellExecutionError as error:
            print(f"{path}: {error.ename}: {error.evalue}", file=sys.stderr)
            return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
