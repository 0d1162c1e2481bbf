"""The budget of a KVCache in bytes."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from memkit.errors import InputError
from memkit.injectors import BudgetError, KVCache, frame_bytes
from tests.injectors.kv_cache.common import fill, latents, new_cache, run, text


def test_the_size_of_a_frame_is_what_the_papers_models_need():
    sizes = []
    for layers, heads in ((30, 12), (40, 40)):
        with torch.device("meta"):
            wan = WanTransformer3DModel(num_layers=layers, num_attention_heads=heads)
        sizes.append(21 * frame_bytes(wan, 60, 104, dtype=torch.bfloat16) / 1e9)
    assert [round(s, 1) for s in sizes] == [6.0, 26.8]


def test_pinned_frames_alone_beyond_the_budget_are_an_error_before_the_model_runs(model):
    cache = new_cache(model, frames=4)
    with cache.attach(model) as attached:
        fill(model, attached)
        cache.branch().pin([0, 1])
        held = [x.clone() for x in cache.branch().get(2)]
        with pytest.raises(BudgetError, match=f"2 are pinned.*{5 * frame_bytes(model, 4, 4, 2)} bytes"):
            attached.chunk([3, 4, 5], write=True)
        with attached.chunk([3, 4, 5]), torch.no_grad():  # reading needs no room
            run(model, latents(3))
        assert cache.branch().positions == (0, 1, 2)
        assert all(torch.equal(a, b) for a, b in zip(held, cache.branch().get(2), strict=True))
        cache.branch().unpin([1])
        with attached.chunk([3, 4, 5], write=True) as chunk, torch.no_grad():
            run(model, latents(3))
        assert chunk.evicted == (1, 2) and cache.branch().positions == (0, 3, 4, 5)
    small = new_cache(model, frames=2)
    with small.attach(model) as attached, pytest.raises(BudgetError, match="holds 2 frames"):
        fill(model, attached)


def test_bfloat16(model):
    model = model.to(torch.bfloat16)
    cache = KVCache(6 * frame_bytes(model, 4, 4, 2))
    with cache.attach(model) as attached, torch.no_grad():
        for positions in ([0, 1, 2], [3, 4, 5]):
            with attached.chunk(positions, write=True):
                out = run(model, latents(3).bfloat16(), prompt=text().bfloat16())
        with attached.chunk([6]), pytest.raises(InputError, match="bfloat16"):
            run(model.float(), latents(1))
    assert out.isfinite().all() and cache.branch().nbytes == cache.budget_bytes
    assert cache.branch().get(0)[0].dtype == torch.bfloat16
