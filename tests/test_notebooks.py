"""The notebooks: each runs from a clean kernel, is stored as it ran, is small, and has no path of a machine in it."""

import json
import re

import pytest

from tests.helpers.notebooks import NOTEBOOKS, digest_of, run

LARGEST = 400_000  # bytes


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_from_a_clean_kernel_and_is_stored_with_its_outputs(file):
    import nbformat

    stored, ran = nbformat.read(file, as_version=4), run(file)
    again = "its code has changed: run python -m tests.helpers.notebooks, and look at the outputs"
    assert stored.metadata["memkit_code"] == digest_of(ran), again
    cells = [(old, new) for old, new in zip(stored.cells, ran.cells, strict=True) if old.cell_type == "code"]
    assert [old.execution_count for old, _ in cells] == [new.execution_count for _, new in cells]
    for old, new in cells:
        kinds = [{each.output_type for each in cell.outputs if each.get("name") != "stderr"} for cell in (old, new)]
        assert kinds[0] == kinds[1], old.source


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_small_and_without_paths_and_warnings(file):
    assert file.stat().st_size < LARGEST
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        outputs = cell.get("outputs", [])
        assert not [each for each in outputs if each.get("name") == "stderr"]
        texts = ["".join(cell["source"])]
        for each in outputs:
            data = each.get("data", {})
            printed = (each.get("text", []), data.get("text/plain", []), data.get("text/html", []))
            texts += ["".join(lines) for lines in printed]
        text = re.sub(r"data:[a-z0-9/]+;base64,[A-Za-z0-9+/=]+", "", "\n".join(texts))
        assert not re.search(r"(?<![\w.:/])/(?:tmp|home|root|Users|usr|work|var|mnt|opt)/|\b[A-Z]:\\", text), text
        assert not re.search(r"\w*Warning\b|\bWARNING\b", text), text
