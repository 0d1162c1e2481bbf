"""torch.compile with everything that attaches: warm and then attached, or attached and then compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.compiled import ATOL, COMPILED
from tests.helpers.attachables import ATTACHABLES


@pytest.fixture(scope="module")
def found() -> dict[str, float | str]:
    script = Path(__file__).with_name("compiled.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("warm", [True, False], ids=["compiled_first", "attached_first"])
@pytest.mark.parametrize("name", ATTACHABLES)
@pytest.mark.parametrize("row", COMPILED)
def test_cell(found: dict[str, float | str], row: str, name: str, warm: bool) -> None:
    got, refused = found[f"{name}-{row}-{warm}"], COMPILED[row].refused.get(name)
    if refused is not None:
        assert isinstance(got, str) and refused.match in got
    else:
        assert isinstance(got, float) and got <= ATOL, got
