"""`noisy_selection`: context frames that are each noised at a level of their own (DFoT, arXiv 2502.06764)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import check_within, seed_list
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.rollout.frames import Selection


def noisy_selection(
    selection: Selection, seeds: int | Sequence[int], sigmas: Float[Tensor, " levels"]
) -> tuple[Selection, Float[Tensor, "batch k"]]:
    """Selected frames, each at a noise level drawn from ``sigmas``, and their timesteps.

    Each sample has a seed of its own, on which alone its levels and noise depend.

    Raises `InputError` for levels outside of [0, 1] or none, and for another number of seeds.
    """
    check_within("sigmas", sigmas, 0, 1, "[levels]")
    seeds = seed_list("seeds", seeds)
    if not len(sigmas) or len(seeds) != len(selection.latents):
        raise InputError(
            f"{len(sigmas)} levels and {len(seeds)} seeds for {len(selection.latents)} samples; give at least one "
            "level, and one seed per sample."
        )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    count, some = selection.latents.shape[2], sigmas.new_ones(len(sigmas))
    levels = [torch.multinomial(some, count, replacement=True, generator=each) for each in generators]
    noise = torch.stack([torch.randn(selection.latents.shape[1:], generator=each) for each in generators])
    sigma = sigmas[torch.stack(levels)]
    share = sigma[:, None, :, None, None].to(selection.latents)
    mixed = (1 - share) * selection.latents + share * noise.to(selection.latents)
    return selection._replace(latents=mixed), NUM_TRAIN_TIMESTEPS * sigma
