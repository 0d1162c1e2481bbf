"""Rotary tables of any frame position against Wan's own and against the angles of the definition."""

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memkit.backbones.rotary import checked_positions, rotary_at, rotate
from memkit.errors import InputError


def rope(**changes):
    return WanRotaryPosEmbed(**{"attention_head_dim": 24, "patch_size": (1, 2, 2), "max_seq_len": 64, **changes})


def angles(positions, height, width, dim=24):
    """Pair angles [tokens, dim/2] in float64 from the definition: base 10000, time first, then rows, then columns."""
    side = 2 * (dim // 6)
    t, h, w = np.meshgrid(positions, np.arange(height), np.arange(width), indexing="ij")
    parts = [
        p.reshape(-1, 1) * 10000.0 ** (-np.arange(0, d, 2) / d) for p, d in ((t, dim - 2 * side), (h, side), (w, side))
    ]
    return torch.from_numpy(np.concatenate(parts, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_first_frames_are_wans_own_to_the_bit(dtype):
    model = rope().to(dtype)
    want = model(torch.zeros(1, 16, 64, 6, 10))
    for got, table in zip(rotary_at(model, range(64), 3, 5), want, strict=True):
        assert got.dtype == dtype and torch.equal(got, table)
    some = rotary_at(model, [63, 0, 7], 3, 5)
    for got, table in zip(some, want, strict=True):
        assert torch.equal(got.view(3, -1), table.view(64, -1)[[63, 0, 7]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=5, unique=True), st.sampled_from([24, 128]))
@example([64, -64, 63, -63], 24)  # about the end of the table
def test_any_position_has_the_angles_of_the_definition(positions, dim):
    cos, sin = rotary_at(rope(attention_head_dim=dim), positions, 2, 3)
    want = angles(positions, 2, 3, dim)
    torch.testing.assert_close(cos[0, :, 0, 0::2].double(), want.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin[0, :, 0, 1::2].double(), want.sin(), rtol=0, atol=1e-6)
    assert torch.equal(cos[..., 0::2], cos[..., 1::2]) and torch.equal(sin[..., 0::2], sin[..., 1::2])


def test_scores_depend_on_the_difference_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        model = rope(max_seq_len=1024)
        return (rotate(q, *rotary_at(model, [i], 1, 1)) * rotate(k, *rotary_at(model, [j], 1, 1))).sum()

    assert abs(score(43, 0) - score(3, -40)) < 1e-5
    assert abs(score(2043, 2000) - score(3, -40)) < 1e-5
    assert abs(score(43, 0) - score(3, 0)) > 1e-3


@pytest.mark.parametrize("positions", [[], [1, 1], [0.5], [0, None]])
def test_positions_are_distinct_whole_numbers(positions):
    with pytest.raises(InputError, match="osition"):
        checked_positions(positions)


def test_numpy_and_torch_numbers_are_whole_numbers_too():
    for positions in (np.array([3, -70]), torch.tensor([3, -70])):
        found = checked_positions(list(positions))
        assert found == (3, -70) and all(type(p) is int for p in found)


def test_what_the_table_cannot_say_is_refused():
    with pytest.raises(InputError, match="65×2"):
        rotary_at(rope(), [0], 65, 2)
    other = rope()
    other.freqs_cos = torch.cos(torch.arange(64)[:, None] * torch.linspace(0.9, 0.001, 24))
    rotary_at(other, [63, -63], 2, 2)
    with pytest.raises(InputError, match="±63"):
        rotary_at(other, [64], 2, 2)
