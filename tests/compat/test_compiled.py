"""torch.compile with everything that attaches: warm and then attached, or attached and then compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.compiled import ATOL, COMPILED
from tests.compat.declared import wrong_cells
from tests.helpers.attachables import ATTACHABLES


@pytest.mark.parametrize("row", COMPILED)
def test_cells(row: str) -> None:
    script = Path(__file__).with_name("compiled.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    run = subprocess.run([sys.executable, script, row], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found) == 2 * len(ATTACHABLES) and not wrong_cells(found, COMPILED[row].refused, ATOL)
