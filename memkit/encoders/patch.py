"""`PatchEncoder`: a simple baseline of linear patch embeddings of the latents.

It has two linear layers and a layer norm, but no convolutions, filters or attention between tokens, and shows the
benefit of other encoders. Its presets give as many tokens as those of ``FrequencyEncoder``, so the backbone gets as
many tokens at the same cost: a patch covers half as many cells as a token of each of the two branches (stem stride ×
patch). It has far fewer parameters, as wider linear layers in sequence would not add any capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.checks import WIDTHS, check_fields
from memkit.encoders.clips import (
    PATCHES,
    check_clips,
    encode_clips,
    positions,
    unit_linear,
    whole_patches,
)
from memkit.encoders.clipwise import ClipwiseEncoder
from memkit.memory import Memory


@dataclass(frozen=True)
class PatchEncoderConfig:
    """Sizes of a ``PatchEncoder``.

    A clip of T×H×W latent cells gives ⌈T/p⌉ · ⌈H/p⌉ · ⌈W/p⌉ tokens, with the patch size p of each axis.
    """

    latent_channels: int = 16
    """Number of latent channels."""
    dim: int = 1536
    """Width of the backbone."""
    width: int = 768
    """Width of the patch embeddings."""
    patch: tuple[int, int, int] = (3, 10, 20)
    """Patch size (time, height, width) in latent cells."""

    def __post_init__(self) -> None:
        check_fields(self, latent_channels=WIDTHS, dim=WIDTHS, width=WIDTHS, patch=PATCHES)

    @classmethod
    def tiny(cls) -> PatchEncoderConfig:
        """For ``WanBackbone.tiny()``: 40 tokens per clip of [16, 5, 8, 8]; 0.04 M parameters."""
        return cls(dim=192, width=128, patch=(1, 2, 4))

    @classmethod
    def wan_1_3b(cls) -> PatchEncoderConfig:
        """For Wan2.1 T2V 1.3B: 252 tokens per clip of [16, 21, 60, 104] (480p, 81 frames); 8.6 M parameters."""
        return cls()

    @classmethod
    def wan_5b(cls) -> PatchEncoderConfig:
        """For Wan2.2 TI2V 5B: 210 tokens per clip of [48, 31, 44, 80] (704p, 121 frames), 80 for [48, 21, 30, 52]."""
        return cls(latent_channels=48, dim=3072, patch=(5, 8, 16))

    @classmethod
    def wan_14b(cls) -> PatchEncoderConfig:
        """For Wan2.1 14B and each expert of Wan2.2 A14B: as ``wan_1_3b``, with width 5120."""
        return cls(dim=5120)


class PatchEncoder(ClipwiseEncoder):
    """Encodes each memory clip separately: patch and position embeddings → layer norm → the backbone's width."""

    config_class = PatchEncoderConfig

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = unit_linear(config.latent_channels * math.prod(config.patch), config.width)
        self.norm = nn.LayerNorm(config.width)
        self.out = unit_linear(config.width, config.dim)

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """Encode the latents of N clips per sample, [B, N, C, T, H, W], as N·tokens memory tokens.

        N, T, H and W may have any size; incomplete patches repeat the last cell. Tokens are ordered by clip, then time,
        height and width. ``mask`` [B, N] is True for real clips; the others are never read, even if they contain NaN,
        and give zero tokens with a False mask. Latents are converted to the dtype of the weights.

        Raises:
            InputError: latents or mask have another shape or dtype.
        """
        check_clips(latents, mask, self.config.latent_channels)
        return self.with_gate(encode_clips(self._encode, self.out.weight.dtype, mask, latents))

    def _encode(self, clips: Float[Tensor, "clips channels time height width"]) -> Float[Tensor, "clips tokens dim"]:
        t, h, w = self.config.patch
        cells = whole_patches(clips, self.config.patch)
        grid = self.embed(rearrange(cells, "b c (t i) (h j) (w k) -> b t h w (c i j k)", i=t, j=h, k=w))
        return self.out(self.norm(grid + positions(*grid.shape[1:]).to(grid))).flatten(1, 3)
