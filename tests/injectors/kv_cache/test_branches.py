"""Branches of a KVCache under one budget, and one cache for two experts."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.errors import InputError, MemkitError
from memkit.injectors import KVCache, frame_bytes
from tests.helpers.random_wan import random_transformer
from tests.injectors.kv_cache.common import TIGHT, dense, latents, new_cache, run, stream


def test_branches_are_caches_of_their_own_under_one_budget(model):
    cache = new_cache(model, frames=8, branches=("cond", "uncond"))
    xs = {"cond": latents(6), "uncond": latents(6, seed=3)}
    got = {}
    with cache.attach(model) as attached:
        for i, positions in enumerate([[0, 1, 2], [3, 4, 5]]):
            for name, x in xs.items():
                got[name] = stream(model, attached, x[:, :, 3 * i : 3 * i + 3], [positions], branch=name)
        with pytest.raises(InputError, match="no branch 'cnd'"):
            attached.chunk([6], branch="cnd")
        with pytest.raises(InputError, match="name one"):
            attached.chunk([6])
    for name, x in xs.items():
        alone = new_cache(model)
        with alone.attach(model) as attached:
            assert torch.equal(stream(model, attached, x, [[0, 1, 2], [3, 4, 5]])[:, :, 3:], got[name])
    assert sum(cache.branch(n).nbytes for n in cache.branches) == cache.budget_bytes
    cache.branch("cond").reset()
    assert cache.branch("cond").positions == () and cache.branch("uncond").positions == (0, 1, 2, 3, 4, 5)
    cache.reset()
    assert cache.branch("uncond").positions == ()


def test_two_experts_share_positions_and_nothing_else(model):
    other = random_transformer(1)
    cache = KVCache(8 * (frame_bytes(model, 4, 4, 2) + frame_bytes(other, 4, 4, 2)))
    first, second = latents(3), latents(3, seed=2)
    with cache.attach(model, other) as attached, torch.no_grad():
        with attached.chunk([0, 1, 2], write=True):
            run(model, first), run(other, first)
        with attached.chunk([3, 4, 5]):
            got = run(model, second), run(other, second)
        with pytest.raises(MemkitError, match="transformer 1 of 2"), attached.chunk([3, 4, 5], write=True):
            run(model, second)
    assert cache.branch().positions == (0, 1, 2) and cache.branch().capacity == 8
    for expert, seed, out in zip((model, other), (0, 1), got, strict=True):
        want = dense(torch.cat([first, second], 2), [[0, 1, 2], [3, 4, 5]], [[], [0, 1, 2]], seed)
        torch.testing.assert_close(out, want[:, :, 3:], **TIGHT)
        assert type(expert.blocks[0].attn1.processor) is WanAttnProcessor
