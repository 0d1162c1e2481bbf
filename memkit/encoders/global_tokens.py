"""`GlobalTokens`: a few tokens that stand for a whole noisy video, read anew at each step (VINs, arXiv 2503.17539).

Learned tokens read the patches of some frames by one cross-attention, then pass blocks of self-attention together with
cross-attention to the text. Chunks of a long video that see them, and little of each other, can be denoised in
parallel. The paper has 512 tokens and 4 blocks of 32 heads; what is not known of them (patches, norms, feed-forward
layers) is that of PyTorch's decoder layers. The gate, with which tokens change nothing at first, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.checks import LAYERS, WIDTHS, check_fields
from memkit.encoders.gate import MemoryGate
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class GlobalTokensConfig:
    """Sizes of the tokens, and of the backbone, by default those of Wan2.1 T2V 1.3B."""

    tokens: int = 512
    blocks: int = 4
    heads: int = 32
    """Of the encoder's own attention."""
    dim: int = 1536
    """Width of the backbone, and of the encoder; a multiple of its heads."""
    text_dim: int = 4096
    channels: int = 16
    """Number of latent channels."""
    layers: int = 30
    """Number of transformer blocks of the backbone, for the gate."""
    layer_heads: int = 12
    """Number of attention heads of each, for the gate."""

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("dim", "text_dim", "channels"), WIDTHS)
        sizes |= dict.fromkeys(("blocks", "heads", "layers", "layer_heads"), LAYERS)
        check_fields(self, tokens=(1, 1 << 16), **sizes)
        if self.dim % self.heads:
            raise InputError(f"A width of {self.dim} is no multiple of {self.heads} heads; give other heads.")


class GlobalTokens(Pretrained, nn.Module):
    """Tokens of the video in the backbone's width, as `Memory` with a gate that begins at 0."""

    config_class = GlobalTokensConfig

    def __init__(self, config: GlobalTokensConfig) -> None:
        super().__init__()
        self.config, width = config, config.dim
        self.tokens = nn.Parameter(torch.randn(config.tokens, width))
        self.patches = nn.Conv3d(config.channels, width, (1, 2, 2), (1, 2, 2))
        self.text = nn.Linear(config.text_dim, width)
        self.read = nn.MultiheadAttention(width, config.heads, batch_first=True)
        block = nn.TransformerDecoderLayer(width, config.heads, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerDecoder(block, config.blocks)
        self.gate = MemoryGate(config.layers, config.layer_heads)

    def forward(
        self,
        frames: Float[Tensor, "batch channels frames height width"],
        text: Float[Tensor, "batch length text_dim"],
    ) -> Memory:
        """The tokens of noisy latent frames (in VINs one per second) and the embeddings of the prompt."""
        seen = self.patches(frames).flatten(2).mT
        tokens = self.tokens.expand(len(frames), -1, -1)
        return Memory(self.blocks(self.read(tokens, seen, seen)[0], self.text(text)), gate=self.gate())
