"""WanBackbone over stock parts, and the published sizes."""

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel

from memkit.backbones import PRESETS, VideoFormat, WanBackbone
from memkit.errors import InputError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.random_wan import random_pipeline, random_transformer

BILLIONS = {
    "wan2.1-t2v-1.3b": 1.42,
    "wan2.1-t2v-14b": 14.29,
    "wan2.1-i2v-14b": 16.39,
    "wan2.2-ti2v-5b": 5.00,
    "wan2.2-t2v-a14b": 14.29,
    "wan2.2-i2v-a14b": 14.29,
}


def test_a_backbone_says_what_it_is():
    model = random_transformer()
    alone = repr(WanBackbone(model, video_format=VideoFormat(9, 32, 48, 8.0)))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"3 layers of width 48 with 2 heads, {count:.1f} M parameters, float32 on cpu" in alone
    assert alone.endswith("9 frames of 32×48 at 8 fps; the transformer alone)")
    both = repr(WanBackbone.from_pipeline(random_pipeline(boundary_ratio=0.8)))
    assert "per expert" in both and "parts: " in both and "transformer_2" in both and "vae" in both


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_at_their_real_size_and_take_memory(name):
    preset = PRESETS[name]()
    with torch.device("meta"):
        models = [WanTransformer3DModel(**preset.transformer) for _ in range(preset.experts)]
        width = models[0].config.num_attention_heads * 128
        memory = Memory(torch.randn(1, 5, width))
        channels = preset.transformer["in_channels"]
        latents, text = torch.randn(1, channels, 2, 4, 4), torch.randn(1, 512, 4096)
        image = torch.randn(1, 257, 1280) if "image_dim" in preset.transformer else None
        timestep = torch.ones(1, 8) if preset.expand_timesteps else torch.ones(1)
        for model in models:
            assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == BILLIONS[name]
            with SelfAttentionConcat(memory).attach(model), torch.no_grad():
                out = model(latents, timestep, text, image, return_dict=False)[0]
            assert out.shape == (1, preset.transformer["out_channels"], 2, 4, 4)


def test_wan_1_3b_for_real_in_bfloat16():
    with torch.device("meta"):
        model = WanTransformer3DModel(**PRESETS["wan2.1-t2v-1.3b"]().transformer)
    rope = WanTransformer3DModel(**{**PRESETS["wan2.1-t2v-1.3b"]().transformer, "num_layers": 0}).rope
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    model.rope = rope
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.uniform_(-0.02, 0.02)
    args = (torch.randn(1, 16, 2, 4, 4).bfloat16(), torch.tensor([500.0]), torch.randn(1, 8, 4096).bfloat16())
    base = model(*args, return_dict=False)[0]
    with SelfAttentionConcat(Memory(torch.randn(1, 16, 1536))).attach(model):
        out = model(*args, return_dict=False)[0]
    assert out.dtype == torch.bfloat16 and out.isfinite().all() and not torch.equal(out, base)
    assert torch.equal(model(*args, return_dict=False)[0], base)


def test_a_pipeline_folder_round_trip(random_folder):
    backbone = WanBackbone.from_pretrained(random_folder)
    assert backbone.video_format == VideoFormat(9, 32, 32, 8.0)
    assert backbone.width == 48 and backbone.transformers == (backbone.transformer,)
    stock = WanPipeline.from_pretrained(random_folder)
    text = backbone.encode_text(["a red ball falls", ""])
    prompts = ["a red ball falls", ""]
    with torch.no_grad():
        want = stock.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    assert torch.equal(text, want)
    latents, timestep = torch.randn(2, 16, 3, 4, 4), torch.tensor([900.0, 10.0])
    with torch.no_grad():
        assert torch.equal(
            backbone.velocity(latents, timestep, text), stock.transformer(latents, timestep, text, return_dict=False)[0]
        )


def test_latents_are_normalised_as_the_pipeline_undoes_it():
    pipe = random_pipeline()
    mean, std = torch.linspace(-1, 1, 16).tolist(), torch.linspace(0.5, 2, 16).tolist()
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    backbone = WanBackbone.from_pipeline(pipe)
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    latents = backbone.encode_video(video)
    raw = pipe.vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(
        latents * torch.tensor(std).view(1, -1, 1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1, 1), raw
    )
    torch.testing.assert_close(backbone.decode_latents(latents), pipe.vae.decode(raw).sample)
    assert not latents.requires_grad


def test_a_transformer_alone_says_what_it_lacks(tmp_path):
    random_transformer().save_pretrained(tmp_path)
    backbone = WanBackbone.from_pretrained(tmp_path)
    assert backbone.video_format.num_frames == 81
    for call in (
        backbone.pipeline,
        lambda: backbone.encode_text(["x"]),
        lambda: backbone.encode_video(torch.zeros(1, 3, 1, 8, 8)),
    ):
        with pytest.raises(InputError, match="transformer alone"):
            call()
    with pytest.raises(InputError, match="model_index"):
        WanBackbone.from_pretrained(tmp_path / "..")


def test_two_experts():
    pipe = random_pipeline(boundary_ratio=0.875)
    backbone = WanBackbone.from_pipeline(pipe)
    assert backbone.transformers == (pipe.transformer, pipe.transformer_2)
