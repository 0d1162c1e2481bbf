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
from recipes.dit_mem.reading import GravityReader, log_gravities


class Objective(nn.Module):
    """The encoder with its gate, which is trained. A call returns the losses of a batch on a frozen backbone.

    ``lockstep`` runs all experts in every step, which is necessary when their weights are sharded over processes.
    ``reader`` is trained too, for a second loss.
    """

    def __init__(self, encoder: MemoryEncoder, lockstep: bool = False, reader: GravityReader | None = None) -> None:
        super().__init__()
        self.encoder, self.lockstep, self.reader = encoder, lockstep, reader

    def forward(
        self, backbone: WanBackbone, text: TextCache, batch: Batch, attached: ExitStack
    ) -> tuple[Tensor, Tensor | None]:
        """Losses [B] with the memory of each sample, see `flow_losses`, and the loss of the reader if there is one.

        With a backbone in bf16, the encoder is computed in bf16 too, from its weights in fp32.
        """
        device, bf16 = backbone.device, backbone.transformer.dtype == torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            memory = self.encoder(batch.memory.to(device), batch.mask.to(device))
            read = None
            if self.reader is not None:
                truth = torch.full(batch.mask.shape, torch.nan)
                for row, ids in zip(truth, batch.memory_ids, strict=True):
                    row[: len(ids)] = log_gravities(ids)
                read = self.reader(memory, batch.mask.to(device), truth.to(device))
        return flow_losses(backbone, text, batch, attached, memory, self.lockstep), read


def flow_losses(
    backbone: WanBackbone,
    text: TextCache,
    samples: Samples,
    attached: ExitStack,
    memory: Memory | None = None,
    lockstep: bool = False,
) -> Tensor:
    """Losses [B] over the frames that are not conditioning frames, each from the expert of its noise level.

    A model with one timestep per token (Wan2.2 TI2V) gets that of the sample for all of them. Close ``attached`` after
    the backward pass, in which gradient checkpointing runs the blocks again.
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
    """The mean loss over samples, either "uniform" or with the weight "bell" of the release over timesteps."""
    timestep = sigma.to(losses) * NUM_TRAIN_TIMESTEPS
    weight = bell_weight(timestep) if weighting == "bell" else torch.ones_like(losses)
    return (weight * losses).mean()


def by_expert(
    backbone: WanBackbone, timestep: Tensor, lockstep: bool = False
) -> list[tuple[WanTransformer3DModel, Tensor, float]]:
    """The experts to run, the samples of each, and 1. In ``lockstep``, one without samples gets the first, and 0."""
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
