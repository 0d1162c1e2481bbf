"""diffusers' pipelines around a transformer, at the size of `random_pipeline`: two steps, with guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    WanImageToVideoPipeline,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.modular_pipelines import WanBlocks
from PIL import Image

from tests.compat.declared import Refused
from tests.helpers.random_wan import SMALL, random_pipeline, random_transformer

PROMPTS = ["a red ball falls", "a blue cube bounces"]
SHORT = {"num_inference_steps": 2, "max_sequence_length": 8}
SMALLEST = {"height": 32, "width": 32, "num_frames": 9}
HALF = {"height": 16, "width": 16, "num_frames": 9}
"""The same for pipelines that reckon the VAE's scale from its stages that scale time, as large VAEs have them."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline and a call of it."""

    title: str
    make: Callable[[], Any]
    call: Callable[[Any], Any]
    """Runs it on ``videos`` videos."""
    videos: int = 2
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of its transformer."""
    transformer: Callable[..., Any] = random_transformer
    """Makes a plain one of these sizes."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the transformer."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    note: str = ""


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def generators() -> list[torch.Generator]:
    return [seed(0), seed(1)]


def _parts() -> dict[str, Any]:
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    return {name: part for name, part in random_pipeline().components.items() if name in names}


def _frames() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (25 * i, 50, 20)) for i in range(9)]


def from_text(pipe: Any) -> Any:
    return pipe(PROMPTS, **SMALLEST, **SHORT, guidance_scale=3.0, generator=generators(), output_type="latent").frames


def twice_each(pipe: Any) -> Any:
    about = {"num_videos_per_prompt": 2, "generator": generators(), "output_type": "latent"}
    return pipe(PROMPTS[0], **SMALLEST, **SHORT, guidance_scale=3.0, **about).frames


def image_to_video() -> Any:
    transformer = random_transformer(in_channels=36)
    return WanImageToVideoPipeline(**_parts(), transformer=transformer, image_encoder=None, image_processor=None)


def from_image(pipe: Any) -> Any:
    about = {"guidance_scale": 3.0, "generator": generators(), "output_type": "latent"}
    return pipe(_frames()[3], PROMPTS, **SMALLEST, **SHORT, **about).frames


def video_to_video() -> Any:
    pipe = WanVideoToVideoPipeline(**_parts(), transformer=random_transformer())
    pipe.vae_scale_factor_spatial = 8  # it would reckon 4; see HALF
    return pipe


def from_video(pipe: Any) -> Any:
    about = {"guidance_scale": 3.0, "generator": generators(), "output_type": "latent", "strength": 1.0}
    return pipe([_frames(), _frames()], PROMPTS, height=32, width=32, **SHORT, **about).frames


def vace_transformer() -> Any:
    torch.manual_seed(0)
    return WanVACETransformer3DModel(**SMALL, vace_layers=[0, 2], vace_in_channels=96).eval()


def with_control() -> Any:
    pipe = WanVACEPipeline(**_parts(), transformer=vace_transformer())
    pipe.vae_scale_factor_spatial = 8  # it would reckon 4; see HALF
    return pipe


def from_control(pipe: Any) -> Any:
    about = {"guidance_scale": 3.0, "generator": seed(0), "output_type": "latent"}
    return pipe(video=_frames(), prompt=PROMPTS[0], **SMALLEST, **SHORT, **about).frames


def modular(guider: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        pipe = WanBlocks().init_pipeline()
        pipe.update_components(**_parts(), transformer=random_transformer(), guider=guider())
        return pipe

    return make


def by_blocks(pipe: Any) -> Any:
    return pipe(prompt=PROMPTS, **HALF, **SHORT, generator=generators(), output="latents")


TRAINING = Refused(
    "two streams of the graph",
    "Teacher forcing is for training: it needs clean and noisy frames in one forward pass, which no pipeline offers.",
)
UNNAMED = Refused(
    "cannot tell whether it may see the memory",
    "The pipeline does not label its guidance passes with `cache_context`, so guided memory cannot tell which of them "
    "may see it: attach the memory without guidance, or use a pipeline that sets `cache_context`.",
)
USUAL = {"teacher_forcing": TRAINING}
SILENT = {**USUAL, "guided_memory": UNNAMED}

VACE = {
    "frame_context": Refused(
        "cannot be attached to a WanVACE", "VACE takes one timestep per sample; this needs one per token."
    ),
    "teacher_forcing": Refused(
        "cannot be attached to a WanVACE", "VACE takes one timestep per sample; this needs one per token."
    ),
    "query_layers": Refused(
        "cannot be attached to a WanVACE",
        "VACE needs control latents for every frame, and the frames of the queries have none.",
    ),
}

PIPELINES = {
    "t2v": Pipeline("`WanPipeline`, with guidance", random_pipeline, from_text, refused=USUAL),
    "num_videos": Pipeline("`num_videos_per_prompt`", random_pipeline, twice_each, refused=USUAL),
    "experts": Pipeline(
        "`WanPipeline` of two experts (A14B)", lambda: random_pipeline(boundary_ratio=0.7), from_text, refused=USUAL
    ),
    "ti2v": Pipeline(
        "`WanPipeline` with a timestep per token (TI2V-5B)",
        lambda: random_pipeline(expand_timesteps=True),
        from_text,
        refused=USUAL,
    ),
    "i2v": Pipeline(
        "`WanImageToVideoPipeline`",
        image_to_video,
        from_image,
        changes={"in_channels": 36},
        refused=USUAL,
        note="The context frames also need the channels of the image conditioning.",
    ),
    "vace": Pipeline(
        "`WanVACEPipeline`",
        with_control,
        from_control,
        transformer=vace_transformer,
        more={"control_hidden_states": torch.zeros(1, 96, 3, 4, 4)},
        videos=1,
        refused=VACE,
    ),
    "v2v": Pipeline("`WanVideoToVideoPipeline`", video_to_video, from_video, refused=SILENT),
    "modular_cfg": Pipeline(
        "modular pipeline (`WanBlocks`)", modular(lambda: ClassifierFreeGuidance(3.0)), by_blocks, refused=SILENT
    ),
    "guider_zero_star": Pipeline(
        "guider `ClassifierFreeZeroStarGuidance`", modular(ClassifierFreeZeroStarGuidance), by_blocks, refused=SILENT
    ),
    "guider_apg": Pipeline(
        "guider `AdaptiveProjectedGuidance`", modular(AdaptiveProjectedGuidance), by_blocks, refused=SILENT
    ),
    "guider_tangential": Pipeline(
        "guider `TangentialClassifierFreeGuidance`",
        modular(TangentialClassifierFreeGuidance),
        by_blocks,
        refused=SILENT,
    ),
}
