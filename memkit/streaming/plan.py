"""`VideoPlan`: a video of any length, chunk by chunk, from first frames, prompts, a camera path and an interruption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST_FRAMES, check_finite, check_whole, text_list
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.frame_graph.interrupted import chunk_spans
from memkit.interruptions.posed import InterruptionName, interrupt_still
from memkit.interruptions.timing import STRIDE
from memkit.streaming.stream import Stream
from memkit.video.pixels import from_model, to_model

_VAE_PAST = 21  # frames that an interruption is encoded after: more than the VAE looks back


@dataclass(frozen=True)
class VideoPlan:
    """What a `Stream` of one video is to generate.

    An interruption is given, not generated: in its chunks the last frame before it is held, and interrupted.

    Attributes:
        conditioning: latents that the video begins with.
        prompts: one per chunk.
        spans: latent frames [start, stop) of each chunk.
        cameras: [latent frames], one each.
        interruption: its kind, if there is one.
        interrupted: numbers of the chunks in which the view is interrupted.
        fps: frame rate of the interruption.
    """

    conditioning: Float[Tensor, "1 channels conditioning height width"]
    prompts: Sequence[str]
    spans: Sequence[tuple[int, int]]
    cameras: Cameras
    interruption: InterruptionName | None = None
    interrupted: range = range(0)
    fps: float = 16.0

    __repr__ = with_shapes

    @classmethod
    def of(
        cls,
        conditioning: Float[Tensor, "1 channels conditioning height width"],
        prompts: str | Sequence[str],
        path: Cameras,
        first: int,
        chunk: int,
        *,
        chunks: int | None = None,
        latents: int | None = None,
    ) -> VideoPlan:
        """The plan of a video in chunks of ``chunk`` latent frames, of which the first has ``first``.

        Args:
            conditioning: latents that the video begins with.
            prompts: one per chunk; the last one is repeated, and one string is one prompt.
            path: [at least 1] camera per latent frame; the last one is held.
            first: latent frames of the first chunk.
            chunk: latent frames of every other chunk.
            chunks: number of chunks; by default enough for ``latents`` latent frames.
            latents: by default the length of the path.

        Raises:
            InputError: no chunk goes beyond the conditioning latents, there are more prompts than chunks or no prompt,
                a number is out of range, or a camera is not plausible.
        """
        check_finite("conditioning", conditioning, "[1, C, frames, H, W]")
        prompts = text_list("prompts", prompts)
        check_cameras(path, "The path", unknown_focal=True)
        if path.c2w.ndim != 3 or not len(path.c2w):
            raise InputError(f"The path has cameras {list(path.c2w.shape[:-2])}; give [frames], at least one.")
        if not prompts:
            raise InputError("There are no prompts; give at least one.")
        for name, number in (("first", first), ("chunk", chunk), ("chunks", chunks), ("latents", latents)):
            if number is not None or name in ("first", "chunk"):
                check_whole(name, number, 1, MOST_FRAMES)
        given, wanted = conditioning.shape[2], len(path.c2w) if latents is None else latents
        if chunks is None:
            chunks = 1 + max(0, math.ceil((wanted - first) / chunk))
        total = first + (chunks - 1) * chunk
        check_whole("The length of the video", total, 1, MOST_FRAMES, "latent frames")
        if total <= given:
            raise InputError(f"{chunks} chunks are {total} latent frames, and {given} are given; make more chunks.")
        if len(prompts) > chunks:
            raise InputError(f"There are {len(prompts)} prompts for {chunks} chunks; give at most one per chunk.")
        rows = torch.arange(total).clamp(max=len(path.c2w) - 1)  # cut where there are fewer chunks
        return cls(
            conditioning=conditioning,
            prompts=[*prompts, *[prompts[-1]] * (chunks - len(prompts))],
            spans=chunk_spans(total, chunk, first),
            cameras=Cameras(path.c2w[rows], path.intrinsics[rows]),
        )

    def with_interruption(self, kind: InterruptionName, start: int, stop: int, fps: float) -> VideoPlan:
        """The plan with an interruption in the chunks [start, stop); one that turns the camera turns that of the plan.

        Raises `InputError` for chunks that begin before the end of the conditioning latents, or that leave no chunk to
        generate after them.
        """
        check_whole("start", start)
        check_whole("stop", stop)
        if not 0 < start < stop < len(self.spans) or self.spans[start][0] < self.conditioning.shape[2]:
            raise InputError(
                f"The view cannot be interrupted in the chunks {start} to {stop} of {len(self.spans)}: "
                "give chunks after what is given, with one left at the end to be generated."
            )
        a, b = self.spans[start][0], self.spans[stop - 1][1]
        frame = torch.zeros(8, 8, 3, dtype=torch.uint8)  # cameras do not depend on what is seen
        turned = interrupt_still(kind, frame, STRIDE * (b - a), fps).c2w[STRIDE::STRIDE][: b - a]
        c2w = self.cameras.c2w.clone()
        c2w[a:b] = c2w[a:b] @ turned.to(c2w)
        cameras = Cameras(c2w, self.cameras.intrinsics)
        return replace(self, cameras=cameras, interruption=kind, interrupted=range(start, stop), fps=fps)

    @torch.no_grad()
    def sample(self, stream: Stream) -> UInt8[Tensor, "frames height width 3"]:
        """The frames of the video, by a new stream of one video, whose cameras are those of the plan."""
        latents, hidden = self.conditioning[:, :, :0], None
        for i, (a, b) in enumerate(tqdm(self.spans, desc="chunks")):
            given = self.conditioning[:, :, a:b]
            if i in self.interrupted:
                first, last = self.spans[self.interrupted[0]][0], self.spans[self.interrupted[-1]][1]
                hidden = self._hidden(stream, latents, last - first) if hidden is None else hidden
                given = hidden[:, :, a - first : b - first]
            chunk = stream.generate([self.prompts[i]], given if given.shape[2] else None, b - a)
            latents = torch.cat([latents, chunk.to(latents)], dim=2)
        return from_model(stream.backbone.decode_latents(latents)).cpu()

    def _hidden(self, stream: Stream, latents: Tensor, count: int) -> Tensor:
        """Latents of the interruption over the last frame of ``latents``."""
        assert self.interruption is not None
        before = from_model(stream.backbone.decode_latents(latents)).cpu()
        over = interrupt_still(self.interruption, before[-1], STRIDE * count, self.fps).video[1 : STRIDE * count + 1]
        both = torch.cat([before[-_VAE_PAST:], over])
        return stream.backbone.encode_video(to_model(both).to(stream.backbone.device))[:, :, -count:]
