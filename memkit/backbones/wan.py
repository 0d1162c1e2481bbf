"""`WanBackbone`: a diffusers Wan pipeline, or its transformer alone, behind the few methods that memkit needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.checkpoints.load import load_original
from memkit.backbones.codec import WanCodec, read_format, tiny_folder
from memkit.backbones.model_folder import INDEX_FILE, find_pipeline, load_pipeline, load_transformer
from memkit.backbones.presets import VideoFormat, format_of
from memkit.checks import check_whole, shown, text_list
from memkit.errors import FileError, InputError
from memkit.files.checksums import verify_sums

MOST_TOKENS = 1 << 16
"""Of a text, with its padding; pipelines have 512."""


class WanBackbone:
    """A stock Wan model and its components.

    ``transformer`` is the stock model; ``transformer_2`` is the low-noise expert of an A14B, otherwise None. The other
    components of a pipeline (VAE, text encoder, tokenizer, scheduler) are available if it was created from one; a
    method that needs a missing component raises `InputError`.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        pipe: WanPipeline | None = None,
        video_format: VideoFormat | None = None,
    ) -> None:
        self.transformer = transformer
        self._pipe = pipe
        self.video_format = video_format or format_of(transformer.config.in_channels)

    def __repr__(self) -> str:
        config, form = self.transformer.config, self.video_format
        parts = [] if self._pipe is None else [name for name, part in self._pipe.components.items() if part is not None]
        return (
            f"WanBackbone({config.num_layers} layers of width {self.width} with {config.num_attention_heads} heads, "
            f"{sum(p.numel() for p in self.transformer.parameters()) / 1e6:.1f} M parameters"
            f"{' per expert' if len(self.transformers) > 1 else ''}, "
            f"{str(self.transformer.dtype).removeprefix('torch.')} on {self.device}; "
            f"{form.num_frames} frames of {form.height}×{form.width} at {form.fps:g} fps; "
            f"{'parts: ' + ', '.join(parts) if parts else 'the transformer alone'})"
        )

    # -- loading ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name: str | Path, torch_dtype: torch.dtype | None = None, local_files_only: bool = False
    ) -> WanBackbone:
        """Load a Wan pipeline from a diffusers folder or the hub, or a transformer alone from a folder.

        Without ``torch_dtype`` all weights are fp32, as in diffusers; with it, the norms and the VAE stay fp32.

        Raises:
            InputError: there is no such folder, and no such id on the hub; or it is a model of another kind.
            FileError: a part is missing or damaged: the message names it.
        """
        folder = find_pipeline(name, local_files_only)
        verify_sums(folder)
        if not (folder / INDEX_FILE).exists():
            if not (folder / "config.json").exists():
                raise FileError(
                    f"{folder} has neither model_index.json (a pipeline) nor config.json (a transformer); give a "
                    "diffusers folder or a hub id."
                )
            return cls(load_transformer(folder, torch_dtype, eight_bits=torch_dtype is not None))
        video_format = read_format(folder)
        pipe = load_pipeline(folder, torch_dtype, video_format)
        return cls.from_pipeline(pipe, video_format or format_of(pipe.vae.config.z_dim))

    @classmethod
    def from_pipeline(cls, pipe: WanPipeline, video_format: VideoFormat | None = None) -> WanBackbone:
        """Use the components of a pipeline; they are shared, not copied."""
        return cls(pipe.transformer, pipe, video_format)

    @classmethod
    def from_original(
        cls,
        source: str | Path | Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype | None = None,
        *,
        weights: str | None = None,
        lora: str | Path | Mapping[str, Any] | None = None,
    ) -> WanBackbone:
        """Load a transformer from original Wan weights; see `memkit.backbones.checkpoints.load.load_original`."""
        model = load_original(source, config, torch_dtype, weights=weights, lora=lora)
        return cls(model, video_format=format_of(model.config.out_channels))  # controls add channels to the input

    @classmethod
    def tiny(cls, torch_dtype: torch.dtype | None = None) -> WanBackbone:
        """Load tiny-wan, which memkit ships and which runs on a laptop: 17 frames of 64×64 pixels at 8 fps."""
        return cls.from_pretrained(tiny_folder(), torch_dtype)

    # -- the model -------------------------------------------------------------------------------------------------

    @property
    def transformer_2(self) -> WanTransformer3DModel | None:
        """The low-noise expert of an A14B, otherwise None."""
        return None if self._pipe is None else self._pipe.transformer_2

    @property
    def transformers(self) -> tuple[WanTransformer3DModel, ...]:
        """All experts: one transformer, or the two of an A14B."""
        return (self.transformer,) if self.transformer_2 is None else (self.transformer, self.transformer_2)

    @property
    def width(self) -> int:
        """Width of the hidden states, and of memory tokens."""
        return self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim

    @property
    def device(self) -> torch.device:
        """The device of the transformer."""
        return self.transformer.device

    def pipeline(self) -> WanPipeline:
        """The stock pipeline with the same components. Raises `InputError` for a transformer alone.

        Where the model's folder states its video format, as that of tiny-wan does, this is the pipeline's default size;
        others have diffusers' defaults, 81 frames of 480×832 pixels.
        """
        if self._pipe is None:
            raise InputError(
                "This backbone is a transformer alone; load a whole pipeline for this call, with "
                "WanBackbone.from_pretrained or from_pipeline."
            )
        return self._pipe

    def velocity(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        timestep: Tensor,
        text_embeds: Float[Tensor, "batch length text_dim"],
    ) -> Float[Tensor, "batch out frames height width"]:
        """The model's prediction of ε − x₀ at ``latents``.

        ``timestep`` is in [0, 1000]: [B], or [B,S] with one per token (Wan2.2 TI2V). Gradients are computed as usual.
        For an A14B, this is the high-noise expert; call ``transformer_2`` for the low-noise one.

        Raises:
            InputError: shapes do not fit the model or each other.
        """
        self._check(latents, timestep, text_embeds)
        return self.transformer(latents, timestep, text_embeds, return_dict=False)[0]

    def encode_text(
        self, prompts: str | Sequence[str], max_sequence_length: int = 512
    ) -> Float[Tensor, "batch length text_dim"]:
        """Text embeddings, computed as in the pipeline: the tokens of the prompt, then zeros up to
        ``max_sequence_length``. One string is one prompt.

        Raises:
            InputError: there are no prompts, one is no text, or the pipeline has no text encoder.
        """
        prompts = text_list("prompts", prompts)
        check_whole("max_sequence_length", max_sequence_length, 1, MOST_TOKENS)
        if not len(prompts):
            raise InputError("There are no prompts to encode; give one or more.")
        pipe = self.pipeline()
        if pipe.text_encoder is None or pipe.tokenizer is None:
            raise InputError("This pipeline has no text encoder or no tokenizer; load one with both.")
        with torch.no_grad():
            return pipe.encode_prompt(
                prompts, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
            )[0]

    @property
    def codec(self) -> WanCodec:
        """The VAE and the video format."""
        return WanCodec(self.pipeline().vae, self.video_format)

    def encode_video(
        self, video: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames latent_height latent_width"]:
        """Normalised latents of videos in [-1, 1]; see `WanCodec.encode_video`."""
        return self.codec.encode_video(video)

    def decode_latents(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode normalised latents to videos in [-1, 1]."""
        return self.codec.decode_latents(latents)

    def _check(self, latents: Tensor, timestep: Tensor, text_embeds: Tensor) -> None:
        """Shapes alone: values are not looked at in each step. The model drops rows that fill no patch."""
        config = self.transformer.config
        shape = list(latents.shape)
        wanted = f"[B, {config.in_channels}, T, H, W] in multiples of the patches {tuple(config.patch_size)}"
        if len(shape) != 5 or shape[1] != config.in_channels or 0 in shape:
            raise InputError(f"latents have the shape {shape}; give {wanted}.")
        if any(size % patch for size, patch in zip(shape[2:], config.patch_size, strict=True)):
            raise InputError(f"latents have the shape {shape}; give {wanted}.")
        if not isinstance(timestep, Tensor) or timestep.ndim not in (1, 2) or len(timestep) != shape[0]:
            raise InputError(f"timestep is {shown(timestep)}; give one per sample, [{shape[0]}], or per token.")
        tokens = math.prod(size // patch for size, patch in zip(shape[2:], config.patch_size, strict=True))
        if timestep.ndim == 2 and timestep.shape[1] != tokens:
            raise InputError(f"timestep is {shown(timestep)}; with one per token, give [{shape[0]}, {tokens}].")
        text = list(text_embeds.shape)
        if len(text) != 3 or text[0] != shape[0] or text[2] != config.text_dim:
            raise InputError(f"text_embeds have the shape {text}; give [{shape[0]}, length, {config.text_dim}].")
