"""`SurfelRetriever`: the past frames that saw the surfaces which a camera will see (VMem, arXiv 2506.18903).

Surfaces are kept as discs in space, each with the frames that saw it (`memkit.retrievers.surfels`). For a new camera
they are drawn, so that near ones hide those behind them, and each pixel votes for the frames that saw its disc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import check_fields
from memkit.errors import FileError, InputError
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.retrievers.depth import check_depth
from memkit.retrievers.hits import ClipTable, rank
from memkit.retrievers.past_frames import FrameRetriever, check_retrieved, frame_names, more_names
from memkit.retrievers.surfels import SurfelMap, SurfelRule, Surfels

KIND, KEY = FileKind("saved surfel map", "memkit-surfels", 1), "surfels"


@dataclass(frozen=True)
class PoseSelection:
    """VMem's choice among the frames that got votes: near the query's pose, and apart from each other.

    The distance of two poses is that of their positions, times ``per_metre``, plus the angle between them in radians.
    Of the ``k + extra`` frames with the most votes, the nearest is taken, then in the order of their distance those
    that are at least τ apart from all that are taken. Where this gives too few, τ is divided by ``relax`` and the rest
    looked through again, until it is below ``least``; then the nearest fill up. τ is the median distance between the
    first five frames, or of all as long as there are fewer (our reading).
    """

    extra: int = 10
    per_metre: float = 0.1
    """VMem's factor for its own unit of length, which need not be a metre."""
    relax: float = 1.2
    least: float = 1e-5
    diverse: bool = True
    """False: the ``k − 1`` nearest and the latest frame, whether it got votes or not."""

    def __post_init__(self) -> None:
        check_fields(self, relax=(1.01, 1000), least=(1e-9, 1))


class SurfelRetriever(FrameRetriever[Cameras]):
    """Frames that saw what a camera will see.

    ``cameras`` are those of the frames ``[N]``, ``depth`` is metres along the rays of each ``[N, H, W]``, as
    `memkit.worlds.render` gives it, or from any estimator; 0 or inf where there is no surface, or none that is sure.
    With ``select="poses"``, hits are VMem's choice (`PoseSelection`), and a score is minus the distance of poses, the
    lowest so far. With "votes", they are the frames with the most votes, and a score is a frame's share of all votes.
    Frames without votes are no hits, so there may be fewer than k. A query is one camera; VMem asks with the last
    camera of each chunk.

    `add` adds frames one after the other, which gives the same map as all at once. Everything is on the CPU.
    ``ids`` are unique names, by default the numbers of the frames; ``sources`` are for ``exclude_sources``.

    Raises `InputError` for cameras, ids or depth that do not fit each other or are not plausible.
    """

    def __init__(
        self,
        cameras: Cameras,
        depth: Float[Tensor, "frames height width"],
        rule: SurfelRule = SurfelRule(),  # noqa: B008  # frozen
        *,
        ids: Sequence[str] | None = None,
        sources: Sequence[str | None] | None = None,
        select: Literal["poses", "votes"] = "poses",
        poses: PoseSelection = PoseSelection(),  # noqa: B008  # frozen
    ) -> None:
        if select not in ("poses", "votes"):
            raise InputError(f"select is {select!r}; choose 'poses' or 'votes'.")
        self.rule, self.select, self.poses = rule, select, poses
        self.map = SurfelMap(rule)
        self._c2w, self._intrinsics = np.zeros((0, 4, 4)), np.zeros((0, 4))
        self._names: tuple[list[str], list[str | None]] = [], []
        self._clips = ClipTable(*self._names)
        self.add(cameras, depth, ids, sources)

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def nbytes(self) -> int:
        """Bytes held: those of the map (`SurfelMap`), and 160 per frame for its camera."""
        return self.map.nbytes + self._c2w.nbytes + self._intrinsics.nbytes

    def add(
        self,
        cameras: Cameras,
        depth: Float[Tensor, "frames height width"],
        ids: Sequence[str] | None = None,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        """Add frames after those there are; on an error, none. Raises `InputError` as the class does."""
        check_retrieved(cameras, "The cameras", 1)
        check_depth(depth, count := len(cameras.c2w))
        names = more_names(self._names, ids, sources, count)
        c2w, intrinsics, metres = (x.detach().double().cpu().numpy() for x in (cameras.c2w, cameras.intrinsics, depth))
        for frame in zip(c2w, intrinsics, metres, strict=True):
            self.map.add(*frame)
        self._names, self._clips = names, ClipTable(*names)
        self._c2w, self._intrinsics = np.concatenate([self._c2w, c2w]), np.concatenate([self._intrinsics, intrinsics])

    def votes(self, query: Cameras) -> Float[Tensor, " frames"]:
        """The votes for each frame, float64; see `SurfelMap.votes`. Raises `InputError` for a bad query."""
        self._check(query, "the query")
        return torch.from_numpy(self.map.votes(*_one(query)))

    def save(self, path: str | Path) -> None:
        """Write map, cameras, names and settings into one safetensors file; whole or not at all.

        Raises `FileError` where it cannot be written.
        """
        settings = {"rule": asdict(self.rule), "select": self.select, "poses": asdict(self.poses)}
        content = {**settings, "ids": self._names[0], "sources": self._names[1]}
        arrays = {"c2w": self._c2w, "intrinsics": self._intrinsics, "seen_by": self.map.seen_by}
        arrays |= self.map.surfels._asdict()
        save_tensors(path, KIND, KEY, content, {name: torch.from_numpy(x) for name, x in arrays.items()})

    @staticmethod
    def load(path: str | Path) -> SurfelRetriever:
        """What `save` wrote: the same hits, and more frames can be added.

        Raises `FileError` where there is no such file, or it is damaged or of another version.
        """
        with open_tensors(path, KIND, KEY) as (header, file):
            rule = SurfelRule(**{**header["rule"], "pixels": tuple(header["rule"]["pixels"])})
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            cameras = Cameras(found.pop("c2w"), found.pop("intrinsics"))
            check_retrieved(cameras, str(path), 1)
            none = Cameras(cameras.c2w[:0], cameras.intrinsics[:0])
            select, poses = header["select"], PoseSelection(**header["poses"])
            retriever = SurfelRetriever(none, torch.zeros(0, 1, 1), rule, select=select, poses=poses)
            names = frame_names(header["ids"], header["sources"], len(cameras.c2w))
            seen_by = found.pop("seen_by").numpy()
            surfels = Surfels(**{name: x.numpy() for name, x in found.items()})
            counts = {len(each) for each in surfels}
            fits = len(counts) == 1 and seen_by.shape[1:] == (2,) and (seen_by >= 0).all()
            if not fits or not (seen_by < (*counts, len(names[0]))).all():
                raise FileError(f"{path} is damaged: its surfels, frames and who saw which do not fit; save it again.")
            retriever.map.surfels, retriever.map.seen_by, retriever.map.frames = surfels, seen_by, len(names[0])
            retriever._names, retriever._clips = names, ClipTable(*names)
            retriever._c2w, retriever._intrinsics = cameras.c2w.numpy(), cameras.intrinsics.numpy()
        return retriever

    def _best(
        self, query: Cameras, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        c2w, intrinsics = _one(query)
        votes = self.map.votes(c2w, intrinsics)
        share = votes / max(votes.sum(), np.finfo(float).tiny)
        if self.select == "votes":
            return rank(share, k, allowed & (votes > 0))
        seen, _ = rank(share, k + self.poses.extra, allowed & (votes > 0))
        away = self._apart(self._c2w[seen], c2w)
        order = np.argsort(away, kind="stable")
        rows, away = seen[order], away[order]
        chosen = self._diverse(rows, k) if self.poses.diverse else self._nearest_and_latest(rows, k, allowed)
        return chosen, np.minimum.accumulate(-self._apart(self._c2w[chosen], c2w))

    def _diverse(self, rows: Int[np.ndarray, " n"], k: int) -> Int[np.ndarray, " hits"]:
        """At most ``k`` of ``rows``, which are in the order of their distance."""
        first = self._c2w[:5]
        pairs = [self._apart(first[i + 1 :], pose) for i, pose in enumerate(first)]
        limit = float(np.median(np.concatenate(pairs))) if len(first) > 1 else 0.0
        taken, left = list(rows[:1]), list(rows[1:])
        while len(taken) < k and left and limit >= self.poses.least:
            for row in list(left):
                if len(taken) < k and (self._apart(self._c2w[taken], self._c2w[row]) >= limit).all():
                    taken.append(row)
                    left.remove(row)
            limit /= self.poses.relax
        return np.array([*taken, *left][:k], np.int64)

    def _nearest_and_latest(
        self, rows: Int[np.ndarray, " n"], k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> Int[np.ndarray, " hits"]:
        latest = np.flatnonzero(allowed)[-1:]
        return np.concatenate([rows[~np.isin(rows, latest)][: k - 1], latest])

    def _apart(self, c2w: Float[np.ndarray, "n 4 4"], other: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " n"]:
        """The distance of poses to another."""
        trace = (c2w[:, :3, :3] * other[:3, :3]).sum((1, 2))
        away = np.linalg.norm(c2w[:, :3, 3] - other[:3, 3], axis=1)
        return self.poses.per_metre * away + np.arccos(((trace - 1) / 2).clip(-1, 1))


def _one(camera: Cameras) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, " 4"]]:
    return camera.c2w.detach().double().cpu().numpy(), camera.intrinsics.detach().double().cpu().numpy()
