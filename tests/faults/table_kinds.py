"""Files that people write: captions, prompts, camera poses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from memkit.banks import read_captions
from memkit.cameras import read_poses, write_poses
from memkit.prompts import read_prompts
from tests.faults.kinds import ANY, FileKind
from tests.helpers.small_banks import cameras

TEXT = "plain text has no checksum: another character, or a line less, is another valid file"


def make_captions(folder: Path, seed: int) -> None:
    rows = [f'v{i}.mp4,"a ball, größer, {seed + i}",id{i}' for i in range(5)]
    (folder / "captions.csv").write_text("\n".join(["video,caption,id", *rows]) + "\n", encoding="utf-8")
    for i in range(5):
        (folder / f"v{i}.mp4").write_bytes(b"x")


def use_captions(folder: Path) -> object:
    rows, bad = read_captions(folder / "captions.csv", folder)
    return [row._replace(file=row.file.name) for row in rows], bad


def make_prompts(folder: Path, seed: int) -> None:
    rows = [f"x{i}.mp4,a ball falls {seed + i}" for i in range(5)]
    (folder / "prompts.csv").write_text("\n".join(["video,caption", *rows]) + "\n", encoding="utf-8")


def use_prompts(folder: Path) -> object:
    return read_prompts([], folder / "prompts.csv")


def make_poses(folder: Path, seed: int, suffix: str = ".npz") -> None:
    write_poses(folder / f"walk{suffix}", cameras(6, seed))


def use_poses(folder: Path, suffix: str = ".npz") -> object:
    return read_poses(folder / f"walk{suffix}")


KINDS = (
    FileKind("captions .csv", make_captions, use_captions, ("captions.csv",), {"*": ANY}, TEXT),
    FileKind("prompts .csv", make_prompts, use_prompts, blind={"*": ANY}, why_blind=TEXT),
    FileKind("poses .npz", make_poses, use_poses),
    FileKind(
        "poses .txt", partial(make_poses, suffix=".txt"), partial(use_poses, suffix=".txt"), ("*",), {"*": ANY}, TEXT
    ),
)
