"""`RolloutAttention`: what the queries of a context method attend to while a video is rolled out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.rollout.base import ContextMethod
from memkit.rollout.methods import LearnedContext, SeparateContext
from memkit.rollout.rollout import Rollout


class RolloutAttention:
    """What the queries of a context method attend to, chunk by chunk; empty for a method without queries.

        attention = RolloutAttention(method)
        for cameras in path:
            with attention.chunk(rollout):
                rollout.generate(prompts, cameras)
        attention.means(sample=0)

    Attributes:
        chunks: of each chunk, the times of the context's frames, the queries' shares of attention on them [batch, k],
            and the share of the chunk's attention on the queries [batch].
    """

    def __init__(self, method: ContextMethod) -> None:
        self.method = method
        self.chunks: list[tuple[list[int], Tensor, Tensor]] = []

    @contextmanager
    def chunk(self, rollout: Rollout) -> Iterator[None]:
        """Record the chunk that ``rollout`` generates inside."""
        learned = isinstance(self.method, LearnedContext)
        context = AttentionRecorder(queries=learned)
        queries = context if learned else AttentionRecorder()
        if isinstance(self.method, LearnedContext | SeparateContext):
            self.method.recorder = context
        if isinstance(self.method, SeparateContext):
            self.method.followed = queries
        yield
        times = rollout.shown_times
        if times is not None and isinstance(self.method, LearnedContext | SeparateContext):
            shares = context.shares("context").mean((0, 1))
            followed = queries.shares("queries" if queries is context else "memory").mean((0, 1))
            self.chunks.append((times[0].tolist(), shares, followed))

    def means(self, sample: int) -> tuple[float, float]:
        """Mean shares over chunks: of the queries on the context, and of the chunk on the queries; NaN without any."""
        if not self.chunks:
            return math.nan, math.nan
        context = [shares[sample].sum().item() for _, shares, _ in self.chunks]
        queries = [followed[sample].item() for _, _, followed in self.chunks]
        return sum(context) / len(context), sum(queries) / len(queries)

    def by_chunk(self, sample: int) -> list[dict[str, Any]]:
        """Times and shares of each chunk, as JSON values."""
        return [{"times": times, "shares": shares[sample].tolist()} for times, shares, _ in self.chunks]
