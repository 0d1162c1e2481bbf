"""`FrameSampler`: flow-matching sampling in which each latent frame may be at a noise level of its own.

The steps are Euler's, over the noise levels of the pipeline's scheduler. Where all frames are at one level, the model
is called as by the stock pipeline, so a synchronous schedule gives that pipeline's latents with diffusers' Euler
scheduler, bit for bit. Elsewhere it gets a timestep per token, which it must have been trained for (arXiv 2407.01392).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.protocol import Grid
from memkit.backbones.wan import WanBackbone
from memkit.checks import MOST_STEPS, check_scale, check_whole, text_list
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.generation.scheduler import make_scheduler
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH, embed_short

Taken = Int[Tensor, " frames"]
Latents = Float[Tensor, "batch channels frames height width"]


@dataclass(frozen=True)
class FrameSampler:
    """A transformer, its text and the noise levels of N steps.

        sampler = FrameSampler.of(backbone, "a red ball falls", steps=20)
        latents = sampler.run(noise, lagged(frames=5, steps=20, lag=4))

    What is attached to the transformer acts.
    """

    transformer: Any
    text: Float[Tensor, "batch tokens dim"]
    negative: Float[Tensor, "batch tokens dim"] | None
    """Of the unconditional pass; None where the guidance scale is 1."""
    guidance_scale: float
    sigmas: Float[Tensor, " levels"]
    """σ after 0, 1, …, N steps, from about 1 down to 0."""
    timesteps: Float[Tensor, " levels"]  # what the model is told at these levels

    __repr__ = with_shapes

    @classmethod
    def of(
        cls,
        backbone: WanBackbone,
        prompts: str | Sequence[str],
        *,
        steps: int,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        text_length: int = PIPELINE_TEXT_LENGTH,
    ) -> FrameSampler:
        """The sampler of a pipeline; one string is one prompt.

        With a ``text_length`` below 512, call it inside `short_texts` of this length.

        Raises `InputError` for numbers out of range, and for a pipeline without noise levels or with two experts.
        """
        prompts = text_list("prompts", prompts)
        check_whole("steps", steps, 1, MOST_STEPS)
        check_scale("guidance_scale", guidance_scale)
        if backbone.transformer_2 is not None:
            raise InputError("This model has an expert per range of noise levels, and frames may be in both ranges.")
        scheduler = make_scheduler(backbone.pipeline())
        scheduler.set_timesteps(steps, device=backbone.device)
        if not hasattr(scheduler, "sigmas") or len(scheduler.timesteps) != steps:
            raise InputError(f"{type(scheduler).__name__} does not give {steps} noise levels; use a flow scheduler.")
        times = scheduler.timesteps.float()
        levels = scheduler.sigmas[: steps + 1].float(), torch.cat([times, times.new_zeros(1)])

        def encode(texts: Sequence[str]) -> Tensor:
            short = text_length < PIPELINE_TEXT_LENGTH
            embeds = embed_short(backbone, texts, text_length) if short else backbone.encode_text(texts)
            return embeds.to(backbone.transformer.dtype)

        negative = None if guidance_scale == 1 else encode([negative_prompt] * len(prompts))
        return cls(backbone.transformer, encode(prompts), negative, guidance_scale, *levels)

    @property
    def steps(self) -> int:  # N
        return len(self.sigmas) - 1

    def velocity(self, x: Latents, taken: Taken) -> Latents:
        """The guided prediction of ε − x₀ for frames that have ``taken`` so many steps."""
        if taken.shape != (x.shape[2],):
            raise InputError(f"There are {taken.numel()} numbers of steps for {x.shape[2]} frames; give one per frame.")
        levels, model = self.timesteps.to(x.device)[taken.to(x.device)], self.transformer
        timestep = levels[:1].expand(len(x))
        if (taken != taken[0]).any():
            adapter = adapter_of(model)
            depth, down, across = adapter.sizes(model).patch_size
            if depth != 1:
                raise InputError("This model patches latent frames together, so they cannot differ in their timesteps.")
            grid = Grid(x.shape[2], x.shape[3] // down, x.shape[4] // across)
            timestep = adapter.timesteps(levels[None].expand(len(x), -1), len(x), grid)
        with model.cache_context("cond"):
            out = model(x.to(model.dtype), timestep, self.text, return_dict=False)[0]
        if self.negative is None:
            return out
        with model.cache_context("uncond"):
            without = model(x.to(model.dtype), timestep, self.negative, return_dict=False)[0]
        return without + self.guidance_scale * (out - without)

    def move(self, x: Latents, velocity: Latents, before: Taken, after: Taken) -> Latents:
        """``x`` after the Euler step of each frame; those with as many steps before as after stay as they are."""
        sigma = self.sigmas.to(x.device)
        change = (sigma[after.to(x.device)] - sigma[before.to(x.device)])[:, None, None]
        moved = (x.float() + change * velocity).to(velocity.dtype)
        return torch.where((before == after).to(x.device)[:, None, None], x, moved.to(x.dtype))

    @torch.no_grad()
    def run(self, x: Latents, schedule: Int[Tensor, "rounds frames"]) -> Latents:
        """All rounds of a schedule; see `memkit.generation.frame_schedules`."""
        for before, after in zip(schedule, schedule[1:], strict=False):
            x = self.move(x, self.velocity(x, before), before, after)
        return x
