"""Memory guidance: the formula by hand, its special cases, and a pipeline that stays the stock one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler

from memkit.backbones import WanBackbone
from memkit.errors import InputError, MemkitError
from memkit.generation import GuidedMemory, conditioning_frames, generate_video, generate_videos
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import SMALL, random_pipeline, random_transformer

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def memory(batch=1, mask=None) -> Memory:
    return Memory(5 * torch.randn(batch, 6, 48, generator=torch.Generator().manual_seed(2)), mask)


def pipeline(boundary=None, expand=False):
    pipe = random_pipeline(boundary_ratio=boundary, expand_timesteps=expand)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():  # random weights hardly hear the text: make it a part of every prediction
        for expert in experts(pipe):
            expert.condition_embedder.text_embedder.linear_1.weight.mul_(30)
    return pipe


def experts(pipe):
    return [t for t in (pipe.transformer, pipe.transformer_2) if t is not None]


def run(pipe, w, w_2=None, steps=3):
    noise = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    size = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": steps, "output_type": "latent"}
    return pipe("a red ball falls", latents=noise, guidance_scale=w, guidance_scale_2=w_2, **size).frames


@torch.no_grad()
def by_hand(pipe, scale, w, w_2=None, steps=3):
    """Euler steps of the formula, with memory attached and detached around single calls; None is w_m = w."""
    text, empty = pipe.encode_prompt("a red ball falls", "", max_sequence_length=512)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for t, sigma, after in zip(scheduler.timesteps, scheduler.sigmas, scheduler.sigmas[1:], strict=False):
        high = pipe.config.boundary_ratio is None or t >= 1000 * pipe.config.boundary_ratio
        model, own = (pipe.transformer, w) if high else (pipe.transformer_2, w_2)
        time = t.expand(1, 12) if pipe.config.expand_timesteps else t.expand(1)

        def velocity(embeds, attached, model=model, time=time, x=x):
            with attached:
                return model(x, time, embeds, return_dict=False)[0]

        v, v_text = velocity(empty, nullcontext()), velocity(text, nullcontext())
        v_mem = velocity(text, SelfAttentionConcat(memory()).attach(model))
        w_m = own if scale is None else scale
        x = x + (after - sigma) * (v + own * (v_text - v) + w_m * (v_mem - v_text))
    return x


@pytest.mark.parametrize("scale", ["conditional", 3.0, -1])
@pytest.mark.parametrize(
    ("boundary", "expand", "w", "w_2"),
    [(None, False, 4.0, None), (None, True, 1.0, None), (0.8, False, 4.0, 2.0), (0.8, False, 3.0, 0.0)],
)
def test_it_is_the_formula_by_hand(scale, boundary, expand, w, w_2):
    pipe = pipeline(boundary, expand)
    want = by_hand(pipe, None if scale == "conditional" else scale, w, w_2)
    with GuidedMemory(SelfAttentionConcat(memory()), scale).attach(*experts(pipe)):
        made = run(pipe, w, w_2)
    torch.testing.assert_close(made, want, **CLOSE)
    with SelfAttentionConcat(memory()).attach(*experts(pipe)):
        both = run(pipe, w, w_2)
    if w > 1 or scale != "conditional":  # with one pass, the conditional one is all
        assert (made - both).abs().max() > 100 * (made - want).abs().max()


def test_special_cases():
    pipe = pipeline()
    injector = SelfAttentionConcat(memory())

    def guided(guidance, w):
        with GuidedMemory(injector, guidance).attach(pipe.transformer):
            return run(pipe, w)

    for w in (1.0, 4.0):
        stock = run(pipe, w)
        assert torch.equal(guided(0.0, w), stock)
        torch.testing.assert_close(guided(w, w), guided("conditional", w), **CLOSE)
        assert differ(guided(w, w), stock, **CLOSE)
    with injector.attach(pipe.transformer):
        plain = run(pipe, 1.0)
    torch.testing.assert_close(guided(1, 1.0), plain, **CLOSE)
    assert torch.equal(guided("conditional", 1.0), plain)


# -- one transformer, its passes called by hand ------------------------------------------------------------------------


def inputs(batch=2):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 16, 3, 4, 4, generator=generator)
    text = torch.randn(2, batch, 6, SMALL["text_dim"], generator=generator)
    return latents, torch.tensor([700.0, 150.0])[:batch], *text


@torch.no_grad()
def passes(model, names=("cond", "uncond")):
    """The predictions of the passes, in the order of their names."""
    latents, timestep, text, empty = inputs()
    made = []
    for name in names:
        with model.cache_context(name):
            made.append(model(latents, timestep, text if name == "cond" else empty, return_dict=False)[0])
    return made


def test_one_evaluation_is_linear_in_the_scale_and_both_passes_get_the_same():
    model, injector = random_transformer(), SelfAttentionConcat(memory())
    own = passes(model)
    with injector.attach(model):
        term = passes(model)[0] - own[0]
    assert term.abs().max() > 1e-2
    for scale in (-2.0, 0.5, 7):
        with GuidedMemory(injector, scale).attach(model):
            for made, before in zip(passes(model), own, strict=True):
                torch.testing.assert_close(made, before + scale * term, **CLOSE)


def test_the_conditional_branch_alone_in_any_order():
    model, injector = random_transformer(), SelfAttentionConcat(memory())
    cond, uncond = passes(model)
    with injector.attach(model):
        shown = passes(model)[0]
    assert differ(shown, cond)
    with GuidedMemory(injector, "conditional").attach(model):
        for names in (("cond", "uncond"), ("uncond", "cond", "uncond")):
            for name, made in zip(names, passes(model, names), strict=True):
                assert torch.equal(made, shown if name == "cond" else uncond)


@torch.no_grad()
def test_samples_without_memory_and_shut_gates_keep_the_models_own_output_to_the_bit():
    model = random_transformer()
    own = passes(model)
    mask = torch.tensor([[True] * 6, [False] * 6])
    for guidance in (3.0, "conditional"):
        with GuidedMemory(SelfAttentionConcat(memory(2, mask)), guidance).attach(model):
            made = passes(model)
        assert torch.equal(made[0][1], own[0][1]) and torch.equal(made[1][1], own[1][1])
        assert differ(made[0][0], own[0][0], **CLOSE)
        shut = replace(memory(), gate=torch.zeros(3, 2))
        with GuidedMemory(SelfAttentionConcat(shut), guidance).attach(model):
            assert all(map(torch.equal, passes(model), own))
        opened = replace(memory(), gate=torch.full((3, 2), 0.5))
        with GuidedMemory(SelfAttentionConcat(opened), guidance).attach(model):
            assert differ(passes(model)[0], own[0], **CLOSE)


@pytest.mark.parametrize("conditioning_outside", [True, False])
def test_conditioning_frames_are_seen_by_every_evaluation(conditioning_outside):
    model, injector = random_transformer(), SelfAttentionConcat(memory())
    first = torch.randn(1, 16, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    with conditioning_frames(first, model):
        own = passes(model)
        with injector.attach(model):
            term = passes(model)[0] - own[0]
    contexts = [conditioning_frames(first, model), GuidedMemory(injector, 3.0).attach(model)]
    first, second = contexts if conditioning_outside else contexts[::-1]
    with first, second:
        for made, before in zip(passes(model), own, strict=True):
            torch.testing.assert_close(made, before + 3 * term, **CLOSE)


def test_outputs_of_either_form_and_dtype_are_kept():
    model = random_transformer().to(torch.bfloat16)
    latents, timestep, text, _ = inputs()
    args = (latents.bfloat16(), timestep, text.bfloat16())
    with GuidedMemory(SelfAttentionConcat(memory()), 3.0).attach(model), model.cache_context("cond"), torch.no_grad():
        bare, named = model(*args, return_dict=False)[0], model(*args).sample
    assert torch.equal(bare, named) and bare.dtype == torch.bfloat16


def test_a_cache_of_diffusers_does_not_take_one_evaluation_for_the_other():
    model, injector = random_transformer(), SelfAttentionConcat(memory())
    with GuidedMemory(injector, 3.0).attach(model):
        want = passes(model)
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))  # a pass repeated on anything is skipped
    with GuidedMemory(injector, 3.0).attach(model):
        assert all(map(torch.equal, passes(model), want))


# -- what it leaves, and what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [3.0, "conditional"])
def test_the_model_is_what_it_was_after_success_and_failure(guidance):
    model, injector = random_transformer(), SelfAttentionConcat(memory())

    def state():
        modules = list(model.modules())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]
        return sorted(vars(model)), hooks, [b.attn1.processor for b in model.blocks], list(model.state_dict())

    own, before = passes(model), state()
    with GuidedMemory(injector, guidance).attach(model):
        passes(model)
        assert list(model.state_dict()) == before[3]
    assert state() == before and all(map(torch.equal, passes(model), own))
    misfit = SelfAttentionConcat(memory(batch=3))
    with pytest.raises(InputError, match="batch of 3"), GuidedMemory(misfit, guidance).attach(model):
        passes(model)
    assert state() == before and all(map(torch.equal, passes(model), own))
    with GuidedMemory(injector, guidance).attach(model):
        with pytest.raises(InputError, match="attached already"), GuidedMemory(injector, guidance).attach(model):
            pass
        passes(model)
    assert state() == before


@pytest.mark.parametrize("guidance", [3.0, "conditional"])
def test_a_pass_that_is_not_known_is_refused(guidance):
    model, injector = random_transformer(), SelfAttentionConcat(memory())
    latents, timestep, text, _ = inputs()
    with GuidedMemory(injector, guidance).attach(model):
        with pytest.raises(MemkitError, match="in no pass"):
            model(latents, timestep, text)
        with pytest.raises(MemkitError, match="cond_uncond"):
            passes(model, ["cond_uncond"])
        passes(model)
        with pytest.raises(MemkitError, match="in no pass"):
            model(latents, timestep, text)


@torch.no_grad()
def test_a_term_that_is_not_of_this_step_is_refused():
    model = random_transformer()
    with GuidedMemory(SelfAttentionConcat(memory()), 3.0).attach(model):
        with pytest.raises(MemkitError, match="did not follow"):
            passes(model, ["uncond", "cond"])
        passes(model)
        with pytest.raises(MemkitError, match="did not follow"):
            passes(model, ["uncond"])
        passes(model, ["cond"])
        latents, timestep, text, _ = inputs()
        with pytest.raises(MemkitError, match="did not follow"), model.cache_context("uncond"):
            model(latents + 1, timestep, text)


def test_wrong_settings_are_refused_at_once():
    model = random_transformer()
    for wrong in (float("nan"), float("inf")):
        with (
            pytest.raises(InputError, match="finite"),
            GuidedMemory(SelfAttentionConcat(memory()), wrong).attach(model),
        ):
            pass
    narrow = SelfAttentionConcat(Memory(torch.randn(1, 3, 8)))
    with pytest.raises(InputError, match="width 8"), GuidedMemory(narrow, 3.0).attach(model):
        pass


# -- generate_videos ---------------------------------------------------------------------------------------------------


def test_generate_videos_with_guidance_conditioning_frames_and_a_mask(random_folder):
    backbone = WanBackbone.from_pretrained(random_folder)
    backbone.pipeline().set_progress_bar_config(disable=True)
    shown = memory(2, torch.tensor([[True] * 6, [False] * 6]))
    form = backbone.video_format
    image = torch.rand(1, 3, 1, form.height, form.width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    settings = {
        "seeds": [1, 2],
        "steps": 2,
        "guidance_scale": 3.0,
        "conditioning_latents": backbone.encode_video(image),
    }
    calls = []
    count = backbone.transformer.blocks[0].register_forward_hook(lambda *_: calls.append(1))

    def generate(memory, guidance, **changes):
        calls.clear()
        arguments = {**settings, **changes}
        videos = generate_videos(backbone, ["a red ball", "a cube"], memory, memory_guidance=guidance, **arguments)
        return videos, len(calls)

    stock, _ = generate(None, 9.0)
    both, a_step = generate(shown, None)
    assert a_step == 4
    made = {guidance: generate(shown, guidance) for guidance in ("conditional", 3.0, 9.0, 0.0)}
    assert [n for _, n in made.values()] == [4, 6, 6, 6]  # two and three evaluations a step
    assert generate(shown, 9.0, guidance_scale=1.0)[1] == 4
    videos = {guidance: video for guidance, (video, _) in made.items()}
    for video in videos.values():
        assert torch.equal(video[1], stock[1]) and torch.equal(video[:, 0], stock[:, 0])  # no memory; conditioning
    assert torch.equal(videos[0.0], stock)
    assert (videos["conditional"].int() - videos[3.0].int()).abs().max() <= 1
    assert differ(videos["conditional"][0], both[0])
    assert differ(videos[9.0][0], videos[3.0][0])
    count.remove()
    one = generate_video(
        backbone,
        "a red ball",
        memory(),
        seed=1,
        steps=2,
        guidance_scale=3.0,
        conditioning_latents=settings["conditioning_latents"],
        memory_guidance=9.0,
    )
    assert (one.int() - videos[9.0][0].int()).abs().max() <= 1
