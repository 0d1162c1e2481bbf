"""MemLearner's query layers over nine chunks of context against the whole context in the sequence."""

from __future__ import annotations

import torch

from benchmarks.performance.models import wan
from benchmarks.performance.rows import Bench, Row, Variant
from memkit.injectors import FrameContext, FrameContextConfig, QueryLayers, QueryLayersConfig

FRAMES, CONTEXT, SIDE = 20, 180, 8
"""Latent frames of a chunk and of its context (nine chunks), and cells of a side; 2×2 cells are a token."""
HEADS, BLOCKS, LAYERS = 4, 12, 2


def rows(bench: Bench) -> list[Row]:
    """Time the first denoising step of a chunk, which runs the context, and a later one, which has it cached."""
    width = 64 * HEADS
    model = wan(bench, HEADS, 64, BLOCKS, 4 * width)
    x = torch.randn(1, 16, FRAMES, SIDE, SIDE).to(bench.device, bench.dtype)
    context = torch.randn(1, 16, CONTEXT, SIDE, SIDE).to(bench.device, bench.dtype)
    text = torch.randn(1, 16, 64).to(bench.device, bench.dtype)
    t = torch.tensor([500], device=bench.device)
    query = QueryLayers(QueryLayersConfig(width, BLOCKS, LAYERS)).to(bench.device, bench.dtype)
    beside = FrameContext(FrameContextConfig.of(model)).to(bench.device, bench.dtype)

    @torch.no_grad()
    def step() -> None:
        model(x, t, text, return_dict=False)

    def first() -> None:
        with query.attach(model) as attached, attached.chunk(context):
            step()

    def in_sequence() -> None:
        with beside.attach(model) as attached, attached.chunk(context):
            step()

    with query.attach(model) as attached, attached.chunk(context):
        step()  # from here on the context is cached
        later = bench.turns({"later step": Variant(step)})
    times = bench.turns({"first step": Variant(first), "all in sequence": Variant(in_sequence)})
    both = type(times)(
        {**times.variants, **later.variants}, {**times.seconds, **later.seconds}, {**times.peaks, **later.peaks}
    )
    name = "Query layers, context of nine chunks / all in the sequence"
    return [
        times.row(f"{name}, first step of a chunk", "first step", "all in sequence", target=0.36),
        both.row(f"{name}, later steps", "later step", "all in sequence", target=0.12),
    ]
