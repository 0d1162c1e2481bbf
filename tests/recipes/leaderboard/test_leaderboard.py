"""The leaderboard: rows that survive a kill and do not mix, verdicts on claims, a page that follows from the rows."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from memkit.errors import InputError
from memkit.probes import MECHANISMS, PROBES, ProbeResult, ProbeSettings, read_results, write_results
from recipes.leaderboard import runs as leaderboard_runs
from recipes.leaderboard.__main__ import Leaderboard, main
from recipes.leaderboard.cells import VARIANTS, WITH_DEPTH, Cell, mechanism_of
from recipes.leaderboard.claims import CLAIMS, Claim, interval
from recipes.leaderboard.page import page_text
from recipes.leaderboard.runs import Rows, Run, planned
from tests.helpers.killed import KILLED, kills

TINY = ProbeSettings(blocks=1, heads=1, pretrain_steps=1, steps=1, batch=2, samples=4)
DOCS = Path(__file__).parents[3] / "docs"
NAMES = (*MECHANISMS, *VARIANTS)


def made_up(cell: Cell, seed: int, accuracy: float, **fields) -> ProbeResult:
    """A row that no run has."""
    probe = cell.task()
    run = leaderboard_runs.run_settings(mechanism_of(cell.mechanism), probe, ProbeSettings())
    measured = {"low": accuracy, "high": accuracy, "chance": probe.chance, "bytes": 1000, "seconds": 0.002}
    measured |= {"control_accuracy": 0.1, "wrong_accuracy": 0.1, "parameters": 0, "device": "cpu", "kinds": {}}
    curves = {knob: [[value, accuracy] for value in each.test] for knob, each in probe.ranges.items()}
    row = {"probe": probe.name, "mechanism": cell.mechanism, "seed": seed, "accuracy": accuracy, **run, **measured}
    return ProbeResult(**{**row, "conditions": {"random": {"fact": 0.1}}, "curves": curves, **fields})


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_kill_loses_no_row(tmp_path):
    first, second = (made_up(Cell("recall", "window"), seed, 0.5) for seed in (1, 2))

    def adding(number: int):
        write_results(tmp_path / str(number) / "leaderboard.json", [first])
        return lambda: Rows(tmp_path / str(number) / "leaderboard.json").add(second)

    codes = []
    for number, code in kills(adding):
        codes.append(code)
        rows = Rows(tmp_path / str(number) / "leaderboard.json")
        assert rows.read() in ([first], [first, second])
        rows.add(replace(second, seed=3))
        assert len(rows.read()) >= 2
    assert codes.count(KILLED) > 5 and codes[-1] == 0


def test_a_command_that_was_stopped_runs_what_is_missing_and_nothing_else(tmp_path, monkeypatch):
    done, run_probe = [], leaderboard_runs.run_probe

    def stopped(build, probe, seed, settings, **given):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append((given["name"], seed))
        return run_probe(build, probe, seed, settings, **given)

    command = Leaderboard(("recall",), ("none", "newest 4"), (1,), tmp_path, tmp_path / "bases", settings=TINY)
    monkeypatch.setattr(leaderboard_runs, "run_probe", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert done == [("none", 1)] and len(Rows(tmp_path / "leaderboard.json").read()) == 1
    done[:] = [("none", 1), ("none", 1)]
    main(command)
    assert done[2:] == [("newest 4", 1)]
    rows = read_results(tmp_path / "leaderboard.json")
    wanted = planned(command.probes, command.mechanisms, command.seeds, TINY)
    assert [row.identity for row in rows] == [run.identity for run in wanted]
    main(command)
    assert len(done) == 3 and (tmp_path / "leaderboard-recall.png").stat().st_size > 5000
    assert (tmp_path / "leaderboard.md").read_text() == page_text(rows)
    before = (tmp_path / "leaderboard.json").read_bytes()
    with pytest.raises(
        InputError, match=r"measured with other settings: steps \(1 before, 2 now\); give another --out"
    ):
        main(replace(command, settings=replace(TINY, steps=2)))
    assert (tmp_path / "leaderboard.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranges": {"facts": [2, 4]}}, r"other ranges: facts \(\[2, 4\] before, \[2, 4, 8\] now\)"),
        ({"options": {"newest": 5}}, r"other options: newest \(5 before, 4 now\)"),
        ({"settings": {}}, "other settings: blocks"),
    ],
)
def test_rows_that_were_measured_otherwise_are_refused(change, said, tmp_path):
    run = Run(Cell("recall", "newest 4").task(), "newest 4", 1, ProbeSettings())
    row = made_up(Cell("recall", "newest 4"), 1, 0.5)
    write_results(tmp_path / "rows.json", [row])
    assert Rows(tmp_path / "rows.json", [run]).missing([run]) == []
    write_results(tmp_path / "rows.json", [replace(row, **change)])
    with pytest.raises(InputError, match=said):
        Rows(tmp_path / "rows.json", [run])


def test_a_row_is_that_of_its_probe_mechanism_seed_and_knobs(tmp_path):
    rows = Rows(tmp_path / "rows.json")
    rows.add(made_up(Cell("occlusion", "fov"), 1, 0.5))
    cells = [Cell("occlusion", "fov"), Cell("recall", "fov"), Cell("occlusion", "fov 2")]
    cells.append(Cell("occlusion", "fov", {"depth": True}))
    others = [Run(cell.task(), cell.mechanism, 1, ProbeSettings()) for cell in cells]
    others.append(replace(others[0], seed=2))
    assert rows.missing(others) == others[1:]


def test_the_plan_has_every_mechanism_on_every_probe_and_every_cell_of_a_claim():
    runs = planned(tuple(PROBES), NAMES, (1, 2), ProbeSettings())
    first, second = runs[: len(runs) // 2], runs[len(runs) // 2 :]
    assert {run.seed for run in first} == {1} and {run.seed for run in second} == {2}
    table = [(run.mechanism, run.probe.name) for run in first[: len(MECHANISMS) * len(PROBES)]]
    assert table == [(name, probe) for name in MECHANISMS for probe in PROBES]
    planned_runs = {run.identity for run in first}
    for claim in CLAIMS:
        for cell in (claim.better, claim.than, *WITH_DEPTH):
            assert Run(cell.task(), cell.mechanism, 1, ProbeSettings()).identity in planned_runs
    with pytest.raises(InputError, match="There is no mechanism 'windows'; choose of none, window"):
        planned(("recall",), ("windows",), (1,), TINY)


# -- claims ------------------------------------------------------------------------------------------------------------

ONE, OTHER, NONE = Cell("recall", "queries (noise)"), Cell("recall", "fov"), Cell("recall", "none")


@pytest.mark.parametrize(
    ("relation", "differences", "verdict"),
    [
        ("more", [0.3, 0.32, 0.28], "holds"),
        ("more", [0.0, 0.01, -0.01], "fails"),
        ("more", [-0.3, -0.32, -0.28], "fails"),
        ("more", [0.5, -0.2, 0.3], "not shown"),
        ("more", [0.3, 0.3], "not shown"),
        ("same", [0.01, 0.0, -0.01], "holds"),
        ("same", [0.0, 0.0, 0.0], "holds"),
        ("same", [0.3, 0.32, 0.28], "fails"),
        ("same", [0.1, -0.1, 0.0], "not shown"),
        ("same", [], "not shown"),
    ],
)
def test_verdicts(relation, differences, verdict):
    claim = Claim("", "", ONE, OTHER, relation)
    rows = [made_up(OTHER, seed, 0.4 + 0.01 * seed) for seed in range(len(differences))]
    rows += [made_up(ONE, seed, 0.4 + 0.01 * seed + each) for seed, each in enumerate(differences)]
    random.Random(0).shuffle(rows)
    assert claim.differences(rows) == pytest.approx(differences) and claim.verdict(rows) == verdict
    assert claim.verdict([*rows, made_up(ONE, 9, 0.0), made_up(OTHER, 8, 1.0)]) == verdict  # seeds without a pair


def test_where_nothing_was_learned_nothing_is_shown_unless_memory_is_compared_with_none():
    rows = [made_up(cell, seed, 0.13) for cell in (ONE, OTHER, NONE) for seed in (1, 2, 3)]
    assert Claim("", "", ONE, OTHER).verdict(rows) == Claim("", "", ONE, OTHER, "same").verdict(rows) == "not shown"
    assert Claim("", "", ONE, NONE).verdict(rows) == "fails"


def test_intervals_are_those_of_students_t():
    value, low, high = interval([0.1, 0.2, 0.3])
    assert value == pytest.approx(0.2) and high - 0.2 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert 0.2 - low == pytest.approx(high - 0.2)


def test_a_cell_is_one_number_of_a_row():
    kinds = {"law": 0.7, "look": 0.9}
    row = made_up(Cell("law", "encoder"), 1, 0.8, kinds=kinds, conditions={"another": {"law": 0.1, "look": 0.2}})
    row = replace(row, curves={"clips": [[1, 0.5], [3, 0.6]]})
    cells = [Cell("law", "encoder"), Cell("law", "encoder", kind="law"), Cell("law", "encoder", at=("clips", 3))]
    cells += [Cell("law", "encoder", condition="another", kind="look"), Cell("law", "encoder", condition="another")]
    assert [cell.value(row) for cell in cells] == pytest.approx([0.8, 0.7, 0.6, 0.2, 0.15])
    assert cells[1].chance == 0.25 and cells[0].chance == row.chance == 0.1875
    assert cells[0].rows([row, replace(row, knobs={}), replace(row, mechanism="fov")]) == [row]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_follows_from_the_rows_in_any_order():
    rows = [made_up(Cell(probe, name), 1, 0.5) for probe in ("recall", "law") for name in ("window", "fov")]
    rows += [made_up(Cell("recall", "window"), seed, 0.5 + 0.1 * seed) for seed in (2, 3)]
    text = page_text(rows)
    assert text == page_text(rows[::-1])
    assert re.search(r"\| `window` \| 0\.67 \[0\.29, 1\.05\] \| 0\.50 \|", text) and "| `fov` | 0.50 | 0.50 |" in text
    none = len(MECHANISMS) * len(PROBES) - 4
    assert "6 rows, seeds 1, 2, 3" in text and f"3 have fewer than 3 seeds and {none} have none yet" in text
    assert text.count("**not shown** (0 seeds)") == len(CLAIMS)


def test_what_takes_depth_has_a_table_of_its_own():
    rows = [made_up(Cell("occlusion", "window"), 1, 0.5)]
    assert "depth of the past" not in page_text(rows)
    text = page_text([*rows, *(made_up(WITH_DEPTH[1], seed, 0.9 + 0.02 * seed) for seed in (1, 2, 3))])
    assert "| occlusion: `surfels` | 0.94 [0.89, 0.99] | 0.10 | 0.10 | 0.10 | 1.0 kB | 2 |" in text


def test_the_published_page_is_that_of_the_published_rows():
    rows = read_results(DOCS / "leaderboard.json")
    assert (DOCS / "leaderboard.md").read_text(encoding="utf-8") == page_text(rows)
    for probe in {row.probe for row in rows}:
        assert (DOCS / f"leaderboard-{probe}.png").exists()
    runs = planned(tuple(PROBES), NAMES, sorted({row.seed for row in rows}), ProbeSettings())
    assert {row.identity for row in rows} <= {run.identity for run in runs}
    assert all(max(row.control_accuracy, row.wrong_accuracy) < row.chance + 0.1 for row in rows)
