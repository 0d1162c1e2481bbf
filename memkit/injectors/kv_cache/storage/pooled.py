"""Fewer tokens per frame: means of neighbours, in the manner of RELIC (arXiv 2512.04040) and FAR (arXiv 2503.19325).

RELIC compresses past latents in the cache and gives no code; FAR has coarse patches for its far context, whose rotary
tables are means with unit norm. Here keys before rotation and values are averaged over tokens that are next to each
other in a row of the frame, which is our inference of neither, and needs no training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from memkit.checks import check_fields
from memkit.errors import InputError
from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, Storage, Stored

_TINY = 1e-6


@dataclass(frozen=True)
class Pooled(Storage):
    """The mean of every ``by`` tokens, which should divide the columns of a frame. Keys must be stored before rotation.

    Attributes:
        weighted: whether each mean counts as ``by`` tokens in attention, by a log-weight of ln(by); our reading.
    """

    by: int = 4
    weighted: bool = True

    def __post_init__(self) -> None:
        check_fields(self, by=(1, 2**20))

    def encode(self, frames: Frames) -> Stored:
        if frames[0].shape[2] % self.by:
            raise InputError(
                f"Frames of {frames[0].shape[2]} tokens are not pooled by {self.by}; give a number that divides them."
            )
        return tuple(x.unflatten(2, (-1, self.by)).float().mean(3).to(x.dtype) for x in frames)

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, v = stored
        return k, v

    def tables(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (x.unflatten(2, (-1, self.by)).mean(3) for x in (cos, sin))
        length = (cos.square() + sin.square()).sqrt().clamp(min=_TINY)
        return cos / length, sin / length

    def log_weight(self, layout: FrameLayout) -> float:
        return math.log(self.by) if self.weighted else 0.0
