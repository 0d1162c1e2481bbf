"""The training objective: the flow-matching loss of a batch, from which the encoder and its gate get gradients."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.encoders import Encoder
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, bell_weight, flow_loss
from memkit.generation import TextCache, conditioning_frames
from memkit.injectors import SelfAttentionConcat
from recipes.dit_mem.data import Batch


class Objective(nn.Module):
    """What is trained, the encoder with its gate; called with a frozen backbone and a batch, the loss of each sample.

    ``lockstep`` runs every expert, needed or not, as processes must that share the weights of each.
    """

    def __init__(self, encoder: Encoder, lockstep: bool = False) -> None:
        super().__init__()
        self.encoder, self.lockstep = encoder, lockstep

    def forward(self, backbone: WanBackbone, text: TextCache, batch: Batch, attached: ExitStack) -> Tensor:
        """Losses [B] over the frames that are not given, each by the expert that its noise level belongs to.

        A backbone in bf16 has the encoder computed in bf16 too, from its fp32 weights. There is one timestep per
        sample; a model with per-token timesteps (Wan2.2 TI2V) takes it for all tokens, which is the same. What is
        entered into ``attached`` must last until after the backward pass, in which gradient checkpointing runs the
        blocks again.
        """
        device, dtype = backbone.device, backbone.transformer.dtype
        latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            memory = self.encoder(batch.memory.to(device), batch.mask.to(device))
        noisy, timestep = add_noise(latents, noise, sigma).to(dtype), sigma * NUM_TRAIN_TIMESTEPS
        words = text(batch.captions).to(device, dtype)
        losses = latents.new_zeros(len(latents))
        for expert, index, counts in by_expert(backbone, timestep, self.lockstep):
            attached.enter_context(SelfAttentionConcat(memory.rows(index)).attach(expert))
            if batch.conditioning_frames:
                attached.enter_context(conditioning_frames(latents[index][:, :, : batch.conditioning_frames], expert))
            velocity = expert(noisy[index], timestep[index], words[index], return_dict=False)[0]
            compared = (x[:, :, batch.conditioning_frames :] for x in (velocity, latents[index], noise[index]))
            losses = losses.index_put((index,), counts * flow_loss(*compared), accumulate=True)
        return losses


def weighted_mean(losses: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """The loss to minimise: the mean over samples, "uniform" or weighted by the release's "bell" over timesteps."""
    timestep = sigma.to(losses) * NUM_TRAIN_TIMESTEPS
    weight = bell_weight(timestep) if weighting == "bell" else torch.ones_like(losses)
    return (weight * losses).mean()


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
