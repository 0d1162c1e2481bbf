"""What a step of training minimises: the error of a chunk's velocity; of a module that learns alone, L1(Q, P)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.generation import conditioning_frames
from memkit.injectors.query_module import query_module_loss
from memkit.rollout import ContextMethod, SeparateContext
from memkit.rollout.base import ChunkInputs, relative_poses
from memkit.rollout.methods import query_loss
from recipes.common.padded_text import TextCache
from recipes.memlearner.data import Batch, TrainingSet
from recipes.memlearner.presets import Config


def losses(
    config: Config, backbone: WanBackbone, method: ContextMethod, text: TextCache, batch: Batch, data: TrainingSet
) -> Float[Tensor, " batch"]:
    """Flow-matching loss of each sample, over the frames after the first, which is given; gradients are left behind.

    With ``query_loss`` those of the queries' own error too, which is not in what is returned.
    """
    device = backbone.device
    latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
    noisy, shown = add_noise(latents, noise, sigma), _shown(method, text, batch, device)
    if config.context_noise == "independent" and shown["selection"] is not None:
        shown["selection"], shown["context_timesteps"] = data.noisy(shown["selection"], batch.context_seeds)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"),
        method.shown(backbone.transformer, **shown),
        conditioning_frames(latents[:, :, :1], backbone.transformer),
    ):
        predicted = backbone.velocity(noisy, sigma * NUM_TRAIN_TIMESTEPS, shown["text"])
        error = (predicted.float() - (noise - latents)).pow(2)[:, :, 1:].flatten(1).mean(1)
        if error.requires_grad:  # backward here, where gradient checkpointing still finds what is attached
            own = config.query_loss * query_loss(method, latents) if config.query_loss else 0.0
            (error.mean() + own).backward()
    return error.detach()


def pretraining_losses(
    config: Config, device: torch.device, method: SeparateContext, text: TextCache, batch: Batch
) -> Float[Tensor, " batch"]:
    """L1(Q, P) of each sample, of the module alone; gradients are left behind."""
    shown = _shown(method, text, batch, device)
    own, past = relative_poses(batch.cameras, shown["selection"], batch.latents.shape[2])
    context = None if shown["selection"] is None else shown["selection"].latents
    given = ChunkInputs(context, own, past, batch.annotation, shown["noise"], shown["text"], None)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
        error = query_module_loss(method.module, method.fetch(given), batch.latents.to(device))
    error.mean().backward()
    return error.detach()


def _shown(method: ContextMethod, text: TextCache, batch: Batch, device: torch.device) -> dict[str, Any]:
    """What `ContextMethod.shown` takes."""
    selection = method.choose(batch.history, batch.cameras)
    return {
        "selection": None if selection is None else selection._replace(latents=selection.latents.to(device)),
        "cameras": batch.cameras,
        "annotation": batch.annotation,
        "noise": batch.query_noise.to(device),
        "text": text(batch.captions).to(device),
    }
