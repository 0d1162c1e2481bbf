"""Retrieval by field of view: frames whose views overlap that of the query's camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import SEEDS, check_whole, is_number
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.retrievers.depth import check_depth
from memkit.retrievers.fov_index import DiscIndex
from memkit.retrievers.fov_points import Points
from memkit.retrievers.fov_rules import Rays, Sector
from memkit.retrievers.fov_select import best, cover, one_per_run
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.past_frames import FrameRetriever, check_retrieved, frame_names

RULES = {"sector": Sector, "points": Points, "rays": Rays}
SELECTIONS = ("top", "non_adjacent", "cover")


@dataclass(frozen=True)
class View:
    """A query with known depth: one camera, and metres along its rays ``[H, W]``, inf for the sky."""

    camera: Cameras
    depth: Float[Tensor, "height width"]

    __repr__ = with_shapes


class FOVRetriever(FrameRetriever[Cameras | View]):
    """Frames whose views overlap the query's, most overlap first.

    ``cameras`` are those of the frames ``[N]``, in temporal order. ``rule`` is `Sector` (area on the ground), `Points`
    (points in space) or `Rays` (CaM's binary rule), or the name of one with its defaults: "sector", "points", "rays".
    ``ids`` are unique names, "0", "1", … by default; ``sources`` are for ``exclude_sources``. ``depth``, for `Points`
    only, is metres along the rays of each frame ``[N, H, W]``, inf for the sky, as `memkit.worlds.render` gives it.

    The score of a frame is its overlap, less ``recency`` · Δt / t (WorldMem, with 0.2). The query is taken to follow
    the newest frame: of N frames, frame i has Δt / t = (N − i) / N. Frames that do not overlap, or by less than
    ``min_overlap``, are no hits, so there may be fewer than k. ``select`` chooses among the others:

    - "top": the highest scores, the earlier of equal ones;
    - "non_adjacent": only one frame of each run of consecutive frames (CaM, section 3.3), the best, or with
      ``pick="random"`` a random one, by ``seed``; then as "top", with random order among equal scores if the pick is
      random. The paper thins only over budget; to do so always is our reading;
    - "cover": greedily, the frame that covers most of the query's view that is still uncovered (as WorldMem, of which
      `WorldMemRetriever` is exact). A score is what the frame adds, on sample points, less its recency. Not with
      `Rays`, which have no area.

    A call with one camera (fields ``[4, 4]`` and ``[4]``) returns `Hits`, with a list of cameras a list of them; see
    `Retriever.__call__`. With `Points`, a `View` is a query with known depth: what its surfaces hide does not count.
    Without it, only frames' own occlusions are known, and a frame equal to the query overlaps it by the share of the
    view in front of surfaces. Results are exact: a spatial grid only skips frames out of reach. It is built once; make
    a new retriever when frames are added.

    Raises `InputError` for cameras, ids or depth that do not fit each other or are not finite, poses that are not
    rigid, views that a rule cannot take, and settings out of range.
    """

    def __init__(
        self,
        cameras: Cameras,
        rule: Literal["sector", "points", "rays"] | Sector | Points | Rays = "sector",
        *,
        ids: Sequence[str] | None = None,
        sources: Sequence[str | None] | None = None,
        depth: Float[Tensor, "frames height width"] | None = None,
        select: Literal["top", "non_adjacent", "cover"] = "top",
        pick: Literal["best", "random"] = "best",
        min_overlap: float = 0.0,
        recency: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.rule: Sector | Points | Rays = _rule(rule)
        if select not in SELECTIONS or pick not in ("best", "random"):
            raise InputError(f"select is {select!r} and pick {pick!r}; choose of {SELECTIONS}, and 'best' or 'random'.")
        if select == "cover" and isinstance(self.rule, Rays):
            raise InputError(
                "The rays rule has no area that frames could cover; choose another selection, or rule='sector'."
            )
        check_whole("seed", seed, 0, SEEDS[1])
        numbers = is_number(min_overlap) and is_number(recency)
        if not numbers or not 0 <= min_overlap <= 1 or not 0 <= recency < float("inf"):
            raise InputError(
                f"min_overlap is {min_overlap} and recency {recency}; give [0, 1] and a recency of at least 0."
            )
        check_retrieved(cameras, "The cameras", 1)
        count = len(cameras.c2w)
        if depth is not None:
            _check_depth(depth, count, self.rule)
        self.select, self.pick, self.min_overlap, self.recency, self.seed = select, pick, min_overlap, recency, seed
        self._views: Any = _views(self.rule, cameras, depth)
        self._index = DiscIndex(self._views.centres, self._views.radii)
        self._clips = ClipTable(*frame_names(ids, sources, count))

    def overlap(self, query: Cameras | View) -> Float[Tensor, " frames"]:
        """Share of the query's view that each frame's view covers, in [0, 1], float64; selection settings do not apply.

        Raises `InputError` for a query that is not one finite camera, or that the rule cannot take.
        """
        self._check(query, "the query")
        rows, overlap = self._overlap(self._prepare(query))
        return torch.zeros(len(self._clips), dtype=overlap.dtype, device=overlap.device).index_copy_(0, rows, overlap)

    def _prepare(self, query: Cameras | View) -> Any:
        camera, depth = (query.camera, query.depth[None]) if isinstance(query, View) else (query, None)
        device = self._views.centres.device
        one = Cameras(camera.c2w[None].to(device), camera.intrinsics[None].to(device))
        return _views(self.rule, one, depth)

    def _overlap(self, query: Any) -> tuple[Int[Tensor, " near"], Float[Tensor, " near"]]:
        """Rows within reach, in ascending order, and their overlaps."""
        rows = self._index.meeting(query.centres[0], query.radii[0])
        return rows, self._views.overlap(query, rows)

    def _check(self, query: Cameras | View, name: str) -> None:
        if isinstance(query, View):
            _check_depth(query.depth[None], 1, self.rule)
            query = query.camera
        if not isinstance(query, Cameras):
            raise InputError(f"{name} is {type(query).__name__}, not a camera; give Cameras of one pose, or a View.")
        super()._check(query, name)

    def _best(
        self, query: Cameras | View, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        prepared = self._prepare(query)
        rows, overlap = self._overlap(prepared)
        keep = (overlap > 0) & (overlap >= self.min_overlap) & torch.from_numpy(allowed).to(rows.device)[rows]
        rows, overlap = rows[keep], overlap[keep].cpu().numpy()
        frames, count = rows.cpu().numpy(), len(allowed)
        late = self.recency * (count - frames) / max(count, 1)
        if self.select == "cover":
            seen = self._views.seen(prepared, rows).T.contiguous().cpu().numpy()
            chosen, scores = cover(seen, late, k, self.min_overlap)
            return frames[chosen], scores
        scores = overlap - late
        if self.select == "top":
            chosen = best(scores, k)
        else:
            chosen = one_per_run(frames, scores, k, np.random.default_rng(self.seed) if self.pick == "random" else None)
        return frames[chosen], scores[chosen]


def _rule(rule: Any) -> Sector | Points | Rays:
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]()
    if not isinstance(rule, Sector | Points | Rays):
        raise InputError(f"rule is {rule!r}; choose of {tuple(RULES)}, or give a Sector, Points or Rays.")
    return rule


def _views(rule: Sector | Points | Rays, cameras: Cameras, depth: Tensor | None) -> Any:
    if isinstance(rule, Points):
        return rule.views(cameras, None if depth is None else depth.to(cameras.c2w.device))
    return rule.views(cameras)


def _check_depth(depth: Tensor, count: int, rule: Sector | Points | Rays) -> None:
    if not isinstance(rule, Points):
        raise InputError(f"Depth is given, but the rule {rule} does not use it; use rule='points'.")
    check_depth(depth, count)
