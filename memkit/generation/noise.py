"""Noise that follows from a video's seed and a frame's position alone: there is no generator state to keep or save.

Both engines for long videos draw by this rule, `Stream` and `Rollout`: no noise repeats within a video, and a chunk can
be generated again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST, check_list, check_room, check_text, check_whole, seed_list
from memkit.errors import InputError


def frame_noise(
    seeds: int | Sequence[int], kind: str, positions: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "videos channels frames height width"]:
    """Normal noise on the CPU, of ``shape`` [C,H,W] per frame: one video per seed, one frame per position. One
    number is one seed.

    ``kind`` names the purpose; each kind has its own noise.

    Raises `InputError` without seeds or positions, for ones that are no whole numbers, and for a shape that is none or
    noise that exceeds the memory of this machine.
    """
    seeds = seed_list("seeds", seeds)
    check_text("kind", kind)
    sides = check_list("shape", shape, "channels, height and width")
    for size in sides:
        check_whole("A size of noise", size, 1)
    if not len(seeds) or not len(positions) or len(sides) != 3:
        raise InputError(f"Noise needs seeds, positions and [C, H, W], not {len(seeds)}, {len(positions)}, {sides}.")
    nbytes = 4 * len(seeds) * len(positions) * math.prod(sides)
    check_room(f"Noise for {len(positions):,} frames of {len(seeds):,} videos", nbytes)
    if not isinstance(positions, range):  # whose numbers are whole
        for position in positions:
            check_whole("A position", position, -MOST)
    return torch.stack([torch.stack([_draw(f"{seed} {kind} {p}", shape) for p in positions], dim=1) for seed in seeds])


def permuted_noise(
    template: Float[Tensor, "videos channels frames height width"],
    frames: int,
    block: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "videos channels {frames} height width"]:
    """Noise of ``frames`` frames in blocks that share their noise, in other orders (DualParal, arXiv 2505.21070).

    The ``template`` is ``block`` frames after some others. Each further template begins with as many frames as those
    others, the last of the one before, and goes on with the rest of it in a random order; a block takes its end.

    Raises `InputError` for a template that is shorter than a block, or longer than two.
    """
    check_whole("frames", frames, 1)
    check_whole("block", block, 1)
    kept = template.shape[2] - block
    if not 0 <= kept <= block:
        raise InputError(
            f"A template of {template.shape[2]} frames for blocks of {block}; give {block} to {2 * block}."
        )
    blocks = [template[:, :, kept:]]
    while len(blocks) * block < frames:
        order = torch.randperm(block, generator=generator)
        template = torch.cat([template[:, :, block:], template[:, :, :block][:, :, order]], dim=2)
        blocks.append(template[:, :, kept:])
    return torch.cat(blocks, dim=2)[:, :, :frames]


def seeded_generators(seeds: int | Sequence[int]) -> list[torch.Generator]:
    """One generator per seed (one number is one seed), on the CPU whatever the device of the model.

    Raises `InputError` for seeds that are no whole numbers from −2⁶³ to 2⁶⁴ − 1.
    """
    return [torch.Generator().manual_seed(seed) for seed in seed_list("seeds", seeds)]


def _draw(name: str, shape: tuple[int, int, int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
