"""torch.compile with everything that attaches: warm and then attached, or attached and then compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.compat.compiled import ATOL, COMPILED
from tests.compat.declared import wrong_cells
from tests.helpers.attachables import ATTACHABLES


def test_cells() -> None:
    script = Path(__file__).with_name("compiled.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert not wrong_cells(found.pop("inside"), {}, ATOL)
    assert set(found) == set(COMPILED)
    for row, cells in found.items():
        assert len(cells) == 2 * len(ATTACHABLES) and not wrong_cells(cells, COMPILED[row].refused, ATOL), row
