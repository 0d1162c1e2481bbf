"""The log of a run survives resumption, and the cost of a run is told before it."""

from __future__ import annotations

import json
import math

import pytest
import torch

from memkit.errors import FileError, InputError
from memkit.training import Phase, RunLog, estimate_cost, read_run_log, timed
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


def test_rows_that_a_log_has_lost_are_told(tmp_path, capsys):
    logged(tmp_path, 0, [{"step": step} for step in range(0, 100, 10)])
    file = tmp_path / "log.jsonl"
    whole = file.read_text()
    for kept in range(2, 11):
        file.write_text("".join(whole.splitlines(keepends=True)[:kept]))
        logged(tmp_path, 91, [])
        lost = f"has lost its rows of the steps {10 * kept - 9} to 90"
        assert (lost in capsys.readouterr().out) == (kept < 10)


def test_the_cost_is_told_and_a_full_disk_refused(tmp_path, capsys):
    estimate_cost("run", [Phase("a", 10, 6.0), Phase("b", 3000, 2.0)], 5_000_000, tmp_path / "new")
    said = capsys.readouterr().out
    assert "a: 10 steps of 6.00 s, about 60 s" in said and "about 1 h 41 min in all; 5.0 MB on disk" in said
    with pytest.raises(InputError, match="make room"):
        estimate_cost("run", [], 10**18, tmp_path)
    assert [duration(s) for s in (3, 100, 3600)] == ["3 s", "2 min", "1 h 0 min"]


def test_timing_a_step_leaves_random_states_as_they_were():
    state, calls = torch.get_rng_state(), []
    assert timed(lambda: calls.append(torch.rand(3))) >= 0
    assert len(calls) == 2 and torch.equal(torch.get_rng_state(), state)


def logged(folder, start: int, rows: list[dict]) -> list[dict]:
    log = RunLog(folder, "run", start, 9)
    for row in rows:
        log.step(row)
    log.close()
    return read_run_log(folder)


def test_a_log_that_was_cut_anywhere_lets_a_run_go_on(tmp_path, capsys):
    logged(tmp_path, 0, [{"step": step, "loss": step / 3} for step in range(3)])
    file = tmp_path / "log.jsonl"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        rows = logged(tmp_path, 2, [{"step": 2, "loss": 0.5}])
        assert [row["step"] for row in rows] == [*range(kept), 2] if kept < 3 else [0, 1, 2]
        said = capsys.readouterr().out
        assert ("cut short and is dropped" in said) == (not whole[:length].endswith(b"\n") and length > 0)
        assert ("has no rows of the steps before 2" in said) == (kept == 0)


def test_losses_that_are_no_numbers_are_logged_and_old_logs_go_on(tmp_path):
    rows = logged(tmp_path, 0, [{"step": i, "loss": x} for i, x in enumerate((math.nan, math.inf, -math.inf))])
    assert [row["loss"] for row in rows] == [None, "inf", "-inf"]
    old = '{"step": 0, "loss": NaN, "seconds": 2.5}\n{"step": 1, "loss": -Infinity, "seconds": 4}\n'
    (tmp_path / "log.jsonl").write_text(old)
    rows = logged(tmp_path, 2, [{"step": 2, "loss": 0.1}])
    assert [row["loss"] for row in rows] == [None, "-inf", 0.1] and rows[-1]["seconds"] >= 4
    assert all(json.loads(line)["crc32"] for line in (tmp_path / "log.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"loss": 1.0, "seconds": 1.0}', "Line 1 of .*log.jsonl is no row of a log, with step and seconds"),
        ('{"step": "0", "seconds": 1.0}', "Line 1 of .*log.jsonl is no row of a log"),
        ('{"step": 0, "seconds": null}', "Line 1 of .*log.jsonl is no row of a log"),
        ('{"step": 0, "lo', "Line 1 of .*log.jsonl is damaged"),
        ("\x00" * 40, "Line 1 of .*log.jsonl is damaged"),
    ],
)
def test_a_damaged_row_of_the_log_is_named_and_kept(tmp_path, line: str, message: str):
    text = line + '\n{"step": 10, "seconds": 2.0}\n'
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(FileError, match=f"{message}.*; remove that line"):
        RunLog(tmp_path, "run", 20, 30)
    assert (tmp_path / "log.jsonl").read_text() == text


def test_a_run_of_no_steps_and_a_folder_that_is_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to train in 0 steps"):
        RunLog(tmp_path, "run", 0, 0)
    (tmp_path / "file").write_text("")
    for call in (
        lambda: RunLog(tmp_path / "file", "run", 0, 1),
        lambda: estimate_cost("run", [], 1, tmp_path / "file"),
    ):
        with pytest.raises(FileError, match="Cannot write .*file"):
            call()
