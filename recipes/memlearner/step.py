"""The training objective: flow matching of a chunk, or L1(Q, P) to pre-train a separate query module."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones import WanBackbone
from memkit.flow import NUM_TRAIN_TIMESTEPS, add_noise
from memkit.generation import TextCache, conditioning_frames
from memkit.injectors.query_module import query_module_loss
from memkit.rollout import ContextMethod, SeparateContext
from memkit.rollout.base import ChunkInputs, relative_poses
from memkit.rollout.methods import query_loss
from recipes.memlearner.data import Batch, TrainingSet
from recipes.memlearner.presets import Config


class StepOutput(NamedTuple):
    """The output of a forward pass."""

    loss: Tensor
    """The loss to minimise."""
    errors: Float[Tensor, " batch"]
    """The loss of each sample, for the log; without the loss on the queries."""


class Objective(nn.Module):
    """The trained modules, which are the transformer and those of the method. A call returns the loss of a batch."""

    def __init__(self, config: Config, backbone: WanBackbone, method: ContextMethod, data: TrainingSet) -> None:
        super().__init__()
        self.transformer, self.method = backbone.transformer, method
        self.config, self.data, self.text = config, data, TextCache(backbone, config.text_length)

    def forward(self, batch: Batch, device: torch.device, attached: ExitStack, alone: bool = False) -> StepOutput:
        """The flow-matching loss over the frames after the conditioning frame, or that of the query module ``alone``.

        Close ``attached`` after the backward pass, in which gradient checkpointing runs the blocks again.
        """
        context = self._context(batch, device)
        return (self._pretraining if alone else self._flow_matching)(batch, device, context, attached)

    def _flow_matching(
        self, batch: Batch, device: torch.device, context: dict[str, Any], attached: ExitStack
    ) -> StepOutput:
        latents, noise, sigma = (x.to(device) for x in (batch.latents, batch.noise, batch.sigma))
        if self.config.context_noise == "independent" and context["selection"] is not None:
            noisy_context = self.data.noisy(context["selection"], batch.context_seeds)
            context["selection"], context["context_timesteps"] = noisy_context
        attached.enter_context(self._autocast(device))
        attached.enter_context(self.method.shown(self.transformer, **context))
        attached.enter_context(conditioning_frames(latents[:, :, :1], self.transformer))
        noisy, timestep = add_noise(latents, noise, sigma), sigma * NUM_TRAIN_TIMESTEPS
        predicted = self.transformer(noisy, timestep, context["text"], return_dict=False)[0]
        errors = (predicted.float() - (noise - latents)).pow(2)[:, :, 1:].flatten(1).mean(1)
        own = self.config.query_loss * query_loss(self.method, latents) if self.config.query_loss else 0.0
        return StepOutput(errors.mean() + own, errors.detach())

    def _pretraining(
        self, batch: Batch, device: torch.device, context: dict[str, Any], attached: ExitStack
    ) -> StepOutput:
        assert isinstance(self.method, SeparateContext)
        selection = context["selection"]
        own, past = relative_poses(batch.cameras, selection, batch.latents.shape[2])
        latents = None if selection is None else selection.latents
        inputs = ChunkInputs(latents, own, past, batch.annotation, context["noise"], context["text"], None)
        attached.enter_context(self._autocast(device))
        errors = query_module_loss(self.method.module, self.method.fetch(inputs), batch.latents.to(device))
        return StepOutput(errors.mean(), errors.detach())

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.dtype == "bf16")

    def _context(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """The arguments of `ContextMethod.shown`."""
        selection = self.method.choose(batch.history, batch.cameras)
        return {
            "selection": None if selection is None else selection._replace(latents=selection.latents.to(device)),
            "cameras": batch.cameras,
            "annotation": batch.annotation,
            "noise": batch.query_noise.to(device),
            "text": self.text(batch.captions).to(device),
        }
