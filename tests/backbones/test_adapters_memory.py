"""Memory tokens in the self-attention of every model that has an adapter, against attention by its definition."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import adapter_of
from memkit.backbones.attached import attached_to
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.backbones import BACKBONES
from tests.helpers.tiny_backbones import by_definition, seeded


def tokens_for(model, batch=2, count=5):
    return seeded(batch, count, adapter_of(model).sizes(model).width, seed=7)


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param]


@torch.no_grad()
def test_the_definition_is_that_of_the_stock_model(backbone):
    model = backbone.make()
    base = backbone.call(model)
    with by_definition(backbone, model):
        torch.testing.assert_close(backbone.call(model), base, rtol=0, atol=1e-5)
    assert torch.equal(backbone.call(model), base)


@torch.no_grad()
def test_memory_tokens_are_further_keys_and_values_of_the_softmax(backbone):
    model = backbone.make()
    tokens, base = tokens_for(model), backbone.call(model)
    with by_definition(backbone, model, tokens):
        want = backbone.call(model)
    with SelfAttentionConcat(Memory(tokens)).attach(model):
        got = backbone.call(model)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (want - base).abs().amax(dim=tuple(range(1, base.ndim))).min() > 1e-3


@torch.no_grad()
def test_masked_memory_and_detaching_are_bit_identical_to_no_memory(backbone):
    model = backbone.make()
    tokens, base = tokens_for(model), backbone.call(model)
    with SelfAttentionConcat(Memory(tokens * torch.nan, mask=torch.zeros(2, 5, dtype=torch.bool))).attach(model):
        assert torch.equal(backbone.call(model), base)
    one_without = torch.tensor([[True] * 5, [False] * 5])
    with SelfAttentionConcat(Memory(tokens, mask=one_without)).attach(model):
        out = backbone.call(model)
        assert torch.equal(out[1], base[1]) if backbone.exact else torch.allclose(out[1], base[1], rtol=0, atol=1e-5)
        assert not torch.equal(out[0], base[0])
    assert torch.equal(backbone.call(model), base)
    assert attached_to(model) == () and not [name for name in vars(model) if "memkit" in name]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@torch.no_grad()
def test_two_memories_are_one_and_a_mask_leaves_tokens_out(backbone):
    model = backbone.make()
    tokens = tokens_for(model)
    with SelfAttentionConcat(Memory(tokens)).attach(model):
        whole = backbone.call(model)
    first, second = (SelfAttentionConcat(Memory(part)) for part in (tokens[:, :2], tokens[:, 2:]))
    with second.attach(model), first.attach(model):
        torch.testing.assert_close(backbone.call(model), whole, rtol=0, atol=1e-5)
    longer = torch.cat([tokens, 9 * tokens], dim=1)
    with SelfAttentionConcat(Memory(longer, mask=torch.tensor([[True] * 5 + [False] * 5] * 2))).attach(model):
        torch.testing.assert_close(backbone.call(model), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_memory_reads_the_projections_that_the_model_reads(backbone):
    model = backbone.make()
    memory = SelfAttentionConcat(Memory(tokens_for(model)))
    if hasattr(model, "fuse_qkv_projections"):  # AnyFlow cannot fuse them
        model.fuse_qkv_projections()

    def with_memory():
        with memory.attach(model):
            return backbone.call(model)

    plain, seen = backbone.call(model), with_memory()
    for block in adapter_of(model).blocks(model):
        attn = adapter_of(model).attention(block)
        for i, linear in enumerate((attn.to_k, attn.to_v)):
            linear.weight += 0.1 * seeded(*linear.weight.shape, seed=i)
    if torch.equal(backbone.call(model), plain):  # the model reads to_qkv, which did not change
        assert torch.equal(with_memory(), seen)
    else:
        with by_definition(backbone, model, tokens_for(model)):
            want = backbone.call(model)
        torch.testing.assert_close(with_memory(), want, rtol=0, atol=1e-5)


def test_gradients_of_memory_are_the_same_with_checkpointing(backbone):
    model, gradients = backbone.make().train(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        tokens = tokens_for(model).requires_grad_()
        with SelfAttentionConcat(Memory(tokens)).attach(model):
            backbone.call(model).square().sum().backward()
        assert tokens.grad is not None
        gradients.append(tokens.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)
    assert gradients[0].abs().sum() > 0
