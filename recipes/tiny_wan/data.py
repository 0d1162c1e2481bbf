"""Render the training clips of tiny-wan once, to one uint8 array on disk, with their captions beside it.

python -m recipes.tiny_wan.data --out runs/tiny-wan/laws --clips 4000 --seed 0
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from memkit.worlds.laws import IMAGE_SIZE, NUM_FRAMES, Law, sample_law


@dataclass(frozen=True)
class DataConfig:
    """Clip i of seed s is drawn from its own generator, so any part of the set can be made again alone."""

    out: Path = Path("runs/tiny-wan/laws")
    clips: int = 4000
    split: str = "train"
    seed: int = 0
    workers: int = 2


def draw(config: DataConfig, index: int) -> Law:
    """The law of clip ``index``."""
    return sample_law(random.Random(f"{config.split}/{config.seed}/{index}"), config.split)


def _frames(law: Law) -> np.ndarray:
    torch.set_num_threads(1)
    return law.video().numpy()


def main(config: DataConfig) -> None:
    """Write ``clips.npy`` [clips, frames, height, width, 3] and ``clips.jsonl``; the last rename makes it complete."""
    config.out.mkdir(parents=True, exist_ok=True)
    laws = [draw(config, i) for i in range(config.clips)]
    partial = config.out / "clips.partial.npy"
    shape = (config.clips, NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
    clips = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    with ProcessPoolExecutor(config.workers) as pool:
        for i, frames in enumerate(tqdm(pool.map(_frames, laws, chunksize=16), total=len(laws), desc="render")):
            clips[i] = frames
    clips.flush()
    rows = (json.dumps({"caption": law.caption, **asdict(law)}) for law in laws)
    (config.out / "clips.jsonl").write_text("\n".join(rows) + "\n")
    partial.rename(config.out / "clips.npy")


def load(folder: Path) -> tuple[np.ndarray, list[dict]]:
    """The memory-mapped clips and their rows."""
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    return np.load(folder / "clips.npy", mmap_mode="r"), rows


if __name__ == "__main__":
    main(tyro.cli(DataConfig))
