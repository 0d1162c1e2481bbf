"""Which of the frames that overlap are taken."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def best(scores: Float[np.ndarray, " n"], k: int) -> Int[np.ndarray, " hits"]:
    """The places of the ``k`` highest scores, highest first, equal ones in order."""
    return np.argsort(-scores, kind="stable")[:k]


def one_a_run(
    frames: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], k: int, rng: np.random.Generator | None
) -> Int[np.ndarray, " hits"]:
    """At most ``k`` places, one of each run of consecutive ``frames`` (ascending), the best of scores first.

    Of a run it is the first of the highest score, or with ``rng`` any, which also orders runs of equal scores.
    """
    runs = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1) if len(frames) else []
    if rng is None:
        chosen = [run[scores[run].argmax()] for run in runs]
    else:
        chosen = rng.permutation([rng.choice(run) for run in runs])
    places = np.array(chosen, np.int64)
    return places[best(scores[places], k)]


def cover(
    seen: Bool[np.ndarray, "points n"], late: Float[np.ndarray, " n"], k: int, least: float
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
    """Greedy: at most ``k`` places, each the best at ``points`` that no earlier one sees; and what each was worth.

    Worth is the share of all points that a frame adds, less ``late``. Frames that add nothing, or less than ``least``,
    are not taken. WorldMem, with points of the query's view only.
    """
    points = len(seen)
    adds = seen.sum(0)
    left = np.ones(points, bool)
    chosen, scores = [], []
    while len(chosen) < k:
        worth = np.where((adds > 0) & (adds >= least * points), adds / points - late, -np.inf)
        if not len(worth) or worth.max() == -np.inf:
            break
        place = int(worth.argmax())
        chosen.append(place)
        scores.append(worth[place])
        newly = left & seen[:, place]
        adds = adds - seen[newly].sum(0)
        left &= ~newly
    return np.array(chosen, np.int64), np.array(scores, np.float64)
