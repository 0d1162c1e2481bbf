"""Long videos chunk by chunk: each continues from the last frame of the one before, with context from a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.cameras.pose_files import latent_cameras
from memkit.checks import MOST_STEPS, check_scale, check_text, check_whole, seed_list, shown, text_list
from memkit.display import counted, described
from memkit.errors import InputError
from memkit.generation.generate import generate_latents
from memkit.generation.noise import frame_noise, seeded_generators
from memkit.rollout.base import ContextMethod
from memkit.rollout.history import History
from memkit.video.pixels import batch_from_model, to_model


class Rollout:
    """A batch of videos that grow by one chunk per call, each with its own camera.

        rollout = Rollout(backbone, method, seeds=[1, 2], budget=64 * 2**20)
        rollout.observe(first_frames, cameras)              # one frame, or a whole past
        for cameras in path:
            frames = rollout.generate(prompts, cameras)

    Frames are uint8 [B,T,H,W,3]. A chunk has as many frames as the backbone's video format; the first is the last one
    of the chunk before and stays as it was, up to the autoencoder; or all are new, if the method is one whose chunks
    stand apart (`ContextMethod.apart`). After a chunk, ``shown_times`` [B,k] are the times
    of the frames that the method chose for it, None if it chose none.

    Args:
        backbone: the model and its video format.
        method: which of the past frames a chunk sees, and how; see `memkit.rollout.methods`.
        seeds: one per video; one number is a single video. Noise follows from a video's seed and a latent frame's
            position in it, so none repeats.
        budget: bytes of the history; the oldest latents go first, so memory stays flat however long the video gets.
            None for no limit.
        steps: sampling steps per chunk.
        annotation: the kind of the cameras' poses, which chooses the camera encoder.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        backbone: WanBackbone,
        method: ContextMethod,
        *,
        seeds: int | Sequence[int] | None = None,
        budget: int | None = None,
        steps: int = 50,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        annotation: str = "exact",
    ) -> None:
        seeds = None if seeds is None else seed_list("seeds", seeds)
        check_whole("steps", steps, 1, MOST_STEPS)
        check_scale("guidance_scale", guidance_scale)
        check_text("negative_prompt", negative_prompt)
        check_text("annotation", annotation)
        self.backbone, self.method, self.seeds = backbone, method, seeds
        self.history = History(budget)
        self.steps, self.guidance_scale, self.negative_prompt = steps, guidance_scale, negative_prompt
        self.annotation = annotation
        self.shown_times: Int[Tensor, "batch k"] | None = None
        self._last: Tensor | None = None  # frames [B,H,W,3]
        self._frames = 0  # of the video so far, counted where chunks stand apart
        self._time = 0  # of the last frame, in latent frames; of the next one where chunks stand apart

    def __repr__(self) -> str:
        videos = "nothing observed" if self._last is None else counted(len(self._last), "video")
        return described(self, type(self.method).__name__, videos, f"at latent frame {self._time}", repr(self.history))

    @torch.no_grad()
    def observe(self, frames: UInt8[Tensor, "batch time height width 3"], cameras: Cameras) -> None:
        """Take frames, with cameras [B,T], as the past: a single one to begin with, or chunks of the model's length.

        Chunks overlap by one frame, as generated ones do: 1 + n·(num_frames − 1) frames are n chunks. If there is a
        past already, the first frame is its last one. Where chunks stand apart, any number of new frames is taken.

        Raises:
            InputError: the number of frames or cameras, the size, or the batch does not fit, frames are not uint8, or a
                camera is not plausible, see `memkit.cameras.check_cameras`.
        """
        if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.ndim != 5 or not frames.numel():
            raise InputError(f"Frames are {shown(frames)}; give uint8 [B, T, H, W, 3].")
        form = self.backbone.video_format
        self._check(frames.shape[:2], cameras)
        stride, rest = form.num_frames - 1, (frames.shape[1] - 1) % (form.num_frames - 1)
        if (rest and not self.method.apart) or frames.shape[2:] != (form.height, form.width, 3):
            raise InputError(
                f"Frames are {list(frames.shape[1:])}; give 1 + n·{stride} of them, {form.height}×{form.width}."
            )
        if self.method.apart:
            self._remember_alone(frames, cameras)
            return
        for start in range(0, frames.shape[1] - 1, stride):
            span = slice(start, start + stride + 1)
            chunk = frames[:, span]
            latents = self._encode(chunk) if self.method.keeps == "chunks" else None
            self._remember(chunk, latents, Cameras(cameras.c2w[:, span], cameras.intrinsics[:, span]))
        self._last = frames[:, -1]

    @torch.no_grad()
    def generate(
        self, prompts: str | Sequence[str], cameras: Cameras, seeds: int | Sequence[int] | None = None
    ) -> UInt8[Tensor, "batch time height width 3"]:
        """The next chunk.

        Args:
            prompts: one per video; one string is one prompt.
            cameras: [B,T], the first of which is that of the last frame, also where chunks stand apart.
            seeds: one per video, for this chunk alone. Equal seeds then give equal noise, whatever the position; by
                default the rollout's own seeds and the position decide.

        Raises:
            InputError: there is no frame yet, there are no seeds, or prompts, seeds or cameras do not fit.
        """
        if self._last is None:
            raise InputError("There is no frame to continue from; give one with observe().")
        form, count = self.backbone.video_format, len(self._last)
        prompts = text_list("prompts", prompts)
        given = self.seeds if seeds is None else seed_list("seeds", seeds)
        if given is None:
            raise InputError("There are no seeds; give one per video, Rollout(..., seeds=[1, 2]).")
        if len(prompts) != count or len(given) != count:
            raise InputError(
                f"{len(prompts)} prompts and {len(given)} seeds for {count} videos; give one each per video."
            )
        self._check((count, form.num_frames), cameras)
        at = self._latent_cameras(cameras)
        first = self._encode(self._last[:, None])
        start, query_noise = self._noise(given, at.c2w.shape[1], first, by_position=seeds is None)
        selection = self.method.choose(self.history, at)
        with self.method.shown(
            *self.backbone.transformers,
            selection=selection,
            cameras=at,
            noise=query_noise.to(first.device),
            text=self.backbone.encode_text(prompts),
            annotation=self.annotation,
        ):
            latents = generate_latents(
                self.backbone,
                prompts,
                **start,
                steps=self.steps,
                guidance_scale=self.guidance_scale,
                negative_prompt=self.negative_prompt,
                conditioning_latents=None if self.method.apart else first,
            )
        frames = batch_from_model(self.backbone.decode_latents(latents)).cpu()
        if self.method.apart:
            self._remember_alone(frames, cameras)
            self._time += latents.shape[2]
        else:
            self._remember(frames, latents, cameras)
            self._last = frames[:, -1]
        self.shown_times = None if selection is None else selection.times
        return frames

    def _noise(
        self, seeds: Sequence[int], frames: int, first: Tensor, by_position: bool
    ) -> tuple[dict[str, Any], Tensor]:
        """What the latents start from, as an argument of `generate_latents`, and the noise of queries."""
        channels, height, width = first.shape[1], *first.shape[3:]
        if by_position:
            positions, shape = range(self._time, self._time + frames), (channels, height, width)
            return {"noise": frame_noise(seeds, "noise", positions, shape)}, frame_noise(
                seeds, "query", positions, shape
            )
        generators = seeded_generators([seed ^ 0x5EED for seed in seeds])  # the seed itself is that of the latents
        query = [torch.randn(channels, frames, height, width, generator=generator) for generator in generators]
        return {"seeds": seeds}, torch.stack(query)

    def _check(self, wanted: Sequence[int], cameras: Cameras) -> None:
        batch, time = wanted
        if cameras.c2w.shape != (batch, time, 4, 4) or cameras.intrinsics.shape != (batch, time, 4):
            raise InputError(f"Cameras are {list(cameras.c2w.shape)}; give [{batch}, {time}, 4, 4], one per frame.")
        check_cameras(cameras, "The cameras [video, frame]", unknown_focal=True)
        if self._last is not None and len(self._last) != batch:
            raise InputError(f"{batch} videos continue {len(self._last)}; give as many.")

    def _remember(self, frames: Tensor, latents: Tensor | None, cameras: Cameras) -> None:
        at = self._latent_cameras(cameras)
        count = at.c2w.shape[1]
        times = range(self._time, self._time + count)
        if self.method.keeps == "frames":
            stride = (frames.shape[1] - 1) // (count - 1)
            kept = slice(1 if len(self.history) else 0, None)  # chunks share a frame
            alone = [self._encode(frame[:, None]) for frame in frames[:, ::stride].unbind(1)[kept]]
            latents = torch.cat(alone, dim=2)
            at, times = Cameras(at.c2w[:, kept], at.intrinsics[:, kept]), times[kept]
        assert latents is not None
        self.history.add(latents, at, list(times))
        self._time += count - 1

    def _remember_alone(self, frames: Tensor, cameras: Cameras) -> None:
        """Add the newest frames to the history, each encoded alone, at the time of the video's frames."""
        count, self._frames = min(self.method.newest, frames.shape[1]), self._frames + frames.shape[1]
        if count:
            latents = torch.cat([self._encode(frame[:, None]) for frame in frames[:, -count:].unbind(1)], dim=2)
            at = Cameras(cameras.c2w[:, -count:], cameras.intrinsics[:, -count:])
            self.history.add(latents, at, list(range(self._frames - count, self._frames)))
        self._last = frames[:, -1]

    def _latent_cameras(self, cameras: Cameras) -> Cameras:
        return latent_cameras(cameras, self.backbone.pipeline().vae.config.scale_factor_temporal)

    def _encode(self, frames: UInt8[Tensor, "batch time height width 3"]) -> Float[Tensor, "batch c f h w"]:
        return self.backbone.encode_video(to_model(frames.to(self.backbone.device)))
