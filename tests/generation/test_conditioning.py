"""Known frames: what the transformer sees, that the end keeps them, and the stock pipeline's own way for one image."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.generation import conditioning_frames, generate_video, generate_videos, write_conditioning_frames
from memkit.injectors import QueryLayers, QueryLayersConfig
from tests.helpers.differ import differ


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    backbone = WanBackbone.from_pretrained(random_folder)
    backbone.pipeline().set_progress_bar_config(disable=True)
    return backbone


def inputs(backbone, batch=2, frames=3):
    torch.manual_seed(0)
    c = backbone.transformer.config
    x, text = torch.randn(batch, c.in_channels, frames, 4, 4), torch.randn(batch, 5, c.text_dim)
    return x, torch.full((batch,), 700.0), text


@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_it_is_the_call_with_frames_and_timesteps_written_by_hand(backbone, count):
    x, t, text = inputs(backbone)
    latents = torch.randn(2, x.shape[1], count, 4, 4)
    before = backbone.velocity(x, t, text)
    by_token = torch.full((2, 12), 700.0)
    by_token[:, : count * 4] = 0.0
    expected = backbone.velocity(torch.cat([latents, x[:, :, count:]], 2), by_token, text)
    with conditioning_frames(latents, backbone.transformer):
        assert torch.equal(backbone.velocity(x, t, text), expected)
        assert torch.equal(backbone.velocity(x, torch.full((2, 12), 700.0), text), expected)
        garbage = torch.cat([torch.full_like(latents, 9.0), x[:, :, count:]], 2)
        named = {"hidden_states": garbage, "timestep": t, "encoder_hidden_states": text}
        assert torch.equal(backbone.transformer(**named, return_dict=False)[0], expected)
    assert differ(expected, before)
    assert torch.equal(backbone.velocity(x, t, text), before)


@torch.no_grad()
def test_a_video_begins_with_its_conditioning_frames_and_differs_after(backbone):
    form = backbone.video_format
    image = torch.rand(1, 3, 1, form.height, form.width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = backbone.encode_video(image)
    first = backbone.decode_latents(latents)
    settings = {"seeds": [3, 4], "steps": 2, "guidance_scale": 2.0}
    videos = generate_videos(backbone, ["a", "b"], conditioning_latents=latents, **settings)
    expected = ((first[0, :, 0].movedim(0, -1) * 0.5 + 0.5) * 255).round().clamp(0, 255)
    for video in videos:
        assert (video[0].float() - expected).abs().max() <= 1
    assert differ(videos[0, 5:], videos[1, 5:])
    assert differ(videos, generate_videos(backbone, ["a", "b"], **settings))


def test_the_stock_image_pipeline_makes_the_same_video(random_folder, backbone):
    form = backbone.video_format
    image = Image.effect_mandelbrot((form.width, form.height), (-2, -1, 1, 1), 20).convert("RGB")
    stock = WanImageToVideoPipeline.from_pretrained(random_folder, expand_timesteps=True)
    stock.set_progress_bar_config(disable=True)
    made = stock(
        image,
        "a red ball",
        height=form.height,
        width=form.width,
        num_frames=form.num_frames,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).frames
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(form.height, form.width, 3)
    with torch.no_grad():
        latents = backbone.encode_video((pixels.float() / 127.5 - 1).movedim(-1, 0)[None, :, None])
        ours = generate_video(backbone, "a red ball", seed=7, steps=2, guidance_scale=2.0, conditioning_latents=latents)
    assert ((made[0] * 255).round().movedim(1, -1) - ours.float()).abs().max() <= 1


@torch.no_grad()
def test_what_does_not_fit_is_refused(backbone):
    x, t, text = inputs(backbone)
    for shape, problem in (((3, x.shape[1], 1, 4, 4), "do not fit"), ((1, 5, 1, 4, 4), "do not fit"),
                           ((1, x.shape[1], 1, 2, 4), "do not fit"), ((1, x.shape[1], 3, 4, 4), "3 of 3")):  # fmt: skip
        with pytest.raises(InputError, match=problem), conditioning_frames(torch.zeros(shape), backbone.transformer):
            backbone.velocity(x, t, text)
    with pytest.raises(InputError, match="0 of 3"):
        write_conditioning_frames(x, torch.zeros(1, x.shape[1], 0, 4, 4))


@torch.no_grad()
def test_frames_are_written_before_an_injector_adds_its_own_whatever_came_first(backbone):
    x, t, text = inputs(backbone)
    latents, noise = torch.randn(2, x.shape[1], 1, 4, 4), torch.randn_like(x)
    query = QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2, query="noise"))
    model = backbone.transformer
    by_hand = torch.cat([torch.zeros(2, 4), torch.full((2, 8), 700.0)], 1)
    with query.attach(model) as attached, attached.chunk(None, noise):
        expected = backbone.velocity(torch.cat([latents, x[:, :, 1:]], 2), by_hand, text)
        with conditioning_frames(latents, model):
            assert torch.equal(backbone.velocity(x, t, text), expected)
    with conditioning_frames(latents, model), query.attach(model) as attached, attached.chunk(None, noise):
        assert torch.equal(backbone.velocity(x, t, text), expected)
