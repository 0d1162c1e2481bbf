"""`WorldMemRetriever`: the frames that WorldMem's own rule takes, beside our reading of it in `FOVRetriever`.

Where the two differ: a view here is bounded by angles, not by the borders of an image, and has no far end; what a frame
adds is a share of the points that are still uncovered, not of all; and a frame that adds nothing is taken all the same
if it is recent enough. So there are always k frames, and the last of them may be the newest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import MOST, SEEDS, check_fields
from memkit.retrievers.fov_points import MOST_POINTS
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.past_frames import FrameRetriever, check_retrieved, frame_names


@dataclass(frozen=True)
class WorldMemRule:
    """The numbers of WorldMem's rule."""

    count: int = 10_000
    """Points in the ball around the query's camera."""
    radius: float = 10.0
    """Of the ball, in metres (our choice: the authors' worlds have blocks as units)."""
    recency: float = 0.2
    """Weight of the age of a frame, Δt / t; of N frames, that of frame i is (N − i) / N."""
    fov_degrees: tuple[float, float] | None = None
    """Full angles of a view, across and down; by default those of the cameras' focal lengths."""
    seed: int = 0
    """Of the points."""

    def __post_init__(self) -> None:
        check_fields(
            self, count=(1, MOST_POINTS), radius=(1e-6, MOST), recency=(0, 1e6), fov_degrees=(1e-3, 360), seed=SEEDS
        )


class WorldMemRetriever(FrameRetriever[Cameras]):
    """Past frames for a camera, greedily: each has the largest sum of what it adds and how recent it is.

    A frame sees a point within half of its field of view in azimuth and in elevation (above its horizontal plane, which
    is our reading), however far away. Of the points of a ball around the query's camera, those that the query sees are
    to be covered. A frame's score is the share of the uncovered ones that it sees, less ``recency`` · Δt / t; of equal
    scores the earlier frame is taken. As fewer are left, scores may rise again: each hit has the lowest so far.

    ``cameras`` are those of the frames ``[N]``, in temporal order. See `FOVRetriever` for ``ids`` and ``sources``.

    Raises `InputError` for cameras and names that do not fit each other or are not plausible.
    """

    def __init__(
        self,
        cameras: Cameras,
        rule: WorldMemRule = WorldMemRule(),  # noqa: B008  # frozen
        *,
        ids: Sequence[str] | None = None,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        check_retrieved(cameras, "The cameras", 1)
        self.cameras, self.rule = cameras, rule
        self._clips = ClipTable(*frame_names(ids, sources, len(cameras.c2w)))

    def _best(
        self, query: Cameras, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        generator, rule = torch.Generator().manual_seed(self.rule.seed), self.rule
        ball = torch.randn(rule.count, 3, generator=generator, dtype=torch.float64)
        radius = rule.radius * torch.rand(rule.count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
        position = query.c2w[:3, 3].double().cpu()
        points = position + radius * torch.nn.functional.normalize(ball, dim=-1)
        points = points[self._sees(Cameras(query.c2w[None], query.intrinsics[None]), points)[0]]
        rows = np.flatnonzero(allowed)
        seen = self._sees(Cameras(self.cameras.c2w[rows], self.cameras.intrinsics[rows]), points).numpy()
        late = rule.recency * (len(allowed) - rows) / len(allowed)
        left, free = np.ones(len(points), bool), np.ones(len(rows), bool)
        chosen, scores = [], []
        for _ in range(min(k, len(rows))):
            score = np.where(free, seen[:, left].sum(1) / max(1, int(left.sum())) - late, -np.inf)
            best = int(score.argmax())
            chosen.append(best)
            scores.append(score[best])
            free[best] = False
            left &= ~seen[best]
        return rows[np.array(chosen, np.int64)], np.minimum.accumulate(np.array(scores, np.float64))

    def _sees(self, cameras: Cameras, points: Tensor) -> Bool[Tensor, "frames points"]:
        """Which of the points [P,3] lie in the angles of each camera."""
        c2w, intrinsics = cameras.c2w.double().cpu(), cameras.intrinsics.double().cpu()
        if self.rule.fov_degrees is None:
            half = torch.atan(0.5 / intrinsics[:, :2])
        else:
            half = torch.deg2rad(torch.tensor(self.rule.fov_degrees, dtype=torch.float64) / 2).expand(len(c2w), 2)
        x, y, z = ((points - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]).unbind(-1)
        azimuth, elevation = torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))
        return (azimuth.abs() <= half[:, :1]) & (elevation.abs() <= half[:, 1:])
