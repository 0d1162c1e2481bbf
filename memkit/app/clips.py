"""`Clips`: a prompt, the clips that it retrieves, and the video with their memory and without, from the same noise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.app.clip_attention import ClipAttention
from memkit.app.stop import Report, Switch, watched
from memkit.backbones.wan import WanBackbone
from memkit.banks.bank import MemoryBank
from memkit.checks import MOST_STEPS, check_scale, check_whole
from memkit.demo.bank import demo_bank, frames_of
from memkit.demo.demo import ENCODER, MODEL, START, Demo
from memkit.demo.falls import fall_on, fit_gravity
from memkit.encoders.frequency import FrequencyEncoder
from memkit.errors import InputError
from memkit.generation.generate import generate_video
from memkit.memory import Memory
from memkit.metrics.states import measure_state
from memkit.report.html import HitClip
from memkit.retrievers.text import TextRetriever
from memkit.video.frames import first_frame
from memkit.video.pixels import to_model
from memkit.worlds.constants import PLANETS

EXAMPLES = tuple(fall_on(planet).caption for planet in ("Mira", "Sol", "Odin", "Rhea"))
MOST_CLIPS = 6
_PADDED = 128  # text tokens that are computed; more are refused


@dataclass(frozen=True)
class Gravity:
    """Gravity in m/s², fitted to the falls of a pair; None where no fall is seen. ``truth`` is the planet's."""

    without: float | None
    with_memory: float | None
    truth: float


@dataclass(frozen=True)
class Pair:
    """A prompt generated without memory and with it, from the same noise."""

    prompt: str
    query: str
    hits: list[HitClip]
    without: UInt8[Tensor, "frames height width 3"]
    with_memory: UInt8[Tensor, "frames height width 3"]
    attention: Float[Tensor, "times rows columns clips moments"]
    """Share of the attention of each token of the video, in [0, 1], on each moment of each clip; or, of a gated memory,
    the share of the attention's output that comes from there."""
    even: float | None
    """Share of each clip if all tokens got equal attention; None for a gated memory."""
    gravity: Gravity | None
    """Of the prompts whose first frame is given; None for any other."""

    @property
    def changed(self) -> float:
        """Mean absolute difference of the two videos, in [0, 1]."""
        return (self.with_memory.float() - self.without.float()).abs().mean().item() / 255


class Clips:
    """A model, a memory encoder, and a bank to retrieve from."""

    def __init__(
        self, backbone: WanBackbone, encoder: FrequencyEncoder, bank: MemoryBank, steps: int, guidance_scale: float
    ) -> None:
        check_whole("steps", steps, 1, MOST_STEPS)
        check_scale("guidance_scale", guidance_scale)
        self.backbone, self.encoder, self.bank = backbone, encoder, bank
        self.steps, self.guidance_scale = steps, guidance_scale
        self.retriever = TextRetriever(bank)
        self.captions = dict(zip(bank.ids, bank.captions, strict=True))
        form = backbone.video_format
        self.start = backbone.encode_video(to_model(first_frame(START, form.height, form.width)))
        backbone.pipeline().set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, bank: Path, model: Path | None, encoder: Path | None, steps: int, guidance_scale: float) -> Clips:
        """Load the model and the encoder, and build or open the bank. Raises `MemkitError` where one cannot be used."""
        for option, folder in (("--model", model), ("--encoder", encoder)):
            if folder is not None and not folder.is_dir():
                raise InputError(f"There is no folder {folder}; give {option} a folder that exists.")
        backbone = WanBackbone.from_pretrained(model or MODEL)
        parts = FrequencyEncoder.from_pretrained(encoder or ENCODER)
        return cls(backbone, parts, demo_bank(bank, str(model or "tiny"), backbone), steps, guidance_scale)

    def find(self, prompt: str, k: int) -> tuple[str, list[HitClip]]:
        """What is searched for (the planet, if the prompt names one) and the ``k`` closest clips, best first."""
        check_whole("k", k, 1, MOST_CLIPS)
        if not prompt.strip():
            raise InputError("The prompt is empty; write one, or choose an example.")
        named = re.search(Demo.query_pattern, prompt)
        query = named[0] if named else prompt
        hits = self.retriever(query, k=k)
        rows = zip(hits.ids, hits.scores, strict=True)
        return query, [HitClip(id, score, self.captions[id], frames_of(self.bank, id)) for id, score in rows]

    @torch.no_grad()
    def generate_pair(
        self,
        prompt: str,
        k: int = 3,
        seed: int = 0,
        from_start: bool = True,
        switch: Switch | None = None,
        report: Report | None = None,
    ) -> Pair:
        """Retrieve ``k`` clips, and generate the prompt without their memory and with it.

        ``from_start`` begins both videos with the red ball that the examples describe. ``switch`` stops the work
        between two sampling steps with `Stopped`.
        """
        query, hits = self.find(prompt, k)
        latents = self.bank.latents([hit.id for hit in hits])
        memory: Memory = self.encoder(latents)
        moments = math.ceil(latents.shape[-3] / self.encoder.config.stem_stride[0])
        shown = ClipAttention(memory, k, math.ceil(moments / self.encoder.config.patch[0]))
        calls = 2 * self.steps * (2 if self.guidance_scale > 1 else 1)
        with watched(self.backbone, calls, switch or Switch(), report):
            without = self._generate(prompt, seed, from_start)
            with shown.attach(*self.backbone.transformers):
                with_memory = self._generate(prompt, seed, from_start)
        attention = shown.shares().unflatten(0, self._grid())
        tokens = memory.tokens.shape[1]
        even = None if memory.gate is not None else tokens / k / (tokens + len(attention.flatten(0, 2)))
        gravity = self._gravity(prompt, without, with_memory) if from_start else None
        return Pair(prompt, query, hits, without, with_memory, attention, even, gravity)

    def _generate(self, prompt: str, seed: int, from_start: bool) -> UInt8[Tensor, "frames height width 3"]:
        return generate_video(
            self.backbone,
            prompt,
            seed=seed,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            conditioning_latents=self.start if from_start else None,
            text_length=_PADDED,
        ).contiguous()

    def _grid(self) -> tuple[int, int, int]:
        """Tokens of the video by latent frame, row and column."""
        vae, form = self.backbone.pipeline().vae.config, self.backbone.video_format
        frames = (form.num_frames - 1) // vae.scale_factor_temporal + 1
        depth, down, across = self.backbone.transformer.config.patch_size
        scale = vae.scale_factor_spatial
        return frames // depth, form.height // scale // down, form.width // scale // across

    def _gravity(self, prompt: str, without: Tensor, with_memory: Tensor) -> Gravity | None:
        planet = prompt.split()[-1]
        if planet not in PLANETS["test"] or prompt != fall_on(planet).caption:
            return None
        event, fps = fall_on(planet), self.backbone.video_format.fps
        fitted = [fit_gravity(measure_state(video, event)["z"], event, fps) for video in (without, with_memory)]
        known = [None if math.isnan(value) else value for value in fitted]
        return Gravity(known[0], known[1], PLANETS["test"][planet])
