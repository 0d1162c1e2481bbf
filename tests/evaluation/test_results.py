"""Measured rows survive a crash and are never mixed with others; what is damaged is named."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import FileError, InputError
from memkit.evaluation import ResultStore, from_json, read_rows

SETTINGS = {"gain": 1.5, "out": Path("x"), "rate": math.inf}


@dataclass(frozen=True)
class Row:
    id: str
    condition: str
    score: float
    told: dict[str, float]
    found: bool = True


ROWS = [Row(f"é{i}", "none", score, {"g": -score}) for i, score in enumerate((1.25, math.nan, math.inf, -3.0))]


def saved(file: Path) -> Path:
    file.unlink(missing_ok=True)
    store = ResultStore(file, SETTINGS, Row)
    for row in ROWS:
        store.add(row)
    return file


def told(rows: dict) -> str:
    """Equal for equal rows, NaN too."""
    return repr([asdict(row) for row in rows.values()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_rows_come_back_with_nan_and_infinities(tmp_path) -> None:
    file = saved(tmp_path / "rows.jsonl")
    assert told(read_rows(file, Row)) == told(ResultStore(file, SETTINGS, Row).rows) == repr([*map(asdict, ROWS)])


def test_a_file_from_before_checksums_goes_on(tmp_path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"gain": 1.5}\n{"id": "a", "condition": "none", "score": null, "told": {}, "found": true}\n{"id"')
    store = ResultStore(file, {"gain": 1.5}, Row)
    assert math.isnan(store.rows["none", "a"].score) and store.missing("none", ["a", "b"]) == ["b"]
    store.add(ROWS[0])
    assert set(read_rows(file, Row)) == {("none", "a"), ("none", "é0")}


@given(data=st.data())
def test_wherever_it_is_cut_no_row_is_wrong_and_the_next_one_can_be_added(folder: Path, data: st.DataObject) -> None:
    whole = saved(folder / "cut.jsonl").read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    (folder / "cut.jsonl").write_bytes(whole[:length])
    if b"\n" not in whole[:length]:
        with pytest.raises(FileError, match=r"cut\.jsonl is empty or cut short: line 1, of settings.*; restore it"):
            ResultStore(folder / "cut.jsonl", SETTINGS, Row)
        assert (folder / "cut.jsonl").read_bytes() == whole[:length]
        return
    store = ResultStore(folder / "cut.jsonl", SETTINGS, Row)
    lines = whole[:length].count(b"\n") - 1
    assert told(store.rows) == repr([*map(asdict, ROWS[:lines])])
    for row in ROWS[lines:]:
        store.add(row)
    assert (folder / "cut.jsonl").read_bytes() == whole


@given(data=st.data())
def test_a_changed_bit_never_changes_a_row(folder: Path, data: st.DataObject) -> None:
    whole = saved(folder / "bits.jsonl").read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 9))  # but for the newline at the end
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    (folder / "bits.jsonl").write_bytes(damaged)
    with pytest.raises(InputError, match=r"bits\.jsonl"):
        ResultStore(folder / "bits.jsonl", SETTINGS, Row)
    assert (folder / "bits.jsonl").read_bytes() == damaged


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "condition": "none"}', "line 2 of .* is no row of this evaluation: .*score"),
        ('{"id": "a", "condition": "none", "score": 1, "told": {}, "more": 2}', "more"),
        ('{"id": "a", "condition": "none", "score": "high", "told": {}}', "'high' is no number"),
        ('{"id": 7, "condition": "none", "score": 1, "told": {}}', "7 is no text"),
        ("[1]", "line 2 of .* is damaged"),
        ("{" * 10_000, "line 2 of .* is damaged"),
    ],
)
def test_a_row_of_something_else_is_named(tmp_path, line: str, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"gain": 1.5}\n' + line + "\n")
    with pytest.raises(FileError, match=f"(?i){message}.*; restore it from a copy"):
        ResultStore(file, {"gain": 1.5}, Row)


def test_what_cannot_be_a_file_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "rows.jsonl", tmp_path):
        with pytest.raises(FileError, match=str(place)):
            ResultStore(place, {}, Row)
    with pytest.raises(InputError, match="other fields or values than Row"):
        from_json(Row, {"id": "a"})


def test_conditions_share_one_bar_that_ends_when_all_is_measured(tmp_path, capsys) -> None:
    store = ResultStore(tmp_path / "rows.jsonl", {}, Row)
    store.add(Row("a", "with", 0.0, {}))
    with store.progress(["with", "without"], "abc") as bar:
        for condition in ("with", "without"):
            for batch in store.batches(condition, "abc", 2):
                for id in batch:
                    store.add(Row(id, condition, 1.0, {}))
        assert bar.n == bar.total == 5
    shown = capsys.readouterr().err
    assert len(store.rows) == 6 and "without" in shown and shown.count("\n") == 1
    assert list(store.batches("again", iter("abc"), 2)) == [["a", "b"], ["c"]] and "3/3" in capsys.readouterr().err
    assert not list(store.batches("with", "abc", 2)) and not capsys.readouterr().err
