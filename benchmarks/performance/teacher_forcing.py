"""Teacher forcing over all chunks of a clip against one dense pass with a mask, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.performance.models import wan
from benchmarks.performance.rows import Bench, Row, Variant
from memkit.backbones.rotary import rotate
from memkit.frame_graph import FrameGraph
from memkit.injectors import TeacherForcing

CHUNKS, FRAMES, SIDE = 7, 3, 32
"""ReMind's table of 7 clean and 7 noisy chunks; latents have ``SIDE``² cells, of which 2×2 are a token."""
HEADS, HEAD_DIM, LAYERS = 4, 64, 1


def rows(bench: Bench) -> list[Row]:
    """Time one training step on ReMind's table."""
    model = wan(bench, HEADS, HEAD_DIM, LAYERS, 4 * HEADS * HEAD_DIM).float().requires_grad_(True)
    graph = FrameGraph.chunks(CHUNKS * FRAMES, FRAMES)
    tokens, frames = (SIDE // 2) ** 2, graph.num_frames
    latents, noise = (torch.randn(1, 16, frames, SIDE, SIDE, device=bench.device) for _ in range(2))
    text, sigma = torch.randn(1, 16, 64, device=bench.device), torch.tensor([0.7], device=bench.device)
    mask = graph.visible(tokens).to(bench.device)

    def forced() -> Tensor:
        model.zero_grad()
        with TeacherForcing().attach(model) as attached, attached.chunk(graph) as step:
            velocity = step.velocity(model, latents, noise, sigma, text)
            step.loss(velocity, latents, noise).mean().backward()
        return velocity

    def dense() -> Tensor:
        model.zero_grad()
        with TeacherForcing().attach(model) as attached, attached.chunk(graph) as step:
            both, times = step.streams(latents, noise, sigma)
        stock = [block.attn1.processor for block in model.blocks]
        for block in model.blocks:
            block.attn1.set_processor(_Masked(mask, 2 * frames * tokens))
        try:
            out = model(both, times.repeat_interleave(tokens, 1), text, return_dict=False)[0][:, :, frames:]
        finally:
            for block, processor in zip(model.blocks, stock, strict=True):
                block.attn1.set_processor(processor)
        step.loss(out, latents, noise).mean().backward()
        return out

    width, seen = HEADS * HEAD_DIM, float(mask.sum())
    linear = 2 * 2 * frames * tokens * (6 * width**2 + 8 * width**2)
    times = bench.turns(
        {
            "chunk by chunk": Variant(forced, 3 * LAYERS * (linear + 4 * seen * width)),
            "dense, masked": Variant(dense, 3 * LAYERS * (linear + 4 * float(mask.numel()) * width)),
        },
        most=5,
    )
    same = (forced() - dense()).abs().max().item()
    gradients = _gradients(model, forced, dense)
    claim = (
        f"Teacher forcing on {CHUNKS} + {CHUNKS} chunks of {FRAMES * tokens} tokens / one dense masked pass, forward "
        f"and backward (outputs within {same:.0e}, gradients within {gradients:.0e})"
    )
    return [times.row(claim, "chunk by chunk", "dense, masked", target=0.38)]


def _gradients(model: Any, one: Any, other: Any) -> float:
    """Largest difference of any gradient between two ways, in shares of the largest gradient."""
    found = []
    for run in (one, other):
        run()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    first, second = found
    largest = max(gradient.abs().max().item() for gradient in first.values())
    return max((first[name] - second[name]).abs().max().item() for name in first) / largest


class _Masked:
    """A self-attention over both streams with one mask; frames of the noisy stream repeat the clean one's positions."""

    def __init__(self, mask: Tensor, tokens: int) -> None:
        self.mask, self.tokens = mask, tokens

    def __call__(self, attn: Any, hidden: Tensor, _text: Any, _mask: Any, rotary: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        half = [x[:, : self.tokens // 2].repeat(1, 2, 1, 1) for x in rotary]
        q, k = rotate(q, *half), rotate(k, *half)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))
