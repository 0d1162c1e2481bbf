"""`RolloutMaker`: the video of a task from a backbone with a context method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.cameras.level import level_camera
from memkit.evaluation.benchmarks.task import Given, Task
from memkit.generation.generate import generate_videos
from memkit.generation.noise import frame_noise
from memkit.rollout.base import ContextMethod
from memkit.rollout.rollout import Rollout

_ANY_FOV = 70.0  # degrees, for a method that does not look at cameras


@dataclass(frozen=True)
class RolloutMaker:
    """Videos chunk by chunk, each from the last frame of the one before; see `memkit.rollout.Rollout`.

    A task without given frames is one chunk from its prompt. Of a method whose chunks stand apart, the first frame of
    each chunk, which repeats the camera of the frame before, is left out, so that each frame has its own camera.
    """

    backbone: WanBackbone
    method: ContextMethod
    steps: int = 50
    guidance_scale: float = 5.0
    negative_prompt: str = ""
    budget: int | None = None
    """Bytes of past latents; None for no limit."""

    @torch.no_grad()
    def generate(self, task: Task, seed: int) -> UInt8[Tensor, "time height width 3"]:
        """The video of a task.

        Raises `InputError` where the given frames or cameras cannot be used.
        """
        form = self.backbone.video_format
        if task.given is None:
            return self._from_text(task, seed)[: task.length]
        given = task.given(form.height, form.width)
        length = task.kept + form.num_frames - 1 if task.length is None else task.length
        return self._from_frames(task, given, length, seed)

    def _from_text(self, task: Task, seed: int) -> UInt8[Tensor, "time height width 3"]:
        backbone, form = self.backbone, self.backbone.video_format
        vae = backbone.pipeline().vae.config
        frames = (form.num_frames - 1) // vae.scale_factor_temporal + 1
        sides = form.height // vae.scale_factor_spatial, form.width // vae.scale_factor_spatial
        noise = frame_noise([seed], "query", range(frames), (backbone.transformer.config.out_channels, *sides))
        text = backbone.encode_text([task.prompt])
        with self.method.shown(
            *backbone.transformers, selection=None, cameras=None, noise=noise.to(backbone.device), text=text
        ):
            return generate_videos(
                backbone,
                [task.prompt],
                seeds=[seed],
                steps=self.steps,
                guidance_scale=self.guidance_scale,
                negative_prompt=self.negative_prompt,
            )[0]

    def _from_frames(self, task: Task, given: Given, length: int, seed: int) -> UInt8[Tensor, "time height width 3"]:
        count, new, stride = len(given.frames), length - task.kept, self.backbone.video_format.num_frames - 1
        cameras = self._cameras(given, count + new)
        rollout = Rollout(
            self.backbone,
            self.method,
            seeds=[seed],
            budget=self.budget,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            negative_prompt=self.negative_prompt,
        )
        seen = count if self.method.apart else 1 + (count - 1) // stride * stride
        past = slice(count - seen, count)
        rollout.observe(given.frames[None, past], _rows(cameras, range(count - seen, count)))
        video = [given.frames[count - task.kept :]]
        for start in range(count - 1, count - 1 + new, stride):
            # the last chunk may reach beyond the video, where the camera stands still
            rows = [min(row, count + new - 1) for row in range(start, start + stride + 1)]
            video.append(rollout.generate([task.prompt], _rows(cameras, rows))[0, 1:])
        return torch.cat(video)[:length]

    def _cameras(self, given: Given, count: int) -> Cameras:
        """One camera per frame; where a task has none, a camera that stands still."""
        if given.cameras is not None:
            return given.cameras
        form = self.backbone.video_format
        at = level_camera(form.height, form.width, _ANY_FOV)
        return Cameras(at.c2w.expand(count, 4, 4), at.intrinsics.expand(count, 4))


def _rows(cameras: Cameras, rows: range | list[int]) -> Cameras:
    """The cameras of some frames, as a batch of one."""
    return Cameras(cameras.c2w[None, list(rows)], cameras.intrinsics[None, list(rows)])
