"""`Memory`: rows, and tokens spelt out that a weight stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.attention import grouped_attention
from memkit.errors import InputError
from memkit.memory import Memory


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.integers(0, 99))
def test_expanded_tokens_are_attended_to_as_their_weights_say(counts, masked, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, len(counts), generator=generator) < 0.7 if masked else None
    if mask is not None:
        mask[:, 0] = True
    tokens = torch.randn(2, len(counts), 8, generator=generator)
    few = Memory(tokens, mask, torch.tensor(counts, dtype=torch.float32).log().expand(2, -1))
    many = few.expand()
    assert many.log_weight is None and many.tokens.shape[1] == sum(counts)
    query, out = torch.randn(2, 3, 1, 8, generator=generator), []
    for memory in (few, many):
        keys, logits = memory.tokens.unsqueeze(2), memory.logits()
        weights = {} if logits is None else {"memory": logits}
        out.append(grouped_attention({"x": query}, {"memory": (keys, keys)}, {"x": ("memory",)}, weights)["x"])
    torch.testing.assert_close(*out)


def test_what_cannot_be_expanded_is_refused() -> None:
    tokens = torch.zeros(2, 3, 4)
    assert Memory(tokens).expand().tokens is tokens
    for weight in (torch.full((2, 3), 0.5), torch.tensor([[0.0] * 3, [0.6931472] * 3]), torch.full((2, 3), -9.0)):
        with pytest.raises(InputError, match="whole"):
            Memory(tokens, None, weight).expand()


def test_rows() -> None:
    memory = Memory(torch.arange(6.0).view(3, 2, 1), torch.tensor([[True, False]] * 3), torch.arange(6.0).view(3, 2))
    some = memory.rows(torch.tensor([2, 0]))
    assert some.tokens.flatten().tolist() == some.log_weight.flatten().tolist() == [4, 5, 0, 1]
    assert some.mask.tolist() == [[True, False]] * 2
