"""The log of a run survives resumption, and the cost of a run is told before it."""

from __future__ import annotations

import json

import pytest
import torch

from memkit.errors import InputError
from memkit.training import Phase, RunLog, estimate_cost, timed
from memkit.training.run_log import duration


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, "run", 0, 6)
    for step in range(5):
        log.step({"step": step})
    log.close()
    log = RunLog(tmp_path, "run", 3, 6)
    log.step({"step": 3})
    log.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_the_cost_is_told_and_a_full_disk_refused(tmp_path, capsys):
    estimate_cost("run", [Phase("a", 10, 6.0), Phase("b", 3000, 2.0)], 5_000_000, tmp_path / "new")
    said = capsys.readouterr().out
    assert "a: 10 steps of 6.00 s, about 60 s" in said and "about 1 h 41 min in all; 5 MB on disk" in said
    with pytest.raises(InputError, match="make room"):
        estimate_cost("run", [], 10**18, tmp_path)
    assert [duration(s) for s in (3, 100, 3600)] == ["3 s", "2 min", "1 h 0 min"]


def test_timing_a_step_leaves_random_states_as_they_were():
    state, calls = torch.get_rng_state(), []
    assert timed(lambda: calls.append(torch.rand(3))) >= 0
    assert len(calls) == 2 and torch.equal(torch.get_rng_state(), state)
