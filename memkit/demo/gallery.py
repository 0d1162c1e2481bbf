"""The gallery of the demo: panels that left the view come back, with the past and without, from the same noise.

    figures = gallery_figures(range(16), Path("out/demo/gallery"))

Three chunks of a gallery that nothing was trained on are rendered; the fourth, in which panels come back, is generated
twice by the same weights: with the past in the sequence, and with the given frame alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.checks import MOST_STEPS, check_seeds, check_whole
from memkit.errors import InputError
from memkit.files.atomic import atomic_write, writing
from memkit.files.checksums import verify_sums
from memkit.injectors.frame_context.context import FrameContext
from memkit.report.sheet import contact_sheet
from memkit.rollout.methods import NewestContext
from memkit.rollout.rollout import Rollout
from memkit.training.load import load_backbone
from memkit.training.settings import RunSettings
from memkit.video.frames import write_video
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES
from memkit.worlds.gallery_scores import CHANCE, score_chunk
from memkit.worlds.gallery_tours import GalleryClip, GalleryTour

WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny-gallery"
"""tiny-wan trained on galleries with its past in the sequence: ``transformer`` and ``method/context``."""
CHUNKS = 4
_STRIDE, _SHOWN = NUM_FRAMES - 1, 4
KNOWN = (CHUNKS - 1) * _STRIDE + 1
_CONTEXT_FRAMES, _GUIDANCE = 20, 2.0
_CONDITIONS: tuple[str, ...] = ("with memory", "without memory")


def load_gallery() -> tuple[WanBackbone, NewestContext]:
    """The model on the CPU and its context method. Raises `FileError` where a file is damaged."""
    verify_sums(WEIGHTS)
    context = FrameContext.from_pretrained(WEIGHTS / "method" / "context")
    backbone = load_backbone(RunSettings(device="cpu"), trained=WEIGHTS)
    return backbone, NewestContext(context, _CONTEXT_FRAMES, _GUIDANCE).eval()


def gallery_clip(seed: int) -> GalleryClip:
    """The tour that a seed shows: through test gallery number ``seed``, with a figure if the seed is odd."""
    name = f"test-{seed % 100_000:05d}" + "-dynamic" * (seed % 2)
    return GalleryTour(name, CHUNKS, _STRIDE / FPS).part(0)


def gallery_figures(seeds: Sequence[int], out: Path, steps: int = 3) -> dict[str, Any]:
    """Generate the return to the panels for each seed, with memory and without, and read their colours from pixels.

    ``out`` gets ``sheet.png`` (of the first seeds: the truth, with memory, without) and the videos
    ``SEED-truth.mp4``, ``SEED-with-memory.mp4`` and ``SEED-without-memory.mp4``, of which the last 16 frames are
    generated.

    Returns, to be written as JSON: ``chance``; ``mean``, by condition the means over the seeds; and ``seeds``, by seed
    the gallery and by condition the shares of panels with the right colour: ``returned`` panels are not in the frame
    that is given, ``given`` ones are. What there is none of is None. See `memkit.worlds.gallery_scores`.
    """
    check_seeds("seeds", seeds)
    check_whole("steps", steps, 1, MOST_STEPS)
    if not len(seeds):
        raise InputError("There are no seeds; give one per gallery.")
    clips = [gallery_clip(seed) for seed in seeds]
    real = torch.stack([clip.video(CHUNKS * _STRIDE + 1, FPS, IMAGE_SIZE) for clip in clips])
    made = dict(zip(_CONDITIONS, _generate(clips, real, seeds, steps), strict=True))
    rows: dict[str, Any] = {}
    for i, (seed, clip) in enumerate(zip(seeds, clips, strict=True)):
        rows[str(seed)] = {"gallery": clip.source} | {name: _shares(clip, video[i]) for name, video in made.items()}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, videos in {"truth": real, **made}.items():
            for seed, video in zip(seeds, videos, strict=True):
                write_video(out / f"{seed}-{name.replace(' ', '-')}.mp4", video, FPS)
        with atomic_write(out / "sheet.png") as partial:
            _sheet(rows, real, made).save(partial, "PNG")
    means = {name: {key: _mean(row[name][key] for row in rows.values()) for key in _SCORES} for name in _CONDITIONS}
    return {"chance": CHANCE, "steps": steps, "mean": means, "seeds": rows}


_SCORES = ("returned", "given")


@torch.no_grad()
def _generate(
    clips: Sequence[GalleryClip], real: UInt8[Tensor, "batch frames h w 3"], seeds: Sequence[int], steps: int
) -> list[UInt8[Tensor, "batch frames h w 3"]]:
    """The rendered past and the generated last chunk: with the past, and with the given frame alone."""
    backbone, method = load_gallery()
    backbone.pipeline().set_progress_bar_config(disable=True)
    each = [clip.cameras(CHUNKS * _STRIDE + 1, FPS) for clip in clips]
    cameras = Cameras(torch.stack([at.c2w for at in each]), torch.stack([at.intrinsics for at in each]))
    last = slice(KNOWN - 1, None)
    captions = [GalleryTour(clip.source, CHUNKS, _STRIDE / FPS).part(CHUNKS - 1).motion for clip in clips]
    videos = []
    for first in (0, KNOWN - 1):
        seen = slice(first, KNOWN)
        rollout = Rollout(backbone, method, steps=steps, guidance_scale=1.0)
        rollout.observe(real[:, seen], Cameras(cameras.c2w[:, seen], cameras.intrinsics[:, seen]))
        at = Cameras(cameras.c2w[:, last], cameras.intrinsics[:, last])
        videos.append(torch.cat([real[:, :KNOWN], rollout.generate(captions, at, list(seeds))[:, 1:]], dim=1))
    return videos


def _shares(clip: GalleryClip, video: UInt8[Tensor, "frames h w 3"]) -> dict[str, float | None]:
    scores = score_chunk(clip, FPS, video, KNOWN, NUM_FRAMES)._asdict()
    return {name: None if math.isnan(scores[name]) else scores[name] for name in _SCORES}


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sheet(rows: dict[str, Any], real: Tensor, made: dict[str, Tensor]):
    """The generated chunks of the first seeds below the truth."""

    def label(name: str, row: dict[str, Any]) -> str:
        share = row[name]["returned"]
        return name if share is None else f"{name}\n{100 * share:.0f} % right"

    sections = []
    for i, (seed, row) in enumerate(list(rows.items())[:_SHOWN]):
        strips = [("truth", real[i, KNOWN - 1 :])]
        strips += [(label(name, row), video[i, KNOWN - 1 :]) for name, video in made.items()]
        sections.append((f"{row['gallery']}, seed {seed}: the panels come back; the first frame is given", strips))
    return contact_sheet(sections, columns=9, height=64)
