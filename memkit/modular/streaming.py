"""Cached streaming in diffusers' modular pipelines: a video grows by chunks, each with the cache of the earlier ones.

    blocks = WanStreamBlocks()  # or ModularPipelineBlocks.from_pretrained(repository, trust_remote_code=True)
    pipe = blocks.init_pipeline("runs/causal-wan")
    pipe.load_components(torch_dtype=torch.bfloat16)
    state = pipe(prompt="a red ball falls", num_frames=81)
    more = pipe(prompt="it bounces", num_frames=9, kv_cache=state.get("kv_cache"), position=state.get("position"))

The loop is that of `memkit.streaming.Stream`, with the pipeline's own noise, scheduler and guider. The KV cache is an
explicit object in the pipeline's state.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import BlockState, PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam
from diffusers.modular_pipelines.wan.before_denoise import WanSetTimestepsStep, WanTextInputStep
from diffusers.modular_pipelines.wan.decoders import WanVaeDecoderStep
from diffusers.modular_pipelines.wan.denoise import (
    WanDenoiseLoopWrapper,
    WanLoopAfterDenoiser,
    WanLoopBeforeDenoiser,
    WanLoopDenoiser,
)
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks, WanCoreDenoiseStep

from memkit.errors import InputError
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.cache import KVCache, frame_bytes
from memkit.modular.saving import MemkitBlocks
from memkit.modular.steps import LatentsStep, TextStep
from memkit.streaming.read_policies import Read, read_everything
from memkit.streaming.steps import COND, UNCOND


class WanStreamLoopDenoiser(WanLoopDenoiser):
    """`WanLoopDenoiser` that announces its passes, "cond" and "uncond", by the transformer's ``cache_context``."""

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: torch.Tensor) -> tuple[Any, BlockState]:
        model, guider, dtype = components.transformer, components.guider, block_state.dtype
        guider.set_state(step=i, num_inference_steps=block_state.num_inference_steps, timestep=t)
        passes = guider.prepare_inputs_from_block_state(block_state, self._guider_input_fields)
        for each in passes:
            guider.prepare_models(model)
            fields = {name: getattr(each, name).to(dtype) for name in self._guider_input_fields}
            with model.cache_context(getattr(each, guider._identifier_key).removeprefix("pred_")):
                each.noise_pred = model(
                    hidden_states=block_state.latent_model_input,
                    timestep=t.expand(len(block_state.latent_model_input)).to(dtype),
                    attention_kwargs=block_state.attention_kwargs,
                    return_dict=False,
                    **fields,
                )[0]
            guider.cleanup_models(model)
        block_state.noise_pred = guider(passes)[0]
        return components, block_state


class WanStreamDenoiseStep(MemkitBlocks, WanDenoiseLoopWrapper):
    """Denoises the latents chunk by chunk; each chunk reads the cache, and is then written to it, clean."""

    model_name = "wan"
    block_classes = [
        WanLoopBeforeDenoiser,
        WanStreamLoopDenoiser({"encoder_hidden_states": ("prompt_embeds", "negative_prompt_embeds")}),
        WanLoopAfterDenoiser,
    ]
    block_names = ["before_denoiser", "denoiser", "after_denoiser"]

    @property
    def description(self) -> str:
        return "Denoises the latents chunk by chunk, each with the cached keys and values of the earlier chunks."

    @property
    def loop_inputs(self) -> list[InputParam]:
        return [
            *super().loop_inputs,
            InputParam("kv_cache", type_hint=KVCache, description="To continue a video; by default a new one."),
            InputParam("position", default=0, type_hint=int, description="That of the first latent frame."),
            InputParam("chunk_frames", default=3, type_hint=int, description="Latent frames per chunk."),
            InputParam("cache_frames", type_hint=int, description="Room of a new cache; by default for all frames."),
            InputParam("cache_read", type_hint=Read, description="Which cached frames a chunk reads; by default all."),
        ]

    @property
    def loop_intermediate_outputs(self) -> list[OutputParam]:
        return [
            OutputParam("latents", type_hint=torch.Tensor, description="Denoised latents."),
            OutputParam("kv_cache", type_hint=KVCache, description="With the frames of these chunks."),
            OutputParam("position", type_hint=int, description="That of the next latent frame."),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block_state: Any = self.get_block_state(state)
        model, noise = components.transformer, block_state.latents
        if model.config.in_channels != noise.shape[1]:
            raise InputError("This model takes a mask and images beside the latents; a stream gives it latents alone.")
        texts = {COND: block_state.prompt_embeds}
        if _is_guided(components.guider, block_state):
            texts[UNCOND] = block_state.negative_prompt_embeds
        cache = block_state.kv_cache or self._new_cache(model, block_state, len(texts))
        if set(cache.branches) != set(texts):
            raise InputError(f"The cache has the branches {cache.branches}, the guider runs {tuple(texts)}.")
        scheduler, fresh = components.scheduler, copy.deepcopy(vars(components.scheduler))
        chunks = []
        with cache.attach(model) as attached:
            for start, stop in _spans(noise.shape[2], block_state.chunk_frames):
                vars(scheduler).update(copy.deepcopy(fresh))  # a scheduler of several steps starts anew
                block_state.latents = noise[:, :, start:stop]
                at = range(block_state.position + start, block_state.position + stop)
                self._denoise(components, block_state, attached, cache, at)
                self._write(model, block_state, attached, cache, at, texts)
                chunks.append(block_state.latents)
        block_state.latents = torch.cat(chunks, dim=2)
        block_state.kv_cache, block_state.position = cache, block_state.position + noise.shape[2]
        self.set_block_state(state, block_state)
        return components, state

    def _denoise(self, components: Any, block_state: Any, attached: AttachedCache, cache: KVCache, at: range) -> None:
        with (
            attached.chunk(at, cache.branches, _read(block_state, cache, at)),
            self.progress_bar(total=len(block_state.timesteps)) as progress_bar,
        ):
            for i, t in enumerate(block_state.timesteps):
                self.loop_step(components, block_state, i=i, t=t)
                progress_bar.update()

    def _write(
        self,
        model: Any,
        block_state: Any,
        attached: AttachedCache,
        cache: KVCache,
        at: range,
        texts: dict[str, torch.Tensor],
    ) -> None:
        latents, dtype = block_state.latents, block_state.dtype
        clean = torch.zeros(len(latents), device=latents.device)
        with attached.chunk(at, cache.branches, _read(block_state, cache, at), write=True):
            for name, text in texts.items():
                with model.cache_context(name):
                    model(latents.to(dtype), clean, text.to(dtype), return_dict=False)

    def _new_cache(self, model: Any, block_state: Any, branches: int) -> KVCache:
        batch, _, frames, height, width = block_state.latents.shape
        count = branches * (block_state.cache_frames or frames)
        budget = count * frame_bytes(model, height, width, batch, block_state.dtype)
        return KVCache(budget, (COND, UNCOND)[:branches])


def _is_guided(guider: Any, block_state: Any) -> bool:
    """Whether any step has an unconditional pass."""
    for i, t in enumerate(block_state.timesteps):
        guider.set_state(step=i, num_inference_steps=block_state.num_inference_steps, timestep=t)
        if guider.num_conditions > 1:
            return True
    return False


def _spans(frames: int, chunk: int) -> list[tuple[int, int]]:
    """First and last frame + 1 of each chunk; what is over goes into the first."""
    if chunk < 1:
        raise InputError(f"chunk_frames is {chunk}; give 1 or more.")
    starts = [0, *range(frames % chunk or chunk, frames, chunk)]
    return list(zip(starts, [*starts[1:], frames], strict=True))


def _read(block_state: Any, cache: KVCache, at: range) -> tuple[int, ...]:
    policy: Read = block_state.cache_read or read_everything
    return tuple(policy(cache.branch(COND), at))


class WanStreamCoreDenoiseStep(WanCoreDenoiseStep):
    """`WanCoreDenoiseStep` chunk by chunk."""

    block_classes = [WanTextInputStep, WanSetTimestepsStep, LatentsStep, WanStreamDenoiseStep]

    @property
    def outputs(self) -> list[Any]:
        return self.intermediate_outputs


class WanStreamBlocks(MemkitBlocks, WanBlocks):
    """Text to video chunk by chunk with a KV cache, for a causal Wan2.1."""

    block_classes = [TextStep, WanStreamCoreDenoiseStep, WanVaeDecoderStep]

    @property
    def description(self) -> str:
        return "Text to video of any length with a causal Wan2.1, chunk by chunk with a KV cache."
