"""`SurfelMap`: discs on the surfaces that past frames saw, each with the frames that saw it (VMem, arXiv 2506.18903).

The numbers are those of VMem's release. It takes depth from CUT3R; here it is given, from wherever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from memkit.checks import check_fields
from memkit.retrievers.fov_rules import check_range

Vectors = Float[np.ndarray, "n 3"]
_CORNERS = 16  # of the polygon as which a surfel is drawn
_PAIRS_AT_ONCE = 2**20  # of a surfel and a pixel
_LEAST = 1e-9  # length below which a vector has no direction


@dataclass(frozen=True)
class SurfelRule:
    """How surfels are made of depth, merged and drawn. Lengths are in metres."""

    columns: int = 26
    """Most columns of the grid of pixels that become surfels, with rows in proportion: 26×14 of 512×288. Grid points
    take the nearest pixel (our reading: interpolated depth would put points between two surfaces)."""
    quantile: float = 0.999
    """Pixels farther away than this quantile of a frame's depth are left out."""
    radius: float = 0.5
    """Radius of a surfel over the distance to its neighbours, where the surface faces the camera. With VMem's 0.5 there
    are gaps between them, through which hidden surfaces show; from 0.75 on there are none."""
    spread: float = 0.5
    """A surfel merges with an earlier one closer than the mean of all radii plus so many standard deviations …"""
    same_way: float = 0.6
    """… whose normal has an inner product with its own above this. Of several, the oldest (our reading)."""
    pixels: tuple[int, int] = (288, 512)
    """Rows and columns of the picture in which surfels are drawn."""
    zoom: float = 0.65
    """Factor of the focal lengths of that picture: below 1, it extends beyond the borders of the view."""
    near: float = 0.1
    far: float = 1000.0
    """Surfels are drawn which lie between these depths as a whole."""

    def __post_init__(self) -> None:
        check_fields(self, columns=(1, 10_000), pixels=(1, 10_000), quantile=(0, 1), same_way=(0, 1), zoom=(0.01, 10))
        check_fields(self, radius=(0.01, 10), spread=(0, 100))
        check_range(self.near, self.far)


class Surfels(NamedTuple):
    """Discs in space, in float64."""

    position: Vectors
    normal: Vectors
    """Away from the camera that saw it first, of length 1."""
    side: Vectors
    """Towards a corner of the polygon, of length 1: to the right of that camera (our reading)."""
    radius: Float[np.ndarray, " n"]

    def take(self, rows: Any) -> Surfels:
        """Some of them."""
        return Surfels(*(each[rows] for each in self))

    @staticmethod
    def empty() -> Surfels:
        """None."""
        return Surfels(*(np.zeros((0, 3)) for _ in range(3)), np.zeros(0))


class SurfelMap:
    """The surfels of all frames so far. ``seen_by`` [M, 2] has a row (surfel, frame) for each frame that saw one.

    Frames are added one by one; those of a frame do not merge with each other. Nothing is averaged: a merged surfel is
    the older one. Bytes: 80 per surfel, and 16 per row of ``seen_by``.
    """

    def __init__(self, rule: SurfelRule) -> None:
        self.rule, self.surfels, self.frames = rule, Surfels.empty(), 0
        self.seen_by: Int[np.ndarray, "m 2"] = np.zeros((0, 2), np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.seen_by.nbytes + sum(each.nbytes for each in self.surfels)

    def add(
        self,
        c2w: Float[np.ndarray, "4 4"],
        intrinsics: Float[np.ndarray, " 4"],
        depth: Float[np.ndarray, "height width"],
    ) -> None:
        """Add a frame; pixels with a depth of 0 or inf show no surface."""
        old, new = self.surfels, surfels_of(self.rule, c2w, intrinsics, depth)
        merged, matched = np.zeros(len(new.radius), bool), np.zeros(0, np.int64)
        if len(old.radius) and len(new.radius):
            limit = old.radius.mean() + self.rule.spread * old.radius.std()
            near = cKDTree(old.position).query_ball_point(new.position, limit, return_sorted=True)
            ours = np.repeat(np.arange(len(near)), [len(each) for each in near])
            theirs = np.concatenate(near).astype(np.int64)
            alike = (new.normal[ours] * old.normal[theirs]).sum(1) > self.rule.same_way
            ours, first = np.unique(ours[alike], return_index=True)
            merged[ours], matched = True, np.unique(theirs[alike][first])
        left = new.take(~merged)
        fresh = len(old.radius) + np.arange(len(left.radius))
        self.surfels = Surfels(*(np.concatenate(pair) for pair in zip(old, left, strict=True)))
        rows = np.concatenate([matched, fresh])
        self.seen_by = np.concatenate([self.seen_by, np.stack([rows, np.full_like(rows, self.frames)], 1)])
        self.frames += 1

    def votes(self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " frames"]:
        """The votes for each frame: for each pixel that shows a surfel which it saw, cos / (1 + depth); the first such
        pixel, row by row, counts twice. cos is between the surfel's normal and the way to its centre (our reading)."""
        shown, first, count = np.unique(self.drawn(c2w, intrinsics), return_index=True, return_counts=True)
        shown, first, count = (each[shown >= 0] for each in (shown, first, count))
        way = self.surfels.position[shown] - c2w[:3, 3]
        cosine = (way * self.surfels.normal[shown]).sum(1) / np.linalg.norm(way, axis=1)
        weight = cosine / (1 + way @ c2w[:3, 2])
        slot = np.full(len(self.surfels.radius), -1)
        slot[shown] = np.arange(len(shown))
        rows = slot[self.seen_by[:, 0]]
        rows, frame = rows[rows >= 0], self.seen_by[rows >= 0, 1]
        votes = np.bincount(frame, (count * weight)[rows], minlength=self.frames).astype(np.float64)  # of none: int64
        order = np.lexsort((first[rows], frame))
        voted, at = np.unique(frame[order], return_index=True)
        votes[voted] += weight[rows[order[at]]]
        return votes

    def drawn(
        self, c2w: Float[np.ndarray, "4 4"], intrinsics: Float[np.ndarray, " 4"]
    ) -> Int[np.ndarray, "rows columns"]:
        """The number of the surfel that each pixel shows, −1 for none.

        A surfel is a polygon of 16 corners, seen from its front side alone; of several, the pixel shows the one whose
        centre has the smallest depth, the older of equal ones.
        """
        rule, (rows, columns) = self.rule, self.rule.pixels
        focal, principal = rule.zoom * intrinsics[:2] * (columns, rows), intrinsics[2:] * (columns, rows)
        centre, (normal, side) = self._seen_from(c2w), (each @ c2w[:3, :3] for each in self.surfels[1:3])
        reach = self.surfels.radius[:, None] * np.sqrt(np.clip(1 - normal**2, 0, 1))
        low, high = centre - reach, centre + reach
        ahead = (low[:, 2] > rule.near) & (high[:, 2] < rule.far) & ((centre * normal).sum(1) > 0)
        which = np.flatnonzero(ahead)
        which = which[np.lexsort((-which, -centre[which, 2]))]  # the nearest last, which stays
        depths = np.stack([low[which, 2], high[which, 2]])[..., None]
        first = np.ceil(focal * (low[which, :2] / depths).min(0) + principal - 0.5).clip(0)
        last = np.floor(focal * (high[which, :2] / depths).max(0) + principal - 0.5).clip(-1, (columns - 1, rows - 1))
        wide, tall = np.maximum(last - first + 1, 0).astype(np.int64).T
        picture = np.full(rows * columns, -1)
        for part in _parts(wide * tall):
            count = (wide * tall)[part]
            index = np.repeat(np.arange(part.start, part.stop), count)
            nth = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
            pixel = first[index].astype(np.int64) + np.stack([nth % wide[index], nth // wide[index]], 1)
            surfel = which[index]
            inside = _hits(
                (pixel + 0.5 - principal) / focal, centre[surfel], normal[surfel], side[surfel],
                self.surfels.radius[surfel],
            )  # fmt: skip
            picture[(pixel[:, 1] * columns + pixel[:, 0])[inside]] = surfel[inside]
        return picture.reshape(rows, columns)

    def _seen_from(self, c2w: Float[np.ndarray, "4 4"]) -> Vectors:
        return (self.surfels.position - c2w[:3, 3]) @ c2w[:3, :3]


def surfels_of(
    rule: SurfelRule,
    c2w: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, " 4"],
    depth: Float[np.ndarray, "height width"],
) -> Surfels:
    """The surfels of a frame: one per point of a grid, larger where the surface is slanted.

    A normal is the cross product of the unit differences to the point on the right and to that below, at the borders to
    those on the left and above (our reading). Where one of these shows no surface, the surfel faces the camera.
    """
    (height, width), (fx, fy, cx, cy) = depth.shape, intrinsics
    columns = min(rule.columns, width)
    rows = min(max(1, columns * height // width), height)
    row, column = ((np.arange(n) + 0.5) * of / n for n, of in ((rows, height), (columns, width)))
    row, column = row.astype(np.int64)[:, None], column.astype(np.int64)
    good = np.isfinite(depth) & (depth > 0)
    kept = (good & (depth <= np.quantile(depth[good], rule.quantile) if good.any() else good))[row, column]
    x, y = np.broadcast_arrays(((column + 0.5) / width - cx) / fx, ((row + 0.5) / height - cy) / fy)
    length = np.sqrt(x**2 + y**2 + 1)
    way = np.stack([x, y, np.ones_like(x)], -1) / length[..., None] @ c2w[:3, :3].T
    with np.errstate(invalid="ignore", divide="ignore"):
        position = c2w[:3, 3] + np.where(good[row, column], depth[row, column], np.inf)[..., None] * way
        normal = _unit(np.cross(_unit(_step(position, 1)), _unit(_step(position, 0))))
    normal = np.where(np.isfinite(normal).all(-1, keepdims=True), normal, way)
    cosine = (way * normal).sum(-1)  # 0 or more: right × down is away from the camera
    focal = np.sqrt(fx * columns * fy * rows)  # in points of the grid; of both directions where they differ
    radius = rule.radius * depth[row, column] / length / focal / (0.2 + 0.8 * cosine)
    across, down = c2w[:3, 0], c2w[:3, 1]
    side = across - (normal @ across)[..., None] * normal
    edge_on = np.linalg.norm(side, axis=-1, keepdims=True) < _LEAST
    side = _unit(np.where(edge_on, down - (normal @ down)[..., None] * normal, side))
    return Surfels(position, normal, side, radius).take(kept)


def _step(points: Float[np.ndarray, "rows columns 3"], axis: int) -> Float[np.ndarray, "rows columns 3"]:
    """The difference to the next point along an axis; at the end, from the one before."""
    if points.shape[axis] == 1:
        return np.full_like(points, np.nan)
    step = np.diff(points, axis=axis)
    return np.concatenate([step, step.take([-1], axis)], axis)


def _unit(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Of length 1; NaN where there is no direction."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length < _LEAST, np.nan, length)


def _hits(
    way: Float[np.ndarray, "n 2"], centre: Vectors, normal: Vectors, side: Vectors, radius: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Whether rays (x, y, 1) from the origin meet the polygons, whose corners are at ``radius``, one of them at
    ``side``."""
    towards = np.concatenate([way, np.ones((len(way), 1))], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (centre * normal).sum(1) / (towards * normal).sum(1)
        offset = along[:, None] * towards - centre
        a, b = (offset * side).sum(1), (offset * np.cross(normal, side)).sum(1)
        angle = np.arctan2(b, a) % (2 * np.pi / _CORNERS) - np.pi / _CORNERS  # from the middle of its edge
        return (along > 0) & (np.hypot(a, b) * np.cos(angle) <= radius * np.cos(np.pi / _CORNERS))


def _parts(counts: Int[np.ndarray, " n"]) -> list[slice]:
    """Consecutive runs, in each of which the counts add up to no more than `_PAIRS_AT_ONCE`, or which are one count."""
    ends = np.cumsum(counts)
    parts, start = [], 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        parts.append(slice(start, stop))
        start = stop
    return parts
