"""Short text embeddings that act like the pipeline's padded ones.

WanPipeline pads text embeddings with zeros to 512 tokens, and the cross-attention sees them all. Copies of a key are
one key with ln(n) added to its logit, so the real tokens and a single zero give the same output at a fraction of the
cost. It matters where videos are small: with tiny-wan's 80 tokens against 512, the padding takes two thirds of the
time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from jaxtyping import Float
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.backbones.wan import WanBackbone
from memkit.errors import InputError

PIPELINE_TEXT_LENGTH = 512
"""Number of tokens to which Wan pipelines pad a text."""


class PaddedCrossAttention(WanAttnProcessor):
    """Cross-attention in which the last text token counts as ``copies`` copies."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.log_copies = math.log(copies)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        """The stock cross-attention, with ln(copies) added to the last key's logit."""
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        weight = torch.zeros(k.shape[:2], device=k.device)
        weight[:, -1] = self.log_copies
        out = grouped_attention({"video": q}, {"text": (k, v)}, {"video": ("text",)}, {"text": weight})["video"]
        return attn.to_out[0](out.flatten(2, 3))


def embed_short(backbone: WanBackbone, texts: Sequence[str], length: int) -> Float[Tensor, "texts tokens dim"]:
    """Embeddings for `short_text`: ``length`` tokens, then a zero.

    Raises `InputError` for a text of more than ``length`` tokens.
    """
    embeds = backbone.encode_text(texts, length + 1)
    for text, row in zip(texts, embeds, strict=True):
        if row[-1].any():
            raise InputError(f"{text!r} has more than {length} text tokens; give a larger text_length.")
    return embeds


@contextmanager
def short_text(transformer: WanTransformer3DModel, length: int) -> Iterator[None]:
    """Inside, text embeddings [B, length + 1, D] that end with a zero act as if padded to 512 tokens."""
    before = [block.attn2.processor for block in transformer.blocks]
    for block in transformer.blocks:
        block.attn2.set_processor(PaddedCrossAttention(PIPELINE_TEXT_LENGTH - length))
    try:
        yield
    finally:
        for block, processor in zip(transformer.blocks, before, strict=True):
            block.attn2.set_processor(processor)


@contextmanager
def short_texts(transformers: Iterable[WanTransformer3DModel], length: int) -> Iterator[None]:
    """`short_text` for each transformer; does nothing at the pipeline's own length."""
    with ExitStack() as stack:
        if length < PIPELINE_TEXT_LENGTH:
            for transformer in transformers:
                stack.enter_context(short_text(transformer, length))
        yield
