"""Files that people write: captions, prompts, camera poses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from memkit.banks import read_captions
from memkit.cameras import read_poses, write_poses
from memkit.prompts import read_phygenbench, read_prompts, read_vbench
from memkit.prompts.stevo import read_tasks
from tests.faults.kinds import ANY, FileKind
from tests.helpers.small_banks import cameras
from tests.helpers.stevo_tasks import tasks_in

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


def make_vbench(folder: Path, seed: int) -> None:
    (folder / "food.txt").write_text(f"a person eats {seed}\na cake\nan apple\n")
    (folder / "animal.txt").write_text("a cat\na dog\n")


def make_phygenbench(folder: Path, seed: int) -> None:
    laws = {"physical_laws": "gravity", "sub_category": "b", "main_category": "c"}
    (folder / "prompts.json").write_text(json.dumps([{"caption": f"a stone {seed + i}", **laws} for i in range(3)]))


def make_stevo(folder: Path, seed: int) -> None:
    (tasks_in(folder) / "image_implied" / "glass_curtain" / "note.txt").write_text(str(seed))


def use_stevo(folder: Path) -> object:
    return [(t.id, t.frame.name, t.video_prompt, t.camera_prompt, t.keys) for t in read_tasks(folder)]


KINDS = (
    FileKind("captions .csv", make_captions, use_captions, ("captions.csv",), {"*": ANY}, TEXT),
    FileKind("prompts .csv", make_prompts, use_prompts, blind={"*": ANY}, why_blind=TEXT),
    FileKind("VBench prompts", make_vbench, read_vbench, blind={"*": ANY | {"delete"}}, why_blind=TEXT),
    FileKind(
        "PhyGenBench prompts",
        make_phygenbench,
        lambda folder: read_phygenbench(folder / "prompts.json"),
        blind={"*": ANY - {"cut"}},
        why_blind=TEXT,
    ),
    FileKind("STEVO-Bench tasks", make_stevo, use_stevo, ("*.yaml",), {"*": ANY | {"delete", "empty"}}, TEXT),
    FileKind("poses .npz", make_poses, use_poses),
    FileKind(
        "poses .txt", partial(make_poses, suffix=".txt"), partial(use_poses, suffix=".txt"), ("*",), {"*": ANY}, TEXT
    ),
)
