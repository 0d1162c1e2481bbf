"""CogVideoX, HunyuanVideo and AnyFlow: positions of frames, their pipelines, offloading, and calls that are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload
from diffusers import (
    AnyFlowFARPipeline,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
)

from memkit.backbones import adapter_of
from memkit.errors import InputError
from memkit.injectors import KVCache, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.backbones import BACKBONES
from tests.helpers.tiny_anyflow import ANYFLOW_FAR, CachedDense
from tests.helpers.tiny_backbones import FRAMES, LATENTS, SIDE, TEXT, by_definition, seeded, seeded_model
from tests.helpers.tiny_joint import COG_SIZES, COGVIDEOX, HUNYUAN, MASK, cog_call, cog_rotary

TOKENS = seeded(2, 5, 48, seed=7)
NEW = ["cogvideox", "hunyuan", "hunyuan_15", "anyflow", "anyflow_far"]

# -- positions of frames -----------------------------------------------------------------------------------------------


def grid_and_tables(backbone, model):
    """Of a call: the grid of tokens and the model's own rotary tables."""
    found = []

    def begin(grid, carrier):
        found.append((grid, carrier.rotary))
        raise StopIteration

    hooks = adapter_of(model).watch(model, begin)
    with pytest.raises(StopIteration):
        backbone.call(model)
    for hook in hooks:
        hook.remove()
    return found[0]


@pytest.mark.parametrize("name", ["cogvideox", "hunyuan", "hunyuan_15", "anyflow"])
def test_tables_of_any_positions_are_those_of_a_longer_video_and_mirrored_ones(name):
    backbone = BACKBONES[name]
    model = backbone.make()
    grid, (cos, sin) = grid_and_tables(backbone, model)
    size, adapter = grid.tokens_per_frame, adapter_of(model)

    def at(*positions):
        return [table.unflatten(1, (-1, size)) for table in adapter.rotary_at(model, positions, grid)]

    own = [table.unflatten(1, (-1, size)) for table in (cos, sin)]
    for table, known in zip(at(3, 1, 9), own, strict=True):
        assert torch.equal(table[:, :2], known[:, [3, 1]])
    ones = [x[:, 0].double() for x in at(1)]  # turning by position 1 nine times, in the channels of time alone
    still = [x[:, 0].double() for x in at(0)]
    step = torch.complex(*ones) / torch.complex(*still)
    for position in (9, -4):
        got = [x[:, 0].double() for x in at(position)]
        want = torch.complex(*still) * step**position
        torch.testing.assert_close(torch.complex(*got), want, rtol=0, atol=1e-4)


@torch.no_grad()
def test_cogvideox_streams_at_the_positions_of_its_chunks():
    model, parts = COGVIDEOX.make(), []
    positions = [3, 4, 9, -2]
    cos, sin = cog_rotary(10)
    by_frame = [torch.cat([x.unflatten(0, (10, -1)), x.unflatten(0, (10, -1))[[2]]]) for x in (cos, sin)]
    rows = [3, 4, 9, 10]
    by_frame[1][10, :, :4] *= -1  # the sine of time at −2
    tables = tuple(x[rows].flatten(0, 1) for x in by_frame)
    with by_definition(COGVIDEOX, model, chunk=2):
        want = cog_call(model, image_rotary_emb=tables)
    with KVCache(10**7).attach(model) as attached:
        for i in (0, 2):
            with attached.chunk(positions[i : i + 2], write=True):
                parts.append(cog_call(model, slice(i, i + 2)))
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_cogvideox_cannot_place_or_mask_is_refused():
    model = COGVIDEOX.make()
    with KVCache(10**7).attach(model) as attached, attached.chunk(range(4)):
        with pytest.raises(InputError, match="no image_rotary_emb"):
            cog_call(model, image_rotary_emb=None)
        with pytest.raises(InputError, match="not of frames 0, 1"):
            cog_call(model, image_rotary_emb=tuple(x.flip(0) for x in cog_rotary(4)))
    learned = seeded_model(
        CogVideoXTransformer3DModel,
        **COG_SIZES,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    with pytest.raises(InputError, match="patch embedding of this model adds positions"):
        KVCache(10**7).attach(learned)
    with (
        SelfAttentionConcat(Memory(TOKENS)).attach(model),
        pytest.raises(InputError, match="attention_mask in attention_kwargs"),
    ):
        cog_call(model, attention_kwargs={"attention_mask": torch.zeros(2, 1, 22)})


@torch.no_grad()
def test_memory_and_chunks_of_cogvideox_15_which_patches_two_frames_together():
    patched = replace(
        COGVIDEOX,
        make=lambda: seeded_model(
            CogVideoXTransformer3DModel,
            **COG_SIZES,
            use_rotary_positional_embeddings=True,
            patch_size_t=2,
            patch_bias=False,
            ofs_embed_dim=16,
        ),
        num_frames=2,
    )
    model, parts, more = patched.make(), [], {"ofs": torch.tensor([2.0])}
    whole = {**more, "image_rotary_emb": cog_rotary(2)}
    with by_definition(patched, model, TOKENS, chunk=1):
        want = cog_call(model, **whole)
    with SelfAttentionConcat(Memory(TOKENS)).attach(model), KVCache(10**7).attach(model) as attached:
        for i in (0, 1):
            with attached.chunk([i], write=True):
                parts.append(cog_call(model, slice(2 * i, 2 * i + 2), **more, image_rotary_emb=cog_rotary(1)))
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["cogvideox", "hunyuan"])
def test_memory_reads_separate_projections_where_the_model_reads_them_in_spite_of_fused_ones(name):
    backbone = BACKBONES[name]
    model = backbone.make()
    attentions = [adapter_of(model).attention(block) for block in adapter_of(model).blocks(model)]
    if name == "cogvideox":
        model.fuse_qkv_projections()
        model.unfuse_qkv_projections()
    for attn in attentions:
        attn.fuse_projections()
        attn.to_k.weight += 0.1 * seeded(48, 48)
    with by_definition(backbone, model, TOKENS):
        want = backbone.call(model)
    with SelfAttentionConcat(Memory(TOKENS)).attach(model):
        torch.testing.assert_close(backbone.call(model), want, rtol=0, atol=1e-5)


# -- pipelines and offloading ------------------------------------------------------------------------------------------

PIXELS = {"height": 8 * SIDE, "width": 8 * SIDE, "num_frames": 4 * FRAMES - 3, "num_inference_steps": 2}


def cogvideox_video(model):
    pipe = CogVideoXPipeline(None, None, None, model, CogVideoXDDIMScheduler())
    return pipe, {"latents": LATENTS.transpose(1, 2), "prompt_embeds": TEXT, "guidance_scale": 1.0}


def hunyuan_video(model):
    pipe = HunyuanVideoPipeline(None, None, model, None, FlowMatchEulerDiscreteScheduler(), None, None)
    prompt = {"prompt_embeds": TEXT, "pooled_prompt_embeds": seeded(2, 8, seed=6), "prompt_attention_mask": MASK}
    return pipe, {"latents": LATENTS, **prompt}


def far_video(model):
    pipe = AnyFlowFARPipeline(None, None, model, None, FlowMapEulerDiscreteScheduler())
    return pipe, {"latents": LATENTS, "prompt_embeds": TEXT}


PIPELINES = {
    "cogvideox": (COGVIDEOX, cogvideox_video),
    "hunyuan": (HUNYUAN, hunyuan_video),
    "anyflow_far": (replace(ANYFLOW_FAR, dense=CachedDense), far_video),
}


@torch.no_grad()
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_with_memory_is_one_with_attention_by_its_definition(name):
    backbone, make = PIPELINES[name]
    pipe, inputs = make(backbone.make())
    pipe.set_progress_bar_config(disable=True)

    def video():
        return pipe(**inputs, **PIXELS, output_type="latent", return_dict=False)[0]

    base = video()
    with by_definition(backbone, pipe.transformer, TOKENS):
        want = video()
    with SelfAttentionConcat(Memory(TOKENS)).attach(pipe):
        torch.testing.assert_close(video(), want, rtol=0, atol=1e-4)
    with SelfAttentionConcat(Memory(TOKENS, mask=torch.zeros(2, 5, dtype=torch.bool))).attach(pipe):
        assert torch.equal(video(), base)
    assert torch.equal(video(), base)
    assert (want - base).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sequential", "group, to disk"])
@pytest.mark.parametrize("name", NEW)
def test_offloaded_it_gives_the_same(tmp_path, name, kind):
    backbone = BACKBONES[name]
    model, offloaded, cpu = backbone.make(), backbone.make(), torch.device("cpu")
    if kind == "sequential":
        cpu_offload(offloaded, execution_device=cpu, offload_buffers=True)
    else:
        offloaded.enable_group_offload(cpu, cpu, "leaf_level", offload_to_disk_path=str(tmp_path))
    outputs = []
    for each in (model, offloaded):
        with SelfAttentionConcat(Memory(TOKENS)).attach(each):
            outputs.append(backbone.call(each))
            if name != "anyflow_far":
                with KVCache(10**7).attach(each) as attached, attached.chunk(range(FRAMES), write=True):
                    outputs[-1] = outputs[-1] + backbone.call(each)
    assert torch.equal(*outputs)
