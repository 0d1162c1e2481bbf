"""The notebooks: run in a kernel of their own, and stored with their outputs.

``python -m tests.helpers.notebooks`` runs all of them and stores what they show; warnings of libraries are left out.
"""

import hashlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def digest_of(notebook: Any) -> str:
    """A hash of the code of all cells, which is stored beside the outputs that this code gave."""
    code = "\n\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def run(file: Path) -> Any:
    """The notebook with the outputs of a run from a clean kernel in an empty folder; raises where a cell does."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute(env={**environment, "OMP_NUM_THREADS": "1"})
    return notebook


def cleaned(notebook: Any) -> Any:
    """The notebook as it is stored: without times, and without what libraries print to stderr."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _joined([each for each in cell.outputs if each.get("name") != "stderr"])
    kept = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    notebook.metadata = kept | {"memkit_code": digest_of(notebook)}
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Texts that were printed one after the other as one, and each image once, in its smaller form."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
            continue
        if {"image/png", "image/jpeg"} <= output.get("data", {}).keys():
            del output.data[max("image/png", "image/jpeg", key=lambda kind: len(output.data[kind]))]
        joined.append(output)
    return joined


if __name__ == "__main__":
    import nbformat

    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(cleaned(run(path)), path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
