"""The scores of the gallery suite: whether panels that left the view have the right colour when they come back.

See `memkit.worlds.gallery_scores` for what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from memkit.evaluation import Table, compare, field
from memkit.metrics import mean_psnr, psnr
from memkit.worlds.gallery_scores import score_chunk
from memkit.worlds.gallery_tours import GalleryClip

WITHOUT = " / without the past"
"""Suffix of the condition in which the same weights see no past but the frame that a chunk begins with."""


@dataclass(frozen=True)
class GalleryRow:
    """The scores of the last chunk of one clip; NaN if there is nothing to measure.

    The first six are those of `memkit.worlds.gallery_scores.ChunkScores`.
    """

    id: str
    """Name of the gallery."""
    condition: str
    """The comparison, "truth" or "revisit"; followed by `WITHOUT`, or for the controls by " / still" or
    " / autoencoder"."""
    returned: float
    given: float
    new: float
    again: float
    figure: float
    figure_degrees: float
    psnr: float
    """PSNR in dB of the chunk against the truth."""
    attention: float = math.nan
    """Share of the attention of the queries on the context."""
    followed: float = math.nan
    """Share of the attention of the chunk on the queries."""


def score(
    condition: str,
    clip: GalleryClip,
    fps: float,
    video: UInt8[Tensor, "frames h w 3"],
    real: UInt8[Tensor, "frames h w 3"],
    conditioning_frames: int,
    chunk_frames: int,
    attention: float = math.nan,
    followed: float = math.nan,
) -> GalleryRow:
    """The scores of the last ``chunk_frames`` frames of a video, the first of which is the frame that is given."""
    scores = score_chunk(clip, fps, video, conditioning_frames, chunk_frames)
    quality = mean_psnr(psnr(video[1 - chunk_frames :], real[1 - chunk_frames :]))
    return GalleryRow(clip.source, condition, *scores, quality, attention, followed)


COLUMNS = {
    "returned panels": field("returned"),
    "given panels": field("given"),
    "new panels": field("new"),
    "as they were before": field("again"),
    "figure within 10°": field("figure"),
    "PSNR, dB": field("psnr"),
}


def tables(runs: Mapping[str, Sequence[Mapping[tuple[str, str], GalleryRow]]]) -> dict[str, Table]:
    """One table per comparison: each method, the same weights without the past, and the controls."""
    out: dict[str, Table] = {}
    first = next(iter(runs.values()))
    measured = {condition for some in runs.values() for run in some for condition, _ in run}
    for comparison in (name for name in ("truth", "revisit") if name in measured):
        table = out[comparison] = {}
        for name, some in runs.items():
            table |= compare(COLUMNS, {name: some}, comparison)
            table |= compare(COLUMNS, {name + WITHOUT: some}, comparison + WITHOUT)
        for name in ("autoencoder", "still"):
            table |= compare(COLUMNS, {name: first}, f"{comparison} / {name}")
    return out
