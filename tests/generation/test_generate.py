"""Generation: independence of companions, memory that reaches the pixels, and a pipeline left as it was."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.generation import generate_latents, generate_video, generate_videos
from memkit.generation.short_text import PIPELINE_TEXT_LENGTH, short_text
from memkit.memory import Memory
from tests.helpers.differ import differ

SHORT = {"steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    backbone = WanBackbone.from_pretrained(random_folder)
    backbone.pipeline().set_progress_bar_config(disable=True)
    return backbone


@pytest.fixture(scope="module")
def memory() -> Memory:
    tokens = 5 * torch.randn(2, 6, 48, generator=torch.Generator().manual_seed(0))
    return Memory(tokens, torch.tensor([[True] * 6, [True] * 3 + [False] * 3]))


def _row(memory: Memory, i: int) -> Memory:
    assert memory.mask is not None
    return Memory(memory.tokens[i : i + 1], memory.mask[i : i + 1])


def test_a_video_does_not_depend_on_its_companions(backbone, memory) -> None:
    prompts, seeds = ["a red ball falls", "a blue cube"], [3, 4]
    together = generate_videos(backbone, prompts, memory, seeds=seeds, **SHORT)
    for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = generate_video(backbone, prompt, _row(memory, i), seed=seed, **SHORT)
        assert (alone.int() - together[i].int()).abs().max() <= 1
    assert (together[0].int() - together[1].int()).abs().max() > 20


def test_memory_reaches_the_pixels_and_leaves_the_model_as_it_was(backbone, memory) -> None:
    before = generate_video(backbone, "a red ball falls", seed=1, **SHORT)
    shown = generate_video(backbone, "a red ball falls", _row(memory, 0), seed=1, **SHORT)
    after = generate_video(backbone, "a red ball falls", seed=1, **SHORT)
    assert torch.equal(before, after)
    assert (before.int() - shown.int()).abs().max() > 1


def test_format_and_seeds(backbone) -> None:
    videos = generate_videos(backbone, ["a", "a", "a"], seeds=[1, 1, 2], **SHORT)
    assert videos.dtype == torch.uint8 and tuple(videos.shape) == (3, 9, 32, 32, 3)
    assert (videos[0].int() - videos[1].int()).abs().max() <= 1
    assert (videos[0].int() - videos[2].int()).abs().max() > 20


def test_what_does_not_fit_is_refused(backbone, memory) -> None:
    with pytest.raises(InputError, match="seeds"):
        generate_videos(backbone, ["a", "b"], seeds=[1], **SHORT)
    with pytest.raises(InputError, match="rows"):
        generate_videos(backbone, ["a", "b", "c"], memory, seeds=[1, 2, 3], **SHORT)


def test_latents_are_those_that_the_video_is_decoded_from(backbone) -> None:
    first = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    for given in (None, first):
        latents = generate_latents(backbone, ["a", "b"], seeds=[1, 2], conditioning_latents=given, **SHORT)
        videos = generate_videos(backbone, ["a", "b"], seeds=[1, 2], conditioning_latents=given, **SHORT)
        with torch.no_grad():
            decoded = ((backbone.decode_latents(latents) + 1) * 127.5).round().clamp(0, 255).movedim(1, -1)
        assert (decoded - videos.float()).abs().max() <= 1
        if given is not None:
            assert torch.equal(latents[:, :, :1], first.expand(2, -1, -1, -1, -1))
    with pytest.raises(InputError, match="one seed each"):
        generate_latents(backbone, ["a", "b"], seeds=[1])


def test_latents_start_from_noise_that_is_given(backbone) -> None:
    drawn = [torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    seeded = generate_latents(backbone, ["a", "b"], seeds=[1, 2], **SHORT)
    assert torch.equal(generate_latents(backbone, ["a", "b"], noise=torch.stack(drawn), **SHORT), seeded)
    assert differ(generate_latents(backbone, ["a", "b"], noise=torch.stack(drawn[::-1]), **SHORT), seeded)
    for both in ({}, {"seeds": [1, 2], "noise": torch.stack(drawn)}):
        with pytest.raises(InputError, match="one of the two"):
            generate_latents(backbone, ["a", "b"], **both)


def test_short_texts_give_the_same_video_up_to_rounding(backbone, memory) -> None:
    prompts = ["a red ball falls", "a blue cube"]
    settings = {"seeds": [3, 4], "steps": 4, "guidance_scale": 3.0, "negative_prompt": "static"}
    long = generate_latents(backbone, prompts, **settings)
    for length in (12, 40):
        short = generate_latents(backbone, prompts, text_length=length, **settings)
        assert (short - long).abs().max() < 1e-4
    # the padding matters, so leaving it out would be another video
    with short_text(backbone.transformer, PIPELINE_TEXT_LENGTH - 1):
        text = backbone.encode_text(prompts, 12)
        pipe = backbone.pipeline()
        without = pipe(
            prompt_embeds=text,
            negative_prompt_embeds=backbone.encode_text(["static"] * 2, 12),
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=4,
            guidance_scale=3.0,
            output_type="latent",
        ).frames
    assert (without - long).abs().max() > 1e-3
    with pytest.raises(InputError, match="'a red ball falls' has more than 2 text tokens"):
        generate_latents(backbone, prompts, text_length=2, **settings)
    assert torch.equal(long, generate_latents(backbone, prompts, **settings))
