"""Videos from prompts with the stock pipeline, with or without memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.checks import (
    MOST_STEPS,
    check_finite,
    check_scale,
    check_text,
    check_whole,
    seed_list,
    shown,
    text_list,
)
from memkit.errors import InputError
from memkit.generation.conditioning import LATENTS, conditioning_frames, write_conditioning_frames
from memkit.generation.guidance import GuidedMemory, MemoryGuidance
from memkit.generation.noise import seeded_generators
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH, embed_short, short_texts
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.video.pixels import to_uint8


def generate_videos(
    backbone: WanBackbone,
    prompts: str | Sequence[str],
    memory: Memory | None = None,
    *,
    seeds: int | Sequence[int],
    steps: int = 40,
    guidance_scale: float = 5.0,
    negative_prompt: str = "",
    conditioning_latents: Float[Tensor, "rows channels conditioning h w"] | None = None,
    memory_guidance: MemoryGuidance | None = None,
    text_length: int = PIPELINE_TEXT_LENGTH,
) -> UInt8[Tensor, "batch frames height width 3"]:
    """One video per prompt, in the backbone's own format, all in one batch.

    ``memory`` holds one row per prompt, or one for all, and every expert sees it; None is the stock model. With
    ``memory_guidance`` None both branches of the guidance see it (as in the release of DiT-Mem); "conditional" or a
    scale shows it to the conditional branch alone, see `memkit.generation.guidance`. ``seeds`` are one per prompt (one
    string is one prompt, one number is one seed): a video depends on its own prompt, memory and seed, not on the others
    in the batch, up to the rounding of a larger batch. Noise is drawn on the CPU for every device.
    ``conditioning_latents`` are those of the first frames, from which the video continues (``backbone.encode_video`` of
    1, 5, 9… frames), one row per prompt or one for all; see `memkit.generation.conditioning`. With a smaller
    ``text_length`` only that many text tokens are computed, and the pipeline's padding to 512 tokens as one key: the
    same up to rounding, but cheaper for small videos; see `memkit.generation.short_text`.

    Raises `InputError` without prompts, where memory, seeds or conditioning latents do not fit them, a number is out of
    range or not finite, or a text has more tokens than ``text_length``.
    """
    prompts = text_list("prompts", prompts)
    start = _seeded(prompts, seeds)
    if memory is not None and not isinstance(memory, Memory):
        raise InputError(f"memory is {shown(memory)}; give a Memory, or None.")
    if memory is not None and memory.tokens.shape[0] not in (1, len(prompts)):
        raise InputError(
            f"Memory has {memory.tokens.shape[0]} rows for {len(prompts)} prompts; give one per prompt, or one for all."
        )
    with contextlib.ExitStack() as attached:
        if memory is not None:
            injector, models = SelfAttentionConcat(memory), backbone.transformers
            thing = injector if memory_guidance is None else GuidedMemory(injector, memory_guidance)
            attached.enter_context(thing.attach(*models))
        video = _sample(
            backbone, prompts, start, steps, guidance_scale, negative_prompt, conditioning_latents, text_length, "pt"
        )
    return to_uint8(video.float()).movedim(2, -1).cpu()


def generate_latents(
    backbone: WanBackbone,
    prompts: str | Sequence[str],
    *,
    seeds: int | Sequence[int] | None = None,
    noise: Float[Tensor, "batch channels frames h w"] | None = None,
    steps: int = 40,
    guidance_scale: float = 5.0,
    negative_prompt: str = "",
    conditioning_latents: Float[Tensor, "rows channels conditioning h w"] | None = None,
    text_length: int = PIPELINE_TEXT_LENGTH,
) -> Float[Tensor, "batch channels frames h w"]:
    """`generate_videos` before the decoder, normalised as by ``backbone.encode_video``, on the backbone's device.

    It starts from ``noise``, or from noise drawn with ``seeds``: give one of the two. What is attached to the
    transformers, such as query layers inside a chunk, acts. Conditioning latents come back as they were given.

    Raises `InputError` as `generate_videos`, and where both or neither of ``seeds`` and ``noise`` are given.
    """
    if (seeds is None) == (noise is None):
        raise InputError("generate_latents() starts from seeds or from noise; give one of the two.")
    prompts = text_list("prompts", prompts)
    start = _seeded(prompts, seeds) if seeds is not None else {"latents": noise}
    if noise is not None:
        _check_noise(backbone, prompts, noise)
    return _sample(
        backbone, prompts, start, steps, guidance_scale, negative_prompt, conditioning_latents, text_length, "latent"
    )


def _check_noise(backbone: WanBackbone, prompts: Sequence[str], noise: Tensor) -> None:
    check_finite("noise", noise, LATENTS)
    vae, form = backbone.pipeline().vae.config, backbone.video_format
    frames = (form.num_frames - 1) // vae.scale_factor_temporal + 1
    size = (form.height // vae.scale_factor_spatial, form.width // vae.scale_factor_spatial)
    wanted = (len(prompts), backbone.transformer.config.in_channels, frames, *size)
    if tuple(noise.shape) != wanted:
        raise InputError(f"noise is {list(noise.shape)}; give {list(wanted)} for these prompts and this video format.")


def _seeded(prompts: Sequence[str], seeds: int | Sequence[int]) -> dict[str, Any]:
    """The argument of a pipeline call from which the noise follows."""
    seeds = seed_list("seeds", seeds)
    if not prompts or len(seeds) != len(prompts):
        raise InputError(
            f"There are {len(prompts)} prompts and {len(seeds)} seeds; give at least one prompt, and one seed each."
        )
    return {"generator": seeded_generators(seeds)}


def _sample(
    backbone: WanBackbone,
    prompts: Sequence[str],
    start: dict[str, Any],
    steps: int,
    guidance_scale: float,
    negative_prompt: str,
    conditioning_latents: Tensor | None,
    text_length: int,
    output_type: Literal["pt", "latent"],
) -> Tensor:
    """The output of the stock pipeline."""
    check_whole("steps", steps, 1, MOST_STEPS)
    check_scale("guidance_scale", guidance_scale)
    check_text("negative_prompt", negative_prompt)
    check_whole("text_length", text_length, 1, PIPELINE_TEXT_LENGTH)
    form = backbone.video_format
    with contextlib.ExitStack() as attached:
        if conditioning_latents is not None:
            attached.enter_context(conditioning_frames(conditioning_latents, *backbone.transformers))
        attached.enter_context(short_texts(backbone.transformers, text_length))
        return backbone.pipeline()(
            **_texts(backbone, prompts, negative_prompt, text_length),
            height=form.height,
            width=form.width,
            num_frames=form.num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            **start,
            output_type=output_type,
            callback_on_step_end=None if conditioning_latents is None else _write_callback(conditioning_latents),  # type: ignore[arg-type]  # its hint is too narrow
        ).frames


def _texts(backbone: WanBackbone, prompts: Sequence[str], negative_prompt: str, text_length: int) -> dict[str, Any]:
    """The text arguments of a pipeline call: as they are, or embedded for `short_text`."""
    if text_length >= PIPELINE_TEXT_LENGTH:
        return {"prompt": list(prompts), "negative_prompt": [negative_prompt] * len(prompts)}
    embeds = embed_short(backbone, [*prompts, negative_prompt], text_length)
    return {"prompt_embeds": embeds[:-1], "negative_prompt_embeds": embeds[-1:].expand_as(embeds[:-1])}


def _write_callback(conditioning_latents: Tensor) -> Callable[..., dict[str, Tensor]]:
    """A callback of the pipeline after which its latents begin with the conditioning latents."""

    def write(pipe: object, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": write_conditioning_frames(tensors["latents"], conditioning_latents)}

    return write


def generate_video(
    backbone: WanBackbone,
    prompt: str,
    memory: Memory | None = None,
    *,
    seed: int = 42,
    steps: int = 40,
    guidance_scale: float = 5.0,
    negative_prompt: str = "",
    conditioning_latents: Float[Tensor, "rows channels conditioning h w"] | None = None,
    memory_guidance: MemoryGuidance | None = None,
    text_length: int = PIPELINE_TEXT_LENGTH,
) -> UInt8[Tensor, "frames height width 3"]:
    """One video; see `generate_videos`."""
    return generate_videos(
        backbone,
        [prompt],
        memory,
        seeds=[seed],
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        conditioning_latents=conditioning_latents,
        memory_guidance=memory_guidance,
        text_length=text_length,
    )[0]
