"""`Memory`: rows, and tokens spelt out that a weight stands for."""

import jaxtyping
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


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_mask_that_is_not_bool_is_refused(dtype, monkeypatch) -> None:
    """Without the tests' own check of types, as users run memkit; ~ of an integer is no negation."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=rf"{dtype}; give torch.bool.*mask.bool\(\).*log_weight"):
        Memory(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=dtype))


def test_a_memory_says_what_it_holds() -> None:
    tokens = torch.zeros(1, 3, 8, dtype=torch.bfloat16)
    assert repr(Memory(tokens)) == "Memory(tokens [1, 3, 8] bfloat16 on cpu)"
    full = Memory(tokens, torch.tensor([[True, False, True]]), torch.zeros(1, 3), torch.zeros(4, 2))
    assert repr(full) == "Memory(tokens [1, 3, 8] bfloat16 on cpu, 2 of 3 real, log_weight, gate [4, 2])"


def test_rows() -> None:
    memory = Memory(torch.arange(6.0).view(3, 2, 1), torch.tensor([[True, False]] * 3), torch.arange(6.0).view(3, 2))
    some = memory.rows(torch.tensor([2, 0]))
    assert some.tokens.flatten().tolist() == some.log_weight.flatten().tolist() == [4, 5, 0, 1]
    assert some.mask.tolist() == [[True, False]] * 2
