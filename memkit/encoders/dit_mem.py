"""The encoder released with DiT-Mem (arXiv 2511.19229), for its checkpoints: its arithmetic, a hundredth of its tokens.

The release pools each video to one vector a branch, repeats it 100 times, and lets the repeats attend to each other.
Repeats of a token attend like one of them, and n copies of a key are one key with ln(n) added to its logit. So N videos
give 2N tokens here, with log-weight ln(100), where the release has 200N: every query of the backbone gets the same
result. Evaluation only: no dropout, BatchNorm by its running statistics, float32 filters.

The filters rank frequencies by FFT bin number rather than by |frequency|, as the release does. For a new encoder take
``FrequencyEncoder``.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from memkit.errors import InputError
from memkit.memory import Memory
from memkit.pretrained import load_exactly

SMALLEST = 13  # latent frames, rows and columns that leave one cell after stride 4 and two poolings by 2


@dataclass(frozen=True)
class DitMemConfig:
    """Sizes of the released encoder; the defaults are those for Wan2.1 1.3B at [16, 21, 60, 104]."""

    latent_channels: int = 16
    channels: tuple[int, int] = (512, 768)
    grid: tuple[int, int] = (3, 6)  # rows and columns that each video is pooled to; time is pooled to 1
    dim: int = 1536
    heads: int = 8
    copies: int = 100  # tokens a video and branch in the release


def filter_curve(high: bool, channels: int, time: int, height: int, width: int) -> Float[Tensor, "c t h w2 2"]:
    """The release's filter before its noise, as (real, imaginary) over the bins of ``rfftn`` of this size."""
    bins = (torch.linspace(0, 1, n) for n in (time, height, width // 2 + 1))
    d, h, w = torch.meshgrid(*bins, indexing="ij")
    radius = ((d.square() + h.square() + w.square()).sqrt() / math.sqrt(3)).sqrt()
    curve = 0.2 + 0.8 * radius if high else 1.2 - 0.8 * radius
    slope, offset = torch.linspace(0.7, 1.3, channels), torch.linspace(-0.05, 0.05, channels)
    real = (curve * slope[:, None, None, None] + offset[:, None, None, None]).clamp(0.2, 1.2)
    return torch.stack([real, torch.zeros_like(real)], dim=-1)


class _Filter(nn.Module):
    """Spectral weights, residual, BatchNorm. ``complex_weight`` is None, or the drawn weights for one input size."""

    complex_weight: Tensor | None

    def __init__(self, channels: int, high: bool) -> None:
        super().__init__()
        self.high = high
        self.norm = nn.BatchNorm3d(channels)
        self.register_buffer("complex_weight", None)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, time, height, width = x.shape
        weight = self.complex_weight
        if weight is not None and weight.shape[1:4] != (time, height, width // 2 + 1):
            warnings.warn(
                f"The checkpoint's filter is for features of [T, H, W//2+1] {tuple(weight.shape[1:4])}, these are "
                f"{(time, height, width // 2 + 1)}: using the release's curve without its noise.",
                stacklevel=2,
            )
            weight = None
        if weight is None:
            weight = filter_curve(self.high, channels, time, height, width).to(x.device)
        spectrum = torch.fft.rfftn(x.float(), dim=(-3, -2, -1), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(weight.float().contiguous())
        filtered = torch.fft.irfftn(spectrum, s=(time, height, width), dim=(-3, -2, -1), norm="ortho")
        return self.norm(filtered.to(x.dtype) + x)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, high: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.fft_filter = _Filter(outputs, high)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(F.relu(self.fft_filter(self.conv(x))), 2)


class _Branch(nn.Module):
    """One video to one vector: [V, C, T, H, W] -> [V, dim]."""

    def __init__(self, config: DitMemConfig, high: bool) -> None:
        super().__init__()
        self.grid = config.grid
        first, second = config.channels
        self.conv_block1 = _Block(config.latent_channels, first, kernel=7, stride=4, high=high)
        self.conv_block2 = _Block(first, second, kernel=3, stride=1, high=high)
        self.feature_proj = nn.Linear(second * math.prod(config.grid), config.dim)

    def forward(self, videos: Tensor) -> Tensor:
        features = self.conv_block2(self.conv_block1(videos))
        return self.feature_proj(F.adaptive_avg_pool3d(features, (1, *self.grid)).flatten(1))


class _SelfAttention(nn.Module):
    """Biased projections, RMSNorm over the full width on q and k; no positions, residual, norm or MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=1e-6), nn.RMSNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x))
        )
        if mask is not None:  # a masked video sees itself, so that no row is empty
            mask = (mask[:, None, :] | torch.eye(x.shape[1], dtype=torch.bool, device=x.device))[:, None]
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class DitMemEncoder(nn.Module):
    """The released encoder; made by ``load_dit_mem``. Its parameter names are those of the release."""

    def __init__(self, config: DitMemConfig) -> None:
        super().__init__()
        if config.dim % config.heads:
            raise InputError(f"dim={config.dim} is not a multiple of heads={config.heads}.")
        self.config = config
        self.high_pass_module = _Branch(config, high=True)
        self.low_pass_module = _Branch(config, high=False)
        self.self_attention = _SelfAttention(config.dim, config.heads)
        self.eval()

    def train(self, mode: bool = True) -> DitMemEncoder:
        """Stays in eval mode: this encoder reproduces a finished one."""
        return super().train(False)

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """``latents [B, N, C, T, H, W]``, ``mask [B, N]``, True = real -> ``Memory`` of 2N tokens, high, then low.

        T, H and W are 13 or more, the least that the release's strides leave a cell of. Sizes whose feature grid is not
        that of the checkpoint's are average-pooled to it, as in the release; their filters are the curve without noise,
        where the release would draw new noise. Masked videos give zero tokens with a False mask and are never read.
        """
        self._check(latents, mask)
        videos = latents.to(self.self_attention.o.weight.dtype)
        if mask is not None:
            videos = videos.masked_fill(~mask[:, :, None, None, None, None], 0)
        batch, count = latents.shape[:2]
        branches = []
        for branch in (self.high_pass_module, self.low_pass_module):
            tokens = self.self_attention(branch(videos.flatten(0, 1)).unflatten(0, (batch, count)), mask)
            branches.append(tokens if mask is None else tokens.masked_fill(~mask[:, :, None], 0))
        tokens = torch.cat(branches, dim=1)
        weight = torch.full(tokens.shape[:2], math.log(self.config.copies), device=tokens.device)
        return Memory(tokens, None if mask is None else mask.repeat(1, 2), weight)

    def _check(self, latents: Tensor, mask: Tensor | None) -> None:
        shape = tuple(latents.shape)
        if len(shape) != 6 or 0 in shape or shape[2] != self.config.latent_channels:
            raise InputError(
                f"Latents {shape} are not [B, N, {self.config.latent_channels}, T, H, W]; "
                f"give latents[:, None] for one clip a sample."
            )
        if min(shape[3:]) < SMALLEST:
            raise InputError(
                f"Latents {shape} are too small for the released encoder: T, H and W must be {SMALLEST} or more each; "
                f"encode longer or larger clips, or use FrequencyEncoder, which takes any size."
            )
        if mask is not None and (mask.shape != latents.shape[:2] or mask.dtype != torch.bool):
            raise InputError(
                f"mask is {mask.dtype} {tuple(mask.shape)}; give torch.bool {shape[:2]}, True = a real clip."
            )


def load_dit_mem(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor], config: DitMemConfig | None = None
) -> DitMemEncoder:
    """The released encoder with the weights of a checkpoint, in float32 and eval mode.

    Takes ``.safetensors``, a torch file (read with ``weights_only=True``) or a state dict; names with the prefix
    ``pipe.dit_mem.``, ``dit_mem.`` or none (beside a prefix, other names are the backbone's and left); the full state
    dict (118 keys) or the parameters alone (38), as the release's training writes them. Without ``config`` the sizes
    are read from the tensors, with 8 heads. Warns, with the counts, of BatchNorm statistics (then mean 0, variance 1)
    and filters (then the curve without noise) that the checkpoint lacks; the release draws new noise there, so no two
    of its runs agree. Raises ``InputError`` that names the tensors that are missing, unknown or of another shape.
    """
    source = "The state dict" if isinstance(path_or_state_dict, Mapping) else str(path_or_state_dict)
    if not isinstance(path_or_state_dict, Mapping):
        path_or_state_dict = _read(path_or_state_dict)
    tensors = _own_names(path_or_state_dict, source)
    encoder = DitMemEncoder(config or _infer(tensors, source))
    statistics = dict(encoder.named_buffers())  # as BatchNorm begins: mean 0, variance 1
    lacking_statistics = sum(name not in tensors for name in statistics if "running" in name)
    lacking_filters = 0
    for name, module in encoder.named_modules():
        if isinstance(module, _Filter):
            module.complex_weight = weight = tensors.get(f"{name}.complex_weight")
            lacking_filters += weight is None
            if weight is not None and (weight.ndim != 5 or weight.shape[::4] != (module.norm.num_features, 2)):
                shape = tuple(weight.shape)
                raise InputError(f"{source} has {name}.complex_weight of shape {shape}; give a config that fits.")
    load_exactly(encoder, {**statistics, **tensors}, source)
    if lacking_filters or lacking_statistics:
        warnings.warn(
            f"{source} lacks {lacking_statistics} of 8 BatchNorm statistics (using mean 0, variance 1) and "
            f"{lacking_filters} of 4 filters (using the release's curve without its noise).",
            stacklevel=2,
        )
    return encoder


def _read(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file; give a DiT-Mem checkpoint.")
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has a dozen types for a file that is damaged or holds code
        raise InputError(f"{path} cannot be read as tensors alone ({error}); give a state dict of tensors.") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} does not hold a state dict; give a file that maps names to tensors.")
    return content


def _own_names(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Without prefix, without the aliases of the blocks, without the BatchNorm that the release never calls."""
    prefix = next((p for p in ("pipe.dit_mem.", "dit_mem.") if any(name.startswith(p) for name in state_dict)), "")
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if not name.startswith(prefix):
            continue  # the backbone's, in a checkpoint of the whole pipeline
        name = name.removeprefix(prefix).replace(".cnn.0.", ".conv_block1.").replace(".cnn.1.", ".conv_block2.")
        if ".bn." in name:
            continue
        value = value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        if name in tensors and not torch.equal(tensors[name], value):
            raise InputError(f"{source} holds two different tensors for {name}; keep the one that was trained.")
        tensors[name] = value
    return tensors


def _infer(tensors: Mapping[str, Tensor], source: str) -> DitMemConfig:
    branch = "high_pass_module"
    names = [f"{branch}.{part}.weight" for part in ("conv_block1.conv", "conv_block2.conv", "feature_proj")]
    if missing := [name for name in names if name not in tensors]:
        raise InputError(f"{source} lacks {', '.join(missing)}; give a DiT-Mem checkpoint.")
    (first, latent_channels, *_), (second, *_), (dim, inputs) = (tensors[name].shape for name in names)
    default = DitMemConfig()
    rows, cells = default.grid[0], inputs // second
    known = tensors.get(f"{branch}.conv_block2.fft_filter.complex_weight")
    if known is not None:
        rows = known.shape[2] // 2
    elif cells != math.prod(default.grid):
        raise InputError(
            f"{source} does not say how its {cells} cells are laid out; give config=DitMemConfig(grid=...)."
        )
    return DitMemConfig(latent_channels, (first, second), (rows, cells // rows), dim)
