"""Everything that attaches to a model, with diffusers' caches.

A cell holds if denoising steps with the cache and the attachment give what a plain model gives whose layers' outputs
are replaced by the rule of the cache; before, while and after it is attached, without a reset by the caller.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_first_block_cache
from torch import Tensor

from memkit.errors import MemkitError
from memkit.injectors import AttentionRecorder, KVCache, SelfAttentionConcat, frame_bytes
from memkit.memory import Memory
from tests.compat.caches import CACHES, STEPS, Denoising
from tests.helpers.attachables import ATTACHABLES, EVERYTHING, FURTHER, Attachable, call, seeded
from tests.helpers.random_wan import random_transformer

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def denoise(
    model: Any, now: Denoising, passes: tuple[str, ...], one: Attachable | None = None, on: Any = None
) -> Tensor:
    """The outputs of some steps, on other latents each, in each pass."""
    outs = []
    x, *rest = (one and one.inputs) or (seeded(2, 16, 3, 4, 4, seed=1),)
    now.forget()
    with model.cache_context("before"):
        inside = nullcontext() if one is None else one.inside(model, on)
    now.forget()
    with inside:
        for now.step in range(STEPS):
            for i, now.name in enumerate(passes):
                about = {"step_index": now.step, "sigma": 0.9 - 0.1 * now.step, "num_inference_steps": STEPS + 1}
                with model.cache_context(now.name, **about):
                    outs.append(call(model, x + seeded(*x.shape, seed=10 * now.step + i), *rest))
    return torch.stack(outs)


@functools.cache
def reference(cache: str, passes: tuple[str, ...], name: str | None = None) -> Tensor:
    """Denoising with the cache as it is written out, with one attachment or none."""
    model, now = random_transformer(), Denoising()
    CACHES[cache].reference(model, now)
    if name is None:
        return denoise(model, now, passes)
    one = EVERYTHING[name]()
    with one.thing.attach(model) as attached:
        return denoise(model, now, passes, one, attached)


@pytest.mark.parametrize("cache", CACHES)
def test_the_references_are_the_caches(cache: str) -> None:
    model, now, passes = random_transformer(), Denoising(), ("cond", "uncond")[: 1 + CACHES[cache].by_pass]
    every = denoise(model, now, passes)
    model.enable_cache(CACHES[cache].config(now))
    got = denoise(model, now, passes)
    torch.testing.assert_close(got, reference(cache, passes), rtol=0, atol=1e-6)
    assert torch.equal(got, every) == (cache == "text_kv")


CELLS = [
    *itertools.product(CACHES, ATTACHABLES, ("cache_first", "attached_first")),
    *(("first_block", name, "cache_first") for name in FURTHER),
]


@pytest.mark.parametrize(("cache", "name", "first"), CELLS)
def test_cell(cache: str, name: str, first: str) -> None:
    row, model, one, now = CACHES[cache], random_transformer(), EVERYTHING[name](), Denoising()
    passes = ("cond", "uncond") if name == "guided_memory" else ("cond",)
    if first == "cache_first":
        model.enable_cache(row.config(now))
        without = denoise(model, now, passes)
    if name in row.refused:
        with pytest.raises(MemkitError, match=row.refused[name].match), one.thing.attach(model) as attached:
            model.enable_cache(row.config(now))
            denoise(model, now, passes, one, attached)
        return
    with one.thing.attach(model) as attached:
        if first == "attached_first":
            model.enable_cache(row.config(now))
        got = denoise(model, now, passes, one, attached)
    torch.testing.assert_close(got, reference(cache, passes, name), rtol=0, atol=1e-6)
    after = denoise(model, now, passes)
    torch.testing.assert_close(after, reference(cache, passes), rtol=0, atol=1e-6)
    if first == "cache_first":
        assert torch.equal(after, without)


@pytest.mark.parametrize("cache", [cache for cache in CACHES if cache != "text_kv"])
@pytest.mark.parametrize("name", ["kv_cache", "frame_context", "teacher_forcing", "pm_rope"])
def test_a_chunk_reuses_nothing_of_another(cache: str, name: str) -> None:
    """The first step of a chunk is what it is without a cache."""
    model, one, now = random_transformer(), ATTACHABLES[name](), Denoising()
    with one.thing.attach(model) as attached:
        x, *rest = one.inputs or (seeded(2, 16, 3, 4, 4, seed=1),)
        with one.inside(model, attached):
            want = call(model, 2 * x, *rest)
        model.enable_cache(CACHES[cache].config(now))
        denoise(model, now, ("cond",), one, attached)
        now.forget()
        with model.cache_context("cond"), one.inside(model, attached):
            assert torch.equal(call(model, 2 * x, *rest), want)


def test_caches_that_are_applied_by_their_functions_are_known_too() -> None:
    model = random_transformer()
    apply_first_block_cache(model, FirstBlockCacheConfig())
    with pytest.raises(MemkitError, match="FBCHeadBlock"), ATTACHABLES["query_layers"]().thing.attach(model):
        pass


def test_shares_of_attention_are_not_recorded_where_blocks_may_be_skipped() -> None:
    model, recorder = random_transformer(), AttentionRecorder()
    model.enable_cache(FirstBlockCacheConfig())
    cache = KVCache(40 * frame_bytes(model, 4, 4, 2))
    memory = SelfAttentionConcat(Memory(seeded(1, 5, 48)), recorder)
    with memory.attach(model), model.cache_context("cond"), pytest.raises(MemkitError, match="recorder"):
        call(model)
    with (
        cache.attach(model) as attached,
        pytest.raises(MemkitError, match="recorder"),
        attached.chunk(range(3), recorder=recorder),
    ):
        call(model)


def test_history_guidance_is_refused_with_a_cache() -> None:
    model, one = random_transformer(), ATTACHABLES["frame_context"]()
    model.enable_cache(FirstBlockCacheConfig())
    with (
        one.thing.attach(model) as attached,
        pytest.raises(MemkitError, match="history"),
        attached.chunk(seeded(2, 16, 2, 4, 4), history_guidance=2.0),
    ):
        call(model)


def test_a_write_that_a_cache_would_skip_is_refused() -> None:
    model = random_transformer()
    cache = KVCache(40 * frame_bytes(model, 4, 4, 2))
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with cache.attach(model) as attached, model.cache_context("cond"):
        with pytest.raises(MemkitError, match="nothing was written"), attached.chunk(range(3), write=True):
            call(model)
            call(model)  # skips all blocks but the first
        assert cache.branch().positions == ()
        with attached.chunk(range(3), write=True):
            call(model)
    assert cache.branch().positions == (0, 1, 2)
