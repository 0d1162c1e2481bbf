"""The training objective: the flow-matching loss of a batch, from which the encoder and its gate get gradients."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.encoders import MemoryEncoder
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise, bell_weight, flow_loss
from memkit.generation import TextCache, conditioning_frames
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from recipes.dit_mem.data import Batch, Samples


class Objective(nn.Module):
    """What is trained, the encoder with its gate; called with a frozen backbone and a batch, the loss of each sample.

    ``lockstep`` runs every expert, needed or not, as processes must that share the weights of each.
    """

    def __init__(self, encoder: MemoryEncoder, lockstep: bool = False) -> None:
        super().__init__()
        self.encoder, self.lockstep = encoder, lockstep

    def forward(self, backbone: WanBackbone, text: TextCache, batch: Batch, attached: ExitStack) -> Tensor:
        """Losses [B] with the memory of each sample; see `flow_losses`.

        A backbone in bf16 has the encoder computed in bf16 too, from its fp32 weights.
        """
        device, bf16 = backbone.device, backbone.transformer.dtype == torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            memory = self.encoder(batch.memory.to(device), batch.mask.to(device))
        return flow_losses(backbone, text, batch, attached, memory, self.lockstep)


def flow_losses(
    backbone: WanBackbone,
    text: TextCache,
    samples: Samples,
    attached: ExitStack,
    memory: Memory | None = None,
    lockstep: bool = False,
) -> Tensor:
    """Losses [B] over the frames that are not given, each by the expert that its noise level belongs to.

    There is one timestep per sample; a model with per-token timesteps (Wan2.2 TI2V) takes it for all tokens, which is
    the same. What is entered into ``attached`` must last until after the backward pass, in which gradient
    checkpointing runs the blocks again.
    """
    device, dtype, clean = backbone.device, backbone.transformer.dtype, samples.conditioning_frames
    latents, noise, sigma = (x.to(device) for x in (samples.latents, samples.noise, samples.sigma))
    noisy, timestep = add_noise(latents, noise, sigma).to(dtype), sigma * NUM_TRAIN_TIMESTEPS
    words = text(samples.captions).to(device, dtype)
    losses = latents.new_zeros(len(latents))
    for expert, index, counts in by_expert(backbone, timestep, lockstep):
        if memory is not None:
            attached.enter_context(SelfAttentionConcat(memory.rows(index)).attach(expert))
        if clean:
            attached.enter_context(conditioning_frames(latents[index][:, :, :clean], expert))
        velocity = expert(noisy[index], timestep[index], words[index], return_dict=False)[0]
        compared = (x[:, :, clean:] for x in (velocity, latents[index], noise[index]))
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
