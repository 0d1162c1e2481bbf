"""`ControlBranchConfig`: sizes of a `ControlBranch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from memkit.backbones.unwrap import transformer_of
from memkit.checks import LAYERS, WIDTHS, check_fields


@dataclass(frozen=True)
class ControlBranchConfig:
    """Sizes of the backbone, by default those of Wan2.1 T2V 1.3B, and of the control latents."""

    dim: int = 1536
    """Width of the backbone's hidden states."""
    heads: int = 12
    ffn_dim: int = 8960
    blocks: int = 30
    """Number of transformer blocks of the backbone."""
    channels: int = 17
    """Number of channels of the control latents."""
    every: int = 2
    """Blocks 0, ``every``, 2·``every``, … get a hint: every second one, as in Mirage."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Patch size of the backbone in latent (frames, rows, columns)."""
    cross_attn_norm: bool = True
    image_width: int | None = None
    """Width of the image embeddings of models that take a first image in cross-attention (``added_kv_proj_dim``)."""
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_fields(
            self, dim=WIDTHS, heads=LAYERS, ffn_dim=WIDTHS, blocks=LAYERS, channels=WIDTHS, every=LAYERS,
            patch_size=(1, 1000), image_width=WIDTHS, eps=(0, 0.01),
        )  # fmt: skip

    @classmethod
    def of(cls, transformer: nn.Module, channels: int, every: int = 2) -> ControlBranchConfig:
        """The config with the sizes of a stock Wan transformer."""
        config: Any = transformer_of(transformer).config
        heads, width = config.num_attention_heads, config.num_attention_heads * config.attention_head_dim
        image, patch = config.added_kv_proj_dim, tuple(config.patch_size)
        sizes = width, heads, config.ffn_dim, config.num_layers, channels, every
        return cls(*sizes, patch, config.cross_attn_norm, image, config.eps)
