"""A training step of a memory encoder through a frozen model: memory as keys and values, text embedded once."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from benchmarks.performance.rows import Bench, Row, Variant
from memkit.backbones import WanBackbone
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory

CLIPS, BATCH = 5, 2


def rows(bench: Bench) -> list[Row]:
    """Time the step on tiny-wan against the same with memory as queries too and the text encoder in each step."""
    torch.manual_seed(0)
    backbone = WanBackbone.tiny(torch.float32)
    model: Any = backbone.transformer
    model = model.to(bench.device).requires_grad_(False)
    backbone.pipeline().text_encoder.to(bench.device)
    prompts = ["a red ball falls on planet Mira"] * BATCH
    text = backbone.encode_text(prompts)
    config = FrequencyEncoderConfig(
        dim=backbone.width, hidden=32, width=96, heads=4, stem_stride=(1, 2, 2), patch=(1, 1, 1)
    )
    encoder = FrequencyEncoder(config).to(bench.device)
    shape = (16, 5, 8, 8)
    clips = torch.randn(BATCH, CLIPS, *shape, device=bench.device)
    x, noise = (torch.randn(BATCH, *shape, device=bench.device) for _ in range(2))
    t = torch.full((BATCH,), 500, device=bench.device)

    def backward(words: Tensor) -> None:
        out = model(x, t, words, return_dict=False)[0]
        encoder.zero_grad()
        (out - noise).pow(2).mean().backward()

    def keys_and_values() -> None:
        with SelfAttentionConcat(encoder(clips)).attach(model):
            backward(text)

    def queries_too() -> None:
        memory: Memory = encoder(clips)
        hooks = [_QueriesToo(block, memory.tokens) for block in model.blocks]
        backward(backbone.encode_text(prompts))
        for hook in hooks:
            hook.remove()

    tokens = encoder(clips).tokens.shape[1]
    times = bench.turns({"memkit": Variant(keys_and_values), "queries too, no cached text": Variant(queries_too)})
    claim = (
        f"Encoder training step on tiny-wan with {tokens} memory tokens / the same with memory as queries too and "
        "the text embedded in each step"
    )
    return [times.row(claim, "memkit", "queries too, no cached text", target=0.8)]


class _QueriesToo(WanAttnProcessor):
    """The stock self-attention over video and memory, whose memory rows are dropped, as DiT-Mem's release has it."""

    def __init__(self, block: Any, tokens: Tensor) -> None:
        super().__init__()
        self.block, self.tokens = block, tokens
        self.stock = block.attn1.processor
        self.handle = block.register_forward_pre_hook(self._modulate)
        block.attn1.set_processor(self)

    def remove(self) -> None:
        self.handle.remove()
        self.block.attn1.set_processor(self.stock)

    def _modulate(self, block: Any, args: tuple[Any, ...]) -> None:
        shift, scale = (block.scale_shift_table + args[2].float()).chunk(6, dim=1)[:2]
        self.memory = block.norm1(self.tokens) * (1 + scale) + shift

    def __call__(self, attn: Any, hidden_states: Tensor, _text: Any, _mask: Any, rotary: Any) -> Tensor:
        video, more = hidden_states.shape[1], self.memory.shape[1]
        ones, zeros = (torch.full((1, more, 1, rotary[0].shape[3]), x).to(rotary[0]) for x in (1.0, 0.0))
        longer = torch.cat([rotary[0], ones], 1), torch.cat([rotary[1], zeros], 1)
        whole = torch.cat([hidden_states, self.memory.type_as(hidden_states)], 1)
        return super().__call__(attn, whole, None, None, longer)[:, :video]
