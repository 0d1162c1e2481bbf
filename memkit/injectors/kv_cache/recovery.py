"""Where a chunk looks after something interrupted the view (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError


class RecoveryAttention(NamedTuple):
    """Shares of the attention of each frame after an event, in [0, 1]."""

    before: Float[Tensor, "*calls frames"]
    """On cached frames before the event."""
    mirror: Float[Tensor, "*calls frames"]
    """On those where the camera was as it is now, on the way there: peak + k looks at peak − k, ± ``reach``."""
    newest: Float[Tensor, "*calls frames"]
    """On the newest cached frames."""


def recovery_attention(
    shares: Float[Tensor, "*calls frames read"],
    positions: Sequence[int],
    read: Sequence[int],
    event: int,
    peak: float,
    newest: int = 3,
    reach: float = 1.0,
) -> RecoveryAttention:
    """Where a chunk looks after something interrupted the view.

    Args:
        shares: of an `AttentionRecorder`, or its ``even()`` for what to compare them with.
        positions: of the chunk's frames; ``read``: of the cached ones.
        event: position of the first frame that the interruption touches.
        peak: position at which the camera turned back, between frames too (18.5).
        newest: how many of the newest cached frames count as such.
        reach: how far from its mirror a frame still counts.

    Raises `InputError` for shares of another number of frames.
    """
    if tuple(shares.shape[-2:]) != (len(positions), len(read)):
        raise InputError(f"Shares are {list(shares.shape)}; give [..., {len(positions)}, {len(read)}].")
    last = set(sorted(read)[len(read) - newest :] if newest < len(read) else read)

    def on(wanted: Callable[[int, int], bool]) -> Tensor:
        chosen = torch.tensor([[wanted(p, r) for r in read] for p in positions]).reshape(len(positions), len(read))
        return (shares * chosen.to(shares)).sum(-1)

    return RecoveryAttention(
        before=on(lambda p, r: r < event),
        mirror=on(lambda p, r: abs(r - (2 * peak - p)) <= reach),
        newest=on(lambda p, r: r in last),
    )
