"""One step of training: the loss of a batch, and its gradients on the encoder and its gate."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, bell_weight, flow_loss
from memkit.generation import conditioning_frames
from memkit.injectors import SelfAttentionConcat
from recipes.common.padded_text import TextCache
from recipes.dit_mem.data import Batch


def backward(
    backbone: WanBackbone,
    encoder: nn.Module,
    text: TextCache,
    batch: Batch,
    weighting: str = "uniform",
    lockstep: bool = False,
) -> Tensor:
    """Leave the gradients of one batch on the encoder and its gate; return the flow-matching loss of each sample [B].

    The loss is unweighted and over the frames that are not given. A backbone in bf16 has the encoder computed in bf16
    too, from its fp32 weights. Of two experts (Wan2.2 A14B) each sample goes to the one that its noise level belongs
    to. One timestep per sample; a model with per-token timesteps (Wan2.2 TI2V) takes it for all tokens, which is the
    same. ``lockstep`` runs every expert, needed or not, as processes must that share the weights of each.
    """
    device, dtype = backbone.device, backbone.transformer.dtype
    latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        memory = encoder(batch.memory.to(device), batch.mask.to(device))
    noisy, timestep = add_noise(latents, noise, sigma).to(dtype), sigma * NUM_TRAIN_TIMESTEPS
    words = text(batch.captions).to(device, dtype)
    losses = latents.new_zeros(len(latents))
    with ExitStack() as attached:  # checkpointing runs the blocks again in the backward pass: it must be inside
        for expert, index, counts in by_expert(backbone, timestep, lockstep):
            attached.enter_context(SelfAttentionConcat(memory.rows(index)).attach(expert))
            if batch.known:
                attached.enter_context(conditioning_frames(latents[index][:, :, : batch.known], expert))
            velocity = expert(noisy[index], timestep[index], words[index], return_dict=False)[0]
            made = (x[:, :, batch.known :] for x in (velocity, latents[index], noise[index]))
            loss = counts * flow_loss(*made)
            losses = losses.index_put((index,), loss, accumulate=True)
        weight = bell_weight(timestep) if weighting == "bell" else torch.ones_like(losses)
        (weight * losses).mean().backward()
    return losses.detach()


def by_expert(
    backbone: WanBackbone, timestep: Tensor, lockstep: bool = False
) -> list[tuple[WanTransformer3DModel, Tensor, float]]:
    """The experts to run, the samples of each, and 1; in ``lockstep`` one without samples gets the first, with 0."""
    if backbone.transformer_2 is None:
        return [(backbone.transformer, torch.arange(len(timestep), device=timestep.device), 1.0)]
    boundary = backbone.pipeline().config.boundary_ratio * NUM_TRAIN_TIMESTEPS
    high = timestep >= boundary
    shares = []
    for expert, share in ((backbone.transformer, high), (backbone.transformer_2, ~high)):
        if share.any():
            shares.append((expert, share.nonzero().flatten(), 1.0))
        elif lockstep:
            shares.append((expert, torch.zeros(1, dtype=torch.long, device=timestep.device), 0.0))
    return shares
