"""Everything that attaches to a model, on two processes: what it gives on one, or a typed error."""

from __future__ import annotations

import json
from pathlib import Path

from tests.compat.declared import wrong_cells
from tests.compat.distributed import PARALLEL, measure
from tests.helpers.attachables import ATTACHABLES
from tests.helpers.launching import two_processes


def test_cells(tmp_path: Path) -> None:
    found = json.loads(two_processes(measure, tmp_path).splitlines()[-1])
    assert found.keys() == PARALLEL.keys()
    for row, cells in found.items():
        assert len(cells) == 2 * len(ATTACHABLES) and not wrong_cells(cells, PARALLEL[row].refused, PARALLEL[row].atol)
