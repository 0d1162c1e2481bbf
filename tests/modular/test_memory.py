"""Memory blocks in a modular pipeline: equal to memkit's own retriever, encoder and injector on the stock pipeline."""

import json

import pytest
import torch
from diffusers import ModularPipelineBlocks
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines import WanBlocks

from memkit import Memory, MemoryBank, SelfAttentionConcat, TextRetriever
from memkit.encoders import load_encoder, make_encoder
from memkit.errors import InputError
from memkit.modular import (
    RetrieveMemoryStep,
    Wan22MemoryBlocks,
    Wan22MemoryDenoiseStep,
    WanMemoryBlocks,
    WanMemoryDenoiseStep,
)
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_pipeline
from tests.helpers.small_banks import latents
from tests.modular.conftest import SIZE

CLOSE = {"rtol": 0, "atol": 1e-5}
PROMPT = "a red ball falls"


@pytest.fixture
def bank(tmp_path):
    bank = MemoryBank.create(tmp_path / "bank")
    for i, caption in enumerate(["a ball falls in a meadow", "ice melts", "a red ball bounces", "a cube slides"]):
        bank.add(f"clip{i}", latents(i, (16, 3, 4, 4)), caption)
    return bank


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    encoder = make_encoder("frequency", "tiny", dim=48, latent_channels=16).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    return encoder


def test_one_call_retrieves_encodes_and_injects(loaded, stock, noise, bank, encoder, tmp_path):
    pipe = loaded(WanMemoryBlocks(), 3.0)
    pipe.update_components(memory_encoder=load_encoder(tmp_path / "encoder"))
    made = {"latents": noise, "output_type": "pt"}
    state = pipe(prompt=PROMPT, memory_bank=str(bank.path), num_memory_clips=2, **SIZE, **made)
    hits = TextRetriever(bank)(PROMPT, k=2)
    assert state.get("memory_ids") == [list(hits.ids)]
    with torch.no_grad():
        memory = encoder(bank.latents(hits.ids))
    with SelfAttentionConcat(memory).attach(stock):
        want = stock(PROMPT, guidance_scale=3.0, **SIZE, **made).frames
    torch.testing.assert_close(state.get("videos"), want, **CLOSE)
    assert differ(want, stock(PROMPT, guidance_scale=3.0, **SIZE, **made).frames)
    assert not any(module._forward_pre_hooks for module in pipe.transformer.modules())


def test_several_prompts_and_videos_have_memories_of_their_own(loaded, stock, bank, encoder):
    pipe = loaded(WanMemoryBlocks(), 1.0)
    pipe.update_components(memory_encoder=encoder)
    prompts = [PROMPT, "ice melts"]
    noise = torch.randn(4, 16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    made = {"latents": noise, "num_videos_per_prompt": 2, "output_type": "pt"}
    state = pipe(prompt=prompts, memory_bank=bank, num_memory_clips=1, **SIZE, **made)
    assert state.get("memory_ids") == [["clip2"], ["clip1"]] and state.get("memory").tokens.shape[0] == 2
    with torch.no_grad():
        memory = encoder(bank.latents([["clip2"], ["clip2"], ["clip1"], ["clip1"]]))
    with SelfAttentionConcat(memory).attach(stock):
        want = stock(prompts, guidance_scale=1.0, **SIZE, **made).frames
    torch.testing.assert_close(state.get("videos"), want, **CLOSE)


def test_the_steps_go_into_other_pipelines(stock, noise, random_folder):
    blocks = WanBlocks()
    blocks.sub_blocks.insert("memory", RetrieveMemoryStep(), 1)
    blocks.sub_blocks["denoise"].sub_blocks["denoise"] = WanMemoryDenoiseStep()
    pipe = blocks.init_pipeline(str(random_folder))
    pipe.load_components()
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    memory = Memory(torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(3)))
    made = {"latents": noise, "output_type": "pt"}
    got = pipe(prompt=PROMPT, memory=memory, output="videos", **SIZE, **made)
    with SelfAttentionConcat(memory).attach(stock):
        want = stock(PROMPT, guidance_scale=3.0, **SIZE, **made).frames
    torch.testing.assert_close(got, want, **CLOSE)


def test_both_experts_of_wan2_2_see_the_memory(noise, tmp_path):
    stock = random_pipeline(boundary_ratio=0.5)
    stock.set_progress_bar_config(disable=True)
    stock.save_pretrained(tmp_path / "wan2.2")
    pipe = Wan22MemoryBlocks().init_pipeline(str(tmp_path / "wan2.2"))
    pipe.load_components()
    assert pipe.config.boundary_ratio == 0.5 and isinstance(
        pipe.blocks.sub_blocks["denoise"].sub_blocks["denoise"], Wan22MemoryDenoiseStep
    )
    scales = {
        "guider": ClassifierFreeGuidance(guidance_scale=3.0),
        "guider_2": ClassifierFreeGuidance(guidance_scale=2.0),
    }
    pipe.update_components(**scales)
    memory = Memory(torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(3)))
    made = {"latents": noise, "output_type": "pt"}
    got = pipe(prompt=PROMPT, memory=memory, output="videos", **SIZE, **made)
    with SelfAttentionConcat(memory).attach(stock):
        want = stock(PROMPT, guidance_scale=3.0, guidance_scale_2=2.0, **SIZE, **made).frames
    torch.testing.assert_close(got, want, **CLOSE)


def test_missing_memory_is_named(loaded, bank):
    pipe = loaded(WanMemoryBlocks(), 1.0)
    for given in ({}, {"memory_bank": bank}):
        with pytest.raises(InputError, match="give memory_bank and a prompt"):
            pipe(prompt=PROMPT, **SIZE, **given)


def test_what_a_saved_block_holds(tmp_path):
    WanMemoryBlocks().save_pretrained(tmp_path / "blocks")
    names = {"block.py", "modular_config.json"}
    assert {file.name for file in (tmp_path / "blocks").iterdir()} == names
    config = json.loads((tmp_path / "blocks/modular_config.json").read_text())
    assert config["auto_map"] == {"ModularPipelineBlocks": "block.WanMemoryBlocks"}
    assert list(config["requirements"]) == ["memkit"]
    with pytest.raises(ValueError, match="trust_remote_code"):
        ModularPipelineBlocks.from_pretrained(str(tmp_path / "blocks"), trust_remote_code=False)


def test_a_pipeline_remembers_where_its_encoder_came_from(loaded, encoder, tmp_path):
    pipe = loaded(WanMemoryBlocks(), 1.0)
    spec = pipe.get_component_spec("memory_encoder")
    pipe.update_components(memory_encoder=spec.load(pretrained_model_name_or_path=str(tmp_path / "encoder")))
    pipe.save_pretrained(str(tmp_path / "pipeline"), overwrite_modular_index=False)
    again = WanMemoryBlocks().init_pipeline(str(tmp_path / "pipeline"))
    again.load_components(torch_dtype=torch.bfloat16)
    weights, want = again.memory_encoder.state_dict(), encoder.state_dict()
    assert all(torch.equal(weights[name], want[name].to(torch.bfloat16)) for name in want)
    assert again.transformer.dtype == torch.bfloat16
    assert again.config.memory_text_model == "minilm"


def test_a_vae_that_patchifies_makes_videos_of_the_size_that_is_asked_for(stock, random_folder):
    pipe = WanMemoryBlocks().init_pipeline(str(random_folder))
    pipe.load_components()
    memory, made = Memory(torch.randn(1, 5, 48)), {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    assert stock.vae.config.patch_size == 2 and pipe.vae_scale_factor_spatial == 4  # as diffusers counts
    assert pipe(prompt=PROMPT, memory=memory, output="videos", **SIZE, **made).shape == (1, 9, 3, 32, 32)
