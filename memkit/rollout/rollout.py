"""Long videos chunk by chunk: each goes on from the last frame of the one before, with what a method remembers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.cameras.pose_files import latent_cameras
from memkit.errors import InputError
from memkit.generation.generate import generate_latents
from memkit.rollout.base import ContextMethod
from memkit.rollout.history import History


class Rollout:
    """Videos that grow a chunk at a time, several at once, each with its own camera.

        rollout = Rollout(backbone, method, budget=64 * 2**20)
        rollout.observe(first_frames, cameras)              # one frame, or a whole past
        for cameras in path:
            frames = rollout.generate(prompts, cameras, seeds)

    Frames are uint8 [B,T,H,W,3]. A chunk has the frames of the backbone's video format, of which the first is the last
    one before it and stays as it was, up to the autoencoder. A ``budget`` in bytes keeps memory use flat however long
    the video gets: the oldest latents go. ``annotation`` says how the poses of the
    cameras are known, which chooses the camera encoder. After a chunk, ``shown_times`` [B,k] are the times of the
    frames that the method chose for it, None if it chose none.
    """

    def __init__(
        self,
        backbone: WanBackbone,
        method: ContextMethod,
        *,
        budget: int | None = None,
        steps: int = 50,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        annotation: str = "exact",
    ) -> None:
        self.backbone, self.method = backbone, method
        self.history = History(budget)
        self.steps, self.guidance_scale, self.negative_prompt = steps, guidance_scale, negative_prompt
        self.annotation = annotation
        self.shown_times: Int[Tensor, "batch k"] | None = None
        self._last: Tensor | None = None  # frames [B,H,W,3]
        self._time = 0  # of the last frame, in latent frames

    @torch.no_grad()
    def observe(self, frames: UInt8[Tensor, "batch time height width 3"], cameras: Cameras) -> None:
        """Take frames, with cameras [B,T], as the past: a single one to begin with, or chunks of the model's length.

        Chunks overlap by one frame, as those that are made do: 1 + n·(num_frames − 1) frames are n chunks. Where there
        is a past already, the first frame is the last one of it.

        Raises:
            InputError: another number of frames or cameras, another size, or another batch.
        """
        form = self.backbone.video_format
        self._check(frames.shape[:2], cameras)
        stride, rest = form.num_frames - 1, (frames.shape[1] - 1) % (form.num_frames - 1)
        if rest or frames.shape[2:] != (form.height, form.width, 3):
            raise InputError(
                f"Frames are {list(frames.shape[1:])}; give 1 + n·{stride} of them, {form.height}×{form.width}."
            )
        for start in range(0, frames.shape[1] - 1, stride):
            part = slice(start, start + stride + 1)
            some = frames[:, part]
            at = Cameras(cameras.c2w[:, part], cameras.intrinsics[:, part])
            latents = self._encode(some) if self.method.keeps == "chunks" else None
            self._remember(some, latents, at)
        self._last = frames[:, -1]

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], cameras: Cameras, seeds: Sequence[int]
    ) -> UInt8[Tensor, "batch time height width 3"]:
        """The next chunk, with cameras [B,T] of which the first is that of the last frame; a prompt and a seed each.

        Raises:
            InputError: nothing was seen yet, or prompts, seeds or cameras do not fit.
        """
        if self._last is None:
            raise InputError("There is no frame to go on from; give one with observe().")
        form, count = self.backbone.video_format, len(self._last)
        if len(prompts) != count or len(seeds) != count:
            raise InputError(
                f"{len(prompts)} prompts and {len(seeds)} seeds for {count} videos; give each one of both."
            )
        self._check((count, form.num_frames), cameras)
        at = self._latent_cameras(cameras)
        first = self._encode(self._last[:, None])
        noise = [torch.randn(first.shape[1], *self._size(first), generator=_generator(seed)) for seed in seeds]
        selection = self.method.choose(self.history, at)
        with self.method.shown(
            *self.backbone.transformers,
            selection=selection,
            cameras=at,
            noise=torch.stack(noise).to(first.device),
            text=self.backbone.encode_text(prompts),
            annotation=self.annotation,
        ):
            latents = generate_latents(
                self.backbone,
                prompts,
                seeds=seeds,
                steps=self.steps,
                guidance_scale=self.guidance_scale,
                negative_prompt=self.negative_prompt,
                conditioning_latents=first,
            )
        frames = _pixels(self.backbone.decode_latents(latents))
        self._remember(frames, latents, cameras)
        self._last = frames[:, -1]
        self.shown_times = None if selection is None else selection.times
        return frames

    def _check(self, wanted: Sequence[int], cameras: Cameras) -> None:
        batch, time = wanted
        if cameras.c2w.shape != (batch, time, 4, 4) or cameras.intrinsics.shape != (batch, time, 4):
            raise InputError(f"Cameras are {list(cameras.c2w.shape)}; give [{batch}, {time}, 4, 4], one a frame.")
        if self._last is not None and len(self._last) != batch:
            raise InputError(f"{batch} videos go on from {len(self._last)}; give as many.")

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

    def _latent_cameras(self, cameras: Cameras) -> Cameras:
        return latent_cameras(cameras, self.backbone.pipeline().vae.config.scale_factor_temporal)

    def _size(self, first: Tensor) -> tuple[int, int, int]:
        """Latent frames, height and width of a chunk."""
        stride = self.backbone.pipeline().vae.config.scale_factor_temporal
        height, width = first.shape[3:]
        return (self.backbone.video_format.num_frames - 1) // stride + 1, height, width

    def _encode(self, frames: UInt8[Tensor, "batch time height width 3"]) -> Float[Tensor, "batch c f h w"]:
        video = frames.to(self.backbone.device).movedim(-1, 1).float() / 127.5 - 1
        return self.backbone.encode_video(video.contiguous())


def _pixels(video: Tensor) -> UInt8[Tensor, "batch time height width 3"]:
    return ((video.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu()


def _generator(seed: int) -> torch.Generator:
    """Of Q's noise; not that of the latents, which has the seed itself."""
    return torch.Generator().manual_seed(seed ^ 0x5EED)
