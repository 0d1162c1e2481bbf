"""What runs write: a training with its log, measured rows, records, videos and poses."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from memkit.evaluation import ResultStore, read_rows
from memkit.training import RunLog, TrainState, save_checkpoint
from memkit.video import read_video, write_video
from tests.faults.run_kinds import RUN, SETTINGS, Row, make_checkpoint, make_records, use_checkpoint, use_records
from tests.faults.table_kinds import make_poses, use_poses
from tests.faults.writers import Writer, nothing, saves

STEPS = 4


def train(folder: Path) -> None:
    """Four steps, with a checkpoint after the second and the last, from wherever an earlier call was stopped."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = TrainState(model, optimizer, Accelerator(cpu=True))
    start = state.resume(folder / "checkpoint.pt", RUN)
    log = RunLog(folder, "run", start, STEPS)
    for step in range(start, STEPS):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.step({"step": step, "loss": float(loss)})
        if step % 2:
            save_checkpoint({"step": step + 1, **(state.state_dict() or {})}, folder / "checkpoint.pt", RUN)
    log.close()


def trained(folder: Path) -> object:
    """The weights at the end, which a run that was stopped reaches when it goes on; before the end, None."""
    state = use_checkpoint(folder)
    if not state or dict(state)["step"] < STEPS:
        return None
    steps = [line.split(",")[0] for line in (folder / "log.jsonl").read_text().splitlines()]
    return dict(state)["modules"], steps


def measure(folder: Path) -> None:
    """Rows for all clips that have none yet."""
    store = ResultStore(folder / "results.jsonl", SETTINGS, Row)
    for id in store.missing("a", ["x", "y", "z"]):
        store.add(Row(id, "a", float(ord(id))))


def measured(folder: Path) -> object:
    """All rows; None until all are there. Those that are there must be right."""
    file = folder / "results.jsonl"
    rows = read_rows(file, Row) if file.exists() and file.stat().st_size else {}
    assert all(row.psnr == ord(row.id) for row in rows.values()), rows
    return list(rows.items()) if len(rows) == 3 else None


def make_video(folder: Path, seed: int) -> None:
    frames = torch.randint(0, 256, (6, 16, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    write_video(folder / "video.mp4", frames, 8.0)


def use_video(folder: Path) -> object:
    return read_video(folder / "video.mp4").frames


WRITERS = (
    *saves("training checkpoint", make_checkpoint, use_checkpoint),
    Writer("training: steps, log, checkpoints", nothing, train, trained),
    Writer("measured rows", nothing, measure, measured),
    *saves("records of interrupted clips", make_records, use_records),
    *saves("video", make_video, use_video),
    *saves("poses .npz", make_poses, use_poses),
)
