"""Selection among frames that overlap the query."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def best(scores: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " hits"]:
    """Indices of the ``k`` highest scores, highest first, equal ones in order."""
    return np.argsort(-scores, kind="stable")[:k]


def one_per_run(
    frames: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], k: int, rng: np.random.Generator | None
) -> Int[np.ndarray, " hits"]:
    """At most ``k`` indices, one per run of consecutive ``frames`` (ascending), highest scores first.

    From a run it takes the first of the highest score, or with ``rng`` a random one; ``rng`` also orders runs of equal
    scores.
    """
    runs = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1) if len(frames) else []
    if rng is None:
        chosen = [run[scores[run].argmax()] for run in runs]
    else:
        chosen = rng.permutation([rng.choice(run) for run in runs])
    rows = np.array(chosen, np.int64)
    return rows[best(scores[rows], k)]


def cover(
    seen: Bool[np.ndarray, "points n"], late: Float[np.ndarray, " n"], k: int, least: float
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
    """Greedy cover: at most ``k`` indices, each of the frame that adds most points to those seen, and their gains.

    The gain is the share of all points that a frame adds, less ``late``. Frames that add nothing, or less than
    ``least``, are not taken. WorldMem, with points of the query's view only.
    """
    points = len(seen)
    adds = seen.sum(0)
    left = np.ones(points, bool)
    chosen, scores = [], []
    while len(chosen) < k:
        gain = np.where((adds > 0) & (adds >= least * points), adds / points - late, -np.inf)
        if not len(gain) or gain.max() == -np.inf:
            break
        row = int(gain.argmax())
        chosen.append(row)
        scores.append(gain[row])
        newly = left & seen[:, row]
        adds = adds - seen[newly].sum(0)
        left &= ~newly
    return np.array(chosen, np.int64), np.array(scores, np.float64)
