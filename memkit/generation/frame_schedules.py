"""Schedules in which each latent frame has a noise level of its own: for sampling, and as draws for training.

For sampling, a table of whole numbers [rounds + 1, frames] says how many of N steps each frame has taken before each
round, from 0 (noise) to N (clean); `FrameSampler.run` takes it. A draw for training is a noise level per frame, a whole
number from 0 (the least noise) to ``levels`` - 1. All raise `InputError` for numbers out of range.

Sampling of AR-Diffusion (arXiv 2503.07418: AD), FVDM (arXiv 2410.03160), FIFO-Diffusion (arXiv 2405.11473) and
StreamDiT (arXiv 2507.03745); training of AR-Diffusion (FoPP), FVDM and StreamDiT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from memkit.checks import MOST_FRAMES, MOST_STEPS, check_list, check_number, check_whole
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS

Schedule = Int[Tensor, "rounds frames"]
Levels = Int[Tensor, " frames"]


def synchronous(frames: int, steps: int, given: Sequence[int] = ()) -> Schedule:
    """All frames take every step together; those at the indices ``given`` are clean from the start (FVDM)."""
    _check(frames=frames, steps=steps)
    table = torch.arange(steps + 1)[:, None].repeat(1, frames)
    for frame in check_list("given", given, "indices of frames"):
        check_whole("A given frame", frame, 0, frames - 1)
        table[:, frame] = steps
    return table


def lagged(frames: int, steps: int, lag: int) -> Schedule:
    """Each frame ``lag`` steps behind the one before it until that is clean: 0 is synchronous, N is frame by frame.

    The rule of AD sampling, and of ``ar_step`` in diffusers' SkyReels-V2: a frame takes a step in each round once it is
    the first or the one before it is clean; otherwise it is at the step of the one before, less the lag.
    """
    _check(frames=frames, steps=steps)
    check_whole("lag", lag, 0, steps)
    rows = [[0] * frames]
    while min(before := rows[-1]) < steps:
        row: list[int] = []
        for i in range(frames):
            free = i == 0 or before[i - 1] >= steps
            row.append(min(max(before[i] + 1 if free else row[i - 1] - lag, 0), steps))
        rows.append(row)
    return torch.tensor(rows)


def staircase(chunks: int, frames: int, steps: int) -> Levels:
    """The steps that each frame of a queue has taken when a round begins: the head has ``steps`` / ``chunks`` to go.

    A queue has ``chunks`` chunks of so many ``frames``, each ``steps`` / ``chunks`` steps behind the one before it.
    FIFO's queue has one frame per chunk, and as many chunks as steps; StreamDiT's has chunks of several frames.
    """
    _check(chunks=chunks, frames=frames, steps=steps)
    if steps % chunks:
        raise InputError(f"{steps} steps do not divide into {chunks} chunks; give a multiple of them.")
    return (torch.arange(chunks - 1, -1, -1) * (steps // chunks)).repeat_interleave(frames)


def draw_monotone(frames: int, levels: int, generator: torch.Generator | None = None) -> Levels:
    """Levels that never decrease from frame to frame: the frame-oriented probability propagation of AR-Diffusion.

    One frame and its level are drawn uniformly; then, outwards from it, each next level with a weight of the number of
    ways in which the remaining frames can go on.
    """
    _check(frames=frames, levels=levels)
    ways = torch.ones(frames, levels, dtype=torch.float64)  # [r, t]: of r more frames at level t or noisier
    for r in range(1, frames):
        ways[r] = ways[r - 1].flip(0).cumsum(0).flip(0)
    start = int(torch.randint(frames, (), generator=generator))
    drawn = torch.zeros(frames, dtype=torch.long)
    drawn[start] = torch.randint(levels, (), generator=generator)
    for f in range(start + 1, frames):
        least = int(drawn[f - 1])
        drawn[f] = least + torch.multinomial(ways[frames - 1 - f, least:], 1, generator=generator)[0]
    for f in range(start - 1, -1, -1):  # the mirror image: levels count down from the noisiest
        most = int(drawn[f + 1])
        drawn[f] = torch.multinomial(ways[f].flip(0)[: most + 1], 1, generator=generator)[0]
    return drawn


def draw_independent(frames: int, levels: int, p: float = 0.2, generator: torch.Generator | None = None) -> Levels:
    """With probability ``p`` a level per frame, else one for all (FVDM's probabilistic timesteps, p = 0.2)."""
    _check(frames=frames, levels=levels)
    check_number("p", p, 0, 1)
    count = frames if float(torch.rand((), generator=generator)) < p else 1
    return torch.randint(levels, (count,), generator=generator).expand(frames).clone()


def draw_partitions(chunks: int, frames: int, levels: int, generator: torch.Generator | None = None) -> Levels:
    """Chunk i of a queue at a level from [i·levels/chunks, (i + 1)·levels/chunks): the training of StreamDiT."""
    _check(chunks=chunks, frames=frames, levels=levels)
    if levels < chunks:
        raise InputError(f"{levels} noise levels for {chunks} chunks; give one per chunk or more.")
    edges = [i * levels // chunks for i in range(chunks + 1)]
    drawn = [torch.randint(a, b, (), generator=generator) for a, b in zip(edges, edges[1:], strict=False)]
    return torch.stack(drawn).repeat_interleave(frames)


def _check(**numbers: int) -> None:
    most = {"frames": MOST_FRAMES, "chunks": MOST_FRAMES, "steps": MOST_STEPS, "levels": NUM_TRAIN_TIMESTEPS}
    for name, number in numbers.items():
        check_whole(name, number, 1, most[name])
