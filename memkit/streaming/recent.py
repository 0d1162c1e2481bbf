"""`Recent`: the newest latents of a stream, to compute their keys and values anew at a new prompt (LongLive)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor


class Recent:
    """The latents of the newest chunks, of at least ``frames`` frames together where there are so many."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.prompts: tuple[str, ...] | None = None
        """Those under which the newest chunk was written."""
        self.chunks: list[tuple[range, Tensor]] = []
        """Positions and clean latents [B, C, frames, H, W], in the order of time."""

    def add(self, at: range, latents: Tensor, prompts: Sequence[str]) -> None:
        """Add a chunk that was written; chunks that share a frame with it are forgotten."""
        others = [(span, x) for span, x in self.chunks if span.stop <= at.start or at.stop <= span.start]
        self.chunks = sorted([*others, (at, latents)], key=lambda each: each[0].start)
        while sum(len(span) for span, _ in self.chunks[1:]) >= self.frames:
            del self.chunks[0]
        self.prompts = tuple(prompts)

    def content(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is saved: JSON, and tensors by name."""
        spans = [[span.start, span.stop] for span, _ in self.chunks]
        about = {"frames": self.frames, "prompts": self.prompts, "spans": spans}
        return about, {str(i): x for i, (_, x) in enumerate(self.chunks)}

    @staticmethod
    def of(about: Mapping[str, Any], get: Callable[[str], Tensor]) -> Recent:
        """What `content` gave."""
        recent = Recent(about["frames"])
        recent.prompts = None if about["prompts"] is None else tuple(about["prompts"])
        recent.chunks = [(range(*span), get(str(i))) for i, span in enumerate(about["spans"])]
        return recent
