"""Under torch.compile memory costs no graph break, and all blocks share their graphs."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_one_graph_for_the_model_and_the_same_for_all_blocks():
    script = Path(__file__).parents[1] / "helpers" / "compiled_memory.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    for name, (graphs, difference) in results.items():
        assert difference < 1e-5, name
        if name.startswith("whole"):
            assert graphs == 1, name
        if name.startswith("split"):
            assert graphs == 2, name
    assert results["guided"][0] == 2
    assert results["1 block"][0] == results["3 blocks"][0]
