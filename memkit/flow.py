"""Flow matching as Wan uses it: x_t = (1−σ)·x₀ + σ·ε, the model predicts ε − x₀, timestep = 1000·σ."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000


def shift_sigma(u: Float[Tensor, "*batch"], shift: float) -> Float[Tensor, "*batch"]:
    """σ = s·u / (1 + (s−1)·u): noise levels in [0, 1] moved towards 1 for s > 1 (Wan: 3 to 5; DiT-Mem: 5)."""
    return shift * u / (1 + (shift - 1) * u)


def add_noise(
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels frames height width"]:
    """x_t at one noise level per sample."""
    sigma = sigma.view(-1, 1, 1, 1, 1).to(latents)
    return (1 - sigma) * latents + sigma * noise


def bell_weight(timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Loss weight of the DiT-Mem release: exp(−2((t−500)/1000)²) minus its minimum, with mean 1 over its timesteps.

    ``timestep`` is t = 1000·σ in [0, 1000], after the shift. The middle has the largest weight, pure noise almost none.
    """

    def bell(t: Tensor) -> Tensor:
        return torch.exp(-2 * ((t - NUM_TRAIN_TIMESTEPS / 2) / NUM_TRAIN_TIMESTEPS) ** 2)

    grid = release_timesteps(5.0).to(timestep.device)
    least = bell(grid).min()
    return (bell(timestep.float()) - least).clamp(min=0) / (bell(grid) - least).mean()


def release_timesteps(shift: float) -> Float[Tensor, "1000"]:
    """The 1000 timesteps of the release's training grid, descending: u from 1 down, shifted."""
    u = torch.linspace(1, 0, NUM_TRAIN_TIMESTEPS + 1)[:-1]
    return NUM_TRAIN_TIMESTEPS * shift_sigma(u, shift)


def flow_loss(
    prediction: Float[Tensor, "batch channels frames height width"],
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of each sample against ε − x₀, in fp32."""
    return (prediction.float() - (noise - latents).float()).pow(2).flatten(1).mean(1)
