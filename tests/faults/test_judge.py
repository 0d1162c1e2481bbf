"""The harness sees what it is there to see: kinds and writers with one fault each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write
from tests.faults import isolated
from tests.faults.damaging import Damaging
from tests.faults.inputs import Api, results
from tests.faults.killing import Killing
from tests.faults.kinds import FileKind
from tests.faults.outcomes import HANG, HARMLESS, LEFTOVERS, LOST, RAW, SILENT, TYPED, UNNAMED
from tests.faults.writers import Writer, nothing


def make(folder: Path, seed: int) -> None:
    (folder / "a.txt").write_text(f"content {seed}")


def checked(folder: Path) -> str:
    text = (folder / "a.txt").read_text(errors="replace")
    if text not in ("content 0", "content 1"):
        raise FileError(f"{folder / 'a.txt'} is damaged; write it again.")
    return text


def unnamed(folder: Path) -> str:
    try:
        return checked(folder)
    except FileError:
        raise FileError("Something is damaged.") from None


def raw(folder: Path) -> str:
    return {"content 0": "a"}[(folder / "a.txt").read_text(errors="replace")]


def slow(folder: Path) -> str:
    if (text := (folder / "a.txt").read_text(errors="replace")) != "content 0":
        time.sleep(60)
    return text


def careless(folder: Path) -> str:
    return (folder / "a.txt").read_text(errors="replace")


def blind(folder: Path) -> str:
    return "the same"


@pytest.mark.parametrize(
    ("use", "outcome"),
    [(checked, TYPED), (unnamed, UNNAMED), (raw, RAW), (slow, HANG), (careless, SILENT), (blind, HARMLESS)],
)
def test_what_comes_of_a_flipped_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], str], outcome: str
) -> None:
    monkeypatch.setattr(isolated.isolated_all, "__defaults__", (1.0,))
    monkeypatch.setattr(isolated.isolated, "__defaults__", (1.0,))
    result = Damaging(FileKind("a", make, use), tmp_path).result("0", "flip")
    assert result is not None and result.outcome == outcome, result


def atomic(folder: Path) -> None:
    with atomic_write(folder / "a.txt") as partial:
        partial.write_text("content 1")


def in_place(folder: Path) -> None:
    with open(folder / "a.txt", "w") as file:
        file.write("content")
    with open(folder / "a.txt", "a") as file:
        file.write(" 1")


def untidy(folder: Path) -> None:
    name = f"{time.monotonic_ns()}.tmp"
    (folder / name).write_text("content 1")
    (folder / name).replace(folder / "a.txt")


@pytest.mark.parametrize(("act", "outcome"), [(atomic, HARMLESS), (in_place, LOST), (untidy, LEFTOVERS)])
def test_what_comes_of_kills(tmp_path: Path, act: Callable[[Path], None], outcome: str) -> None:
    killing = Killing(Writer("a", nothing, act, checked), tmp_path)
    outcomes = {result.outcome for result in killing.kills()}
    assert outcomes - {HARMLESS} == {outcome} - {HARMLESS} and outcomes


def test_what_comes_of_a_full_disk(tmp_path: Path) -> None:
    writer = Writer("a", lambda folder: make(folder, 0), atomic, checked)
    results = list(Killing(writer, tmp_path).errors())
    assert len(results) > 3 and {result.outcome for result in results} <= {TYPED, HARMLESS}
    writer = Writer("a", lambda folder: make(folder, 0), in_place, checked)
    assert RAW in {result.outcome for result in Killing(writer, tmp_path / "b").errors()}


def test_what_comes_of_bad_inputs() -> None:
    def call(count: object) -> object:
        if count == 1:
            raise InputError("count is 1; give 2.")
        if count == 3:
            raise InputError("Something is wrong.")
        return {2: "a", 4: "b", 5: "a"}[count]  # pyright: ignore

    found = [r.outcome for r in results(Api("call", call, {"count": 2}, {"count": (1, 3, 4, 5, 6)}))]
    assert found == [TYPED, UNNAMED, SILENT, HARMLESS, RAW]
