"""Context frames of an `EchoMemory`: pooled into fewer latents, and their tokens reweighed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memkit.injectors.echo_memory.config import EchoConfig


def pack(
    latents: Float[Tensor, "batch channels k height width"], poses: Float[Tensor, "rows k 12"], config: EchoConfig
) -> tuple[Float[Tensor, "batch channels groups height width"], Float[Tensor, "rows groups 12"]]:
    """Groups of ``config.pack`` frames, the oldest first unless ``newest_first``; the last frame fills the last group.

    A group becomes the mean of its latents mixed with coarser means of it, and the mean of its poses.
    """
    if config.pack == 1:
        return latents, poses
    if config.newest_first:
        latents, poses = latents.flip(2), poses.flip(1)
    missing = -latents.shape[2] % config.pack
    latents = torch.cat([latents, latents[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    poses = torch.cat([poses, poses[:, -1:].expand(-1, missing, -1)], dim=1)
    mean = latents.unflatten(2, (-1, config.pack)).mean(3)
    return _mixed(mean, config), poses.unflatten(1, (-1, config.pack)).mean(2)


def _mixed(mean: Tensor, config: EchoConfig) -> Tensor:
    frames, size = mean.transpose(1, 2).flatten(0, 1), mean.shape[-2:]
    out = config.mix[0] * frames
    for weight, cells in zip(config.mix[1:], (2, 4), strict=True):
        if weight:
            coarse = F.avg_pool2d(frames, cells)
            out = out + weight * F.interpolate(coarse, size=size, mode=config.upsample)
    return out.unflatten(0, (len(mean), -1)).transpose(1, 2)


def reweigh(
    tokens: Float[Tensor, "batch dim frames height width"], context: slice, target: slice
) -> Float[Tensor, "batch dim frames height width"]:
    """The tokens with those of the ``context`` frames multiplied by K·softmax of their cosine to the target."""
    means = tokens.mean((3, 4)).float()
    cosine = F.cosine_similarity(means[:, :, target].mean(2, keepdim=True), means[:, :, context], dim=1)
    weights = cosine.shape[1] * cosine.softmax(1)
    out = tokens.clone()
    out[:, :, context] = tokens[:, :, context] * weights[:, None, :, None, None].type_as(tokens)
    return out
