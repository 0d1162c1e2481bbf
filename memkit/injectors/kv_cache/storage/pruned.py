"""Fewer tokens per frame: those whose keys are least like the others (WorldKV; KeyDiff and Knorm in kvpress).

WorldKV stores chunks of 3 frames: the first whole, and of the others the half of the tokens whose keys have the lowest
cosine to its mean key, which is 2 frames of 3. Here every frame of a place is pruned alike, against its own mean key,
which is our reading: ``Pruned(2 / 3)`` needs the bytes of WorldKV. Selecting tokens per head is our reading too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch.nn import functional

from memkit.checks import check_fields
from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, Storage, Stored


@dataclass(frozen=True)
class Pruned(Storage):
    """The ``fraction`` of the tokens of each frame that matter most, in each head.

    Keys and values of these tokens are exact. Keys must be stored rotated, as the order of tokens is not kept.

    Attributes:
        fraction: of the tokens of a frame.
        by: which tokens are kept: those whose keys have the lowest cosine to the frame's mean key (KeyDiff), or the
            lowest norm (Knorm).
    """

    fraction: float = 0.5
    by: Literal["difference", "norm"] = "difference"

    def __post_init__(self) -> None:
        check_fields(self, fraction=(1e-3, 1))

    def encode(self, frames: Frames) -> Stored:
        k, v = frames
        mean = k.float().mean(2, keepdim=True)
        worth = functional.cosine_similarity(k.float(), mean, dim=-1) if self.by == "difference" else k.norm(dim=-1)
        count = max(1, round(self.fraction * k.shape[2]))  # of `worth` [B, F, T, H], the lowest
        chosen = worth.sort(dim=2, stable=True).indices[:, :, :count, :, None]
        return tuple(x.gather(2, chosen.expand(-1, -1, -1, -1, x.shape[-1])) for x in (k, v))

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, v = stored
        return k, v
