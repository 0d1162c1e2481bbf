"""`BlockLayers`: what a layer gets and replaces; `ReferenceAttention` against attention by its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.errors import InputError
from memkit.injectors import BlockLayer, BlockLayers, ReferenceAttention
from memkit.testing import check_injector
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.random_wan import random_transformer


class Shifted(BlockLayer):
    """Before the attention, adds the number of each frame; after it, takes the output of the frame before."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.3))

    def enter(self, hidden: Tensor, context: float) -> Tensor:
        return hidden + context * self.scale * torch.arange(hidden.shape[1])[:, None, None]

    def leave(self, hidden: Tensor, out: Tensor, context: float) -> Tensor:
        return out.roll(1, dims=1) + hidden


def test_layers_run_before_and_after_the_self_attention_of_their_blocks():
    model = random_transformer()
    with torch.no_grad(), BlockLayers({1: Shifted()}, context=2.0).attach(model):
        out = call(model)
    attn = model.blocks[1].attn1
    forward = attn.forward

    def by_hand(hidden, *others):
        hidden = hidden + 0.6 * torch.arange(3).repeat_interleave(4)[:, None]
        return forward(hidden, *others).roll(4, dims=1) + hidden

    attn.forward = by_hand
    with torch.no_grad():
        torch.testing.assert_close(out, call(model), atol=1e-5, rtol=1e-5)


def test_layers_have_the_properties_of_injectors_and_parameters_of_their_own():
    layers = BlockLayers({0: Shifted(), 2: Shifted()}, context=1.0)
    assert len(check_injector(layers, random_transformer(), plain=call).properties) == 11
    assert list(layers.state_dict()) == ["layers.0.scale", "layers.2.scale"]
    model = random_transformer()
    with layers.attach(model), BlockLayers({0: Shifted()}, context=1.0).attach(model):
        call(model).sum().backward()
    assert all(p.grad.abs() > 0 for p in layers.parameters())


def test_layers_keep_their_dtype_in_a_model_of_another():
    model = random_transformer().bfloat16()
    x, text, t = (seeded(*shape).bfloat16() for shape in ((1, 16, 3, 4, 4), (1, 6, 32), (1,)))
    plain = model(x, 900 + t, text, return_dict=False)[0]
    layer = ReferenceAttention(48, 2, features=(3,))
    with BlockLayers({0: layer}, context=(seeded(1, 6, 3),)).attach(model):
        assert torch.equal(model(x, 900 + t, text, return_dict=False)[0], plain)
        torch.nn.init.normal_(layer.to_out.weight)
        assert not torch.equal(model(x, 900 + t, text, return_dict=False)[0], plain)


def test_what_does_not_fit_is_refused():
    model = random_transformer()
    with pytest.raises(InputError, match=r"blocks \[3\]"):
        BlockLayers({3: Shifted()}).attach(model)
    queries = ATTACHABLES["query_layers"]()
    refused = pytest.raises(InputError, match="Layers in its blocks cannot act")
    with BlockLayers({0: Shifted()}, context=1.0).attach(model), queries.thing.attach(model) as attached, refused:
        queries.forward(model, attached)
    read = ReferenceAttention(8, 2, features=(3, 5))
    hidden = torch.zeros(1, 2, 4, 8)
    for context in ((torch.zeros(1, 6, 3),), (torch.zeros(1, 6, 3), torch.zeros(1, 7, 5))):
        with pytest.raises(InputError, match="2 kinds"):
            read.leave(hidden, hidden, context)
    with pytest.raises(InputError, match="do not fit"):
        ReferenceAttention(8, 3, features=(3,))


def test_references_are_read_by_cross_attention_without_positions():
    torch.manual_seed(0)
    layer = ReferenceAttention(8, 2, features=(3, 5))
    torch.nn.init.normal_(layer.to_out.weight)
    hidden, out = seeded(2, 3, 4, 8), seeded(2, 3, 4, 8, seed=1)
    first, second = seeded(1, 6, 3, seed=2), seeded(2, 6, 5, seed=3)
    tokens = layer.features[0](first) + layer.features[1](second)
    dense = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    dense.in_proj_weight.data = torch.cat([layer.to_q.weight, layer.to_kv.weight])
    dense.in_proj_bias.data = torch.cat([layer.to_q.bias, layer.to_kv.bias])
    dense.out_proj.load_state_dict(layer.to_out.state_dict())
    expected = out + dense(hidden.flatten(1, 2), tokens, tokens)[0].view_as(out)
    torch.testing.assert_close(layer.leave(hidden, out, (first, second)), expected, atol=1e-5, rtol=1e-5)
    order = torch.randperm(6)
    turned = layer.leave(hidden, out, (first[:, order], second[:, order]))
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ReferenceAttention(8, 2, (3, 5)).leave(hidden, out, (first, second)), out)
