"""`FrequencyEncoder`: DiT-Mem's idea of an encoder (arXiv 2511.19229), with tokens that are all different.

Low frequencies carry appearance, high ones motion and detail; each gets its own branch. Where the release pools a clip
into 100 copies of one token a branch, this encoder keeps a grid over time and space. Everything but the two branches is
our reading: GroupNorm for BatchNorm, so that a clip's tokens never depend on the clips beside it; strided convolutions
for pooling, since an average would erase the high branch; and a position in every token, since keys of memory get no
rotary position in the backbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.encoders.filters import HighPass, LowPass
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.pretrained import Pretrained

POSITION_BASE = 100.0  # wavelengths of 6 to 600 tokens: grids are small


@dataclass(frozen=True)
class FrequencyEncoderConfig:
    """Sizes of a ``FrequencyEncoder``. Strides and patches are (time, height, width).

    A clip of T×H×W latent cells gives 2 · ⌈⌈T/s⌉/p⌉ · (the same of H) · (the same of W) tokens, s the stem's stride and
    p the patch; the 2 are the branches.
    """

    latent_channels: int = 16
    dim: int = 1536  # width of the backbone
    hidden: int = 128  # channels of the convolutions
    width: int = 768  # width of the transformer
    heads: int = 12
    layers: int = 2
    stem_stride: tuple[int, int, int] = (1, 4, 4)
    patch: tuple[int, int, int] = (3, 5, 5)
    norm_groups: int = 8
    filter_shape: str = "butterworth"
    cutoff_time: float = 0.25  # cycles per cell of the stem's output, as in ``filters``
    cutoff_space: float = 0.25

    def __post_init__(self) -> None:
        for name in ("latent_channels", "dim", "hidden", "width", "heads", "layers", "norm_groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("stem_stride", "patch"):
            if len(getattr(self, name)) != 3 or min(getattr(self, name)) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give three sizes of 1 or more: time, height, width."
                )
        for name, by in (("hidden", "norm_groups"), ("width", "heads")):
            if getattr(self, name) % getattr(self, by):
                raise InputError(f"{name}={getattr(self, name)} is not a multiple of {by}={getattr(self, by)}.")

    @classmethod
    def tiny(cls) -> FrequencyEncoderConfig:
        """For ``WanBackbone.tiny()``: 40 tokens a clip of [16, 5, 8, 8]; 0.65 M parameters."""
        return cls(dim=192, hidden=64, width=128, heads=4, layers=1, stem_stride=(1, 2, 2), patch=(1, 2, 2))

    @classmethod
    def wan_1_3b(cls) -> FrequencyEncoderConfig:
        """For Wan2.1 T2V 1.3B: 252 tokens a clip of [16, 21, 60, 104] (480p, 81 frames); 32 M parameters."""
        return cls()

    @classmethod
    def wan_5b(cls) -> FrequencyEncoderConfig:
        """For Wan2.2 TI2V 5B: 210 tokens a clip of [48, 31, 44, 80] (704p, 121 frames), 80 of [48, 21, 30, 52]."""
        return cls(latent_channels=48, dim=3072, patch=(5, 4, 4))

    @classmethod
    def wan_14b(cls) -> FrequencyEncoderConfig:
        """For Wan2.1 14B and each expert of Wan2.2 A14B: as ``wan_1_3b`` at width 5120."""
        return cls(dim=5120)


class FrequencyEncoder(Pretrained, nn.Module):
    """Encodes memory clips, each by itself, into distinct tokens of the backbone's width.

    Convolutional stem → low-pass and high-pass of its features, each with its own convolution → one token a patch and
    branch, plus its branch and its place → self-attention over the tokens of the one clip → the backbone's width.
    """

    config_class = FrequencyEncoderConfig

    def __init__(self, config: FrequencyEncoderConfig) -> None:
        super().__init__()
        self.config = config
        cutoffs = (config.cutoff_time, config.cutoff_space, config.filter_shape)
        self.stem = nn.Sequential(
            *_convolution(config.latent_channels, config.hidden, config.stem_stride, config.norm_groups),
            *_convolution(config.hidden, config.hidden, (1, 1, 1), config.norm_groups),
        )
        self.low = _Branch(LowPass(*cutoffs), config)
        self.high = _Branch(HighPass(*cutoffs), config)
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
        self.out = nn.Linear(config.width, config.dim)
        # Tokens of unit variance: the blocks normalise them anyway, and gradients keep a sensible size.
        nn.init.normal_(self.out.weight, std=config.width**-0.5)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """``latents [B, N, C, T, H, W]`` and ``mask [B, N]``, True = a real clip -> ``Memory`` of N·tokens.

        Any N, T, H, W from 1 up. Tokens are ordered by clip, then low before high, then time, height, width. A clip
        that is masked out gives zero tokens with a False mask; its content is never read, NaN included. Latents are
        computed in the dtype of the weights. Raises ``InputError`` on shapes that do not fit.
        """
        self._check(latents, mask)
        clips = latents.to(self.out.weight.dtype)
        if mask is not None:
            clips = clips.masked_fill(~mask[:, :, None, None, None, None], 0)
        tokens = self._encode(rearrange(clips, "b n c t h w -> (b n) c t h w"))
        tokens = rearrange(tokens, "(b n) m d -> b n m d", n=latents.shape[1])
        if mask is not None:
            tokens = tokens.masked_fill(~mask[:, :, None, None], 0)
            mask = repeat(mask, "b n -> b (n m)", m=tokens.shape[2])
        return Memory(rearrange(tokens, "b n m d -> b (n m) d"), mask)

    def _encode(self, clips: Float[Tensor, "clips channels time height width"]) -> Float[Tensor, "clips tokens dim"]:
        features = self.stem(clips)
        low, high = self.low(features), self.high(features)
        place = _positions(*low.shape[1:]).to(low)
        branches = [grid + place + self.branch[i] for i, grid in enumerate((low, high))]
        tokens = rearrange(branches, "branch b t h w d -> b (branch t h w) d")
        for layer in self.layers:
            tokens = layer(tokens)
        return self.out(self.norm(tokens))

    def _check(self, latents: Tensor, mask: Tensor | None) -> None:
        shape = tuple(latents.shape)
        if len(shape) == 5:
            raise InputError(
                f"Latents {shape} are one clip a sample: give [B, N, C, T, H, W], latents[:, None] if N=1."
            )
        if len(shape) != 6 or 0 in shape:
            raise InputError(
                f"Latents {shape} are not [B, N, C, T, H, W] with sizes of 1 or more; without clips, attach no memory."
            )
        if shape[2] != self.config.latent_channels:
            raise InputError(
                f"Latents {shape} have {shape[2]} channels, this encoder takes {self.config.latent_channels}: "
                f"encode the clips with the backbone's own VAE, or use the encoder of that backbone."
            )
        if mask is not None and (mask.shape != latents.shape[:2] or mask.dtype != torch.bool):
            raise InputError(
                f"mask is {mask.dtype} {tuple(mask.shape)}; give torch.bool {shape[:2]}, True = a real clip."
            )


class _Branch(nn.Module):
    """Filter, convolve, cut into patches: [B, hidden, T, H, W] -> a grid of tokens [B, T', H', W', width]."""

    def __init__(self, filter: LowPass | HighPass, config: FrequencyEncoderConfig) -> None:
        super().__init__()
        self.filter = filter
        self.convolution = nn.Sequential(*_convolution(config.hidden, config.hidden, (1, 1, 1), config.norm_groups))
        self.patch = nn.Conv3d(config.hidden, config.width, config.patch, stride=config.patch)
        # What the clip holds starts as large as its place: SiLU of a normal variable has a mean square of 0.36.
        nn.init.normal_(self.patch.weight, std=(0.36 * config.hidden * math.prod(config.patch)) ** -0.5)

    def forward(self, features: Tensor) -> Tensor:
        features = self.convolution(self.filter(features))
        for axis, size in zip((2, 3, 4), self.patch.stride, strict=True):
            features = _replicate_to_multiple(features, axis, size)
        return self.patch(features).movedim(1, -1)


def _convolution(inputs: int, outputs: int, stride: tuple[int, int, int], groups: int) -> list[nn.Module]:
    """Kernels that see every cell; any size n gives ⌈n / stride⌉."""
    t, h, w = (max(3, 2 * s - 1) for s in stride)
    kernel, padding = (t, h, w), (t // 2, h // 2, w // 2)
    return [nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.GroupNorm(groups, outputs), nn.SiLU()]


def _replicate_to_multiple(x: Tensor, axis: int, size: int) -> Tensor:
    missing = -x.shape[axis] % size
    if not missing:
        return x
    last = x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([x, *[last] * missing], dim=axis)  # unlike F.pad, deterministic backwards on every device


def _positions(time: int, height: int, width: int, dim: int) -> Tensor:
    """Sinusoids of time, height and width in a third of the channels each (the few left over are 0): [T, H, W, dim]."""
    count = max(1, dim // 6)
    rates = POSITION_BASE ** (-torch.arange(count, dtype=torch.float64) / count)
    place = torch.zeros(time, height, width, 6 * count)
    for axis, size in enumerate((time, height, width)):
        angles = torch.arange(size)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [1, 1, 1, 2 * count]
        shape[axis] = size
        place[..., 2 * count * axis : 2 * count * (axis + 1)] = waves.reshape(shape)
    return nn.functional.pad(place, (0, dim - 6 * count))
