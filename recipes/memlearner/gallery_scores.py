"""The scores of the gallery: whether panels that left the view have the right colour when they come back.

A chunk's panels are of three kinds. A *returned* panel is not in the frame that the chunk begins with and was seen in a
conditioning frame before it, so only memory knows its colour: without, one of eight is right by chance. A *given* panel
is in the frame that the chunk begins with. A *new* panel was in no frame before: chance again, with memory too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from memkit.evaluation import Table, compare, field
from memkit.metrics import mean_psnr, psnr
from memkit.worlds.gallery_scores import (
    UNSEEN,
    Views,
    read_colours,
    read_direction,
    true_colours,
    true_direction,
    views,
)
from memkit.worlds.gallery_tours import GalleryClip

WITHOUT = " / without the past"
"""Suffix of the condition in which the same weights see no past but the frame that a chunk begins with."""
STRIDE = 4
"""Every fourth frame is read: those at which the latent frames stand."""
NEAR_DEGREES = 10.0
"""The figure is found if it is this close to where it should be."""


@dataclass(frozen=True)
class GalleryRow:
    """The scores of the last chunk of one clip; NaN if there is nothing to measure."""

    id: str
    """Name of the gallery."""
    condition: str
    """The comparison, "truth" or "revisit"; followed by `WITHOUT`, or for the controls by " / still" or
    " / autoencoder"."""
    returned: float
    """Share of returned panels whose colour is right."""
    given: float
    """Share of given panels whose colour is right."""
    new: float
    """Share of new panels whose colour is right."""
    again: float
    """Share of panels that are not in the frame the chunk begins with and have the colour that they had in this video
    when they were last in view."""
    figure: float
    """Share of frames that show the figure in the truth in which it is found within 10°."""
    figure_degrees: float
    """Mean distance of the figure from where it should be, where it is found at all."""
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
    at = views(clip, len(video), fps, video.shape[2])
    first = len(video) - chunk_frames
    past, chunk = list(range(0, first + 1, STRIDE)), list(range(first + STRIDE, len(video), STRIDE))
    known = [i for i in past if i < conditioning_frames]
    found, true = read_colours(video[chunk], at[chunk]), true_colours(clip.gallery)
    hidden, seen = at.panels[first] == 0, at[known].readable.any(0)
    readable, right = at[chunk].readable, found == true
    own = _last_read(video[past], at[past])
    compared = readable & hidden & (own != UNSEEN)
    wanted, got = true_direction(at[chunk]), read_direction(video[chunk], at[chunk])
    shown, off = ~wanted.isnan(), (got - wanted).abs()
    return GalleryRow(
        id=clip.source,
        condition=condition,
        returned=_share(right, readable & hidden & seen),
        given=_share(right, readable & ~hidden),
        new=_share(right, readable & hidden & ~at[past].readable.any(0)),
        again=_share(found == own, compared),
        figure=_share(off < NEAR_DEGREES, shown),
        figure_degrees=off[~off.isnan()].mean().item() if not off.isnan().all() else math.nan,
        psnr=mean_psnr(psnr(video[first + 1 :], real[first + 1 :])),
        attention=attention,
        followed=followed,
    )


def _last_read(video: UInt8[Tensor, "frames h w 3"], at: Views) -> Tensor:
    """The colour of each panel when it was last in view [panels], or `UNSEEN`."""
    last = torch.full((at.panels.shape[1],), UNSEEN)
    for found in read_colours(video, at):
        last = torch.where(found == UNSEEN, last, found)
    return last


def _share(right: Bool[Tensor, " *shape"], of: Bool[Tensor, " *shape"]) -> float:
    count = of.sum().item()
    return math.nan if not count else (right & of).sum().item() / count


COLUMNS = {
    "returned panels": field("returned"),
    "given panels": field("given"),
    "new panels": field("new"),
    "as it was before": field("again"),
    "figure within 10°": field("figure"),
    "seen frames, dB": field("psnr"),
}


def tables(runs: Mapping[str, Sequence[Mapping[tuple[str, str], GalleryRow]]]) -> dict[str, Table]:
    """One table per comparison: each method, the same weights without the past, and the controls."""
    out: dict[str, Table] = {}
    first = next(iter(runs.values()))
    for comparison in ("truth", "revisit"):
        table = compare(COLUMNS, runs, comparison)
        without = compare(COLUMNS, runs, comparison + WITHOUT)
        out[comparison] = {
            key: cells for name in runs for key, cells in ((name, table[name]), (name + WITHOUT, without[name]))
        }
        for name in ("autoencoder", "still"):
            out[comparison] |= compare(COLUMNS, {name: first}, f"{comparison} / {name}")
    return out
