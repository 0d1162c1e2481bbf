"""Where clips are made and measured, each once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.injectors import AttentionRecorder
from memkit.rollout import ContextMethod, LearnedContext, Rollout, SeparateContext
from memkit.video import from_model, to_model, write_video
from recipes.common.results import ResultStore
from recipes.memlearner.comparisons import Clip, Comparison, Row, clip_of, score, truth
from recipes.memlearner.presets import Config


@dataclass(frozen=True)
class Sizes:
    """How much is made at once, and kept."""

    noise_seed: int
    at_once: int
    keep: int


class Attention:
    """What the queries of a method attended to, chunk by chunk; of a method without queries nothing."""

    def __init__(self, method: ContextMethod) -> None:
        self.method = method
        self.chunks: list[tuple[list[int], Tensor, Tensor]] = []
        """Times of the context's frames, the queries' shares on them [B,k], the share of the chunk's on queries [B]."""

    def watch(self) -> None:
        """The chunk that comes."""
        if isinstance(self.method, LearnedContext):
            self.method.recorder = AttentionRecorder(queries=True)
        if isinstance(self.method, SeparateContext):
            self.method.recorder, self.method.followed = AttentionRecorder(), AttentionRecorder()

    def note(self, times: Tensor | None) -> None:
        """The chunk that was made, from frames of these times [B,k]."""
        method = self.method
        if times is None or not isinstance(method, LearnedContext | SeparateContext):
            return
        assert method.recorder is not None
        shares = method.recorder.shares("context").mean((0, 1))
        if isinstance(method, SeparateContext):
            assert method.followed is not None
            followed = method.followed.shares().mean((0, 1))
        else:
            followed = method.recorder.shares("queries").mean((0, 1))
        self.chunks.append((times[0].tolist(), shares, followed))

    def means(self, sample: int) -> tuple[float, float]:
        """Over the chunks: shares on context, and on queries."""
        if not self.chunks:
            return math.nan, math.nan
        shares = [(shares[sample].sum().item(), followed[sample].item()) for _, shares, followed in self.chunks]
        return tuple(sum(column) / len(column) for column in zip(*shares, strict=True))  # type: ignore[return-value]

    def of(self, sample: int) -> list[dict[str, Any]]:
        """For JSON: times and shares of each chunk."""
        return [{"times": times, "shares": shares[sample].tolist()} for times, shares, _ in self.chunks]


@dataclass(frozen=True)
class Evaluator:
    """What all of an evaluation shares."""

    config: Config
    names: Sequence[str]
    """Of all rooms, in order; those with people and without have the same noise."""
    sizes: Sizes
    backbone: WanBackbone

    def run(self, comparison: Comparison, method: ContextMethod, rows: ResultStore[Row]) -> None:
        """Make and measure the rooms that are missing; of one length at a time, so that a batch has one shape."""
        form, size = self.backbone.video_format, self.sizes.at_once
        clips = {name: clip_of(comparison, name, self.config, form) for name in rows.missing(comparison, self.names)}
        for length in sorted({clip.chunks for clip in clips.values()}):
            same = [name for name, clip in clips.items() if clip.chunks == length]
            batches = [same[i : i + size] for i in range(0, len(same), size)]
            for batch in tqdm(batches, desc=f"{comparison}, {length} chunks"):
                self._batch(comparison, method, {name: clips[name] for name in batch}, rows)

    def _batch(
        self, comparison: Comparison, method: ContextMethod, clips: dict[str, Clip], rows: ResultStore[Row]
    ) -> None:
        form = self.backbone.video_format
        seen = [truth(clip, form) for clip in clips.values()]
        real = torch.stack([frames for frames, _ in seen])
        cameras = Cameras(*(torch.stack([getattr(at, f) for _, at in seen]) for f in ("c2w", "intrinsics")))
        attention = Attention(method)
        videos = self._rollout(list(clips), list(clips.values()), real, cameras, attention)
        for i, (name, clip) in enumerate(clips.items()):
            row = score(name, comparison, videos[i], real[i], seen[i][1], clip.given(form), *attention.means(i))
            if self.names.index(name) < self.sizes.keep:
                stem = f"{name}-{comparison}"
                keep(rows.file.parent / "evaluation", stem, videos[i], real[i], form.fps, attention.of(i))
            rows.add(row)

    def _rollout(
        self,
        names: Sequence[str],
        clips: Sequence[Clip],
        real: UInt8[Tensor, "batch frames h w 3"],
        cameras: Cameras,
        attention: Attention,
    ) -> UInt8[Tensor, "batch frames h w 3"]:
        """What is given, and what was made after it, chunk by chunk."""
        config, form = self.config, self.backbone.video_format
        given, stride = clips[0].given(form), form.num_frames - 1
        seeds = [self.sizes.noise_seed + self.names.index(name) // 2 for name in names]
        rollout = Rollout(
            self.backbone,
            attention.method,
            budget=config.budget and config.budget * len(names),
            steps=config.sampling_steps,
            guidance_scale=config.guidance_scale,
            annotation=config.annotations[0],
        )
        rollout.observe(real[:, :given], _part(cameras, slice(0, given)))
        made = [real[:, :given]]
        for chunk in range(clips[0].chunks):
            start = given - 1 + chunk * stride
            part = _part(cameras, slice(start, start + stride + 1))
            prompts = [clip.caption(start / form.fps) for clip in clips]
            attention.watch()
            frames = rollout.generate(prompts, part, [seed + 1000 * chunk for seed in seeds])
            attention.note(rollout.shown_times)
            made.append(frames[:, 1:])
        return torch.cat(made, dim=1)

    def controls(self, comparison: Comparison, rows: ResultStore[Row]) -> None:
        """The autoencoder's picture of the truth, and a still of the last given frame."""
        form = self.backbone.video_format
        floor, ceiling = f"{comparison} / still", f"{comparison} / autoencoder"
        for name in tqdm(rows.missing(ceiling, self.names), desc=f"{comparison}, controls"):
            clip = clip_of(comparison, name, self.config, form)
            (real, cameras), given = truth(clip, form), clip.given(form)
            still = torch.cat([real[:given], real[given - 1 : given].expand(len(real) - given, -1, -1, -1)])
            rows.add(score(name, floor, still, real, cameras, given))
            rows.add(score(name, ceiling, self._through(real), real, cameras, given))

    @torch.no_grad()
    def _through(self, real: UInt8[Tensor, "frames h w 3"]) -> UInt8[Tensor, "frames h w 3"]:
        """Through the autoencoder, chunk by chunk."""
        stride, out = self.backbone.video_format.num_frames - 1, [real[:1]]
        for start in range(0, len(real) - 1, stride):
            video: Float[Tensor, "1 3 t h w"] = to_model(real[start : start + stride + 1]).to(self.backbone.device)
            out.append(from_model(self.backbone.decode_latents(self.backbone.encode_video(video))).cpu()[1:])
        return torch.cat(out)


def keep(folder: Path, stem: str, made: Tensor, real: Tensor, fps: float, attention: list[dict[str, Any]]) -> None:
    """A video beside its truth, and what the queries attended to."""
    folder.mkdir(exist_ok=True)
    write_video(folder / f"{stem}.mp4", torch.cat([made, real], dim=2), fps)
    if attention:
        (folder / f"{stem}.json").write_text(json.dumps(attention) + "\n")


def _part(cameras: Cameras, part: slice) -> Cameras:
    return Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])
