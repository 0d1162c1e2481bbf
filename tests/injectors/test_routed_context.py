"""`RoutedContext`: the chunks that are chosen, and attention over them against a dense masked softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.errors import InputError, MemkitError
from memkit.injectors import AttentionRecorder, KVCache, RoutedContext, SelfAttentionConcat
from memkit.memory import Memory
from memkit.testing import check_injector
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.random_wan import random_transformer


def chosen(q: Tensor, k: Tensor, chunks: int, top: int, causal: bool) -> Tensor:
    """Which chunks each query sees in each head, query by query."""
    batch, tokens, heads, _ = q.shape
    length = tokens // chunks
    seen = torch.zeros(batch, heads, tokens, chunks, dtype=torch.bool)
    for b, s, h in ((b, s, h) for b in range(batch) for s in range(tokens) for h in range(heads)):
        own = s // length
        others = [c for c in range(chunks) if (c < own if causal else c != own)]
        score = {c: float(q[b, s, h] @ k[b, c * length : (c + 1) * length, h].mean(0)) for c in others}
        seen[b, h, s, [own, *sorted(others, key=lambda c: -score[c])[:top]]] = True
    return seen


def dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, extra: Tensor | None = None) -> Tensor:
    """Masked softmax attention in float64, over keys and ``extra`` keys that all queries see."""
    q, k, v = q.double(), k.double(), v.double()
    logits = torch.einsum("bshd,bkhd->bhsk", q, k) * q.shape[-1] ** -0.5
    mask = allowed.repeat_interleave(k.shape[1] // allowed.shape[3], 3)
    logits = logits.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhsk,bkhd->bshd", logits.softmax(-1), v)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("top", [0, 1, 3, 9])
def test_the_chunks_are_those_with_the_best_mean_keys_and_attention_is_over_them(top, causal, monkeypatch) -> None:
    q, k, v = (seeded(2, 12, 3, 8, seed=i) for i in range(3))
    router = RoutedContext(top, causal=causal)
    route = router.routes(q, k, 4)
    assert torch.equal(route, chosen(q, k, 4, top, causal))
    assert int(route.sum()) * 3 == 2 * 3 * router.pairs(4, 3)[0]  # keys of three tokens, in two samples and three heads
    want = dense(q, k, v, route)
    for most in (1 << 26, 50):  # in one part, and query by query
        monkeypatch.setattr("memkit.attention.MAX_LOGITS", most)
        got = grouped_attention({"X": q}, {"X": (k, v)}, {"X": ("X",)}, routes={("X", "X"): route})["X"]
        torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
    routed, every = RoutedContext(3).pairs(21, 1560)  # Wan at 480p, for which the paper states 81 %
    assert round(100 * (1 - routed / every)) == 81
    if top >= 3 and not causal:
        assert route.all() and router.pairs(4, 3) == (144, 144)


@torch.no_grad()
def test_with_all_chunks_a_model_is_dense_and_with_none_its_frames_are_apart() -> None:
    model = random_transformer()
    base, x = call(model), seeded(2, 16, 3, 4, 4, seed=1)
    with RoutedContext(k=2).attach(model):
        torch.testing.assert_close(call(model), base, rtol=0, atol=1e-5)
    with RoutedContext(k=1).attach(model):
        assert (call(model) - base).abs().max() > 1e-3
    with RoutedContext(k=0).attach(model):
        alone = call(model)
        for changed in range(3):
            other = x.clone()
            other[:, :, changed] += 1
            moved = (call(model, other) - alone).abs().amax((0, 1, 3, 4)) > 1e-6
            assert moved.tolist() == [frame == changed for frame in range(3)]
    with RoutedContext(k=2, causal=True).attach(model):
        causal, later = call(model), x.clone()
        later[:, :, 2] += 1
        assert (call(model, later) - causal)[:, :, :2].abs().max() < 1e-6
    assert torch.equal(call(model), base)


@torch.no_grad()
def test_other_memory_is_seen_in_full_in_any_order_of_attaching() -> None:
    model, router = random_transformer(), RoutedContext(k=0)
    mask = torch.tensor([[True] * 5, [False] * 5])  # a sample without memory
    gate = torch.full((3, 2), 0.5)
    for memory in (Memory(seeded(2, 5, 48, seed=4), mask=mask), Memory(seeded(1, 5, 48, seed=4), gate=gate)):
        outs = []
        for first in (True, False):
            injector = SelfAttentionConcat(memory)
            one, two = (router, injector) if first else (injector, router)
            with one.attach(model), two.attach(model):
                outs.append(call(model))
        torch.testing.assert_close(*outs, rtol=0, atol=1e-6)
        with router.attach(model):
            alone = call(model)
        assert (outs[0] - alone)[0].abs().max() > 1e-3
        assert memory.mask is None or torch.equal(outs[0][1], alone[1])
    recorder = AttentionRecorder()
    with router.attach(model), SelfAttentionConcat(Memory(seeded(1, 4, 48)), recorder).attach(model):
        call(model)
    routed = recorder.shares().mean()
    recorder = AttentionRecorder()
    with SelfAttentionConcat(Memory(seeded(1, 4, 48)), recorder).attach(model):
        call(model)
    assert routed > 1.3 * recorder.shares().mean()  # of 4 + 4 keys, not of 12 + 4


def test_in_training_choices_are_dropped_off_and_in() -> None:
    q, k = seeded(1, 40, 2, 8), seeded(1, 40, 2, 8, seed=1)
    router = RoutedContext(k=4, drop_off=1.0, drop_in=2.0)
    still = router.routes(q, k, 10)
    assert torch.equal(still, chosen(q, k, 10, 4, False)) and torch.equal(router.routes(q, k, 10), still)
    torch.manual_seed(0)
    off = torch.stack([RoutedContext(k=4, drop_off=1.0).routes(q, k, 10, True) for _ in range(40)])
    assert not (off & ~still).any() and {int(n) for n in off.sum(-1).flatten()} == {2, 3, 4, 5}
    added = torch.stack([RoutedContext(k=4, drop_in=2.0).routes(q, k, 10, True) for _ in range(40)]) & ~still
    assert (added.sum(-1).float().mean() - 2 * 5 / 10).abs() < 0.1  # half of the random chunks are seen already
    assert off.gather(-1, (torch.arange(40) // 4).expand(40, 1, 2, 40)[..., None]).all()  # its own chunk is never off


def test_it_has_the_properties_of_an_injector_and_refuses_what_it_cannot_route() -> None:
    report = check_injector(RoutedContext(k=1), random_transformer(), plain=call)
    assert len(report.properties) == 11
    model, router = random_transformer(), RoutedContext(k=1)
    with router.attach(model):
        with pytest.raises(InputError, match="which frames see each other"):
            ATTACHABLES["teacher_forcing"]().thing.attach(model)
        queries = ATTACHABLES["query_layers"]()
        with queries.thing.attach(model) as attached, pytest.raises(InputError, match="no whole chunks"):
            queries.forward(model, attached)
        cache, recorder = KVCache(10**7), AttentionRecorder()
        with cache.attach(model) as attached, torch.no_grad():
            with attached.chunk(range(3), write=True):
                call(model)
            with attached.chunk(range(3, 6), recorder=recorder), pytest.raises(InputError, match="does not know"):
                call(model)
            with attached.chunk(range(3, 6)):
                assert call(model).isfinite().all()
    with RoutedContext(k=1, frames=2).attach(model), pytest.raises(MemkitError, match="no whole chunks of 8"):
        call(model)
