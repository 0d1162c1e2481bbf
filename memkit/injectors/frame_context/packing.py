"""Packing of old frames into fewer tokens: which frames share a token, at which scale, and with which positions.

FramePack (arXiv 2504.12626) spends fewer tokens on a frame the older it is: at scale s one token stands for s latent
frames and s×s tokens of the grid, s³ in all. Its plan of 1 frame at scale 1, 2 at scale 2 and 16 at scale 4 is
((1, 1), (2, 2), (16, 4)). This file is the pure part; the convolutions that make such tokens are `FrameContext`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError

Packing = tuple[tuple[int, int], ...]
"""(latent frames, scale) from the newest frames to the oldest; empty is every frame at scale 1."""


@dataclass(frozen=True)
class Group:
    """Frames that share tokens: ``scale`` of them by index, in order; where there were too few, the first repeats."""

    scale: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The groups of a context, in the order of its frames, and how many frames the packing had no room for."""

    groups: tuple[Group, ...]
    left_out: int

    @property
    def kept(self) -> tuple[int, ...]:
        """The frames that are in a group, in their order."""
        return tuple(sorted({frame for group in self.groups for frame in group.frames}))

    def of_kept(self) -> Plan:
        """The same plan for the kept frames alone, which are then numbered 0…n−1."""
        number = {frame: i for i, frame in enumerate(self.kept)}
        return Plan(tuple(Group(g.scale, tuple(number[f] for f in g.frames)) for g in self.groups), 0)

    def runs(self) -> list[tuple[int, list[int]]]:
        """Neighbouring groups of one scale together: the scale and all their frames, repeats included."""
        runs = groupby(self.groups, key=lambda group: group.scale)
        return [(scale, [frame for group in run for frame in group.frames]) for scale, run in runs]

    def tokens(self, height: int, width: int) -> tuple[int, ...]:
        """How many tokens each group has where a frame has ``height``×``width``; edges count as full."""
        return tuple(-(-height // group.scale) * -(-width // group.scale) for group in self.groups)


def checked_packing(packing: Sequence[Sequence[int]]) -> Packing:
    """``packing`` as tuples of whole numbers.

    Raises:
        InputError: a level is not (frames, scale) with both at least 1 and frames a multiple of the scale.
    """
    for level in packing:
        whole = len(level) == 2 and all(type(number) is int and number > 0 for number in level)
        if not whole or level[0] % level[1]:
            raise InputError(f"packing has {level!r}; give (latent frames, scale), the frames a multiple of the scale.")
    return tuple((level[0], level[1]) for level in packing)


def plan_frames(frames: int, packing: Packing, keep_start: bool = False) -> Plan:
    """Deal ``frames`` frames to the levels of ``packing``, newest first; the last frame is the newest.

    A level deals what it gets to groups of ``scale`` frames, newest first too, and makes no more groups than that
    takes: only its oldest may not be full, and repeats its oldest frame. With ``keep_start`` the first frame is set
    aside, alone at scale 1. Frames older than all levels hold are left out. An empty packing keeps all, at scale 1.
    """
    start = 1 if keep_start and packing and frames else 0
    groups: list[Group] = []
    end = frames
    for count, scale in packing or ((frames, 1),):
        stop = max(start, end - count)
        while end > stop:
            first = max(stop, end - scale)
            found = tuple(range(first, end))
            groups.append(Group(scale, (first,) * (scale - len(found)) + found))
            end = first
    if start:
        groups.append(Group(1, (0,)))
    return Plan(tuple(reversed(groups)), end - start)


def fill_edges(x: Float[Tensor, "*any height width"], height: int, width: int) -> Float[Tensor, "*any high wide"]:
    """``x`` up to the next multiples of ``height`` and ``width``, by repetition of its last row and column."""
    for dim, multiple in ((-2, height), (-1, width)):
        size = x.shape[dim]
        if size % multiple:
            rows = torch.arange(-(-size // multiple) * multiple, device=x.device).clamp(max=size - 1)
            x = x.index_select(dim, rows)
    return x


def pool_frames(x: Float[Tensor, "batch kept *any"], plan: Plan) -> Float[Tensor, "batch groups *any"]:
    """The average of each group over its frames, a repeated one counted as often; ``x`` has the plan's frames alone."""
    return torch.cat([x[:, frames].unflatten(1, (-1, scale)).mean(dim=2) for scale, frames in plan.runs()], dim=1)


def pool_table(
    table: Float[Tensor, "1 cells 1 dim"], plan: Plan, height: int, width: int
) -> Float[Tensor, "1 tokens 1 dim"]:
    """A rotary table (cos, or sin) of packed tokens: the average over the cells that a token stands for (FramePack).

    ``table`` has a row for each cell of the plan's frames, ``height``×``width`` a frame. The average of angles that
    differ is shorter than 1, so a token that stands for much ground weighs less in attention. At scale 1 it is the
    table's own row, to the bit.
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
