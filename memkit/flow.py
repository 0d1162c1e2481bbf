"""Flow matching in Wan's convention: x_t = (1−σ)·x₀ + σ·ε, the model predicts ε − x₀, and timestep = 1000·σ."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import check_finite, check_floats, check_number, check_within
from memkit.errors import InputError

NUM_TRAIN_TIMESTEPS = 1000
SHIFTS = (1e-3, 1e3)
"""The range of flow shifts."""


def shift_sigma(u: Float[Tensor, "*batch"], shift: float) -> Float[Tensor, "*batch"]:
    """σ = s·u / (1 + (s−1)·u): noise levels in [0, 1], shifted towards 1 for s > 1 (Wan: 3 to 5; DiT-Mem: 5).

    Raises `InputError` for levels outside of [0, 1], and for a shift outside of `SHIFTS`.
    """
    check_within("u", u, 0, 1)
    check_number("shift", shift, *SHIFTS)
    return shift * u / (1 + (shift - 1) * u)


def add_noise(
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels frames height width"]:
    """x_t at one noise level σ in [0, 1] per sample.

    Raises `InputError` for a level outside of it, and for tensors that do not fit each other.
    """
    check_within("sigma", sigma, 0, 1, "[B]")
    check_finite("latents", latents, "[B, C, T, H, W]")
    check_finite("noise", noise, "[B, C, T, H, W]")
    _check_alike({"latents": latents, "noise": noise})
    if len(sigma) not in (1, len(latents)):
        raise InputError(f"There are {len(sigma)} noise levels for a batch of {len(latents)}; give one per sample.")
    sigma = sigma.view(-1, 1, 1, 1, 1).to(latents)
    return (1 - sigma) * latents + sigma * noise


def bell_weight(timestep: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Loss weight of the DiT-Mem release: exp(−2((t−500)/1000)²) minus its minimum, with mean 1 over its timesteps.

    ``timestep`` is t = 1000·σ in [0, 1000], after the shift. The weight is highest at t = 500 and almost 0 at pure
    noise. Raises `InputError` for timesteps outside of this range.
    """
    check_within("timestep", timestep, 0, NUM_TRAIN_TIMESTEPS)

    def bell(t: Tensor) -> Tensor:
        return torch.exp(-2 * ((t - NUM_TRAIN_TIMESTEPS / 2) / NUM_TRAIN_TIMESTEPS) ** 2)

    grid = release_timesteps(5.0).to(timestep.device)
    minimum = bell(grid).min()
    return (bell(timestep.float()) - minimum).clamp(min=0) / (bell(grid) - minimum).mean()


def release_timesteps(shift: float) -> Float[Tensor, "1000"]:
    """The 1000 training timesteps of the release, in descending order: u = 1, 0.999, …, 0.001, then shifted."""
    u = torch.linspace(1, 0, NUM_TRAIN_TIMESTEPS + 1)[:-1]
    return NUM_TRAIN_TIMESTEPS * shift_sigma(u, shift)


def flow_loss(
    prediction: Float[Tensor, "batch channels frames height width"],
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
) -> Float[Tensor, " batch"]:
    """Mean squared error against ε − x₀ per sample, in fp32. Raises `InputError` for tensors of different shapes."""
    _check_alike({"prediction": prediction, "latents": latents, "noise": noise})
    return (prediction.float() - (noise - latents).float()).pow(2).flatten(1).mean(1)


def _check_alike(tensors: dict[str, Tensor]) -> None:
    """Raises `InputError` unless all are latents of one shape; values are not looked at, as these are in a model."""
    for name, x in tensors.items():
        check_floats(name, x, "[B, C, T, H, W]")
    if len({x.shape for x in tensors.values()}) > 1:
        raise InputError(f"{', '.join(f'{name} {list(x.shape)}' for name, x in tensors.items())}; give one shape.")
