"""`PatchEncoder`: the plain baseline, patches of the latents themselves, with nothing learned but two linear maps.

It shows what other encoders contribute: it has no convolution, no filter and no attention between the tokens of a clip.
Its presets give as many tokens as those of ``FrequencyEncoder``, so that the backbone sees as many and does as much
work: a patch covers half of the cells (stem stride × patch) that a token of one of the two branches does. It has far
fewer parameters: wider linear maps in sequence would not add capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.encoders.base import MemoryEncoder
from memkit.encoders.clips import check_clips, check_sizes, encode_clips, positions, unit_linear, whole_patches
from memkit.memory import Memory


@dataclass(frozen=True)
class PatchEncoderConfig:
    """Sizes of a ``PatchEncoder``. A clip of T×H×W latent cells gives ⌈T/p⌉ · ⌈H/p⌉ · ⌈W/p⌉ tokens, p the patch."""

    latent_channels: int = 16
    dim: int = 1536  # width of the backbone
    width: int = 768
    patch: tuple[int, int, int] = (3, 10, 20)  # time, height, width

    def __post_init__(self) -> None:
        check_sizes(self, ("latent_channels", "dim", "width"), triples=("patch",))

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
        """For Wan2.2 TI2V 5B: 210 tokens per clip of [48, 31, 44, 80] (704p, 121 frames), 80 of [48, 21, 30, 52]."""
        return cls(latent_channels=48, dim=3072, patch=(5, 8, 16))

    @classmethod
    def wan_14b(cls) -> PatchEncoderConfig:
        """For Wan2.1 14B and each expert of Wan2.2 A14B: as ``wan_1_3b`` at width 5120."""
        return cls(dim=5120)


class PatchEncoder(MemoryEncoder):
    """Encodes memory clips, each by itself: linear patch embedding + position → layer norm → the backbone's width."""

    config_class = PatchEncoderConfig

    def __init__(self, config: PatchEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = unit_linear(config.latent_channels * math.prod(config.patch), config.width)
        self.norm = nn.LayerNorm(config.width)
        self.out = unit_linear(config.width, config.dim)

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """``latents [B, N, C, T, H, W]`` and ``mask [B, N]``, True = a real clip -> ``Memory`` of N·tokens.

        Any N, T, H, W from 1 up. Tokens are ordered by clip, then time, height, width; incomplete patches repeat the
        last cell. A clip that is masked out gives zero tokens with a False mask; its content is never read, NaN
        included. Latents are computed in the dtype of the weights. Raises ``InputError`` on shapes that do not fit.
        """
        check_clips(latents, mask, self.config.latent_channels)
        return self.with_gate(encode_clips(self._encode, self.out.weight.dtype, mask, latents))

    def _encode(self, clips: Float[Tensor, "clips channels time height width"]) -> Float[Tensor, "clips tokens dim"]:
        t, h, w = self.config.patch
        cells = whole_patches(clips, self.config.patch)
        grid = self.embed(rearrange(cells, "b c (t i) (h j) (w k) -> b t h w (c i j k)", i=t, j=h, k=w))
        return self.out(self.norm(grid + positions(*grid.shape[1:]).to(grid))).flatten(1, 3)
