"""`TokenPositions`: the model itself where nothing moves, and attention by its definition where something does."""

from __future__ import annotations

import pytest
import torch

from memkit.errors import InputError
from memkit.injectors import KVCache
from memkit.positions import TokenPositions, moved_box
from tests.helpers.attachables import call
from tests.helpers.dense_attention import DenseSelfAttention
from tests.helpers.random_wan import random_transformer
from tests.helpers.unchecked import build


def test_a_box_keeps_the_places_that_it_has_in_the_anchor_frame():
    index = moved_box([(0, 0, 2, 2), (0, 1, 2, 2), (1, 2, 2, 2)], height=3, width=4)
    assert index[0].tolist() == list(range(12))
    assert index[1].view(3, 4).tolist() == [[0, 0, 1, 3], [4, 4, 5, 7], [8, 9, 10, 11]]
    assert index[2].view(3, 4).tolist() == [[0, 1, 2, 3], [4, 5, 0, 1], [8, 9, 4, 5]]
    with pytest.raises(InputError, match="frame 1"):
        moved_box([(0, 0, 2, 2), (0, 3, 2, 2)], height=3, width=4)


def test_tokens_attend_as_if_they_were_where_the_index_says():
    index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 3], [2, 2, 0, 1]])
    model, dense = random_transformer(), random_transformer()
    rows = (torch.arange(3)[:, None] * 4 + index).flatten()
    for block in dense.blocks:
        processor = DenseSelfAttention(range(3), torch.ones(12, 12).bool())
        processor.turn = processor.turn[rows]
        block.attn1.set_processor(processor)
    with torch.no_grad():
        with TokenPositions(index).attach(model):
            out = call(model)
        torch.testing.assert_close(out, call(dense), atol=1e-5, rtol=1e-5)
        plain = call(model)
        assert not torch.allclose(out, plain, atol=1e-4)
        with TokenPositions(torch.arange(4).repeat(3, 1)).attach(model):
            assert torch.equal(call(model), plain)
        with KVCache(10**7).attach(model) as cache, TokenPositions(index).attach(model), cache.chunk([5, 6, 7]):
            torch.testing.assert_close(call(model), out, atol=1e-5, rtol=1e-5)  # positions in time are relative


@pytest.mark.parametrize("index", [torch.zeros(3, 4), torch.full((3, 4), 4), torch.zeros(2, 4).long()])
def test_an_index_that_does_not_fit_is_refused(index):
    with pytest.raises(InputError), build(TokenPositions, index=index).attach(model := random_transformer()):
        call(model)
