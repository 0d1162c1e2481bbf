"""Which cached frames a chunk attends to after the view was interrupted (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST, check_finite, check_number, check_whole
from memkit.display import with_shapes
from memkit.errors import InputError


class RecoveryAttention(NamedTuple):
    """Shares of each frame's attention after an interruption, in [0, 1]."""

    before: Float[Tensor, "*calls frames"]
    """Share on the cached frames before the interruption."""
    mirror: Float[Tensor, "*calls frames"]
    """Share on the cached frames with the same camera on the way out: peak − k, ± ``reach``, for frame peak + k."""
    newest: Float[Tensor, "*calls frames"]
    """Share on the newest cached frames."""

    __repr__ = with_shapes


def recovery_attention(
    shares: Float[Tensor, "*calls frames read"],
    positions: Sequence[int],
    read: Sequence[int],
    event: int,
    peak: float,
    newest: int = 3,
    reach: float = 1.0,
) -> RecoveryAttention:
    """Shares of attention on the cached frames before an interruption, at the same camera, and on the newest ones.

    Args:
        shares: shares of an `AttentionRecorder`, or its ``even()`` as a baseline.
        positions: positions of the chunk's frames.
        read: positions of the cached frames.
        event: position of the first interrupted frame.
        peak: position at which the camera turned back; it may lie between frames (18.5).
        newest: how many of the latest cached frames count as newest.
        reach: maximum distance from the mirrored position, in latent frames.

    Raises:
        InputError: the shares are of another number of frames, or a number is not finite.
    """
    check_finite("shares", shares)
    check_whole("event", event, -MOST)
    check_number("peak", peak, -MOST)
    check_whole("newest", newest)
    check_number("reach", reach)
    if tuple(shares.shape[-2:]) != (len(positions), len(read)):
        raise InputError(f"Shares are {list(shares.shape)}; give [..., {len(positions)}, {len(read)}].")
    latest = set(sorted(read)[len(read) - newest :] if newest < len(read) else read)

    def share_on(condition: Callable[[int, int], bool]) -> Tensor:
        mask = torch.tensor([[condition(p, r) for r in read] for p in positions]).reshape(len(positions), len(read))
        return (shares * mask.to(shares)).sum(-1)

    return RecoveryAttention(
        before=share_on(lambda p, r: r < event),
        mirror=share_on(lambda p, r: abs(r - (2 * peak - p)) <= reach),
        newest=share_on(lambda p, r: r in latest),
    )
