"""Packing of older frames into fewer tokens: which frames share tokens, at which scale, and with which positions.

FramePack (arXiv 2504.12626) uses fewer tokens per frame for older frames: at scale s, one token stands for s latent
frames and s×s patches of the grid, s³ in total. Its plan of 1 frame at scale 1, 2 frames at scale 2 and 16 frames at
scale 4 is ((1, 1), (2, 2), (16, 4)). The convolutions that compute the packed tokens are in `FrameContext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_list, check_whole
from memkit.errors import InputError

Packing = tuple[tuple[int, int], ...]
"""(latent frames, scale) per level, from the newest frames to the oldest; empty for all frames at scale 1."""

MOST_PACKED = 10_000
"""The largest number of frames, and the largest scale, of a level."""


@dataclass(frozen=True)
class Group:
    """Indices of ``scale`` frames that share tokens, in order; the first is repeated if there were too few."""

    scale: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The groups of a context, in the order of its frames, and the number of frames beyond the packing's capacity."""

    groups: tuple[Group, ...]
    left_out: int

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the frames that belong to a group, in ascending order."""
        return tuple(sorted({frame for group in self.groups for frame in group.frames}))

    def of_kept(self) -> Plan:
        """The same plan with the kept frames renumbered 0…n−1."""
        number = {frame: i for i, frame in enumerate(self.kept)}
        return Plan(tuple(Group(g.scale, tuple(number[f] for f in g.frames)) for g in self.groups), 0)

    def runs(self) -> list[tuple[int, list[int]]]:
        """Consecutive groups of the same scale, merged: the scale and all their frames, including repeated ones."""
        runs = groupby(self.groups, key=lambda group: group.scale)
        return [(scale, [frame for group in run for frame in group.frames]) for scale, run in runs]

    def tokens(self, height: int, width: int) -> tuple[int, ...]:
        """Number of tokens of each group for frames of ``height``×``width`` tokens, rounded up at the edges."""
        return tuple(-(-height // group.scale) * -(-width // group.scale) for group in self.groups)


def checked_packing(packing: Sequence[Sequence[int]]) -> Packing:
    """``packing`` as tuples of ints.

    Raises:
        InputError: a level is not (frames, scale) with whole numbers of 1 or more, frames being a multiple of scale.
    """
    for level in check_list("packing", packing, "levels (latent frames, scale)"):
        whole = isinstance(level, tuple | list) and len(level) == 2
        whole = whole and all(type(number) is int and 0 < number <= MOST_PACKED for number in level)
        if not whole or level[0] % level[1]:
            raise InputError(
                f"packing has {level!r}; give (latent frames, scale), with frames a multiple of the scale."
            )
    return tuple((level[0], level[1]) for level in packing)


def plan_frames(frames: int, packing: Packing, keep_start: bool = False) -> Plan:
    """Assign ``frames`` frames to the levels of ``packing``, newest first; the last frame is the newest.

    Each level splits its frames into groups of ``scale`` frames, again newest first; if its oldest group is incomplete,
    the oldest frame is repeated. With ``keep_start``, the first frame is a group of its own at scale 1. Frames beyond
    the capacity of all levels are left out. An empty packing keeps all frames at scale 1.

    Raises `InputError` for less than no frames, and as `checked_packing` does.
    """
    check_whole("frames", frames, 0, MOST_FRAMES)
    packing = checked_packing(packing)
    start = 1 if keep_start and packing and frames else 0
    groups: list[Group] = []
    end = frames
    for count, scale in packing or ((frames, 1),):
        stop = max(start, end - count)
        while end > stop:
            first = max(stop, end - scale)
            members = tuple(range(first, end))
            groups.append(Group(scale, (first,) * (scale - len(members)) + members))
            end = first
    if start:
        groups.append(Group(1, (0,)))
    return Plan(tuple(reversed(groups)), end - start)


def fill_edges(x: Float[Tensor, "*any height width"], height: int, width: int) -> Float[Tensor, "*any high wide"]:
    """Pad ``x`` to the next multiples of ``height`` and ``width`` by repeating its last row and column."""
    for dim, multiple in ((-2, height), (-1, width)):
        size = x.shape[dim]
        if size % multiple:
            rows = torch.arange(-(-size // multiple) * multiple, device=x.device).clamp(max=size - 1)
            x = x.index_select(dim, rows)
    return x


def pool_frames(x: Float[Tensor, "batch kept *any"], plan: Plan) -> Float[Tensor, "batch groups *any"]:
    """Average over the frames of each group, counting repeated frames each time; ``x`` has only the kept frames."""
    return torch.cat([x[:, frames].unflatten(1, (-1, scale)).mean(dim=2) for scale, frames in plan.runs()], dim=1)


def pool_table(
    table: Float[Tensor, "1 cells 1 dim"], plan: Plan, height: int, width: int
) -> Float[Tensor, "1 tokens 1 dim"]:
    """Rotary table (cos or sin) of packed tokens: the average over the cells that a token stands for (FramePack).

    ``table`` has one row per cell of the kept frames, ``height``×``width`` per frame. The average of different angles
    is shorter than 1, so a token that stands for a large region gets lower logits. At scale 1, it is exactly the row
    of the table.
    """
    cells = table[0, :, 0].unflatten(0, (-1, height, width))
    parts = []
    for scale, frames in plan.runs():
        part = cells[frames]
        if scale > 1:
            part = fill_edges(part.movedim(-1, 0), scale, scale)
            for dim in (3, 2, 1):
                part = part.unflatten(dim, (-1, scale))
            part = part.mean(dim=(2, 4, 6)).movedim(0, -1)
        parts.append(part.flatten(0, 2))
    return torch.cat(parts)[None, :, None]
