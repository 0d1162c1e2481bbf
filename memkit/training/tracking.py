"""The tracking loss of DeT (arXiv 2503.17350): what is seen at a point that moves should stay the same."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from memkit.checks import MOST_FRAMES, check_whole
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS, flow_loss

MOST_NOISE = 400
"""Largest timestep, of 1000, at which DeT adds the loss."""


def tracking_loss(
    clean: Float[Tensor, "batch channels frames height width"],
    tracks: Float[Tensor, "batch points steps 2"],
    visible: Bool[Tensor, "batch points steps"],
) -> Float[Tensor, ""]:
    """The mean squared difference of predicted clean latents between next frames, along tracks that are visible.

    Args:
        clean: x₀ = x_t − σ·v, as the model predicts it; DeT asks for it at timesteps up to `MOST_NOISE`.
        tracks: row and column of each point in latent cells; between cells, latents are interpolated.
        visible: whether a point is seen in a frame; a step counts where it is seen at both its ends.

    Returns 0 where no step counts. Raises `InputError` for tracks of another number of frames or videos.
    """
    if (len(tracks), tracks.shape[2]) != (len(clean), clean.shape[2]):
        raise InputError(
            f"The tracks are {list(tracks.shape)}, the latents {list(clean.shape)}; give points [B, N, F, 2] with the "
            "same B and F."
        )
    size = clean.new_tensor([max(1, n - 1) for n in clean.shape[3:]])
    places = (2 * tracks.to(clean) / size - 1).flip(-1).transpose(1, 2).flatten(0, 1)[:, :, None]
    found = grid_sample(clean.transpose(1, 2).flatten(0, 1), places, align_corners=True, padding_mode="border")
    change = found[..., 0].unflatten(0, (len(clean), -1)).diff(dim=1).square().mean(2)
    counts = (visible[..., 1:] & visible[..., :-1]).transpose(1, 2)
    return (change * counts).sum() / counts.sum().clamp(min=1)


def motion_loss(
    velocity: Float[Tensor, "batch channels frames height width"],
    latents: Float[Tensor, "batch channels frames height width"],
    noise: Float[Tensor, "batch channels frames height width"],
    sigma: Float[Tensor, " batch"],
    tracks: Float[Tensor, "batch points frames 2"],
) -> Float[Tensor, ""]:
    """What DeT is tuned with: the loss of flow matching, and of tracks, all visible, where there is little noise."""
    little, sigma = sigma * NUM_TRAIN_TIMESTEPS <= MOST_NOISE, sigma.view(-1, 1, 1, 1, 1)
    clean = (1 - sigma) * latents + sigma * (noise - velocity)
    counted = little.view(-1, 1, 1).expand(tracks.shape[:3])
    return flow_loss(velocity, latents, noise).mean() + tracking_loss(clean, tracks, counted)


def match_tracks(
    latents: Float[Tensor, "batch channels frames height width"], reach: int = 1
) -> Float[Tensor, "batch points frames 2"]:
    """Tracks of all cells of the first frame, each of which goes on to the cell of the next frame, at most ``reach``
    rows and columns away, whose latents are most like it: a stand-in for a tracker of points."""
    check_whole("reach", reach, 0, MOST_FRAMES)
    x, (height, width) = latents.permute(0, 2, 3, 4, 1), latents.shape[3:]
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(x.device)
    steps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2).view(-1, 2).to(x.device)
    steps = steps[steps.abs().sum(1).argsort(stable=True)]  # of equal cells, the nearest
    at, tracks, video = cells.expand(len(x), -1, -1), [], torch.arange(len(x), device=x.device)[:, None, None]
    for frame in range(x.shape[1]):
        if frame:
            near = (at[:, :, None] + steps).clamp(min=0).minimum(cells[-1])
            there = x[video, frame, near[..., 0], near[..., 1]]
            here = x[video[..., 0], frame - 1, at[..., 0], at[..., 1]][:, :, None]
            best = (there - here).square().sum(-1).argmin(-1)
            at = near.gather(2, best[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
        tracks.append(at)
    return torch.stack(tracks, 2).to(latents.dtype)
