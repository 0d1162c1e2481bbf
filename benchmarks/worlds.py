"""Rendering speed of the worlds: frames per second of each suite on one thread, and the gain of adaptive antialiasing.

    python -m benchmarks.worlds --out out/worlds.json

Clips are drawn as for training. Each is rendered normally, and with four rays for every pixel (at twice the size,
without antialiasing), in turns; the best of the rounds counts, in CPU seconds of the process, which are robust to other
load. The figure is the median over clips, with a bootstrap interval over clips.

Measured on one of two virtual AMD EPYC cores, idle, torch 2.15:

    suite          frames per second  four rays for every pixel take
    laws           593 [458, 610]     1.9 [1.8, 2.0] times as long
    interruptions  570 [411, 644]     2.1 [2.0, 2.2]
    rooms          310 [287, 335]     1.9 [1.8, 2.1]
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.common import best_of, report
from memkit.cameras import Cameras
from memkit.metrics import bootstrap
from memkit.worlds import Scene, render, sample_interruption, sample_law
from memkit.worlds.event import IMAGE_SIZE, NUM_FRAMES, camera, times
from memkit.worlds.rooms import sample_clip

Views = tuple[Scene, Cameras]


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    clips: int = 12
    rounds: int = 5
    size: int = IMAGE_SIZE
    threads: int = 1
    seed: int = 0
    out: Path = Path("out/worlds.json")


def law(rng: random.Random) -> Views:
    """A clip of the suite laws."""
    return sample_law(rng).scene(times()), camera()


def interruption(rng: random.Random) -> Views:
    """The interrupted part of a clip of the suite interruptions."""
    whole = sample_interruption(rng)
    seconds = times(start=1.0)
    return whole.scene(seconds), whole.cameras(seconds)


def room(rng: random.Random) -> Views:
    """A clip of the suite rooms."""
    clip = sample_clip(rng)
    return clip.scene(), clip.cameras()


def main(settings: Settings) -> None:
    """Time the suites and print the figures."""
    torch.set_num_threads(settings.threads)
    suites = {"laws": law, "interruptions": interruption, "rooms": room}
    size, figures = settings.size, {}
    for name, draw in suites.items():
        clips = [draw(random.Random(f"{name}/{settings.seed}/{i}")) for i in range(settings.clips)]
        adaptive = np.array([best_of(lambda c=c: render(*c, size, size), settings.rounds) for c in clips])
        everywhere = np.array(
            [best_of(lambda c=c: render(*c, 2 * size, 2 * size, antialias=False), settings.rounds) for c in clips]
        )
        fps = bootstrap(lambda s: float(np.median(NUM_FRAMES / s)), adaptive)
        saved = bootstrap(lambda s, e: float(np.median(e / s)), adaptive, everywhere)
        figures[name] = {
            "frames per second": round(fps.value, 1),
            "95 % interval": [round(fps.low, 1), round(fps.high, 1)],
            "time of four rays for every pixel / time": round(saved.value, 2),
            "its 95 % interval": [round(saved.low, 2), round(saved.high, 2)],
        }
    report({"suites": figures}, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
