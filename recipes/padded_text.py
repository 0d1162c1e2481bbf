"""Train on the text that there is, with the attention of the pipeline's padding.

WanPipeline pads text embeddings with zeros to 512 tokens, and the cross-attention sees them all. Copies of a key are
one key with ln(n) added to its logit, so the real tokens and a single zero give the same output at a fraction of the
cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from memkit.attention import grouped_attention
from memkit.backbones import WanBackbone
from memkit.errors import InputError

PIPELINE_TEXT_LENGTH = 512


class PaddedCrossAttention(WanAttnProcessor):
    """Cross-attention over ``copies`` copies of the last token at the price of one."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.log_copies = math.log(copies)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        """The stock cross-attention, with the weight on the last key."""
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        weight = torch.zeros(k.shape[:2], device=k.device)
        weight[:, -1] = self.log_copies
        out = grouped_attention({"video": q}, {"text": (k, v)}, {"video": ("text",)}, {"text": weight})["video"]
        return attn.to_out[0](out.flatten(2, 3))


@contextmanager
def short_text(transformer: WanTransformer3DModel, length: int) -> Iterator[None]:
    """Inside, text embeddings are [B, length + 1, D] with a zero at the end, and mean what 512 padded tokens do."""
    before = [block.attn2.processor for block in transformer.blocks]
    for block in transformer.blocks:
        block.attn2.set_processor(PaddedCrossAttention(PIPELINE_TEXT_LENGTH - length))
    try:
        yield
    finally:
        for block, processor in zip(transformer.blocks, before, strict=True):
            block.attn2.set_processor(processor)


def shorten(text: Tensor, length: int) -> Tensor:
    """Embeddings as the pipeline pads them, cut to ``length`` tokens and a zero; longer texts are cut."""
    return torch.cat([text[:, :length], torch.zeros_like(text[:, :1])], dim=1)


class TextCache:
    """Text embeddings of captions, each computed once, alone, and kept without its padding, on the CPU."""

    def __init__(self, backbone: WanBackbone, length: int) -> None:
        self.backbone = backbone
        self.length = length
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> Tensor:
        """[B, length + 1, D] with a zero at the end, or [B, 512, D] at the pipeline's length."""
        rows = torch.stack([self._padded(caption) for caption in captions])
        return rows if self.length == PIPELINE_TEXT_LENGTH else shorten(rows, self.length)

    def _padded(self, caption: str) -> Tensor:
        if caption not in self._known:
            text = self.backbone.encode_text([caption])[0].cpu()
            real = int(text.ne(0).any(dim=1).nonzero().max()) + 1
            if real > self.length:
                raise InputError(f"{caption!r} has {real} text tokens; pass --text-length {real} or more.")
            self._known[caption] = text[:real].clone()
        known = self._known[caption]
        return nn.functional.pad(known, (0, 0, 0, self.length - len(known)))


@contextmanager
def prepared(backbone: WanBackbone, text_length: int, checkpointing: bool) -> Iterator[None]:
    """Inside, the experts take short texts and recompute activations, as told; afterwards they are as before."""
    with ExitStack() as stack:
        for transformer in backbone.transformers:
            if text_length < PIPELINE_TEXT_LENGTH:
                stack.enter_context(short_text(transformer, text_length))
            if checkpointing:
                transformer.enable_gradient_checkpointing()
                stack.callback(transformer.disable_gradient_checkpointing)
        yield
