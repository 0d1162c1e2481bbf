"""`Storage`: the form in which keys and values of cached frames are held: exact, in fewer bits, or of fewer tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

Frames = tuple[Tensor, Tensor]
"""Keys and values by frame: [B, frames, tokens per frame, H, D]."""

Stored = tuple[Tensor, ...]
"""What frames are stored as: tensors [B, frames, …, H, D]."""


class FrameLayout(NamedTuple):
    """What must be equal for frames to share slots."""

    batch: int
    tokens: int
    heads: int
    dim: int
    value_dim: int
    dtype: torch.dtype
    value_dtype: torch.dtype

    @staticmethod
    def of(frames: Frames) -> FrameLayout:
        """The layout of these frames."""
        k, v = frames
        return FrameLayout(k.shape[0], *k.shape[2:], v.shape[-1], k.dtype, v.dtype)

    def zeros(self, device: torch.device) -> Frames:
        """One frame of zeros."""
        k = torch.zeros(self.batch, 1, self.tokens, self.heads, self.dim, dtype=self.dtype, device=device)
        return k, k.new_zeros(*k.shape[:-1], self.value_dim, dtype=self.value_dtype)


def described(layouts: Sequence[FrameLayout]) -> str:
    """The layouts of all layers, as an error shows them."""
    batch, tokens, heads, dim, _, dtype, _ = layouts[0]
    return f"{len(layouts)} layers, a batch of {batch}, {tokens} tokens, {heads} heads of {dim}, {dtype}"


class Storage(ABC):
    """How frames are stored. Subclasses are frozen dataclasses, whose ``repr`` is written into saved sessions.

    Each frame is encoded by itself, so that frames can be replaced and evicted one by one, but where `unit` says
    otherwise.
    """

    lossless: ClassVar[bool] = False
    """Whether what is read is what was written, bit for bit."""

    @property
    def unit(self) -> int:
        """Number of frames that are encoded together where they move together."""
        return 1

    @abstractmethod
    def encode(self, frames: Frames) -> Stored:
        """What is held of these frames."""

    @abstractmethod
    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        """Keys and values in the dtype of the layout; they may have fewer tokens per frame."""

    def tables(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables of the tokens that `decode` gives, [1, frames, tokens, 1, D], from those of whole frames."""
        return cos, sin

    def log_weight(self, layout: FrameLayout) -> float:
        """What is added to the logits of the keys that `decode` gives: ln(n) where each stands for n tokens."""
        return 0.0


class Exact(Storage):
    """Keys and values as they were computed."""

    lossless = True

    def encode(self, frames: Frames) -> Stored:
        return frames

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, v = stored
        return k, v

    def __repr__(self) -> str:
        return "Exact()"

    def __eq__(self, other: object) -> bool:
        return type(other) is Exact

    def __hash__(self) -> int:
        return hash(Exact)
