"""The falls of the demo: a body on planets that only memory shows, without memory, with right and with wrong clips.

Every prompt continues the same first frame from the same seeds, so that nothing but memory differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.demo.figures import Fall
from memkit.metrics.states import measure_state
from memkit.video.frames import read_clip, write_video
from memkit.worlds.constants import MATERIALS, PLANETS
from memkit.worlds.event import times
from memkit.worlds.motion import bounce_height
from memkit.worlds.solids import Drop

Condition = Literal["without", "right", "wrong"]
CONDITIONS: tuple[Condition, ...] = ("without", "right", "wrong")
WRONG = {"Mira": "Sol", "Nova": "Rhea", "Odin": "Mira", "Pax": "Nova", "Rhea": "Pax", "Sol": "Odin"}
"""The planets of the bank, each with the one whose clips are wrong for it."""


def fall_on(planet: str) -> Drop:
    """The fall that a prompt of the demo describes: a ball, two metres above a meadow."""
    material = MATERIALS["test"]["ivorine"]
    return Drop(
        colour="red",
        place="in a meadow",
        size="large",
        shape="ball",
        material="ivorine",
        planet=planet,
        gravity=PLANETS["test"][planet],
        restitution=material.restitution,
        friction=material.friction,
        x=0.0,
        height=2.0,
    )


class Falls:
    """Measures the falls of the demo and keeps their videos: one mp4 per planet and condition, with a tile per seed.

    Each fall is measured in its file, so that the figures can be computed again from the files.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], fps: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seeds, self.fps = folder, seeds, fps
        self._heights: dict[tuple[str, Condition], list[Tensor]] = {}

    def add(self, planet: str, condition: Condition, videos: UInt8[Tensor, "seeds frames height width 3"]) -> None:
        """Measure the videos of a planet's prompt, one per seed."""
        file = self.folder / f"{planet.lower()}-{condition}.mp4"
        write_video(file, tiled(videos), self.fps)
        tiles = untiled(read_clip(file, self.fps, videos.shape[1]), len(videos))
        with ThreadPoolExecutor(max_workers=2) as pool:
            states = pool.map(lambda tile: measure_state(tile, fall_on(planet)), tiles)
            self._heights[planet, condition] = [state["z"] for state in states]

    def rows(self) -> list[Fall]:
        """One row per planet and seed, when all conditions have been added."""
        planets = dict.fromkeys(planet for planet, _ in self._heights)
        return [self._row(planet, i) for planet in planets for i in range(len(self.seeds))]

    def _row(self, planet: str, place: int) -> Fall:
        event = fall_on(planet)
        mine = {condition: self._heights[planet, condition][place] for condition in CONDITIONS}
        true = event.state(times(len(mine["right"]), self.fps))["z"]
        return Fall(
            planet=planet,
            seed=self.seeds[place],
            truth=PLANETS["test"][planet],
            wrong_planet=WRONG[planet],
            wrong_truth=PLANETS["test"][WRONG[planet]],
            **{condition: _known(fit_gravity(height, event, self.fps)) for condition, height in mine.items()},
            heights={name: [_known(z) for z in height.tolist()] for name, height in {"truth": true, **mine}.items()},
        )


def tiled(videos: UInt8[Tensor, "seeds frames height width 3"]) -> UInt8[Tensor, "frames high wide 3"]:
    """The videos side by side, row by row in a square, one picture per frame; tiles that are left over are black."""
    side = math.ceil(len(videos) ** 0.5)
    rest = videos.new_zeros(side * side - len(videos), *videos.shape[1:])
    return rearrange(torch.cat([videos, rest]), "(a b) t h w c -> t (a h) (b w) c", a=side)


def untiled(frames: UInt8[Tensor, "frames high wide 3"], count: int) -> UInt8[Tensor, "seeds frames height width 3"]:
    """The first ``count`` videos of `tiled`."""
    side = math.ceil(count**0.5)
    return rearrange(frames, "t (a h) (b w) c -> (a b) t h w c", a=side, b=side)[:count]


def fit_gravity(height: Float[Tensor, " frames"], event: Drop, fps: float) -> float:
    """Gravity in m/s² of the fall from the event's start that is nearest to heights of the body's centre.

    Gravity and restitution are searched on a grid, and again on a finer one. NaN if the body is seen in less than two
    thirds of the frames, or if no fall is near its path.
    """
    seen = ~height.isnan()
    if seen.double().mean() < 2 / 3:
        return math.nan
    seconds, bottom = times(len(height), fps)[seen], height[seen].double() - event.half
    gravity, restitution = torch.linspace(0.5, 25.0, 99), torch.linspace(0.0, 0.95, 20)
    best, residual = torch.zeros(2), math.inf
    for _ in range(2):
        grid = torch.cartesian_prod(gravity.double(), restitution.double())
        off = (bounce_height(seconds, event.height, grid[:, :1], grid[:, 1:]) - bottom).abs().mean(-1)
        best, residual = grid[off.argmin()], off.min().item()
        gravity = best[0] + torch.linspace(-0.25, 0.25, 51)
        restitution = (best[1] + torch.linspace(-0.05, 0.05, 11)).clamp(0, 0.95)
    return best[0].item() if residual < FAR else math.nan


FAR = 0.3
"""Mean distance in metres beyond which a path is no fall; that of `memkit.metrics.laws`."""


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
