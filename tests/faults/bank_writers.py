"""What writes banks and their indices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memkit.banks import MemoryBank, build_bank, join_banks
from memkit.video import write_video
from tests.faults.bank_kinds import make_bank, open_index, use_bank, use_index
from tests.faults.writers import Writer, nothing
from tests.helpers.small_banks import latents


@dataclass(frozen=True)
class Format:
    num_frames: int = 5
    height: int = 16
    width: int = 16
    fps: float = 8.0


class Mean:
    """Latents without a model: each frame's mean in every channel."""

    video_format = Format()

    def encode_video(self, video: Tensor) -> Tensor:
        return video.mean((1, 3, 4))[:, None, ::4, None, None].expand(1, 4, -1, 2, 2).clone()


def create(folder: Path) -> None:
    if not (folder / "bank" / "bank.json").exists():
        MemoryBank.create(folder / "bank", {"model": "tiny"})


def add(folder: Path) -> None:
    bank = MemoryBank.open(folder)
    if "new" not in bank:
        bank.add("new", latents(9), "a new clip")


def add_many(folder: Path) -> None:
    with MemoryBank.open(folder) as bank:
        for number in (0, 1):
            if f"new {number}" not in bank:
                bank.add(f"new {number}", latents(9 + number), "one of two")


def videos(folder: Path) -> None:
    (folder / "videos").mkdir()
    for number in range(2):
        write_video(
            folder / "videos" / f"{number}.mp4", torch.full((5, 16, 16, 3), 90 * number, dtype=torch.uint8), 8.0
        )
    (folder / "captions.csv").write_text("video,caption\n0.mp4,dark\n1.mp4,grey\n")


def build(folder: Path) -> None:
    assert not build_bank(folder / "videos", folder / "captions.csv", folder / "bank", Mean(), "mean").bad


def built(folder: Path) -> object:
    """The clips; a bank that is missing has none, as one that was begun."""
    if not (folder / "bank" / "bank.json").exists():
        return []
    bank = MemoryBank.open(folder / "bank")
    bank.verify()
    return [bank.clip(id) for id in bank.ids]


def parts(folder: Path) -> None:
    for seed in (0, 1):
        bank = MemoryBank.create(folder / f"part{seed}", {"model": "tiny"})
        for number in (0, 1):
            bank.add(f"{seed}.{number}", latents(2 * seed + number), "a part")


def join(folder: Path) -> None:
    join_banks([folder / "part0", folder / "part1"], folder / "bank")


def index(folder: Path) -> None:
    open_index(folder)


def indexed(folder: Path) -> object:
    """Whether there is an index; what is there must be right."""
    there = (folder / "index" / "captions" / "index.safetensors").exists()
    return there, use_index(folder)


WRITERS = (
    Writer("bank: create", nothing, create, lambda folder: use_bank(folder / "bank")),
    Writer("bank: add", lambda folder: make_bank(folder, 0), add, use_bank),
    Writer("bank: add two in a block", lambda folder: make_bank(folder, 0), add_many, use_bank),
    Writer("bank: build", videos, build, built),
    Writer("bank: join", parts, join, built),
    Writer("bank index: save", lambda folder: make_bank(folder, 0), index, indexed),
)
