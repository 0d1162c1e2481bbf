"""Neighbours that go on from what they have made: each is plain sampling, or streaming, in its limit."""

import pytest
import torch

from memkit.errors import InputError
from memkit.generation import synchronous
from memkit.injectors import FrameVisibility
from memkit.streaming import Stream, StreamConfig
from recipes.neighbours.ar_diffusion import ARDiffusion, causal
from recipes.neighbours.art_v import ARTV
from recipes.neighbours.dual_paral import DualParal
from recipes.neighbours.fvdm import FVDM
from recipes.neighbours.reuse_and_diffuse import ReuseAndDiffuse
from recipes.neighbours.self_forcing_pp import SelfForcingPlusPlus
from recipes.neighbours.stream_dit import StreamDiT
from recipes.neighbours.vid_gpt import VidGPT
from recipes.neighbours.vins import VINs
from tests.helpers.neighbour_videos import backbone, video

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize(
    "method",
    [
        VidGPT(first=3),
        VINs(chunk=3, tokens=8),
        FVDM(window=3),
        StreamDiT(chunk=3, chunks=1, window=3),
        ReuseAndDiffuse(clip=3),
    ],
    ids=lambda method: method.about.title,
)
def test_a_video_of_one_window_is_plain_sampling(method):
    of = video(3)
    assert torch.equal(method.sample(of), of.plain())


def test_dualparal_with_one_block_is_plain_sampling():
    of = video(3)
    assert torch.equal(DualParal(block=3, neighbours=0).sample(of), of.plain())


@pytest.mark.parametrize(
    "method",
    [
        VidGPT(chunk=2, first=3, prefix=3),
        VINs(chunk=3, overlap=2, tokens=8, gate=0.5),
        FVDM(window=4, kept=2),
        ARDiffusion(lag=2),
        StreamDiT(chunk=2, chunks=2, references=1, window=2),
        DualParal(block=2, neighbours=0),
    ],
    ids=lambda method: method.about.title,
)
def test_each_frame_takes_every_step_once(constant_velocity, method):
    of = video(7, guidance_scale=1.0)
    out, start = method.sample(of), of.noise()
    if isinstance(method, DualParal):
        start = torch.cat([start[:, :, :2]] * 4, 2)[:, :, :7]  # frames of two, permuted, with one sum
        out, start = out.unflatten(2, (7, 1))[:, :, :6], start[:, :, :6].unflatten(2, (6, 1))
        out, start = (x.unflatten(2, (3, 2)).sum(3) for x in (out, start))
    moved = (start - out).flatten(3)
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved), **CLOSE)
    assert moved.abs().max() > 1e-3


def test_cached_prefixes_are_recomputed_ones():
    """ViD-GPT and Ca2-VDM: with the prefix clean and causal in the sequence, in every pass."""
    of, first = video(5), video(3).plain()

    def visible(frames):
        chunk = torch.arange(frames).clamp(max=3) // 3
        return chunk[:, None] >= chunk

    with FrameVisibility(visible).attach(of.backbone):
        start = torch.cat([first, of.noise()[:, :, 3:]], 2)
        recomputed = of.sampler.run(start, synchronous(5, 4, given=range(3)))
    torch.testing.assert_close(VidGPT(chunk=2, first=3, prefix=3).sample(of), recomputed, **CLOSE)


def test_ar_diffusion_with_lag_0_is_synchronous_and_with_all_steps_it_streams():
    of = video(4)
    with FrameVisibility(causal).attach(of.backbone):
        synchronous_too = of.plain()
    assert torch.equal(ARDiffusion(lag=0).sample(of), synchronous_too)
    streamed = VidGPT(chunk=1, first=1, prefix=4).sample(of)
    torch.testing.assert_close(ARDiffusion(lag=4).sample(of), streamed, **CLOSE)
    assert not torch.allclose(ARDiffusion(lag=2).sample(of), streamed, atol=1e-2)


def test_fvdm_keeps_given_frames_and_equal_timesteps_are_plain():
    of = video(5)
    x, t = of.noise(), torch.full((1, 20), 700.0)
    per_token = of.backbone.transformer(x, t, of.sampler.text, return_dict=False)[0]
    plain = of.backbone.transformer(x, t[:, 0], of.sampler.text, return_dict=False)[0]
    torch.testing.assert_close(per_token, plain, **CLOSE)
    out = FVDM(window=3, kept=1).sample(of)
    second = of.sampler.run(torch.cat([out[:, :, 2:3], x[:, :, 3:]], 2), synchronous(3, 4, given=[0]))
    assert torch.equal(out, torch.cat([video(3).plain(), second[:, :, 1:]], 2))
    assert len(set(FVDM(p=0.0).draw(1000).tolist())) == 1
    with pytest.raises(InputError, match="kept"):
        FVDM(window=3, kept=3)


def test_global_tokens_are_all_that_far_chunks_of_vins_share():
    of, far = video(6), video(6)
    for gate, shared in ((0.0, False), (0.5, True)):
        method = VINs(chunk=3, overlap=0, tokens=8, gate=gate, every=1)
        other = torch.cat([far.noise()[:, :, :5], far.noise(kind="other")[:, :, 5:]], 2)
        changed = method.sample(_Replaced(of, other))
        assert torch.equal(method.sample(of)[:, :, :3], changed[:, :, :3]) != shared


class _Replaced:
    """A video with other noise."""

    def __init__(self, of, noise):
        self._of, self._noise = of, noise

    def __getattr__(self, name):
        return getattr(self._of, name)

    def noise(self, *_, **__):
        return self._noise


def test_art_v_sees_the_first_frame_and_copies_nothing_at_first():
    of = video(5)
    config = StreamConfig(chunk=1, steps=4, shift=None, guidance_scale=2.0, text_length=16, window=3, sink=1)
    stream = Stream(backbone(), [3], config=config)
    frames = torch.cat([stream.generate(["a red ball falls"]) for _ in range(5)], 2)
    assert torch.equal(ARTV(previous=1).sample(of), frames)
    assert stream.cache.branch("cond").positions == (0, 4)  # and the next frame
    still = ARTV(previous=1, copied=1.0).sample(of)
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still), atol=1e-3, rtol=1e-3)


def test_without_reuse_clips_of_reuse_and_diffuse_are_plain():
    of = video(6)
    out = ReuseAndDiffuse(clip=3, overlap=0, reuse=0.0, dropped=0).sample(of)
    assert torch.equal(out[:, :, :3], video(3).plain())
    alone = of.sampler.run(of.noise(range(3, 6)), synchronous(3, 4))
    assert torch.equal(out[:, :, 3:], alone)


def test_a_clip_begins_with_the_steps_of_the_one_before_reversed(constant_velocity):
    """With full guidance, its first frame is given in every step, and the others in fewer."""
    out = ReuseAndDiffuse(clip=3, overlap=3, guidance=1.0, dropped=0).sample(video(6, guidance_scale=1.0))
    torch.testing.assert_close(out[:, :, 3], out[:, :, 2], **CLOSE)
    torch.testing.assert_close(out[:, :, 3:].flip(2), out[:, :, :3], **CLOSE)  # as noise is reused too


def test_self_forcing_pp_within_its_window_streams_with_all_frames():
    of = video(4)
    config = StreamConfig(
        chunk=1, shift=5.0, guidance_scale=1.0, text_length=16, timesteps=(1000, 750, 500, 250), window=100
    )
    stream = Stream(backbone(), [3], config=config)
    frames = torch.cat([stream.generate(["a red ball falls"]) for _ in range(4)], 2)
    assert torch.equal(SelfForcingPlusPlus(window=4).sample(of), frames)
    assert not torch.allclose(SelfForcingPlusPlus(window=2).sample(of), frames, atol=1e-3)


def test_training_windows_of_self_forcing_pp_are_noised_anew():
    rollout, method = video(6).noise(), SelfForcingPlusPlus(window=2)
    draws = [method.training_window(rollout, torch.zeros(1), torch.Generator().manual_seed(i)) for i in range(60)]
    assert {draw.start for draw in draws} == set(range(5))
    assert all(torch.equal(draw.noisy, rollout[:, :, draw.start : draw.start + 2]) for draw in draws)
    noisy = method.training_window(rollout, torch.ones(1), torch.Generator().manual_seed(0))
    assert torch.equal(noisy.noisy, noisy.noise)


def test_blocks_of_dualparal_see_the_ones_on_both_sides():
    """So the first of them changes with the number of blocks that follow, by way of those between."""
    for neighbours, alone in ((0, True), (1, False)):
        long, short = (DualParal(block=2, neighbours=neighbours).sample(video(frames)) for frames in (6, 4))
        assert torch.equal(long[:, :, :2], short[:, :, :2]) == alone and long.isfinite().all()
    with pytest.raises(InputError, match="neighbours"):
        DualParal(block=2, neighbours=3)
