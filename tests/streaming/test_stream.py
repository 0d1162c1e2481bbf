"""Stream: against a loop by hand and teacher forcing; conditioning frames and wrong use."""

from dataclasses import replace

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError
from memkit.frame_graph import FrameGraph
from memkit.injectors import (
    AttentionRecorder,
    BudgetError,
    KVCache,
    SelfAttentionConcat,
    TeacherForcing,
    stream_cameras,
)
from memkit.memory import Memory
from memkit.streaming import StreamConfig
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_pipeline
from tests.helpers.streams import FAST, GUIDED, PROMPTS, TIGHT, TOKENS, Short, budget, cameras, seeded, stream, trained


def test_it_is_the_loop_that_one_would_write_by_hand(backbone):
    """Euler steps of the shifted schedule, guidance of two histories, conditioning at t=0, each chunk written clean."""
    config, first = StreamConfig(chunk=2, steps=3, shift=4.0, guidance_scale=2.5), seeded(1, 16, 3, 4, 4)
    made = stream(backbone, config).generate_all([PROMPTS, PROMPTS[::-1], PROMPTS], first)
    model, noise = backbone.transformer, stream(backbone, config)._noise("noise", range(6))
    u = torch.linspace(1, 1 / 1000, 1000)
    levels = 4 * u / (1 + 3 * u)
    sigmas = [*torch.linspace(float(levels[0]), float(levels[-1]), 3).tolist(), 0.0]
    sigmas = [*(4 * s / (1 + 3 * s) for s in sigmas[:-1]), 0.0]
    text = {"cond": [backbone.encode_text(p) for p in (PROMPTS, PROMPTS[::-1], PROMPTS)]}
    text["uncond"] = [backbone.encode_text(["", ""])] * 3
    caches = {name: KVCache(budget(backbone, branches=1)) for name in text}
    want = []
    for i, given in enumerate((2, 1, 0)):
        span = slice(2 * i, 2 * i + 2)
        x = noise[:, :, span].clone()
        x[:, :, :given] = first[:, :, span][:, :, :given]
        times = torch.ones(2, 2)
        times[:, :given] = 0
        outs = {}

        def run(name, t, write=False, x=x, i=i, times=times):
            cache, at = caches[name], range(2 * i, 2 * i + 2)
            with cache.attach(model) as attached, attached.chunk(at, write=write), torch.no_grad():
                return model(x, (t * times).repeat_interleave(TOKENS, 1), text[name][i], return_dict=False)[0]

        for here, after in zip(sigmas, sigmas[1:], strict=False):
            outs = {name: run(name, 1000 * here) for name in text}
            velocity = outs["uncond"] + 2.5 * (outs["cond"] - outs["uncond"])
            x[:, :, given:] += (after - here) * velocity[:, :, given:]
        for name in text:
            run(name, 0.0, write=True)
        want.append(x)
    torch.testing.assert_close(made, torch.cat(want, 2), **TIGHT)


def test_every_call_is_the_teacher_forced_pass_over_what_was_made(backbone):
    """Cameras, memory tokens and a prompt a chunk at work: the streamed velocity is the noisy stream's."""
    pm, cams, calls = trained(backbone), cameras(6), []
    memory = SelfAttentionConcat(Memory(seeded(1, 3, 48, seed=4)))
    each = [PROMPTS, PROMPTS[::-1], PROMPTS]
    with memory.attach(backbone.transformer):
        hook = backbone.transformer.register_forward_hook(
            lambda _m, args, out: calls.append((args[0], args[1], out[0]))
        )
        made = stream(backbone, FAST, positions=pm, cameras=cams).generate_all(each)
        hook.remove()
    assert len(calls) == 9
    graph, forcing, path = (
        FrameGraph.chunks(6, chunk=2, conditioning_frames=0, cameras=True),
        TeacherForcing(),
        CameraPath.of(cams),
    )
    text = torch.stack([backbone.encode_text(p) for p in each], 1)
    model = backbone.transformer
    with forcing.attach(model) as forced, pm.attach(model) as posed, memory.attach(model):
        for number, (x, t, velocity) in enumerate(calls):
            chunk, step = divmod(number, 3)
            span = slice(2 * chunk, 2 * chunk + 2)
            noisy, times = made.clone(), torch.zeros(2, 12)
            noisy[:, :, span] = x
            times[:, 6:][:, span] = t[:, None]
            with forced.chunk(graph), posed.chunk(stream_cameras(graph, path)), torch.no_grad():
                out = model(torch.cat([made, noisy], 2), times, text, return_dict=False)[0]
            torch.testing.assert_close(out[:, :, span], velocity, **TIGHT)
            assert float(t[0]) > 0 or step == 2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_conditioning_latents_come_back_as_given_and_matter(backbone, count):
    given = seeded(2, 16, count, 4, 4)
    a, b = (stream(backbone).generate_all([PROMPTS] * 4, x) for x in (given, given + 1))
    assert torch.equal(a[:, :, :count], given) and a.isfinite().all()
    assert ((a - b)[:, :, count:].abs().amax((0, 1, 3, 4)) > 0).all()


def test_a_prompt_changes_its_chunk_and_those_after_it_alone(backbone):
    a, b = (stream(backbone).generate_all([PROMPTS, middle, PROMPTS]) for middle in (PROMPTS, PROMPTS[::-1]))
    assert torch.equal(a[:, :, :2], b[:, :, :2])
    assert differ(a[:, :, 2:4], b[:, :, 2:4]) and differ(a[:, :, 4:], b[:, :, 4:])


def test_short_texts_give_the_same_chunks_up_to_rounding_and_longer_ones_are_named():
    backbone, outs = WanBackbone.from_pipeline(random_pipeline()), []
    for length in (512, 24):
        made = stream(backbone, replace(GUIDED, text_length=length))
        outs.append(torch.cat([made.generate(PROMPTS), made.generate(PROMPTS[::-1])], dim=2))
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="'a red ball falls' has more than 3 text tokens"):
        stream(backbone, replace(GUIDED, text_length=3)).generate(PROMPTS)
    with pytest.raises(InputError, match="1 to 512"):
        replace(GUIDED, text_length=0)


def test_a_video_depends_on_its_seed_and_prompt_not_on_its_companions_nor_on_how_often_it_is_made(backbone):
    both = stream(backbone).generate_all([PROMPTS] * 3)
    assert torch.equal(stream(backbone).generate_all([PROMPTS] * 3), both)
    alone = stream(backbone, seeds=[2]).generate_all([PROMPTS[1:]] * 3)
    torch.testing.assert_close(alone[0], both[1], **TIGHT)
    assert differ(stream(backbone, seeds=[3]).generate_all([PROMPTS[1:]] * 3), alone, rtol=1e-5)


def test_cameras_are_normalised_once_and_rows_are_positions(backbone):
    pm, cams = trained(backbone), cameras(8)
    shift = torch.eye(4)
    shift[:3, 3] = 5.0
    moved = Cameras(shift @ cams.c2w, cams.intrinsics)
    other = Cameras(cams.c2w.clone(), cams.intrinsics)
    other.c2w[:, 7, :3, 3] *= 9  # farther than the video goes: the unit of the whole clip is another
    a, b, c = (stream(backbone, positions=pm, cameras=x).generate_all([PROMPTS] * 2) for x in (cams, moved, other))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert (a - c).abs().max() > 1e-3


def test_the_model_of_an_a14b_is_that_of_the_noise_level_and_both_write():
    backbone, ran = Short.from_pipeline(random_pipeline(boundary_ratio=0.6)), []
    for number, model in enumerate(backbone.transformers):
        model.register_forward_pre_hook(lambda _m, args, number=number: ran.append((number, float(args[1][0]))))
    stream(backbone, StreamConfig(chunk=2, steps=4, shift=1.0, guidance_scale=1.0)).generate(PROMPTS)
    assert [number for number, _ in ran] == [int(t < 600) for _, t in ran[:4]] + [0, 1]
    assert {number for number, _ in ran[:4]} == {0, 1} and [t for _, t in ran[4:]] == [0, 0]


def test_the_context_may_be_noised(backbone):
    times, config = [], StreamConfig(chunk=2, steps=2, guidance_scale=1.0, context_sigma=0.25)
    hook = backbone.transformer.register_forward_pre_hook(lambda _m, args: times.append(float(args[1][0])))
    a = stream(backbone, config).generate_all([PROMPTS] * 2)
    hook.remove()
    b = stream(backbone, FAST).generate_all([PROMPTS] * 2)
    assert times[2::3] == [250, 250] and torch.equal(a[:, :, :2], b[:, :, :2]) and differ(a, b)


def test_wrong_use_is_named_and_the_stream_goes_on(backbone):
    it = stream(backbone, frames=4, positions=trained(backbone), cameras=cameras(4))
    with pytest.raises(InputError, match="1 prompts for 2 videos"):
        it.generate(PROMPTS[:1])
    with pytest.raises(InputError, match="do not fit"):
        it.generate(PROMPTS, seeded(1, 16, 1, 5, 4))
    with pytest.raises(InputError, match="do not fit a chunk"):
        it.generate(PROMPTS, seeded(3, 16, 2, 4, 4))
    with pytest.raises(InputError, match="9 conditioning frames for 1 chunks"):
        it.generate_all([PROMPTS], seeded(1, 16, 9, 4, 4))
    with pytest.raises(InputError, match="for 0 chunks"):
        it.generate_all([])
    with pytest.raises(InputError, match="chunk of 0 frames"):
        it.generate(PROMPTS, frames=0)
    assert it.position == 0 and it.cache.branch().positions == ()
    it.generate(PROMPTS, pin=True)
    it.generate(PROMPTS, pin=True)
    with pytest.raises(InputError, match="frames 0 to 3"):
        it.generate(PROMPTS)
    full = stream(backbone, frames=2)
    full.generate(PROMPTS, pin=True)
    with pytest.raises(BudgetError, match="pinned"):
        full.generate(PROMPTS)
    full.cache.branch("cond").unpin([0, 1])
    assert full.generate(PROMPTS).isfinite().all() and full.position == 4
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in backbone.transformer.modules())
    with pytest.raises(InputError, match="batch is 0"):
        stream(backbone, seeds=[])
    with pytest.raises(InputError, match="both or neither"):
        stream(backbone, cameras=cameras(4))
    for wrong in ({"chunk": 0}, {"steps": 0}, {"first": 0}, {"context_sigma": 1.5}):
        with pytest.raises(InputError):
            StreamConfig(**wrong)


def test_a_recorder_sees_every_step_of_the_conditional_branch_and_not_the_write(backbone):
    it, recorder, calls = stream(backbone, StreamConfig(chunk=2, steps=3)), AttentionRecorder(), []
    it.generate(PROMPTS)
    hook = backbone.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    it.generate(PROMPTS, recorder=recorder)
    hook.remove()
    assert recorder.shares().shape == (3, 3, 2, 2, 2) and len(calls) == 8
    assert (recorder.frames, recorder.seen) == ((2, 3), (0, 1))
