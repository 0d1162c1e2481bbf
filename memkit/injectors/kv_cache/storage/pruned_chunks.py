"""WorldKV's storage of chunks: the first frame whole, and half of the tokens of the others (see `Pruned`).

A chunk of 3 frames becomes as many tokens as 2 frames have: all of the first, and of the others together those whose
keys have the lowest cosine to the mean key of the first. A slot of the cache has one size, so that these tokens are
divided equally among the slots of the chunk: what does not fit into that of the first frame is in the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from memkit.checks import MOST_FRAMES, check_fields
from memkit.errors import InputError
from memkit.injectors.kv_cache.storage.base import Frames, Stored
from memkit.injectors.kv_cache.storage.pruned import Pruned


@dataclass(frozen=True)
class PrunedChunks(Pruned):
    """Chunks of ``frames`` frames that are moved, read (``ReadBest(unit=3)``) and evicted together.

    A frame that is moved by itself is `Pruned` by itself, to as many tokens. That tokens are selected per head is our
    reading.

    Attributes:
        fraction: of the tokens of all frames but the first; rounded so that slots are equal.
        by: which of these are kept; "norm" is that of `Pruned`.
        frames: of a chunk.
    """

    frames: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, frames=(1, MOST_FRAMES))

    @property
    def unit(self) -> int:
        return self.frames

    def encode(self, frames: Frames) -> Stored:
        tokens, count = frames[0].shape[2], frames[0].shape[1]
        size = max(1, round((1 + (self.frames - 1) * self.fraction) * tokens / self.frames))
        if count == 1:
            return Pruned(size / tokens, self.by).encode(frames)
        if count % self.frames:
            raise InputError(
                f"{count} frames are stored in chunks of {self.frames}; write and move whole chunks, or give "
                "PrunedChunks(frames=...) the length of yours."
            )
        k, v = (x.unflatten(1, (-1, self.frames)).flatten(2, 3) for x in frames)  # [B, chunks, tokens, H, D]
        chosen = self._worth(k, tokens).sort(dim=2, stable=True).indices[:, :, : self.frames * size, :, None]
        kept = (x.gather(2, chosen.expand(-1, -1, -1, -1, x.shape[-1])) for x in (k, v))
        return tuple(x.unflatten(2, (self.frames, size)).flatten(1, 2) for x in kept)

    def _worth(self, k: Tensor, first: int) -> Tensor:
        """[B, chunks, tokens, H]: the lowest are kept, those of the first frame in any case."""
        mean = k[:, :, :first].float().mean(2, keepdim=True)
        worth = functional.cosine_similarity(k.float(), mean, dim=-1) if self.by == "difference" else k.norm(dim=-1)
        worth[:, :, :first] = -2.0
        return worth
