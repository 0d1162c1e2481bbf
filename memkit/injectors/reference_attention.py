"""`ReferenceAttention`: cross-attention from the video to features of reference frames, in every block.

As in GSFixer (arXiv 2508.09667): each kind of features, such as those of DINOv2 and VGGT, is projected to the width of
the model, and the kinds are summed to one token per patch; the video attends to these tokens after its self-attention,
without positions and without a gate. Queries are made of the input of the self-attention (our reading; the authors'
layer follows it), and the last weights begin at 0, so that the untrained layers change nothing.

    layers = {i: ReferenceAttention(1536, 12, features=(1024, 2048)) for i in range(30)}
    with BlockLayers(layers, context=(dino, vggt)).attach(transformer):  # [B, M, 1024] and [B, M, 2048]
        velocity = transformer(latents, t, text).sample
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from memkit.checks import WIDTHS, check_whole, shown
from memkit.errors import InputError
from memkit.injectors.block_layers import BlockLayer, Tokens


class ReferenceAttention(BlockLayer):
    """The cross-attention of one block.

    Args:
        width: of the model.
        heads: number of attention heads, which divides the width.
        features: width of each kind of features. The context of `BlockLayers` has a tensor [B or 1, M, width] per kind,
            with one number of tokens M; or no tensor at all, for no references.
    """

    def __init__(self, width: int, heads: int, features: Sequence[int]) -> None:
        super().__init__()
        for name, size in (("width", width), ("heads", heads), *(("features", size) for size in features)):
            check_whole(name, size, *WIDTHS)
        if width % heads or not features:
            raise InputError(f"A width of {width}, {heads} heads and features of {list(features)} do not fit.")
        self.heads, self.features = heads, nn.ModuleList(nn.Linear(size, width) for size in features)
        self.to_q, self.to_kv, self.to_out = (nn.Linear(width, n * width) for n in (1, 2, 1))
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def leave(self, hidden: Tokens, out: Tokens, context: Sequence[Tensor]) -> Tokens:
        """The output of the self-attention and what the references say.

        Raises `InputError` where there are other kinds of features, or other numbers of tokens.
        """
        if not context:
            return out
        if len(context) != len(self.features) or len({x.shape[1] for x in context}) != 1:
            found = ", ".join(str(list(x.shape)) for x in context)
            raise InputError(f"Give {len(self.features)} kinds of features [B, M, width] of one M, not {shown(found)}.")
        tokens = reduce(torch.add, (read(x) for read, x in zip(self.features, context, strict=True)))
        q, (k, v) = self.to_q(hidden.flatten(1, 2)), self.to_kv(tokens).chunk(2, dim=-1)
        q, k, v = (x.expand(len(q), -1, -1).unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return out + self.to_out(y).view_as(out)
