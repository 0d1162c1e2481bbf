"""`TextRegions` against cross-attention with a dense mask, and when it acts."""

from __future__ import annotations

import pytest
import torch

from memkit.errors import InputError
from memkit.injectors import TextRegions
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.random_wan import random_transformer

INDEX = torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1], [0, 0, 2, 2]])
TEXTS = [seeded(2, 5, 32, seed=3), seeded(1, 7, 32, seed=4)]


class Masked(torch.nn.Module):
    """Cross-attention to all texts at once, with a mask of the region of each token."""

    def __init__(self, attn: torch.nn.Module, texts: list[torch.Tensor]) -> None:
        super().__init__()
        self.attn, self.texts = attn, texts

    def forward(self, hidden: torch.Tensor, own: torch.Tensor, *_: object) -> torch.Tensor:
        attn, texts = self.attn, [own, *self.texts]
        q = attn.norm_q(attn.to_q(hidden)).unflatten(2, (2, -1))
        k = torch.cat([attn.norm_k(attn.to_k(text)) for text in texts], 1).unflatten(2, (2, -1))
        v = torch.cat([attn.to_v(text) for text in texts], 1).unflatten(2, (2, -1))
        owner = torch.cat([torch.full((text.shape[1],), i) for i, text in enumerate(texts)])
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        logits = logits.masked_fill(INDEX.flatten()[:, None] != owner, -torch.inf)
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v).flatten(2))


@torch.no_grad()
def test_each_token_attends_to_the_text_of_its_region_alone() -> None:
    model, dense = random_transformer(), random_transformer()
    embedded = [model.condition_embedder.text_embedder(text).expand(2, -1, -1) for text in TEXTS]
    for block in dense.blocks:
        block.attn2 = Masked(block.attn2, embedded)
    plain = call(model)
    with TextRegions(INDEX, TEXTS, context=None).attach(model):
        out = call(model)
    torch.testing.assert_close(out, call(dense), rtol=0, atol=1e-5)
    assert (out - plain).abs().max() > 1e-3 and torch.equal(call(model), plain)
    with TextRegions(0 * INDEX, TEXTS, context=None).attach(model):
        assert torch.equal(call(model), plain)
    everywhere = TextRegions(0 * INDEX + 1, [seeded(2, 6, 32, seed=9)], context=None)  # the text of `call`
    with everywhere.attach(model):
        torch.testing.assert_close(call(model), plain, rtol=0, atol=1e-6)


@torch.no_grad()
def test_it_acts_in_the_conditional_pass_on_frames_alone() -> None:
    model = random_transformer()
    plain = call(model)
    with TextRegions(INDEX, TEXTS).attach(model):
        with model.cache_context("cond"):
            assert not torch.allclose(call(model), plain, atol=1e-3)
        with model.cache_context("uncond"):
            assert torch.equal(call(model), plain)
        assert torch.equal(call(model), plain)
        other = ATTACHABLES["query_layers"]()
        with other.thing.attach(model) as on, pytest.raises(InputError, match="one per token"):
            other.forward(model, on)
        with pytest.raises(InputError, match="one per token"):
            call(model, seeded(2, 16, 2, 4, 4))
    with pytest.raises(InputError, match="from 0 to 2"):
        TextRegions(INDEX + 1, TEXTS)
    with pytest.raises(InputError, match="no cross-attention"):
        TextRegions(INDEX, TEXTS).attach(random_transformer(added_kv_proj_dim=48, image_dim=16))
