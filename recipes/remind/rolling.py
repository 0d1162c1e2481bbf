"""Latents chunk by chunk with the settings of a run: some chunks are given, the others are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.injectors import AttentionRecorder, frame_bytes
from memkit.positions import PMRoPE
from memkit.streaming import Stream, StreamConfig, read_everything
from memkit.streaming.read_policies import Read
from recipes.remind.presets import Config


class Part(NamedTuple):
    """One chunk of a batch of videos: a prompt each, latent frames, and the first of them that are given."""

    prompts: Sequence[str]
    frames: int
    known: Float[Tensor, "batch channels known height width"] | None = None


class Roller:
    """Some videos at once, which grow by a chunk a call, with all that has to be attached.

    ``positions`` are PM-RoPE, None for none; ``cameras`` [B or 1, latent frames] are those of the whole video, and are
    not used without.
    """

    def __init__(
        self,
        config: Config,
        backbone: WanBackbone,
        positions: PMRoPE | None,
        seeds: Sequence[int],
        cameras: Cameras | None,
        size: tuple[int, int],
        frames: int,
        read: Read = read_everything,
    ) -> None:
        if positions is not None and positions.config.mode == "off":
            positions = None
        settings = StreamConfig(
            config.chunk,
            config.first,
            config.sampling_steps,
            config.shift,
            config.guidance_scale,
            text_length=config.text_length,
        )
        branches = 1 if config.guidance_scale == 1 else 2
        room = config.cache_frames or frames
        self.stream = Stream(
            backbone,
            seeds,
            branches * room * frame_bytes(backbone.transformer, *size, batch=len(seeds)),
            settings,
            read=read,
            positions=positions,
            cameras=None if positions is None else cameras,
            size=size,
        )

    def generate(
        self, part: Part, pin: bool = False, recorder: AttentionRecorder | None = None
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The next chunk, on the backbone's device."""
        known = None if part.known is None else part.known.to(self.stream.backbone.device)
        return self.stream.generate(part.prompts, known, part.frames, pin, recorder)

    def roll(
        self, parts: Sequence[Part], watch: bool = False
    ) -> tuple[Float[Tensor, "batch channels frames height width"], list[AttentionRecorder]]:
        """All of them, one after the other; with ``watch``, where each chunk looks of which nothing is given."""
        chunks, recorders = [], []
        for part in parts:
            recorder = AttentionRecorder() if watch and part.known is None else None
            chunks.append(self.generate(part, recorder=recorder))
            recorders += [] if recorder is None else [recorder]
        return torch.cat(chunks, dim=2), recorders
