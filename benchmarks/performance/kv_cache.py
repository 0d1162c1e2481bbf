"""Streaming from a KV cache: a rollout, one cached step, and the bytes that a cache holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile

from benchmarks.performance.models import wan
from benchmarks.performance.rows import Bench, Row, Variant
from memkit.backbones.rotary import rotate
from memkit.injectors import KVCache
from memkit.injectors.kv_cache import frame_bytes

CHUNKS, FRAMES, STEPS = 7, 3, 10
"""Chunks of a rollout, latent frames per chunk and denoising steps per chunk."""


def rows(bench: Bench) -> list[Row]:
    """Time a rollout and a cached step, and count bytes."""
    return [_rollout(bench), _step(bench), *_bytes(bench)]


def operations(model: Any, queries: int, keys: int) -> float:
    """Of the matrix products in the blocks: self-attention, projections of cross-attention, feed-forward network."""
    c = model.config
    width = c.num_attention_heads * c.attention_head_dim
    per_token = 2 * (6 * width**2 + 2 * width * c.ffn_dim)
    return c.num_layers * (queries * per_token + 4 * queries * keys * width)


def _rollout(bench: Bench) -> Row:
    """A rollout from a cache against running all frames so far at each step, as without a cache."""
    model, side = wan(bench, 4, 128, 2, 2048), 24
    text = torch.randn(1, 16, 64).to(bench.device, bench.dtype)
    frames = torch.randn(1, 16, CHUNKS * FRAMES, side, side).to(bench.device, bench.dtype)
    tokens, t = FRAMES * (side // 2) ** 2, torch.tensor([500], device=bench.device)
    budget = CHUNKS * FRAMES * frame_bytes(model, side, side, dtype=bench.dtype)

    @torch.no_grad()
    def cached() -> None:
        with KVCache(budget).attach(model) as attached:
            for i in range(CHUNKS):
                span = range(i * FRAMES, (i + 1) * FRAMES)
                for step in range(STEPS + 1):  # once more with the clean latents, to write them
                    with attached.chunk(span, write=step == STEPS):
                        model(frames[:, :, span.start : span.stop], t, text, return_dict=False)

    @torch.no_grad()
    def recomputed() -> None:
        for i in range(CHUNKS):
            for _ in range(STEPS):
                model(frames[:, :, : (i + 1) * FRAMES], t, text, return_dict=False)

    ways = range(1, CHUNKS + 1)
    times = bench.turns(
        {
            "cached": Variant(cached, sum((STEPS + 1) * operations(model, tokens, i * tokens) for i in ways)),
            "recomputed": Variant(recomputed, sum(STEPS * operations(model, i * tokens, i * tokens) for i in ways)),
        },
        most=3,
    )
    claim = f"Rollout of {CHUNKS} chunks from a KV cache / with the history recomputed at each of {STEPS} steps"
    return times.row(claim, "cached", "recomputed", target=0.27)


def _step(bench: Bench) -> Row:
    """One step of a cached chunk against the same layer, attending to a buffer with the same keys, without a copy."""
    model, side, past = wan(bench, 12, 128, 1, 16), 32, 18
    text = torch.randn(1, 1, 64).to(bench.device, bench.dtype)
    frames = torch.randn(1, 16, FRAMES + past, side, side).to(bench.device, bench.dtype)
    per_frame, t = (side // 2) ** 2, torch.tensor([500], device=bench.device)
    queries, keys = FRAMES * per_frame, (FRAMES + past) * per_frame
    cache = KVCache(past * frame_bytes(model, side, side, dtype=bench.dtype))
    chunk, positions = frames[:, :, past:], range(past, past + FRAMES)
    with torch.no_grad(), cache.attach(model) as attached, attached.chunk(range(past), write=True):
        model(frames[:, :, :past], t, text)
    k, v = cache.get(0)
    beside = tuple(torch.cat([x, x[:, : FRAMES * per_frame]], 1).transpose(1, 2).contiguous() for x in (k, v))

    @torch.no_grad()
    def cached() -> Tensor:
        with cache.attach(model) as attached, attached.chunk(positions):
            return model(chunk, t, text, return_dict=False)[0]

    attn = model.blocks[0].attn1

    @torch.no_grad()
    def without_copy() -> Tensor:
        stock = attn.processor
        attn.set_processor(_InBuffer(*beside))
        try:
            return model(chunk, t, text, return_dict=False)[0]
        finally:
            attn.set_processor(stock)

    moved = 2 * keys * 1536 * frames.element_size()
    flops = operations(model, queries, keys)
    times = bench.turns(
        {"cached step": Variant(cached, flops, moved), "without a copy": Variant(without_copy, flops, moved)}
    )
    claim = f"One cached step ({queries} queries, {keys} keys) / the same attention over a buffer, without a copy"
    return times.row(claim, "cached step", "without a copy", target=1.05)


class _InBuffer:
    """A self-attention that writes the keys of a chunk to the end of a buffer and attends to all of it."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def __call__(self, attn: Any, hidden: Tensor, _text: Any, _mask: Any, rotary: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        self.k[:, :, -k.shape[1] :], self.v[:, :, -k.shape[1] :] = k.transpose(1, 2), v.transpose(1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), self.k, self.v)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _bytes(bench: Bench) -> list[Row]:
    """What a full cache holds, and what a step allocates for a moment beyond what it would without one."""
    model, side, past = wan(bench, 4, 128, 4, 2048), 32, 18
    text = torch.randn(1, 1, 64).to(bench.device, bench.dtype)
    frames = torch.randn(1, 16, FRAMES + past, side, side).to(bench.device, bench.dtype)
    tokens, t = past * (side // 2) ** 2, torch.tensor([500], device=bench.device)
    layer = 2 * tokens * 512 * frames.element_size()
    cache = KVCache(past * frame_bytes(model, side, side, dtype=bench.dtype))
    with torch.no_grad(), cache.attach(model) as attached:
        with attached.chunk(range(past), write=True):
            model(frames[:, :, :past], t, text)
        held = cache.branch().nbytes / (4 * layer)

        def step(read: tuple[int, ...]) -> None:
            with attached.chunk(range(past, past + FRAMES), read=read):
                model(frames[:, :, past:], t, text)

        extra = (_peak(bench, lambda: step(tuple(range(past)))) - _peak(bench, lambda: step(()))) / layer
    of = "bytes"
    return [
        Row(
            "Bytes held by a KV cache / 2 · layers · tokens · width · bytes per number",
            held,
            held,
            held,
            1.0,
            False,
            1.0,
            of,
        ),
        Row(
            "Bytes that a cached step allocates for a moment / the keys and values of one layer",
            extra,
            extra,
            extra,
            1.0,
        ),
    ]


def _peak(bench: Bench, run: Any) -> int:
    """Most bytes that are allocated at once during a run."""
    run()
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
        run()
        return torch.cuda.max_memory_allocated(bench.device) - before
    with profile(profile_memory=True) as found:
        run()
    held = peak = 0
    for event in found.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
