"""Streaming blocks in a modular pipeline: equal to `memkit.streaming.Stream`, in one call or continued."""

import copy

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from memkit import Stream, StreamConfig, WanBackbone
from memkit.errors import InputError
from memkit.generation.noise import frame_noise
from memkit.injectors import KVCache, frame_bytes
from memkit.modular import WanStreamBlocks
from memkit.streaming import read_packed
from tests.helpers.differ import differ

CLOSE = {"rtol": 0, "atol": 1e-5}
PROMPT = "a red ball falls"
SIZE = {"height": 32, "width": 32, "num_inference_steps": 2}


def noise(positions):
    return frame_noise([7], "noise", positions, (16, 4, 4))


def streamed(stock, prompts, read=None, frames=3, **settings):
    """The latents of `Stream`, one chunk per prompt."""
    config = StreamConfig(chunk=frames, steps=2, shift=None, **settings)
    budget = 2 * 12 * frame_bytes(stock.transformer, 4, 4)
    more = {} if read is None else {"read": read}
    stream = Stream(WanBackbone.from_pipeline(stock), [7], budget, config, size=(4, 4), **more)
    return torch.cat([stream.generate([prompt]) for prompt in prompts], dim=2), stream


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("multistep", [False, True])
def test_one_call_equals_a_stream(loaded, stock, scale, multistep):
    pipe = loaded(WanStreamBlocks(), scale)
    if multistep:  # keeps earlier predictions, which must not reach the next chunk
        stock.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        pipe.update_components(scheduler=copy.deepcopy(stock.scheduler))
    state = pipe(prompt=PROMPT, latents=noise(range(9)), output_type="pt", **SIZE)
    want, stream = streamed(stock, [PROMPT] * 3, guidance_scale=scale)
    torch.testing.assert_close(state.get("latents"), want, **CLOSE)
    assert state.get("videos").shape == (1, 33, 3, 32, 32)
    cache = state.get("kv_cache")
    assert state.get("position") == 9 and cache.branches == stream.cache.branches
    for branch in cache.branches:
        assert cache.branch(branch).positions == stream.cache.branch(branch).positions == tuple(range(9))
        for a, b in zip(cache.get(1, branch=branch), stream.cache.get(1, branch=branch), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)
    assert not any(module._forward_pre_hooks for module in pipe.transformer.modules())


def test_a_video_goes_on_under_another_prompt_with_what_it_reads(loaded, stock):
    pipe, read = loaded(WanStreamBlocks(), 3.0), read_packed(first=1, previous=3)
    cache = KVCache(2 * 12 * frame_bytes(stock.transformer, 4, 4), ("cond", "uncond"))
    chunks, position = [], 0
    for prompt in (PROMPT, "a blue cube", "a blue cube"):
        at = range(position, position + 3)
        state = pipe(prompt=prompt, latents=noise(at), kv_cache=cache, position=position, cache_read=read, **SIZE)
        chunks.append(state.get("latents"))
        cache, position = state.get("kv_cache"), state.get("position")
    want, _ = streamed(stock, [PROMPT, "a blue cube", "a blue cube"], read)
    torch.testing.assert_close(torch.cat(chunks, dim=2), want, **CLOSE)
    assert differ(want, streamed(stock, [PROMPT, "a blue cube", "a blue cube"])[0])

    again = pipe(state=state, prompt=PROMPT, latents=noise(range(9, 12)), **SIZE)  # the state itself goes on, too
    assert again.get("position") == 12 and again.get("kv_cache").branch("cond").positions == tuple(range(12))
    assert cache.branch("cond").positions == tuple(range(9))  # diffusers copies the state


def test_what_is_over_goes_into_the_first_chunk_and_a_small_cache_forgets(loaded, stock):
    pipe = loaded(WanStreamBlocks(), 1.0)
    state = pipe(prompt=PROMPT, latents=noise(range(7)), chunk_frames=2, cache_frames=3, **SIZE)
    want, _ = streamed(stock, [PROMPT] * 4, frames=2, first=1, guidance_scale=1.0)
    torch.testing.assert_close(state.get("latents")[:, :, :3], want[:, :, :3], **CLOSE)
    assert state.get("kv_cache").branch().positions == (4, 5, 6) and state.get("kv_cache").branch().capacity == 3


def test_wrong_use_is_named(loaded, stock):
    pipe = loaded(WanStreamBlocks(), 3.0)
    one = KVCache(10**7)
    with pytest.raises(InputError, match=r"branches \('main',\), the guider runs \('cond', 'uncond'\)"):
        pipe(prompt=PROMPT, latents=noise(range(3)), kv_cache=one, **SIZE)
    with pytest.raises(InputError, match="chunk_frames is 0"):
        pipe(prompt=PROMPT, latents=noise(range(3)), chunk_frames=0, **SIZE)
