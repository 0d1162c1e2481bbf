"""`WanBackbone`: a Wan of diffusers, whole or its transformer alone, under the few calls that memkit needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.codec import WanCodec, tiny_folder
from memkit.backbones.original import load_original
from memkit.backbones.presets import VideoFormat, format_of
from memkit.errors import InputError


class WanBackbone:
    """A stock Wan and its parts.

    ``transformer`` is the stock model; ``transformer_2`` the low-noise expert of an A14B, else None. The parts of a
    pipeline (``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``) are there when it was loaded from one; a call
    that needs a part that is not there raises InputError.
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

    # -- where it comes from ---------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name: str | Path, torch_dtype: torch.dtype | None = None, local_files_only: bool = False
    ) -> WanBackbone:
        """Load a diffusers folder or hub id: a Wan pipeline, or a transformer alone.

        Without ``torch_dtype`` everything is fp32, as in diffusers; with it the norms and the VAE stay fp32.

        Raises:
            InputError: the folder holds neither.
        """
        folder = Path(name)
        if folder.is_dir() and not (folder / "model_index.json").exists():
            if not (folder / "config.json").exists():
                raise InputError(f"{folder} has no model_index.json (a pipeline) and no config.json (a transformer).")
            return cls(WanTransformer3DModel.from_pretrained(folder, dtype=torch_dtype))
        codec = WanCodec.from_pretrained(name, local_files_only)
        dtype = torch_dtype or torch.float32  # explicit, or transformers would take the files' own
        pipe = WanPipeline.from_pretrained(name, vae=codec.vae, dtype=dtype, local_files_only=local_files_only)
        return cls.from_pipeline(pipe, codec.video_format)

    @classmethod
    def from_pipeline(cls, pipe: WanPipeline, video_format: VideoFormat | None = None) -> WanBackbone:
        """Take the parts of a pipeline; they are shared, not copied."""
        return cls(pipe.transformer, pipe, video_format)

    @classmethod
    def from_original(
        cls,
        source: str | Path | Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> WanBackbone:
        """A transformer from weights under original Wan names; see `memkit.backbones.original.load_original`."""
        return cls(load_original(source, config, torch_dtype))

    @classmethod
    def tiny(cls, torch_dtype: torch.dtype | None = None) -> WanBackbone:
        """tiny-wan, which memkit ships: 17 frames of 64×64 at 8 a second, on any laptop."""
        return cls.from_pretrained(tiny_folder(), torch_dtype)

    # -- what it does ----------------------------------------------------------------------------------------------

    @property
    def transformer_2(self) -> WanTransformer3DModel | None:
        """The low-noise expert of an A14B."""
        return None if self._pipe is None else self._pipe.transformer_2

    @property
    def transformers(self) -> tuple[WanTransformer3DModel, ...]:
        """Every expert: attach memory to ``*backbone.transformers``."""
        return (self.transformer,) if self.transformer_2 is None else (self.transformer, self.transformer_2)

    @property
    def width(self) -> int:
        """Width of the hidden states, which memory tokens must have."""
        return self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.transformer.device

    def pipeline(self) -> WanPipeline:
        """The stock pipeline over the same parts."""
        if self._pipe is None:
            raise InputError("This backbone is a transformer alone; load a pipeline folder for this call.")
        return self._pipe

    def velocity(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        timestep: Tensor,
        text_embeds: Float[Tensor, "batch length text_dim"],
    ) -> Float[Tensor, "batch out frames height width"]:
        """The model's prediction of ε − x₀ at ``latents``.

        ``timestep`` in [0, 1000]: [B], or [B,S] for one a token (Wan2.2 TI2V). Gradients flow. For the two experts of
        an A14B this is the high-noise one; call ``transformer_2`` for the other.
        """
        return self.transformer(latents, timestep, text_embeds, return_dict=False)[0]

    def encode_text(
        self, prompts: Sequence[str], max_sequence_length: int = 512
    ) -> Float[Tensor, "batch length text_dim"]:
        """Text embeddings as the pipeline makes them: real tokens, then zeros to ``max_sequence_length``."""
        with torch.no_grad():
            return self.pipeline().encode_prompt(
                list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
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
        """Videos in [-1, 1] of normalised latents."""
        return self.codec.decode_latents(latents)
