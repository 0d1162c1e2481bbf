"""Mixed branches: a clip with itself is the plain memory, and of each clip one branch alone is seen."""

import pytest
import torch

from memkit.encoders import make_encoder, mix_branches
from memkit.errors import InputError

MIXABLE = ("frequency", "lowpass-only", "highpass-only", "no-filter", "dit_mem")
each = pytest.mark.parametrize("name", MIXABLE)
MASK = torch.tensor([[True, True, False], [True, False, True]])


def build(name):
    torch.manual_seed(0)
    return make_encoder(name, "tiny").eval()


def clips(seed):
    return torch.randn(2, 3, 16, 5, 8, 8, generator=torch.Generator().manual_seed(seed))


@each
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_clip_mixed_with_itself_is_the_plain_memory(name, mask):
    encoder, x = build(name), clips(0)
    if mask is not None:
        x[~mask] = torch.nan
    plain, mixed = encoder(x, mask), mix_branches(encoder, x, x, mask)
    for field in ("tokens", "mask", "log_weight"):
        a, b = getattr(plain, field), getattr(mixed, field)
        assert (a is None and b is None) or torch.equal(a, b)


@each
def test_both_clips_are_in_it_and_order_matters(name):
    encoder, a, b = build(name), clips(0), clips(1)
    mixed, swapped = mix_branches(encoder, a, b).tokens, mix_branches(encoder, b, a).tokens
    for other in (encoder(a).tokens, encoder(b).tokens, swapped):
        assert mixed.shape == other.shape and (mixed - other).norm() > 0.02 * other.norm()


@each
@pytest.mark.parametrize("silent", ["low", "high"])
def test_of_each_clip_only_its_branch_is_seen(name, silent):
    """With a branch that says the same of all clips, the clip that it is for does not matter."""
    encoder, a, b, c = build(name), clips(0), clips(1), clips(2)
    last = (
        getattr(encoder, f"{silent}_pass_module").feature_proj if name == "dit_mem" else getattr(encoder, silent).patch
    )
    torch.nn.init.zeros_(last.weight)
    tokens = mix_branches(encoder, a, b).tokens
    other_low, other_high = mix_branches(encoder, c, b).tokens, mix_branches(encoder, a, c).tokens
    assert torch.equal(other_low, tokens) == (silent == "low") and torch.equal(other_high, tokens) == (silent == "high")


def test_mixing_comes_before_the_layers_that_join_the_branches():
    """The low tokens of the one clip know the high ones of the other: as in the memory of one clip that has both."""
    encoder, a, b = build("frequency"), clips(0), clips(1)
    finished = encoder(a).tokens.unflatten(1, (3, 2, -1))[:, :, 0]
    low = mix_branches(encoder, a, b).tokens.unflatten(1, (3, 2, -1))[:, :, 0]
    assert (low - finished).norm() > 1e-3 * low.norm()
    encoder.layers = torch.nn.ModuleList()  # without them, they are the finished tokens themselves
    mixed = mix_branches(encoder, a, b).tokens.unflatten(1, (3, 2, -1))
    assert torch.equal(mixed[:, :, 0], encoder(a).tokens.unflatten(1, (3, 2, -1))[:, :, 0])
    assert torch.equal(mixed[:, :, 1], encoder(b).tokens.unflatten(1, (3, 2, -1))[:, :, 1])


@each
def test_shapes_that_differ_are_named(name):
    encoder, a = build(name), clips(0)
    with pytest.raises(InputError, match="low_from is.*high_from"):
        mix_branches(encoder, a, a[:, :2])
    with pytest.raises(InputError, match="16"):
        mix_branches(encoder, a[:, :, :3], a[:, :, :3])
