"""The three verbs of a KVCache, layer by layer, and branches by diffusers' ``cache_context``."""

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from torch.nn.functional import scaled_dot_product_attention

from memkit.errors import InputError, MemkitError
from memkit.generation.guidance import GuidedMemory
from memkit.injectors import BudgetError, KVCache, SelfAttentionConcat, frame_bytes
from memkit.memory import Memory
from tests.helpers.differ import differ
from tests.helpers.random_wan import random_pipeline, random_transformer
from tests.injectors.kv_cache.common import TIGHT, latents, new_cache, run, same_slots, text

BOTH = ("cond", "uncond")


def random_kv(frames, seed=0, tokens=4):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, frames * tokens, 2, 8, generator=generator) for _ in range(2))


# -- update, get, reset


def test_layers_are_written_and_read_by_themselves():
    cache = KVCache(10 * 2 * 3 * 4 * 16 * 4, num_layers=3)
    kv = [random_kv(2, seed) for seed in range(3)]
    for layer, (k, v) in enumerate(kv):
        assert cache.branch().positions == ()  # not before all layers are written
        assert cache.update(layer, [5, 2], k, v) == ()
        assert cache.layer(layer).positions == (2, 5)
        assert all(torch.equal(a, b) for a, b in zip(cache.get(layer, [5, 2]), (k, v), strict=True))
        assert torch.equal(cache.get(layer)[0], torch.cat([k[:, 4:], k[:, :4]], dim=1))  # in ascending order
    assert cache.branch().positions == (2, 5) and cache.branch().capacity == 10
    want = KVCache(10 * 2 * 3 * 4 * 16 * 4)
    want.branch().update([5, 2], kv)
    assert same_slots(cache.branch(), want.branch())

    cache.layer(1).reset()
    assert cache.branch().positions == cache.layer(1).positions == () and cache.layer(0).positions == (2, 5)
    with pytest.raises(InputError, match=r"no frame at \[2\]"):
        cache.get(1, [2])
    cache.update(1, [2], *random_kv(1))
    assert cache.branch().positions == (2,)
    for layer in range(3):
        cache.layer(layer).reset()
    cache.update(0, range(10), *random_kv(10))  # all slots are free again
    cache.reset()
    assert cache.layer(0).positions == () and cache.branch().nbytes > 0


def test_a_layer_evicts_in_all_layers_and_a_write_that_does_not_fit_changes_nothing():
    cache = KVCache(3 * 2 * 2 * 4 * 16 * 4, num_layers=2)
    for layer in range(2):
        cache.update(layer, [0, 1, 2], *random_kv(3, layer), pin=layer == 0)
    with pytest.raises(BudgetError):
        cache.update(0, [3], *random_kv(1))
    cache.branch().unpin([0, 1])
    with pytest.raises(InputError, match="reset"):
        cache.update(0, [3], *random_kv(1, tokens=5))
    assert cache.branch().positions == (0, 1, 2)
    assert cache.update(1, [3], *random_kv(1)) == (0,)
    assert cache.layer(0).positions == cache.branch().positions == (1, 2)
    assert cache.layer(1).positions == (1, 2, 3)


def test_layers_are_known_after_attaching_and_must_agree(model):
    cache = new_cache(model)
    with pytest.raises(InputError, match="no layer 0"):
        cache.update(0, [0], *random_kv(1))
    with cache.attach(model):
        assert cache.branch().layers == len(model.blocks)
        with pytest.raises(InputError, match="no layer 7"):
            cache.layer(7)
    with pytest.raises(InputError, match="num_layers=2, the transformers have 3"):
        KVCache(10**6, num_layers=2).attach(model)


class CachedSelfAttention:
    """A processor of one's own: reads and writes the cache by hand, as the verbs are meant to be used."""

    _attention_backend = _parallel_config = None

    def __init__(self, cache, layer, positions, table):
        self.cache, self.layer, self.positions, self.table = cache, layer, positions, table

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q, k = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, attn.to_v(hidden)))
        q, k = (self.rotate(x) for x in (q, k))
        self.cache.update(self.layer, self.positions, k, v)
        k, v = self.cache.get(self.layer)
        out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def rotate(self, x):
        cos, sin = (t[..., 0::2] for t in self.table)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def test_a_processor_of_ones_own_equals_the_attached_cache(model):
    """Two chunks of two frames; each layer updates the cache and attends to all of it."""
    x, cache, own = latents(4), new_cache(model), random_transformer(0)
    tables = own.rope(x)
    with cache.attach(model) as attached, torch.no_grad():
        want = []
        for start in (0, 2):
            with attached.chunk([start, start + 1], write=True):
                want.append(run(model, x[:, :, start : start + 2]))
    by_hand = KVCache(cache.budget_bytes, num_layers=len(own.blocks))
    for start, out in zip((0, 2), want, strict=True):
        table = [t[:, 4 * start : 4 * start + 8] for t in tables]
        for layer, block in enumerate(own.blocks):
            block.attn1.set_processor(CachedSelfAttention(by_hand, layer, [start, start + 1], table))
        with torch.no_grad():
            torch.testing.assert_close(run(own, x[:, :, start : start + 2]), out, **TIGHT)
    for layer in range(len(own.blocks)):
        for a, b in zip(cache.get(layer), by_hand.get(layer), strict=True):
            torch.testing.assert_close(a, b, **TIGHT)


# -- branches by cache_context


def test_a_context_names_the_branch(model):
    by_name, by_context = (new_cache(model, branches=BOTH) for _ in range(2))
    xs = dict(zip(BOTH, (latents(3), latents(3, seed=5)), strict=True))
    with by_name.attach(model) as attached, torch.no_grad():
        for name in BOTH:
            with attached.chunk([0, 1, 2], name, write=True):
                run(model, xs[name])
    own = model.cache_context
    with by_context.attach(model) as attached, torch.no_grad():
        with model.cache_context("cond"), attached.chunk([0, 1, 2], write=True):
            assert by_context.branch() is by_context.branch("cond")
            run(model, xs["cond"])
        with attached.chunk([0, 1, 2], BOTH, write=True):
            for name in BOTH:
                with model.cache_context(name):
                    run(model, xs[name])
            assert by_context.branch("uncond").positions == ()
        with pytest.raises(InputError, match="name one"):
            by_context.branch()
    assert model.cache_context == own
    for name in BOTH:
        assert same_slots(by_name.branch(name), by_context.branch(name))


def test_a_cache_that_follows_a_model_hears_its_contexts(model):
    cache, kv = KVCache(10**6, BOTH, num_layers=1), {name: random_kv(1, seed) for seed, name in enumerate(BOTH)}
    own = model.cache_context
    with cache.follow(model):
        for name in BOTH:
            with model.cache_context(name):
                cache.update(0, [4], *kv[name])
        with model.cache_context("uncond"):
            assert torch.equal(cache.get(0)[0], kv["uncond"][0])
    assert torch.equal(cache.get(0, branch="cond")[0], kv["cond"][0]) and model.cache_context == own
    with model.cache_context("cond"), pytest.raises(InputError, match="name one"):
        cache.get(0)


def test_the_stock_pipeline_streams_with_guidance(model):
    """One chunk around the whole pipeline; each of its passes reads its own branch."""
    pipe = random_pipeline()
    pipe.set_progress_bar_config(disable=True)
    model, cache = pipe.transformer, new_cache(pipe.transformer, batch=1, branches=BOTH)
    prompts = dict(zip(BOTH, pipe.encode_prompt("a ball", "nothing", max_sequence_length=512), strict=True))
    with cache.attach(model) as attached, torch.no_grad():
        for name in BOTH:
            with attached.chunk([0, 1, 2], name, write=True):
                run(model, latents(3, 1, seed=len(name)), prompt=prompts[name])

        x = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        size = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 3.0}
        with attached.chunk([3, 4, 5], cache.branches) as chunk:
            got = pipe("a ball", "nothing", latents=x, output_type="latent", **size).frames
        assert chunk.read == (0, 1, 2)

        pipe.scheduler.set_timesteps(2)
        for t in pipe.scheduler.timesteps:
            passes = []
            for name in BOTH:
                with attached.chunk([3, 4, 5], name):
                    passes.append(model(x, t.expand(1), prompts[name], return_dict=False)[0])
            x = pipe.scheduler.step(passes[1] + 3.0 * (passes[0] - passes[1]), t, x, return_dict=False)[0]
    torch.testing.assert_close(got, x, **TIGHT)


def test_passes_that_no_branch_is_meant_for_are_refused(model):
    cache = new_cache(model, branches=BOTH)
    with cache.attach(model) as attached, torch.no_grad():
        with attached.chunk([0, 1, 2], BOTH):
            with pytest.raises(InputError, match="outside of any cache_context"):
                run(model, latents(3))
            with model.cache_context("third"), pytest.raises(InputError, match="'third'"):
                run(model, latents(3))
        with pytest.raises(InputError, match="no branch 'third'"):
            attached.chunk([0], ("cond", "third"))
        with pytest.raises(MemkitError, match="branch 'uncond'; nothing"):
            chunk = attached.chunk([0, 1, 2], BOTH, write=True)
            with chunk, model.cache_context("cond"):
                run(model, latents(3))
    assert cache.branch("cond").positions == ()

    one = new_cache(model)
    with one.attach(model) as attached, torch.no_grad():
        with pytest.raises(InputError, match="last, 'uncond'"), attached.chunk([0, 1, 2], write=True):
            for name in BOTH:
                with model.cache_context(name):
                    run(model, latents(3))
        with attached.chunk([0, 1, 2], write=True):  # a clean pass at the end, outside the pipeline
            for name in BOTH:
                with model.cache_context(name):
                    run(model, latents(3))
            run(model, latents(3))
    assert one.branch().positions == (0, 1, 2)


@pytest.mark.parametrize("cache_first", [True, False])
def test_other_listeners_of_the_context_come_and_go(model, cache_first):
    """Guided memory hears the same contexts, and diffusers' own caches still do."""
    memory = Memory(torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(4)))
    cache, guided = new_cache(model, branches=BOTH), GuidedMemory(SelfAttentionConcat(memory), "conditional")
    for name in BOTH:
        with cache.attach(model) as attached, torch.no_grad(), attached.chunk([0, 1, 2], name, write=True):
            run(model, latents(3))
    own = model.cache_context

    def passes(attached):
        outs = {}
        with attached.chunk([3, 4, 5], BOTH), torch.no_grad():
            for name in BOTH:
                with model.cache_context(name):
                    outs[name] = run(model, latents(3, seed=8))
        return outs

    first, second = (cache, guided) if cache_first else (guided, cache)
    a, b = first.attach(model), second.attach(model)
    seen = passes(a if cache_first else b)
    assert differ(seen["cond"], seen["uncond"])  # only the one sees the memory
    (b if cache_first else a).detach()
    without = passes(a if cache_first else b)
    assert torch.equal(without["cond"], without["uncond"]) and torch.equal(seen["uncond"], without["uncond"])
    (a if cache_first else b).detach()
    assert model.cache_context == own

    model.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    attached = cache.attach(model)
    with torch.no_grad(), attached.chunk([3, 4, 5], BOTH), model.cache_context("cond"):
        torch.testing.assert_close(run(model, latents(3, seed=8)), without["cond"], **TIGHT)
    attached.detach()


def test_two_experts_hear_contexts_of_their_own(model):
    other = random_transformer(1)
    cache = KVCache(16 * (frame_bytes(model, 4, 4, 2) + frame_bytes(other, 4, 4, 2)), BOTH)
    with cache.attach(model, other) as attached, torch.no_grad(), attached.chunk([0, 1, 2], BOTH, write=True):
        for expert in (model, other):
            for name in BOTH:
                with expert.cache_context(name):
                    run(expert, latents(3), prompt=text() if name == "cond" else 0 * text())
    assert all(cache.branch(name).positions == (0, 1, 2) for name in BOTH)
    assert differ(cache.get(1, branch="cond")[0], cache.get(1, branch="uncond")[0])
