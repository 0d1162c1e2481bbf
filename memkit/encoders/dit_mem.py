"""The encoder released with DiT-Mem (arXiv 2511.19229), with the same results from a hundredth of its tokens.

The release pools each video to one vector per branch, repeats it 100 times, and lets the copies attend to each other.
All copies of a token give the same output as one, and n copies of a key are equivalent to one key with ln(n) added to
its logit. So N videos give 2N tokens with log-weight ln(100) here, and 200N tokens in the release: all queries of the
backbone get the same result. This holds in training too, where the release applies a dropout of 0.5 before pooling,
uses the batch statistics in BatchNorm, and shuffles the videos (no attention depends on their order).

As in the release, the filters order frequencies by FFT bin number, not by |frequency|, but without its random noise.
Use ``FrequencyEncoder`` for new encoders; this one is for released checkpoints and for comparison.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.checks import LAYERS, WIDTHS, check_fields, shown
from memkit.encoders.base import MemoryEncoder
from memkit.encoders.clips import check_clips
from memkit.encoders.dit_mem_layers import ReleaseAttention, ReleaseBlock, ReleaseFilter
from memkit.errors import InputError
from memkit.files.models import on_meta
from memkit.files.tensors import check_shapes, load_exactly, read_state_dict
from memkit.memory import Memory

SMALLEST = 13  # minimum of latent frames, rows and columns: one cell is left after stride 4 and two poolings by 2


@dataclass(frozen=True)
class DitMemConfig:
    """Sizes of the released encoder; the defaults are those for Wan2.1 1.3B with clips of [16, 21, 60, 104]."""

    latent_channels: int = 16
    """Number of latent channels."""
    channels: tuple[int, int] = (512, 768)
    """Channels of the two convolution blocks of each branch."""
    grid: tuple[int, int] = (3, 6)
    """Rows and columns that the features of each video are pooled to; time is pooled to 1."""
    dim: int = 1536
    """Width of the tokens and of the backbone."""
    heads: int = 8
    """Number of attention heads, which must divide ``dim``."""
    copies: int = 100
    """Number of tokens per video and branch in the release."""
    resize_to: tuple[int, int, int] | None = None
    """Latent frames, rows and columns, 13 or more each, that videos are resized to first (trilinear, without corner
    alignment), for videos that are too small for the strides; not in the release. None: no resizing."""
    stored_filters: tuple[tuple[int, int, int] | None, ...] = (None,) * 4
    """Feature sizes [T, H, W//2+1] of the filters stored in a checkpoint: high 1, high 2, low 1, low 2. None: the curve
    of the release, at any size. Set by ``save_pretrained``; the values are saved with the weights."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            latent_channels=WIDTHS,
            channels=WIDTHS,
            grid=(1, 1000),
            dim=WIDTHS,
            heads=LAYERS,
            copies=(1, 1_000_000),
            resize_to=(1, 10_000),
            stored_filters=(1, 10_000),
        )
        if self.dim % self.heads:
            raise InputError(f"dim={self.dim} is not a multiple of heads={self.heads}; change one of them.")
        if self.resize_to is not None and min(self.resize_to) < SMALLEST:
            raise InputError(f"resize_to is {self.resize_to}; give time, height and width of {SMALLEST} or more.")
        if len(self.stored_filters) != 4:
            raise InputError(f"stored_filters is {self.stored_filters}; give None or three sizes of each of four.")

    @classmethod
    def tiny(cls) -> DitMemConfig:
        """For ``WanBackbone.tiny()``: clips of [16, 5, 8, 8] are enlarged by 4, the stride of the encoder; 0.66 M
        parameters, within 2 % of ``FrequencyEncoderConfig.tiny()``."""
        return cls(channels=(32, 48), grid=(2, 2), dim=192, resize_to=(20, 32, 32))

    @classmethod
    def wan_1_3b(cls) -> DitMemConfig:
        """For Wan2.1 T2V 1.3B, as released."""
        return cls()

    @classmethod
    def wan_5b(cls) -> DitMemConfig:
        """For Wan2.2 TI2V 5B, which was not released (our reading): clips of [48, 31, 44, 80] have a grid of (2, 5)."""
        return cls(latent_channels=48, grid=(2, 5), dim=3072)

    @classmethod
    def wan_14b(cls) -> DitMemConfig:
        """For Wan2.1 14B and each expert of Wan2.2 A14B (our reading): the release with width 5120."""
        return cls(dim=5120)


class _Branch(nn.Module):
    """Encodes each video as one vector: [V, C, T, H, W] -> [V, dim]."""

    def __init__(self, config: DitMemConfig, high: bool) -> None:
        super().__init__()
        self.grid = config.grid
        first, second = config.channels
        stored = config.stored_filters[:2] if high else config.stored_filters[2:]
        self.conv_block1 = ReleaseBlock(config.latent_channels, first, 7, 4, high, stored[0])
        self.conv_block2 = ReleaseBlock(first, second, 3, 1, high, stored[1])
        self.feature_proj = nn.Linear(second * math.prod(config.grid), config.dim)

    def forward(self, videos: Tensor) -> Tensor:
        features = self.conv_block2(self.conv_block1(videos))
        return self.feature_proj(F.adaptive_avg_pool3d(features, (1, *self.grid)).flatten(1))


class DitMemEncoder(MemoryEncoder):
    """The released encoder, with the parameter names of the release; initially in eval mode.

    After ``train()``, it behaves like the release in training: dropout draws from the global random state, and with
    BatchNorm the tokens of a video depend on all real videos of the batch.
    """

    config_class = DitMemConfig

    def __init__(self, config: DitMemConfig) -> None:
        super().__init__()
        self.config = config
        self.high_pass_module = _Branch(config, high=True)
        self.low_pass_module = _Branch(config, high=False)
        self.self_attention = ReleaseAttention(config.dim, config.heads)
        self.eval()

    def forward(self, latents: Float[Tensor, "*shape"], mask: Bool[Tensor, "*clips"] | None = None) -> Memory:
        """Encode N videos per sample as 2N tokens: those of the high-pass branch, then those of the low-pass branch.

        Masked videos are never read nor counted by BatchNorm; their tokens are zero, with a False mask.

        Args:
            latents: latents [B, N, C, T, H, W]. T, H and W must be 13 or more, the minimum for the strides of the
                release, or have any size with ``resize_to``. For other sizes than the checkpoint's, features are
                average-pooled to its grid, as in the release, and filters have the curve without noise, where the
                release would draw new noise.
            mask: [B, N], True for real videos.

        Raises:
            InputError: latents or mask have another shape, or the latents are too small.
        """
        self._check(latents, mask)
        real = slice(None) if mask is None else mask.flatten()
        vectors = self._vectors(latents.flatten(0, 1)[real])
        if mask is not None:
            vectors = vectors.new_zeros(mask.numel(), *vectors.shape[1:]).index_put((mask.flatten(),), vectors)
        return self.from_features(vectors.unflatten(0, latents.shape[:2]), mask)

    def clip_features(
        self, clips: Float[Tensor, "clips channels time height width"]
    ) -> Float[Tensor, "clips features size"]:
        """The vector of each branch [clips, 2, dim], high-pass first, before the attention between the clips."""
        self._check(clips[:, None], None)
        return self._vectors(clips)

    def from_features(
        self, features: Float[Tensor, "batch clips features size"], mask: Bool[Tensor, "batch clips"] | None = None
    ) -> Memory:
        """The memory of clips by the vectors of their branches: the attention between them."""
        branches = []
        for vectors in features.unbind(2):
            tokens = self.self_attention(vectors.contiguous(), mask)
            branches.append(tokens if mask is None else tokens.masked_fill(~mask[:, :, None], 0))
        tokens = torch.cat(branches, dim=1)
        weight = torch.full(tokens.shape[:2], math.log(self.config.copies), device=tokens.device)
        return self.with_gate(Memory(tokens, None if mask is None else mask.repeat(1, 2), weight))

    def _vectors(self, videos: Tensor) -> Tensor:
        videos = videos.to(self.self_attention.o.weight.dtype)
        if not len(videos):
            return videos.new_zeros(0, 2, self.config.dim)
        if self.config.resize_to is not None:
            videos = F.interpolate(videos, self.config.resize_to, mode="trilinear")
        return torch.stack([self.high_pass_module(videos), self.low_pass_module(videos)], dim=1)

    def low_and_high(self, memory: Memory, clips: int = 1) -> tuple[Tensor, Tensor]:
        """The tokens of each branch in the memory that this encoder gives for so many clips."""
        return memory.tokens[:, clips:], memory.tokens[:, :clips]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Like `Pretrained.save_pretrained`; the config is updated with the filters that are stored in the weights."""
        stored = tuple(module.stored for module in self.modules() if isinstance(module, ReleaseFilter))
        self.config = replace(self.config, stored_filters=stored)
        return super().save_pretrained(folder)

    def _check(self, latents: Tensor, mask: Tensor | None) -> None:
        check_clips(latents, mask, self.config.latent_channels)
        if self.config.resize_to is None and min(latents.shape[3:]) < SMALLEST:
            raise InputError(
                f"Latents {tuple(latents.shape)} are too small for the released encoder: T, H and W must be {SMALLEST} "
                f"or more each; encode longer or larger clips, set resize_to in its config, or use FrequencyEncoder, "
                f"which takes any size."
            )


def load_dit_mem(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor], config: DitMemConfig | None = None
) -> DitMemEncoder:
    """Load a checkpoint of the released encoder, in fp32 and eval mode.

    Warns if BatchNorm statistics are missing (uses mean 0 and variance 1) or filters (uses the curve without noise).

    Args:
        path_or_state_dict: a ``.safetensors`` file, a torch file (read with ``weights_only=True``) or a state dict: all
            118 keys, or only the 38 parameters, as written by the training code of the release. Names may have the
            prefix ``pipe.dit_mem.`` or ``dit_mem.``; then names without it, such as the backbone's, are ignored.
        config: sizes of the encoder; by default inferred from the tensors, with 8 heads.

    Raises:
        InputError: tensors are missing, unknown or of another shape; the message names them.
    """
    source = "The state dict" if isinstance(path_or_state_dict, Mapping) else str(path_or_state_dict)
    if not isinstance(path_or_state_dict, Mapping):
        if not os.path.isfile(source):
            raise InputError(f"{source} is not a file; give a DiT-Mem checkpoint.")
        path_or_state_dict = read_state_dict(source, "give a DiT-Mem checkpoint as a state dict of tensors")
    tensors = _encoder_tensors(path_or_state_dict, source)
    config = config or _infer(tensors, source)
    sketch = on_meta(lambda: _with_filters(DitMemEncoder(config), tensors, source), len(tensors), source)
    if sketch is not None:  # before sizes in the file claim memory
        check_shapes(sketch, {**_statistics(sketch), **tensors}, source)
    encoder = _with_filters(DitMemEncoder(config), tensors, source)
    load_exactly(encoder, {**_statistics(encoder), **tensors}, source)
    lacking_statistics = sum(name not in tensors for name in _statistics(encoder) if "running" in name)
    lacking_filters = sum(module.stored is None for module in encoder.modules() if isinstance(module, ReleaseFilter))
    if lacking_filters or lacking_statistics:
        warnings.warn(
            f"{source} lacks {lacking_statistics} of 8 BatchNorm statistics (using mean 0, variance 1) and "
            f"{lacking_filters} of 4 filters (using the release's curve without its noise).",
            stacklevel=2,
        )
    return encoder


def _statistics(encoder: nn.Module) -> dict[str, Tensor]:
    """The statistics of BatchNorm, initially mean 0 and variance 1, which a checkpoint may lack."""
    return {name: value for name, value in encoder.named_buffers() if not name.endswith("complex_weight")}


def _with_filters(encoder: DitMemEncoder, tensors: Mapping[str, Tensor], source: str) -> DitMemEncoder:
    """The encoder with the filters of a checkpoint, which are of any size."""
    for name, module in encoder.named_modules():
        if isinstance(module, ReleaseFilter):
            module.complex_weight = weight = tensors.get(f"{name}.complex_weight")
            if weight is not None and (weight.ndim != 5 or weight.shape[::4] != (module.norm.num_features, 2)):
                shape = tuple(weight.shape)
                raise InputError(f"{source} has {name}.complex_weight of shape {shape}; give a config that fits.")
    return encoder


def _encoder_tensors(state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Remove the prefix, the aliases of the blocks, and the BatchNorm layers that the release never uses."""
    for name, value in state_dict.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)) or value.layout != torch.strided:
            raise InputError(f"{source} has {name!r} = {shown(value)}; give a state dict of dense tensors.")
    prefix = next((p for p in ("pipe.dit_mem.", "dit_mem.") if any(name.startswith(p) for name in state_dict)), "")
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if not name.startswith(prefix):
            continue  # a tensor of the backbone, in a checkpoint of the whole pipeline
        name = name.removeprefix(prefix).replace(".cnn.0.", ".conv_block1.").replace(".cnn.1.", ".conv_block2.")
        if ".bn." in name:
            continue
        value = value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        known = tensors.get(name)
        if known is not None and not (known.is_meta or value.is_meta) and not torch.equal(known, value):
            raise InputError(f"{source} holds two different tensors for {name}; keep the one that was trained.")
        tensors[name] = value
    return tensors


def _infer(tensors: Mapping[str, Tensor], source: str) -> DitMemConfig:
    branch = "high_pass_module"
    names = [f"{branch}.{part}.weight" for part in ("conv_block1.conv", "conv_block2.conv", "feature_proj")]
    if missing := [name for name in names if name not in tensors]:
        raise InputError(f"{source} lacks {', '.join(missing)}; give a DiT-Mem checkpoint.")
    if [tensors[name].ndim for name in names] != [5, 5, 2] or not all(tensors[name].numel() for name in names):
        shapes = {name: tuple(tensors[name].shape) for name in names}
        raise InputError(f"{source} has other shapes than the encoder of DiT-Mem: {shapes}; give a DiT-Mem checkpoint.")
    (first, latent_channels, *_), (second, *_), (dim, inputs) = (tensors[name].shape for name in names)
    grid, cells = DitMemConfig().grid, inputs // second
    stored = tensors.get(f"{branch}.conv_block2.fft_filter.complex_weight")
    pooled = None if stored is None or stored.ndim != 5 else (stored.shape[2] // 2, stored.shape[3] - 1)
    if pooled is not None and math.prod(pooled) == cells:
        grid = pooled
    elif cells == 1:  # which has one layout
        grid = (1, 1)
    elif cells != math.prod(grid):  # the size of the filters was pooled to the grid, so it is unknown
        raise InputError(
            f"{source} does not say how its {cells} cells are laid out; give config=DitMemConfig(grid=...)."
        )
    return DitMemConfig(latent_channels, (first, second), grid, dim)
