"""A study trains and measures each run once, in order, in one process or several, and compares in pairs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.evaluation import (
    Measure,
    ResultStore,
    Run,
    Study,
    StudyFlags,
    Table,
    compare,
    differences,
    field,
    intervals,
    less,
    select,
    to_markdown,
    write_tables,
)


@dataclass(frozen=True)
class Settings:
    out: Path
    banks: Path | None = None
    seed: int = 42
    gain: float = 0.0


@dataclass(frozen=True)
class Row:
    id: str
    condition: str
    score: float


MEASURES = {"score": field("score")}


def measure(config: Settings, conditions: Sequence[str], processes: Path) -> Run:
    (processes / f"{os.getpid()}").touch()
    rows = ResultStore(config.out / "measured.jsonl", {"gain": config.gain}, Row)
    for condition in conditions:
        for batch in rows.batches(condition, ["a", "b", "c"], size=2):
            for id in batch:
                noise = 10 * config.seed + "abc".index(id)
                rows.add(Row(id, condition, noise + (config.gain if condition == "memory" else 0.0)))
    return dict(rows.rows)


def tables(runs: dict[str, list[Run]]) -> dict[str, Table]:
    return {"": compare(MEASURES, runs, "memory"), "less none": compare(MEASURES, runs, "memory", "none")}


def study(out: Path) -> Study[Settings, Run]:
    variants = {"small gain": {"gain": 1.0}, "gain, large": {"gain": 2.0}}
    (out / "processes").mkdir(parents=True, exist_ok=True)
    return Study(Settings(out), variants, partial(measure, processes=out / "processes"), tables, ("none", "memory"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_are_measured_once_whoever_measures_them(tmp_path, capsys, jobs: int) -> None:
    flags = StudyFlags(seeds=(1, 2), jobs=jobs)
    assert study(tmp_path).run("claim", flags, next_command="python -m page") == 0
    folders = [tmp_path / name for name in ("small-gain-1", "small-gain-2", "gain-large-1", "gain-large-2")]
    files = {folder / "measured.jsonl": (folder / "measured.jsonl").read_text() for folder in folders}
    assert all(len(text.splitlines()) == 1 + 2 * 3 for text in files.values())
    own = (tmp_path / "processes" / f"{os.getpid()}").exists()
    assert own == (jobs == 1)
    found = json.loads((tmp_path / "claim.json").read_text())
    assert list(found["all"]) == list(found["less none"]) == ["small gain", "gain, large"]
    assert found["all"]["gain, large"]["score"]["value"] == pytest.approx(15 + 1 + 2)
    # in pairs of the same run and id: runs and ids differ, the gain does not
    for name, gain in (("small gain", 1.0), ("gain, large", 2.0)):
        assert found["less none"][name]["score"] == {"value": gain, "low": gain, "high": gain}
    shown = capsys.readouterr().out
    assert "**Δ vs. no memory**" in shown and "Next: python -m page" in shown
    assert f"Results are in {tmp_path / 'claim.json'}" in shown
    assert study(tmp_path).run("claim", StudyFlags(seeds=(1, 2))) == 0
    assert {file: file.read_text() for file in files} == files


def test_a_run_is_in_a_folder_of_its_own_beside_the_banks(tmp_path) -> None:
    configs = study(tmp_path).configs((3, 4))
    assert [(c.seed, c.gain) for c in configs] == [(3, 1.0), (4, 1.0), (3, 2.0), (4, 2.0)]
    assert {c.banks for c in configs} == {tmp_path} and len({c.out for c in configs}) == 4


def test_a_run_of_other_settings_is_left_alone(tmp_path) -> None:
    study(tmp_path).results((1,))
    other = study(tmp_path)
    with pytest.raises(InputError, match="gain .1.0 before, 3.0 now"):
        Study(other.base, {"small gain": {"gain": 3.0}}, other.measure, tables, other.conditions).results((1,))


def test_batches_are_of_one_key_and_of_what_is_missing(tmp_path) -> None:
    rows = ResultStore(tmp_path / "rows.jsonl", {}, Row)
    rows.add(Row("3", "none", 0.0))
    ids = [str(i) for i in range(8)]
    batches = list(rows.batches("none", ids, 2, key=lambda id: int(id) % 2))
    assert batches == [["0", "2"], ["4", "6"], ["1", "5"], ["7"]]
    assert list(rows.batches("other", ids, 5)) == [ids[:5], ids[5:]]


def rows_of(gain: float, seed: int = 0) -> Run:
    """Rows of five ids under "none" and, ``gain`` higher, under "memory"."""
    levels = {"none": 0.0, "memory": gain}
    return {(c, str(i)): Row(str(i), c, 10.0 * seed + i * i + level) for c, level in levels.items() for i in range(5)}


def test_a_measure_is_a_difference_in_pairs_or_has_several_columns() -> None:
    runs = [rows_of(2.0, seed) for seed in (1, 2)]
    measures = {
        "less": less(MEASURES["score"], "none"),
        "ratio": Measure(lambda row, none: row.score / none.score, control="none"),
        "columns": Measure((lambda row: row.score, lambda row: -row.score), lambda a, b: float((a + 2 * b).mean())),
    }
    cells = intervals(measures, runs, "memory")
    assert cells["less"] == (2.0, 2.0, 2.0)  # ids and runs differ, the gain does not
    scores = [10 * seed + i * i for seed in (1, 2) for i in range(5)]
    assert cells["ratio"].value == pytest.approx(sum((s + 2) / s for s in scores) / 10)
    assert cells["columns"].value == pytest.approx(-sum(s + 2 for s in scores) / 10)
    without = [{key: row for key, row in run.items() if key != ("none", "4")} for run in runs]
    assert intervals(measures, without, "memory")["ratio"].value == pytest.approx(
        sum((s + 2) / s for s in scores if s % 10 != 6) / 8
    )
    assert math.isnan(intervals(measures, select({"a": runs}, lambda row: row.id == "9")["a"], "memory")["less"].value)


def test_variants_are_compared_with_one_of_them_on_the_rows_that_are_kept() -> None:
    runs = {name: [rows_of(gain, seed) for seed in (1, 2)] for name, gain in (("small", 1.0), ("large", 4.0))}
    kept = select(runs, lambda row: row.id in "12" or row.condition == "none")
    assert {name: [len(run) for run in some] for name, some in kept.items()} == {"small": [7, 7], "large": [7, 7]}
    assert compare(MEASURES, kept, "memory")["small"]["score"].value == pytest.approx(15 + (1 + 4) / 2 + 1)
    assert differences(MEASURES, runs, "memory", "small") == {"large": {"score": (3.0, 3.0, 3.0)}}
    assert differences(MEASURES, runs, "none", "small") == {"large": {"score": (0.0, 0.0, 0.0)}}


def test_what_is_missing_is_nan_and_left_out(tmp_path) -> None:
    runs: list[Run] = [{("none", id): Row(id, "none", float(id)) for id in some} for some in ("123", "12")]
    cells = intervals(MEASURES, runs, "none")
    assert cells["score"].value == pytest.approx((1 + 2 + 3 + 1 + 2) / 5)
    assert math.isnan(intervals(MEASURES, runs, "memory")["score"].value)
    table = {"a": cells, "b": intervals(MEASURES, runs, "memory")}
    lines = to_markdown(table, digits=0).splitlines()
    assert lines[0] == "|  | score |" and lines[1] == "| --- | --- |" and lines[3] == "| b | – |"
    assert lines[2].startswith("| a | 2 [")
    write_tables(tmp_path / "table.json", {"": table})
    assert json.loads((tmp_path / "table.json").read_text())["all"]["b"]["score"]["value"] is None
