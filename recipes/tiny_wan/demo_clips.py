"""Render the clips of the demo: four falling bodies on each planet of the test split, and a first frame.

    python -m recipes.tiny_wan.demo_clips --out memkit/demo/clips

tiny-wan was not trained on these planets. The files have the model's own size, 64×64, so that no pixel is resampled
when the bank is built. h264 halves the resolution of colour; the visible loss is small (35 dB or more).
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from memkit.demo.falls import fall_on
from memkit.files.checksums import write_sums
from memkit.training import run_command
from memkit.video import write_video
from memkit.worlds import Event, sample_law
from memkit.worlds.constants import PLANETS
from memkit.worlds.event import FPS


@dataclass(frozen=True)
class DemoClipsConfig:
    """Settings of the clips."""

    out: Path = Path("memkit/demo/clips")
    """Folder of the files."""
    bodies: int = 4
    """Number of clips per planet."""
    seed: int = 0


def draw(config: DemoClipsConfig) -> dict[str, Event]:
    """The event of each clip by file name. Each clip has its own random generator. Small bodies become large ones."""
    events = {}
    for planet, gravity in PLANETS["test"].items():
        for i in range(config.bodies):
            event = sample_law(random.Random(f"demo/{config.seed}/{planet}/{i}"), "test", ("drop", "throw"))
            size = "large" if event.size == "small" else event.size  # type: ignore[attr-defined]
            event = replace(event, planet=planet, gravity=gravity, size=size)  # type: ignore[call-arg]
            events[f"{planet.lower()}-{i}.mp4"] = event
    return events


def start() -> UInt8[Tensor, "height width 3"]:
    """The first frame that the demo's prompts continue, on any planet."""
    return fall_on("Mira").video(1)[0]


def main(config: DemoClipsConfig) -> None:
    """Write the mp4 files, ``captions.csv`` beside them, ``start.png``, and the checksums of all."""
    config.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(start().numpy()).save(config.out / "start.png")
    laws = draw(config)
    with open(config.out / "captions.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("video", "caption", "source"))
        for name, law in laws.items():
            write_video(config.out / name, law.video(), FPS)
            rows.writerow((name, law.caption, Path(name).stem))
    write_sums(config.out)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(DemoClipsConfig)))
