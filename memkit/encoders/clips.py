"""Shared parts of the encoders that encode each clip separately: checks, masks, patches and position embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.checks import check_finite, check_floats
from memkit.errors import InputError
from memkit.memory import Memory

PATCHES = (1, 1000)
"""The range of strides and patch sizes."""
POSITION_BASE = 100.0  # wavelengths of 6 to 600 tokens: grids are small


def check_clips(latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None, latent_channels: int) -> None:
    """Raise `InputError` unless latents are [B, N, latent_channels, T, H, W], not empty, the mask bool [B, N], and the
    latents of real clips finite."""
    check_floats("Latents", latents)
    shape = tuple(latents.shape)
    if len(shape) == 5:
        raise InputError(
            f"Latents {shape} are one clip per sample; give [B, N, C, T, H, W], which is latents[:, None] for N=1."
        )
    if len(shape) != 6 or 0 in shape:
        raise InputError(
            f"Latents {shape} are not [B, N, C, T, H, W] with sizes of 1 or more; without clips, attach no memory."
        )
    if shape[2] != latent_channels:
        raise InputError(
            f"Latents {shape} have {shape[2]} channels, this encoder takes {latent_channels}; "
            f"encode the clips with the VAE of the backbone, or use an encoder for that backbone."
        )
    if mask is not None and (mask.shape != latents.shape[:2] or mask.dtype != torch.bool):
        raise InputError(f"mask is {mask.dtype} {tuple(mask.shape)}; give torch.bool {shape[:2]}, True for real clips.")
    check_finite("Latents [B, N, C, T, H, W]", latents, "", None if mask is None else ~mask)


def encode_clips(
    encode: Callable[..., Tensor],
    dtype: torch.dtype,
    mask: Bool[Tensor, "batch clips"] | None,
    *latents: Float[Tensor, "batch clips channels time height width"],
) -> Memory:
    """Memory with the tokens of ``encode``, which maps clips [V, C, T, H, W], one tensor per argument, to [V, M, D].

    Tokens are ordered by clip. Masked clips are never read; their tokens are zero, with a False mask.
    """
    clips = [x.to(dtype) for x in latents]
    if mask is not None:
        clips = [x.masked_fill(~mask[:, :, None, None, None, None], 0) for x in clips]
    tokens = encode(*(rearrange(x, "b n c t h w -> (b n) c t h w") for x in clips))
    return memory_of_clips(rearrange(tokens, "(b n) m d -> b n m d", n=clips[0].shape[1]), mask)


def memory_of_clips(
    tokens: Float[Tensor, "batch clips memory dim"], mask: Bool[Tensor, "batch clips"] | None
) -> Memory:
    """Memory of the tokens of each clip; those of masked clips are zero."""
    if mask is not None:
        tokens = tokens.masked_fill(~mask[:, :, None, None], 0)
        mask = repeat(mask, "b n -> b (n m)", m=tokens.shape[2])
    return Memory(rearrange(tokens, "b n m d -> b (n m) d"), mask)


def whole_patches(
    x: Float[Tensor, "clips channels time height width"], patch: tuple[int, int, int]
) -> Float[Tensor, "clips channels time2 height2 width2"]:
    """Pad each axis to a multiple of the patch size by repeating its last cell."""
    for axis, size in zip((2, 3, 4), patch, strict=True):
        if missing := -x.shape[axis] % size:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, *[last] * missing], dim=axis)  # unlike F.pad, deterministic backwards on every device
    return x


def positions(time: int, height: int, width: int, dim: int) -> Float[Tensor, "{time} {height} {width} {dim}"]:
    """Sinusoidal position embeddings of time, height and width in a third of the channels each; the rest are 0."""
    count = max(1, dim // 6)
    rates = POSITION_BASE ** (-torch.arange(count, dtype=torch.float64) / count)
    embedding = torch.zeros(time, height, width, 6 * count)
    for axis, size in enumerate((time, height, width)):
        angles = torch.arange(size)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [1, 1, 1, 2 * count]
        shape[axis] = size
        embedding[..., 2 * count * axis : 2 * count * (axis + 1)] = waves.reshape(shape)
    return nn.functional.pad(embedding, (0, dim - 6 * count))


def unit_linear(inputs: int, outputs: int) -> nn.Linear:
    """Linear layer that preserves unit variance: blocks normalise tokens anyway, and gradients keep their scale."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=inputs**-0.5)
    nn.init.zeros_(linear.bias)
    return linear
