"""`Occlusion`: many past frames overlap the view, and few of them saw what is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError
from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.patterns import (
    FIELD_OF_VIEW,
    codebook,
    empty,
    fixed_patterns,
    headings,
    in_order,
    joined,
    looking,
    no_text,
    pick,
    shuffled,
    then_as_before,
)
from memkit.probes.probe import Probe, ProbeKnobs, Range

FAR, NEAR = 8.0, 0.7
"""Metres from the centre to a place, and from a camera to the wall before it."""
SPACING = 1.0
"""Metres between the cameras that look at a place, which stand side by side. A wall that hides the view of one, 0.38 m
wide, reaches into that of no other, nor into that of the chunk's camera, half as far away at least."""


@dataclass(frozen=True)
class OcclusionKnobs(ProbeKnobs):
    """How many frames overlap the view, and how many of them show a wall."""

    places: int = 2
    """Places around the camera, all of which the chunk asks for, one per frame: the load."""
    views: int = 4
    """Past frames whose view overlaps each place's."""
    walls: int = 3
    """How many of these look at a wall instead, whose picture misleads; 0 is the probe without walls."""
    distance: int = 0
    """Empty frames after the last view, in which the camera looks between two places."""
    depth: bool = False
    """Whether the depth of the past frames is given."""
    patterns: int = 8
    """Patterns of each sample's codebook: chance is one in so many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.walls < self.views or self.places < 1 or self.distance < 0 or self.patterns < 2:
            raise InputError(
                f"{self}: give 0 ≤ walls < views, 1 place and 2 patterns or more, and no distance below 0."
            )

    @property
    def misleading(self) -> float:
        """Share of the frames in view that mislead."""
        return self.walls / self.views

    def found_by_view(self, k: int) -> float:
        """Probability that of the ``k`` frames of most overlap with a place, one or more saw it.

        Which cameras have a wall before them is drawn independently of where they stand, so whatever order of the
        views a rule of poses prefers, it is 1 − C(walls, k) / C(views, k). Without walls it is 1.
        """
        k = min(k, self.views)
        return 1 - math.comb(self.walls, k) / math.comb(self.views, k)


class Occlusion(Probe[OcclusionKnobs]):
    """Cameras stand side by side and look at the same place; walls right before some of them show other patterns.

    What shows a wall has the look of walls, one fixed pattern, added to its picture. So content tells which frame saw
    the place, and poses do not.
    """

    name = "occlusion"
    default_ranges = {"walls": Range((0, 1, 2, 3), (0, 1, 2, 3))}
    knobs_class = OcclusionKnobs
    pretrain_steps = 600

    @property
    def chance(self) -> float:
        return 1 / self.knobs.patterns

    @property
    def past(self) -> int:
        return self.knobs.places * self.knobs.views + self.knobs.distance

    @property
    def frames(self) -> int:
        return self.knobs.places

    @property
    def wall(self) -> Float[Tensor, "1 channels size size"]:
        """The look of walls."""
        return fixed_patterns(1, self.knobs.size)

    def sample(self, generator: torch.Generator, batch: int) -> ProbeBatch:
        knobs, places, views = self.knobs, self.knobs.places, self.knobs.places * self.knobs.views
        patterns = codebook(generator, batch, knobs.patterns, knobs.size, self.wall)
        yaw = headings(generator, batch, places)
        answers = torch.randint(knobs.patterns, (batch, places), generator=generator)
        place = torch.arange(places).repeat_interleave(knobs.views)
        behind = torch.cat([shuffled(generator, batch, knobs.views) < knobs.walls for _ in range(places)], dim=1)
        others = answers[:, place] + torch.randint(1, knobs.patterns, (batch, views), generator=generator)
        shown = pick(patterns, torch.where(behind, others % knobs.patterns, answers[:, place]))
        shown = shown + behind[:, None, :, None, None] * self.wall.movedim(0, 1)
        metres = torch.where(behind, NEAR, FAR)[:, None, :, None, None].expand(-1, -1, -1, *self.shape[1:])
        beyond = torch.full((batch, 1, knobs.distance, *self.shape[1:]), torch.inf)
        frames, cameras = in_order(
            then_as_before(shuffled(generator, batch, views), self.past),
            torch.cat(
                [
                    torch.cat([shown, empty(batch, knobs.distance, knobs.size)], dim=2),
                    torch.cat([metres, beyond], dim=2),
                ],
                dim=1,
            ),
            joined(side_by_side(yaw, knobs.views), _between(yaw, knobs.distance)),
        )
        asked = shuffled(generator, batch, places)
        answers = answers.gather(1, asked)
        return ProbeBatch(
            memory=frames[:, :-1],
            memory_cameras=cameras,
            memory_times=tuple(range(self.past)),
            target=pick(patterns, answers),
            cameras=looking(yaw.gather(1, asked)),
            times=tuple(range(self.past, self.past + self.frames)),
            text=no_text(batch),
            questions=tuple(Question("place", i, patterns, answers[:, i], self.chance) for i in range(self.frames)),
            depth=frames[:, -1] if knobs.depth else None,
        )

    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """For each frame of the chunk, the mean of the past frames that look at the same place and show no wall."""
        ahead = batch.memory_cameras.c2w[..., :3, 2] @ batch.cameras.c2w[..., :3, 2].mT
        pictures = batch.memory.movedim(2, 1)
        walls = (pictures.flatten(2) @ self.wall.flatten()) / self.wall.square().sum() > 0.5
        empties = pictures.flatten(2).square().mean(2) < 0.1
        turned = math.cos(math.atan(2 * self.knobs.views * SPACING / FAR))
        seen = ((ahead > turned) & ~(walls | empties)[..., None]).to(pictures)
        seen = seen / seen.sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bnf,bnchw->bcfhw", seen, pictures)


def side_by_side(yaw: Float[Tensor, "batch places"], views: int) -> Cameras:
    """Cameras [batch, places · views] that look at the place in each direction, none of them from the centre."""
    side = torch.tensor([(i // 2 + 0.5) * SPACING * (-1) ** i for i in range(views)], dtype=torch.float64)
    yaw = yaw.double()[..., None]
    ahead = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1)
    beside = torch.stack([-yaw.sin(), yaw.cos(), torch.zeros_like(yaw)], dim=-1)
    eyes = side[:, None] * beside
    return Cameras.look_at(eyes.flatten(1, 2), (FAR * ahead).expand_as(eyes).flatten(1, 2), FIELD_OF_VIEW)


def _between(yaw: Float[Tensor, "batch places"], frames: int) -> Cameras:
    """Cameras at the centre that look between two places."""
    return looking((yaw[:, :1] + torch.pi / yaw.shape[1]).expand(-1, frames))
