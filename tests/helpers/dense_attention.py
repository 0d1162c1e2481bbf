"""Self-attention of a whole sequence by its definition, a reference for parts that cache or split the sequence."""

import math
from collections.abc import Sequence

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from tests.helpers.random_wan import SMALL


def rotary_angles(positions: Sequence[int]) -> Tensor:
    """Wan's rotary angles of latent frames with 2×2 tokens, one position per frame: [tokens, head_dim / 2], float64."""
    dim, side = SMALL["attention_head_dim"], 2 * (SMALL["attention_head_dim"] // 6)
    grid = torch.meshgrid(torch.tensor(positions), torch.arange(2), torch.arange(2), indexing="ij")
    angles = [
        p.reshape(-1, 1).double() * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
        for p, d in zip(grid, (dim - 2 * side, side, side), strict=True)
    ]
    return torch.cat(angles, 1)


class DenseSelfAttention(WanAttnProcessor):
    """All logits in float64, one boolean mask, rotation by complex numbers.

    Args:
        positions: The temporal position of each latent frame; a frame has 2×2 tokens.
        allowed: Shape [tokens, tokens], true where the query of a row sees the key of a column.
    """

    def __init__(self, positions: Sequence[int], allowed: Tensor) -> None:
        super().__init__()
        self.turn = torch.polar(torch.ones(()).double(), rotary_angles(positions))[:, None]
        self.allowed = allowed

    def __call__(self, attn, hidden, *_):
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).double() for x in (q, k, v))
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.turn).flatten(-2) for x in (q, k)
        )
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        weights = logits.masked_fill(~self.allowed, -torch.inf).softmax(-1)
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).float())
