"""`FrameVisibility` and `FrequencyBlend` against dense masked attention, and what they compose with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.encoders import LowPass
from memkit.errors import InputError
from memkit.injectors import FrameVisibility, FrequencyBlend, KVCache, RoutedContext, shifted_blocks, sliding_window
from memkit.testing import check_injector
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.dense_attention import DenseSelfAttention
from tests.helpers.random_wan import random_transformer

FRAMES = 5


def forward(model) -> Tensor:
    with torch.no_grad():
        return call(model, seeded(2, 16, FRAMES, 4, 4))


def dense(table: Tensor) -> DenseSelfAttention:
    return DenseSelfAttention(range(FRAMES), table.repeat_interleave(4, 0).repeat_interleave(4, 1))


def with_processors(*processors):
    model = random_transformer()
    for i, block in enumerate(model.blocks):
        block.attn1.set_processor(processors[i % len(processors)])
    return forward(model)


def test_the_tables():
    assert sliding_window(3)(5).int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
        [0, 0, 1, 1, 1],
    ]
    assert sliding_window(9)(5).all() and shifted_blocks(8)(5).all() and shifted_blocks(8, 4)(5).all()
    shifted = shifted_blocks(4, 2)(8)
    assert shifted[0].nonzero().flatten().tolist() == [0, 1, 6, 7] and shifted[2].nonzero()[0] == 2
    assert torch.equal(shifted, shifted.T) and (shifted.sum(1) == 4).all()


@pytest.mark.parametrize("tables", [(sliding_window(3),), (shifted_blocks(2), shifted_blocks(2, 1))])
def test_frames_see_what_the_table_says(tables):
    with FrameVisibility(*tables).attach(model := random_transformer()):
        out = forward(model)
    expected = with_processors(*(dense(table(FRAMES)) for table in tables))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(out, forward(model), atol=1e-4)


def test_where_all_frames_see_each_other_the_model_is_the_stock_one():
    model, low = random_transformer(), LowPass(0.1, 0.1)
    for thing in (FrameVisibility(sliding_window(9), shifted_blocks(8)), FrequencyBlend(sliding_window(9), low)):
        with thing.attach(model):
            out = forward(model)
        assert torch.equal(out, forward(model))


def test_low_frequencies_come_from_all_frames_and_the_rest_from_near_ones():
    low, window = LowPass(0.15, 0.3, "gaussian"), sliding_window(3)

    class Blended(DenseSelfAttention):
        """By the definition, after the output projection, which is linear."""

        def __call__(self, attn, hidden, *others):
            everywhere, near = (dense(table)(attn, hidden) for table in (torch.ones(5, 5).bool(), window(5)))
            low_of = [low(x.mT.unflatten(2, (FRAMES, 2, 2))).flatten(2).mT for x in (everywhere, near)]
            return low_of[0] + near - low_of[1]

    with FrequencyBlend(window, low).attach(model := random_transformer()):
        out = forward(model)
    torch.testing.assert_close(out, with_processors(Blended(range(5), torch.ones(20, 20).bool())), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "thing", [FrameVisibility(sliding_window(1)), FrequencyBlend(sliding_window(1), LowPass(0.1, 0.1))]
)
def test_they_have_the_properties_of_injectors(thing):
    assert len(check_injector(thing, random_transformer(), plain=call).properties) == 11


def test_what_cannot_be_together_is_refused():
    model = random_transformer()
    with FrameVisibility(sliding_window(3)).attach(model):
        with pytest.raises(InputError, match="which frames see each other"):
            ATTACHABLES["teacher_forcing"]().thing.attach(model)
        with pytest.raises(InputError, match="which frames see each other"):
            RoutedContext(k=1).attach(model)
        with FrequencyBlend(sliding_window(3), LowPass()).attach(model), pytest.raises(InputError, match="5 frames"):
            forward(model)
        for name in ("query_layers", "frame_context"):
            other = ATTACHABLES[name]()
            with other.thing.attach(model) as attached, pytest.raises(InputError, match="Frame visibility cannot"):
                other.forward(model, attached)
        cache = KVCache(10**7).attach(model)
        with cache, cache.chunk(range(FRAMES)), pytest.raises(InputError, match="A KV cache takes"):
            forward(model)
    nothing = FrameVisibility(lambda frames: torch.zeros(frames, frames).bool())
    with nothing.attach(model), pytest.raises(InputError, match="no frame"):
        forward(model)
    with pytest.raises(InputError, match="sliding_window"):
        FrameVisibility()
