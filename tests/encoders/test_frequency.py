"""Properties of the frequency encoder."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memkit
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig, HighPass, LowPass
from memkit.errors import InputError
from memkit.testing import check_disentanglement, check_encoder

SMALL = FrequencyEncoderConfig(
    latent_channels=3,
    dim=24,
    hidden=8,
    width=32,
    heads=2,
    layers=2,
    stem_stride=(1, 2, 2),
    patch=(1, 2, 2),
    norm_groups=4,
)
few = settings(max_examples=15, deadline=None)


def build(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return FrequencyEncoder(config)


def clips(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_tiny_preset_is_what_its_docstring_says():
    encoder = build(FrequencyEncoderConfig.tiny())
    memory = encoder(clips(2, 3, 16, 5, 8, 8))
    assert memory.tokens.shape == (2, 3 * 40, 192) and memory.mask is None and memory.log_weight is None
    assert 0.5e6 < sum(p.numel() for p in encoder.parameters()) < 0.8e6
    assert 0.7 < memory.tokens.std() < 1.4


@pytest.mark.parametrize(
    ("name", "latents", "tokens", "dim"),
    [
        ("wan_1_3b", (16, 21, 60, 104), 252, 1536),
        ("wan_5b", (48, 31, 44, 80), 210, 3072),
        ("wan_5b", (48, 21, 30, 52), 80, 3072),
        ("wan_14b", (16, 21, 60, 104), 252, 5120),
    ],
)
def test_token_counts_of_the_presets(name, latents, tokens, dim):
    full = getattr(FrequencyEncoderConfig, name)()
    assert (full.latent_channels, full.dim) == (latents[0], dim)
    thin = dataclasses.replace(full, hidden=8, width=24, layers=1, dim=8)  # same strides, small widths
    assert build(thin)(torch.zeros(1, 1, *latents)).tokens.shape == (1, tokens, 8)
    assert thin.tokens(*latents[1:]) == tokens


@few
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2), st.integers(1, 3))
def test_any_size(time, height, width, batch, count):
    memory = build()(clips(batch, count, 3, time, height, width))
    per_clip = 2 * time * -(-height // 4) * -(-width // 4)
    assert memory.tokens.shape == (batch, count * per_clip, 24)
    assert memory.tokens.isfinite().all()


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 3, 3)])
@pytest.mark.parametrize("size", [(5, 8, 8), (1, 4, 6), (4, 1, 1), (1, 1, 1)])
def test_tokens_are_pairwise_distinct(size, patch):
    tokens = build(dataclasses.replace(SMALL, patch=patch))(clips(1, 1, 3, *size)).tokens[0]
    apart = torch.cdist(tokens, tokens) + torch.diag(torch.full((len(tokens),), torch.inf))
    assert apart.min() > 0.05 * tokens.norm(dim=-1).mean()


@pytest.mark.parametrize("size", [(1, 3, 3), (2, 4, 5), (5, 1, 1)])
def test_incomplete_patches_repeat_the_last_cell(size):
    """The tokens of a grid are those of the same grid, padded by hand to whole patches of (2, 2, 2)."""
    branch = build(dataclasses.replace(SMALL, patch=(2, 2, 2))).low
    branch.convolution, branch.filter = torch.nn.Identity(), torch.nn.Identity()
    grid = clips(1, 8, *size)
    margins = [m for n in reversed(size) for m in (0, n % 2)]
    same(branch(grid), branch(torch.nn.functional.pad(grid, margins, mode="replicate")))


def test_equal_patches_still_know_their_place():
    tokens = build()(torch.ones(1, 1, 3, 10, 32, 32)).tokens[0]  # large: the convolutions' borders stay far away
    apart = torch.cdist(tokens, tokens) + torch.diag(torch.full((len(tokens),), torch.inf))
    assert apart.min() > 0.05 * tokens.norm(dim=-1).mean()


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_the_order_in_time_and_space_matters(axis):
    encoder, x = build(), clips(1, 1, 3, 5, 8, 8)
    forward, backward = encoder(x).tokens[0], encoder(x.flip(axis)).tokens[0]
    nearest = torch.cdist(forward, backward).min(dim=1).values  # not even as a set are they the same
    assert nearest.mean() > 0.05 * forward.norm(dim=-1).mean()


def test_clips_are_encoded_independently():
    encoder, x = build(), clips(2, 4, 3, 3, 6, 6)
    together = encoder(x).tokens.unflatten(1, (4, -1))
    for b in range(2):
        for n in range(4):
            same(encoder(x[b : b + 1, n : n + 1]).tokens[0], together[b, n])
    order = [2, 0, 3, 1]
    same(encoder(x[:, order]).tokens.unflatten(1, (4, -1)), together[:, order])


def test_train_and_eval_and_no_grad_agree():
    encoder, x = build(), clips(1, 2, 3, 3, 6, 6)
    training = encoder.train()(x).tokens
    same(encoder.eval()(x).tokens, training)
    with torch.no_grad():
        same(encoder(x).tokens, training)


def test_it_has_the_properties_of_an_encoder_and_of_separate_bands():
    check_encoder(build(), tolerance=2e-6)
    check_disentanglement(build(FrequencyEncoderConfig.tiny()))


def test_a_mask_is_repeated_for_the_tokens_of_a_clip():
    mask = torch.tensor([[True, False, True], [False, True, True]])
    memory = build()(clips(2, 3, 3, 3, 6, 6), mask)
    assert torch.equal(memory.mask, mask.repeat_interleave(memory.tokens.shape[1] // 3, 1))


def test_each_branch_sees_its_band():
    """A constant never reaches the high branch, and the finest stripes hardly reach the low one."""
    encoder, features = build(), clips(1, 8, 6, 8, 8)
    assert isinstance(encoder.low.filter, LowPass) and isinstance(encoder.high.filter, HighPass)
    shift = 3.0
    same(encoder.high(features + shift), encoder.high(features))
    checkers = (-1.0) ** torch.arange(8).view(1, 1, 1, 1, 8).expand_as(features)
    low_change = (encoder.low(features + checkers) - encoder.low(features)).norm()
    high_change = (encoder.high(features + checkers) - encoder.high(features)).norm()
    assert high_change > 20 * low_change


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    encoder, x = build(), clips(1, 2, 3, 3, 6, 6)
    exact = encoder(x).tokens
    half = encoder.to(dtype)(x).tokens
    assert half.dtype == dtype
    assert (half.float() - exact).norm() < 0.03 * exact.norm()
    half.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_autocast():
    encoder, x = build(), clips(1, 2, 3, 3, 6, 6)
    exact = encoder(x).tokens
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoder(x).tokens
    assert (mixed.float() - exact).norm() < 0.03 * exact.norm()


def test_equal_seeds_give_equal_bits_and_saving_keeps_them(tmp_path):
    x = clips(1, 2, 3, 3, 6, 6)
    encoder = build(dataclasses.replace(SMALL, filter_shape="gaussian", cutoff_time=0.2), seed=4).eval()
    expected = encoder(x).tokens
    assert torch.equal(build(encoder.config, seed=4).eval()(x).tokens, expected)
    encoder.save_pretrained(tmp_path)
    loaded = FrequencyEncoder.from_pretrained(tmp_path)
    assert loaded.config == encoder.config and torch.equal(loaded(x).tokens, expected)


@pytest.mark.parametrize(
    ("latents", "mask", "named"),
    [
        (torch.zeros(2, 3, 3, 6, 6), None, r"latents\[:, None\]"),
        (torch.zeros(3, 6, 6), None, r"\[B, N, C, T, H, W\]"),
        (torch.zeros(1, 0, 3, 3, 6, 6), None, "attach no memory"),
        (torch.zeros(1, 1, 16, 3, 6, 6), None, "16 channels, this encoder takes 3"),
        (torch.zeros(1, 2, 3, 3, 6, 6), torch.ones(1, 3, dtype=torch.bool), r"\(1, 3\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(latents, mask, named):
    with pytest.raises(InputError, match=named):
        build()(latents, mask)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heads": 3}, "width=32 is not a multiple of heads=3"),
        ({"norm_groups": 5}, "hidden=8 is not a multiple"),
        ({"layers": 0}, "layers is 0"),
        ({"patch": (1, 0, 1)}, "patch is"),
        ({"cutoff_time": 0.0}, "cutoff_time is 0"),
        ({"filter_shape": "box"}, "'box'"),
    ],
)
def test_configurations_that_cannot_be_are_named(change, named):
    with pytest.raises(InputError, match=named):
        build(dataclasses.replace(SMALL, **change))


def test_the_shipped_encoder_gives_the_tokens_it_was_trained_to(tmp_path):
    """Figures of the code that trained it, new with new weights; and saving it again gives the same files."""
    folder = Path(memkit.__file__).parent / "weights" / "dit-mem-tiny"
    encoder = FrequencyEncoder.from_pretrained(folder)
    with torch.no_grad():
        tokens = encoder(clips(2, 3, 16, 5, 8, 8), torch.tensor([[True, True, False], [True, True, True]])).tokens
    assert tokens.shape == (2, 120, 192)
    near = {"rel": 1e-3, "abs": 1e-3}
    assert tokens.std().item() == pytest.approx(1.67629, **near)
    assert tokens[0, 0, :4].tolist() == pytest.approx([0.8645, -0.0863, 4.4473, 2.4325], **near)  # low
    assert tokens[0, 20, :4].tolist() == pytest.approx([1.39, 0.7574, 3.2487, 0.0543], **near)  # high
    assert tokens[1, 119, -4:].tolist() == pytest.approx([-0.7821, -1.751, -3.0843, -0.8884], **near)
    encoder.save_pretrained(tmp_path)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()
