"""What runs leave behind: checkpoints, logs, measured rows, records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from memkit.evaluation import ResultStore, read_rows
from memkit.training import RunLog, load_checkpoint, save_checkpoint
from recipes.remind.records import Record, read_records, write_records
from tests.faults.kinds import FileKind

ENDS = "a log to which rows are appended may end anywhere, as after a kill"
AT_THE_END = {"flip", "scatter", "zero", "remove", "cut", "cut at a line", "empty", "delete"}
"""Damage that can take the end of the last line of a log, or all that follows a line."""
NEW = "a folder without the file is that of a run that has not begun"
RUN = {"seed": 1, "bank": "a"}
SETTINGS = {"model": "tiny", "steps": 2}


@dataclass
class Row:
    id: str
    condition: str
    psnr: float


def make_checkpoint(folder: Path, seed: int) -> None:
    weights = {"w": torch.randn(40, 3, generator=torch.Generator().manual_seed(seed)), "n": torch.arange(seed + 3)}
    save_checkpoint({"step": 3 + seed, "modules": weights}, folder / "checkpoint.pt", RUN)


def use_checkpoint(folder: Path) -> object:
    state = load_checkpoint(folder / "checkpoint.pt", RUN)
    return state and sorted(state.items())


def make_log(folder: Path, seed: int) -> None:
    log = RunLog(folder, "run", 0, 6)
    for step in range(4):
        log.step({"step": step, "loss": 1.0 / (step + seed + 1)})
    log.close()


def use_log(folder: Path) -> object:
    """As a resumed run: rows before the checkpoint's step stay; the clock goes on."""
    log = RunLog(folder, "run", 3, 6)
    log.close()
    return (folder / "log.jsonl").read_bytes()


def make_results(folder: Path, seed: int) -> None:
    store = ResultStore(folder / "results.jsonl", SETTINGS, Row)
    for id in store.missing("with memory", ["a", "b", "c", "d"]):
        store.add(Row(id, "with memory", 20.0 + ord(id) + seed / 10))


def use_results(folder: Path) -> object:
    """As an evaluation that goes on: rows that were lost are measured again."""
    make_results(folder, 0)
    return sorted(read_rows(folder / "results.jsonl", Row).items())


def make_records(folder: Path, seed: int) -> None:
    records = [Record(f"c{i}", "fog", (2 + i, 4 + i), 6, (f"a {seed}", "b"), "a, unhidden") for i in range(3)]
    write_records(folder, records)


def use_records(folder: Path) -> object:
    return read_records(folder)


KINDS = (
    FileKind("training checkpoint", make_checkpoint, use_checkpoint, blind={"*": {"delete"}}, why_blind=NEW),
    FileKind("training log", make_log, use_log, blind={"*": AT_THE_END}, why_blind=ENDS),
    FileKind("measured rows", make_results, use_results, blind={"*": {"delete"}}, why_blind=NEW),
    FileKind("records of interrupted clips", make_records, use_records),
)
