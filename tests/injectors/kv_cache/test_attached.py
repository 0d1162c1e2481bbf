"""An attached KVCache leaves the model as it was, works in the stock pipeline, and composes with memory tokens."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.injectors import AttentionRecorder, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_pipeline
from tests.injectors.kv_cache.common import TIGHT, latents, new_cache, run, stream, text


def test_an_empty_cache_and_a_detached_one_are_bit_identical(model):
    x = latents(5)
    with torch.no_grad():
        base, cache = run(model, x), new_cache(model)
        with cache.attach(model) as attached:
            with attached.chunk(range(5)):
                assert torch.equal(run(model, x), base)
            with attached.chunk([p + 1 for p in range(5)]):
                shifted = run(model, x)
            assert differ(shifted, base)
            assert not cache.branch().positions and cache.branch().nbytes == 0  # nothing was written
        assert torch.equal(run(model, x), base)
    assert type(model.blocks[0].attn1.processor) is WanAttnProcessor
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_inside_the_stock_pipeline(model):
    pipe = random_pipeline()
    pipe.set_progress_bar_config(disable=True)

    def generate():
        arguments = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 3.0}
        return pipe("a ball", generator=torch.Generator().manual_seed(0), output_type="latent", **arguments).frames

    base, cache = generate(), new_cache(pipe.transformer, batch=1)
    with cache.attach(pipe.transformer) as attached:
        with attached.chunk([0, 1, 2]):
            assert torch.equal(generate(), base)
        with attached.chunk([0, 1, 2], write=True), torch.no_grad():
            run(pipe.transformer, base, prompt=text(1))
        with attached.chunk([3, 4, 5]):
            assert differ(generate(), base)
    assert torch.equal(generate(), base)


@pytest.mark.parametrize("cache_first", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_with_memory_tokens_the_chunk_sees_both(model, cache_first, ragged):
    """The shares of the memory tokens shrink when the cache holds frames, but remain; the order does not matter."""
    mask = torch.tensor([[True] * 3, [not ragged] * 3])
    memory = Memory(torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(4)), mask=mask)
    x, cache, recorder = latents(6), new_cache(model), AttentionRecorder()
    outs = []
    for order in (cache_first, not cache_first):
        cache.reset()
        recorder = AttentionRecorder()
        injectors = [cache, SelfAttentionConcat(memory, recorder=recorder)]
        with injectors[0 if order else 1].attach(model) as a, injectors[1 if order else 0].attach(model) as b:
            outs.append(stream(model, a if order else b, x, [[0, 1, 2], [3, 4, 5]]))
        alone, with_history = recorder.shares()
        assert (with_history < alone)[alone > 0].all() and (with_history > 0.01)[alone > 0].all()
    torch.testing.assert_close(outs[0], outs[1], **TIGHT)
    other = new_cache(model)
    with other.attach(model) as attached:
        without = stream(model, attached, x, [[0, 1, 2], [3, 4, 5]])
    assert differ(outs[0][0], without[0])
    assert torch.equal(outs[0][1], without[1]) if ragged else differ(outs[0][1], without[1])
