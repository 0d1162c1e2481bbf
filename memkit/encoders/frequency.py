"""`FrequencyEncoder`: an encoder with the idea of DiT-Mem (arXiv 2511.19229), whose tokens are all different.

Low frequencies represent appearance, high frequencies motion and detail; each has its own branch. While the release
pools a clip to 100 copies of one token per branch, this encoder keeps a grid over time and space. Everything except the
two branches is our choice: GroupNorm instead of BatchNorm, so that the tokens of a clip do not depend on other clips;
strided convolutions instead of pooling, as averages would erase the high frequencies; and position embeddings in the
tokens, as keys of memory have no rotary positions in the backbone.

Three controls measure the effect of the filters: the same encoder with two low-pass, two high-pass or two unfiltered
branches. As filters have no parameters, the number of parameters and tokens, the cost and, with the same seed, the
initial weights are those of ``FrequencyEncoder``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.checks import LAYERS, WIDTHS, check_fields
from memkit.encoders.clips import (
    PATCHES,
    check_clips,
    encode_clips,
    positions,
    unit_linear,
    whole_patches,
)
from memkit.encoders.clipwise import ClipwiseEncoder
from memkit.encoders.filters import HighPass, LowPass, check_filter
from memkit.errors import InputError
from memkit.memory import Memory

Band = Literal["low", "high", "whole"]


@dataclass(frozen=True)
class FrequencyEncoderConfig:
    """Sizes of a ``FrequencyEncoder``. Strides and patches are (time, height, width).

    The number of tokens of a clip of T×H×W latent cells is 2 · ⌈⌈T/s⌉/p⌉ · ⌈⌈H/s⌉/p⌉ · ⌈⌈W/s⌉/p⌉, for two branches,
    with the stem's stride s and the patch size p of each axis.
    """

    latent_channels: int = 16
    """Number of latent channels."""
    dim: int = 1536
    """Width of the backbone."""
    hidden: int = 128
    """Channels of the convolutions."""
    width: int = 768
    """Width of the transformer."""
    heads: int = 12
    """Number of attention heads."""
    layers: int = 2
    """Number of transformer layers."""
    stem_stride: tuple[int, int, int] = (1, 4, 4)
    """Stride of the convolutional stem."""
    patch: tuple[int, int, int] = (3, 5, 5)
    """Patch size in cells of the stem's output."""
    norm_groups: int = 8
    """Number of groups of GroupNorm."""
    filter_shape: str = "butterworth"
    """Shape of the filters, one of ``filters.FILTER_SHAPES``."""
    cutoff_time: float = 0.25
    """Cut-off of the filters in time, in cycles per cell of the stem's output."""
    cutoff_space: float = 0.25
    """Cut-off of the filters in height and width, in cycles per cell of the stem's output."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            latent_channels=WIDTHS,
            dim=WIDTHS,
            hidden=WIDTHS,
            width=WIDTHS,
            heads=LAYERS,
            layers=LAYERS,
            stem_stride=PATCHES,
            patch=PATCHES,
            norm_groups=WIDTHS,
            cutoff_time=(0, math.inf),
            cutoff_space=(0, math.inf),
        )
        check_filter(self.cutoff_time, self.cutoff_space, self.filter_shape)
        for name, by in (("hidden", "norm_groups"), ("width", "heads")):
            if getattr(self, name) % getattr(self, by):
                raise InputError(
                    f"{name}={getattr(self, name)} is not a multiple of {by}={getattr(self, by)}; change one of them."
                )

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Number of tokens of a clip of so many latent frames, rows and columns."""
        sides = zip((frames, height, width), self.stem_stride, self.patch, strict=True)
        return 2 * math.prod(math.ceil(math.ceil(side / stride) / patch) for side, stride, patch in sides)

    @classmethod
    def tiny(cls) -> FrequencyEncoderConfig:
        """For ``WanBackbone.tiny()``: 40 tokens per clip of [16, 5, 8, 8]; 0.65 M parameters."""
        return cls(dim=192, hidden=64, width=128, heads=4, layers=1, stem_stride=(1, 2, 2), patch=(1, 2, 2))

    @classmethod
    def wan_1_3b(cls) -> FrequencyEncoderConfig:
        """For Wan2.1 T2V 1.3B: 252 tokens per clip of [16, 21, 60, 104] (480p, 81 frames); 32 M parameters."""
        return cls()

    @classmethod
    def wan_5b(cls) -> FrequencyEncoderConfig:
        """For Wan2.2 TI2V 5B: 210 tokens per clip of [48, 31, 44, 80] (704p, 121 frames), 80 for [48, 21, 30, 52]."""
        return cls(latent_channels=48, dim=3072, patch=(5, 4, 4))

    @classmethod
    def wan_14b(cls) -> FrequencyEncoderConfig:
        """For Wan2.1 14B and each expert of Wan2.2 A14B: as ``wan_1_3b``, with width 5120."""
        return cls(dim=5120)


class FrequencyEncoder(ClipwiseEncoder):
    """Encodes each memory clip separately as distinct tokens of the backbone's width.

    Convolutional stem → low-pass and high-pass filters, each followed by a convolution → one token per patch and
    branch, plus embeddings of branch and position → self-attention between the tokens of a clip → the backbone's width.
    """

    config_class = FrequencyEncoderConfig
    bands: ClassVar[tuple[Band, Band]] = ("low", "high")
    """Frequencies that the modules ``low`` and ``high`` pass; the modules have the same names in the controls."""

    def __init__(self, config: FrequencyEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            *_convolution(config.latent_channels, config.hidden, config.stem_stride, config.norm_groups),
            *_convolution(config.hidden, config.hidden, (1, 1, 1), config.norm_groups),
        )
        self.low, self.high = (_Branch(_filter(band, config), config) for band in self.bands)
        self.branch = nn.Parameter(torch.randn(2, config.width) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                dim_feedforward=4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = unit_linear(config.width, config.dim)

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """Encode the latents of N clips per sample, [B, N, C, T, H, W], as N·tokens memory tokens.

        N, T, H and W may have any size. Tokens are ordered by clip, then branch (low before high), time, height and
        width. ``mask`` [B, N] is True for real clips; the others are never read, even if they contain NaN, and give
        zero tokens with a False mask. Latents are converted to the dtype of the weights.

        Raises:
            InputError: latents or mask have another shape or dtype.
        """
        check_clips(latents, mask, self.config.latent_channels)
        return self.with_gate(encode_clips(self._encode, self.out.weight.dtype, mask, latents))

    def low_and_high(
        self, memory: Memory, clips: int = 1
    ) -> tuple[Float[Tensor, "batch low dim"], Float[Tensor, "batch high dim"]]:
        """The tokens of each branch in the memory that this encoder gives for so many clips."""
        tokens = memory.tokens.unflatten(1, (clips, 2, -1))
        return tokens[:, :, 0].flatten(1, 2), tokens[:, :, 1].flatten(1, 2)

    def _encode(self, clips: Float[Tensor, "clips channels time height width"]) -> Float[Tensor, "clips tokens dim"]:
        features = self.stem(clips)
        return self.join(self.low(features), self.high(features))

    def join(
        self,
        low: Float[Tensor, "clips t h w features"],
        high: Float[Tensor, "clips t h w features"],
    ) -> Float[Tensor, "clips tokens dim"]:
        """The tokens of a clip from the grids of its two branches: the layers after the branches."""
        position = positions(*low.shape[1:]).to(low)
        branches = [grid + position + self.branch[i] for i, grid in enumerate((low, high))]
        tokens = rearrange(branches, "branch b t h w d -> b (branch t h w) d")
        for layer in self.layers:
            tokens = layer(tokens)
        return self.out(self.norm(tokens))


class LowPassOnlyEncoder(FrequencyEncoder):
    """Control with two low-pass branches."""

    bands = ("low", "low")


class HighPassOnlyEncoder(FrequencyEncoder):
    """Control with two high-pass branches."""

    bands = ("high", "high")


class NoFilterEncoder(FrequencyEncoder):
    """Control with two unfiltered branches."""

    bands = ("whole", "whole")


class _Branch(nn.Module):
    """Filter, convolution and patch embedding: [B, hidden, T, H, W] -> a grid of tokens [B, T', H', W', width]."""

    def __init__(self, filter: nn.Module, config: FrequencyEncoderConfig) -> None:
        super().__init__()
        self.filter, self.size = filter, config.patch
        self.convolution = nn.Sequential(*_convolution(config.hidden, config.hidden, (1, 1, 1), config.norm_groups))
        self.patch = nn.Conv3d(config.hidden, config.width, config.patch, stride=config.patch)
        # Content is initially as large as position embeddings: SiLU of a normal variable has a mean square of 0.36.
        nn.init.normal_(self.patch.weight, std=(0.36 * config.hidden * math.prod(config.patch)) ** -0.5)

    def forward(self, features: Tensor) -> Tensor:
        features = whole_patches(self.convolution(self.filter(features)), self.size)
        return self.patch(features).movedim(1, -1)


def _filter(band: Band, config: FrequencyEncoderConfig) -> nn.Module:
    kinds = {"low": LowPass, "high": HighPass}
    cutoffs = (config.cutoff_time, config.cutoff_space, config.filter_shape)
    return kinds[band](*cutoffs) if band in kinds else nn.Identity()


def _convolution(inputs: int, outputs: int, stride: tuple[int, int, int], groups: int) -> list[nn.Module]:
    """Convolution, GroupNorm and SiLU, with kernels that cover every cell; an axis of n cells gives ⌈n / stride⌉."""
    t, h, w = (max(3, 2 * s - 1) for s in stride)
    kernel, padding = (t, h, w), (t // 2, h // 2, w // 2)
    return [nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.GroupNorm(groups, outputs), nn.SiLU()]
