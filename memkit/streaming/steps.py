"""The forward passes of a streamed chunk: denoising, and one more pass that writes it to the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.generation.conditioning import conditioning_frames, write_conditioning_frames
from memkit.generation.scheduler import make_scheduler
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache
from memkit.streaming.config import StreamConfig
from memkit.streaming.read_policies import Read

COND, UNCOND = "cond", "uncond"
"""The branches of the cache; without guidance there is only the first."""


@dataclass(frozen=True)
class ChunkSteps:
    """What all chunks of a stream share."""

    backbone: WanBackbone
    cache: KVCache
    attached: AttachedCache
    """The cache, attached to the transformers of the backbone."""
    config: StreamConfig
    read: Read
    noise: Callable[[str, range], Tensor]
    """Noise of the frames at some positions, for a purpose that is named."""

    def denoise(
        self,
        x: Tensor,
        at: range,
        text: dict[str, Tensor],
        conditioning_latents: Tensor | None,
        recorder: AttentionRecorder | None,
    ) -> Tensor:
        """Latents of the chunk from the noise ``x``, with the conditioning latents in their place at every step."""
        models = self.backbone.transformers
        x = x if conditioning_latents is None else write_conditioning_frames(x, conditioning_latents)
        with nullcontext() if conditioning_latents is None else conditioning_frames(conditioning_latents, *models):
            for t, step in self._sampler(at):
                x = step(x, self._velocity(x, t, at, text, recorder))
                x = x if conditioning_latents is None else write_conditioning_frames(x, conditioning_latents)
        return x

    def _sampler(self, at: range) -> Iterator[tuple[float, Callable[[Tensor, Tensor], Tensor]]]:
        """Timesteps, each with what makes the next latents of latents and velocity."""
        sigmas = self.config.sigmas
        for i, sigma in enumerate(sigmas):
            later = sigmas[i + 1] if i + 1 < len(sigmas) else 0.0
            yield NUM_TRAIN_TIMESTEPS * sigma, partial(self._noise_anew, i + 1, sigma, later, at)
        if not sigmas:
            scheduler = self._scheduler()
            for t in scheduler.timesteps:
                yield float(t), lambda x, velocity, t=t: scheduler.step(velocity, t, x, return_dict=False)[0]

    def _noise_anew(self, number: int, sigma: float, later: float, at: range, x: Tensor, velocity: Tensor) -> Tensor:
        """The clean chunk that a step predicts, with new noise of the next step's level."""
        clean = x - sigma * velocity
        return clean if later == 0 else (1 - later) * clean + later * self.noise(f"step {number}", at)

    def _velocity(
        self, x: Tensor, t: float, at: range, text: dict[str, Tensor], recorder: AttentionRecorder | None
    ) -> Tensor:
        """The model's prediction with guidance, if there is any."""
        velocities = {}
        for branch in self.cache.branches:
            watch = recorder if branch == COND else None
            with self.attached.chunk(at, branch, self._read(branch, at), recorder=watch):
                velocities[branch] = self._run(self._expert(t), x, t, branch, text)
        if UNCOND not in velocities:
            return velocities[COND]
        return velocities[UNCOND] + self.config.guidance_scale * (velocities[COND] - velocities[UNCOND])

    def write(self, x: Tensor, at: range, text: dict[str, Tensor], pin: bool) -> None:
        """Write ``x`` to the cache, at the context's noise level; each expert has its own keys and values."""
        for branch in self.cache.branches:
            with self.attached.chunk(at, branch, self._read(branch, at), write=True, pin=pin):
                for model in self.backbone.transformers:
                    self._run(model, x, NUM_TRAIN_TIMESTEPS * self.config.context_sigma, branch, text)
            self.cache.branch(branch).pin([p for p in at if p < self.config.sink])

    def _run(self, model: Any, x: Tensor, t: float, branch: str, text: dict[str, Tensor]) -> Tensor:
        """A pass in the ``cache_context`` of the branch, which other memory with branches follows, too."""
        timestep = torch.full((len(x),), t, device=x.device)
        with model.cache_context(branch):
            return model(x.to(model.dtype), timestep, text[branch].to(model.dtype), return_dict=False)[0].float()

    def _read(self, branch: str, at: range) -> Sequence[int]:
        return self.read(self.cache.branch(branch), at)

    def _expert(self, t: float) -> Any:
        second = self.backbone.transformer_2
        if second is None:
            return self.backbone.transformer
        boundary = self.backbone.pipeline().config.boundary_ratio
        return self.backbone.transformer if t >= boundary * NUM_TRAIN_TIMESTEPS else second

    def _scheduler(self) -> Any:
        """A new one for each chunk."""
        scheduler = make_scheduler(self.backbone.pipeline(), self.config.shift)
        scheduler.set_timesteps(self.config.steps, device=self.backbone.device)
        return scheduler
