"""What holds for each of the encoders that are compared: one interface, and equal budgets where claimed."""

import dataclasses
import json
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.encoders import DitMemEncoder, EncoderName, FrequencyEncoder, load_encoder, make_encoder
from memkit.errors import InputError
from memkit.testing import check_encoder

NAMES = get_args(EncoderName)
FREQUENCY = ("frequency", "lowpass-only", "highpass-only", "no-filter")
EACH_CLIP_BY_ITSELF = (*FREQUENCY, "patch")
each = pytest.mark.parametrize("name", NAMES)
CLIP = (16, 5, 8, 8)


def build(name, seed=0, size="tiny", **sizes):
    torch.manual_seed(seed)
    return make_encoder(name, size, **sizes).eval()


def clips(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_clip(encoder, values, count):
    """[B, M, ...] -> [B, N, tokens a clip, ...]; the release's order is by branch, then clip."""
    if isinstance(encoder, DitMemEncoder):
        return values.unflatten(1, (2, count)).transpose(1, 2)
    return values.unflatten(1, (count, -1))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def count(encoder):
    return sum(p.numel() for p in encoder.parameters())


@each
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_any_number_of_clips_of_any_size(name, batch, number, time, height, width):
    encoder = build(name)
    memory = encoder(clips(batch, number, 16, time, height, width))
    assert memory.tokens.shape[::2] == (batch, 192) and memory.tokens.shape[1] % number == 0
    assert memory.tokens.isfinite().all() and memory.mask is None


@each
def test_each_has_the_properties_of_an_encoder(name):
    """Masks, order, gradients, saving: the suite that users run; equal means to 2e-6 of the largest token."""
    report = check_encoder(build(name), tolerance=2e-6)
    assert len(report.properties) == 13 and not report.not_checked


@each
def test_masks_in_training(name):
    """A batch without any real clip, and which tokens belong to which clip."""
    encoder, x = build(name).train(), clips(2, 3, *CLIP)
    nothing = encoder(torch.full_like(x, torch.nan), torch.zeros(2, 3, dtype=torch.bool))
    assert (nothing.tokens == 0).all() and not nothing.mask.any()
    nothing.tokens.sum().backward()
    mask = torch.tensor([[True, False, True], [False, True, True]])
    assert (by_clip(encoder, encoder(x, mask).mask, 3) == mask[:, :, None]).all()


@pytest.mark.parametrize("name", EACH_CLIP_BY_ITSELF)
@pytest.mark.parametrize("training", [True, False])
def test_a_clip_does_not_see_those_beside_it(name, training):
    encoder, x = build(name).train(training), clips(2, 3, *CLIP)
    together = by_clip(encoder, encoder(x).tokens, 3)
    for b, n in ((0, 0), (0, 2), (1, 1)):
        same(encoder(x[b : b + 1, n : n + 1]).tokens[0], together[b, n])


@pytest.mark.parametrize("name", ["dit_mem", "patch", "no-filter"])
def test_a_few_steps_of_training_fit_tokens(name):
    """Trainable as it is, in training mode."""
    encoder, x = build(name).train(), clips(1, 2, *CLIP)
    wanted = clips(*encoder(x).tokens.shape, seed=1)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = (encoder(x).tokens - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@each
def test_saving_keeps_class_config_and_every_bit(name, tmp_path):
    x, encoder = clips(2, 2, *CLIP), build(name, seed=3)
    encoder.train()(x)  # leaves statistics in the release's
    expected = encoder.eval()(x)
    encoder.save_pretrained(tmp_path)
    for loaded in (load_encoder(tmp_path), type(encoder).from_pretrained(tmp_path)):
        assert type(loaded) is type(encoder) and loaded.config == encoder.config and not loaded.training
        assert torch.equal(loaded(x).tokens, expected.tokens)
        assert (loaded(x).log_weight is None) == (expected.log_weight is None)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "frequency"])
def test_one_is_never_taken_for_another(name, tmp_path):
    build(name).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="load it with"):
        FrequencyEncoder.from_pretrained(tmp_path)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(name, dtype):
    encoder, x = build(name), clips(1, 2, *CLIP)
    exact = encoder(x).tokens
    half = encoder.to(dtype)(x).tokens
    assert half.dtype == dtype and (half.float() - exact).norm() < 0.05 * exact.norm()


@each
def test_autocast(name):
    encoder, x, mask = build(name), clips(1, 2, *CLIP), torch.tensor([[True, False]])
    exact = encoder(x, mask).tokens
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoder(x, mask).tokens
    assert (mixed.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("size", "latents"),
    [
        ("tiny", CLIP),
        ("wan2.1-1.3b", (16, 21, 60, 104)),
        ("wan2.2-5b", (48, 31, 44, 80)),
        ("wan2.2-5b", (48, 21, 30, 52)),
        ("wan2.2-a14b", (16, 21, 60, 104)),
    ],
)
def test_equal_tokens_at_every_size(size, latents):
    """On no device: only shapes are computed."""
    shapes = {}
    with torch.device("meta"):
        for name in NAMES:
            encoder = make_encoder(name, size)
            shapes[name] = tuple(encoder(torch.empty(1, 2, *latents)).tokens.shape)
    dims = {"tiny": 192, "wan2.1-1.3b": 1536, "wan2.2-5b": 3072, "wan2.2-a14b": 5120}
    assert len({shapes[name] for name in EACH_CLIP_BY_ITSELF}) == 1 and shapes["patch"][1] > 10
    assert shapes["dit_mem"] == (1, 4, dims[size]) and shapes["patch"][2] == dims[size]


def test_the_controls_are_the_frequency_encoder_but_for_the_filters():
    """The same parameters by name, shape and, under one seed, value; and the same tokens once the filters are equal."""
    encoders = {name: build(name) for name in FREQUENCY}
    original = encoders["frequency"]
    x = clips(1, 2, *CLIP)
    tokens = [encoder(x).tokens for encoder in encoders.values()]
    for i in range(4):
        for j in range(i):
            assert (tokens[i] - tokens[j]).norm() > 0.05 * tokens[i].norm()
    for encoder in encoders.values():
        state = encoder.state_dict()
        assert list(state) == list(original.state_dict())
        assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())
        encoder.low.filter, encoder.high.filter = original.low.filter, original.high.filter
        assert torch.equal(encoder(x).tokens, original(x).tokens)


def test_parameters_are_as_the_table_says():
    counts = {name: count(build(name)) for name in NAMES}
    assert {counts[name] for name in FREQUENCY} == {counts["frequency"]}
    assert round(counts["frequency"] / 1e6, 2) == 0.65 and round(counts["patch"] / 1e6, 2) == 0.04
    assert counts["dit_mem"] == pytest.approx(counts["frequency"], rel=0.02)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("frequency", "low", "high"), ("lowpass-only", "low", "low"), ("highpass-only", "high", "high")],
)
def test_filtered_branches_are_blind_to_the_other_band(name, low, high):
    """A low-pass branch to stripes far above the cut-off, a high-pass branch to a constant."""
    encoder, features = build(name), clips(1, 64, 5, 8, 8)
    stripes = (-1.0) ** torch.arange(8).view(1, 1, 1, 1, 8).expand_as(features)
    constant = torch.ones_like(features)
    for branch, band in ((encoder.low, low), (encoder.high, high)):
        unseen, seen = (stripes, constant) if band == "low" else (constant, stripes)
        at_rest, blind, seeing = (branch(features + change) for change in (0 * features, unseen, seen))
        assert (blind - at_rest).norm() < 0.02 * (seeing - at_rest).norm()


def test_without_filters_branches_see_both_bands():
    encoder, features = build("no-filter"), clips(1, 64, 5, 8, 8)
    assert torch.equal(encoder.low.filter(features), features) and torch.equal(encoder.high.filter(features), features)
    assert not torch.equal(encoder.low(features), encoder.high(features))  # their convolutions differ


@each
def test_width_and_channels_of_the_backbone(name):
    encoder = build(name, dim=48, latent_channels=3)
    assert encoder(clips(1, 1, 3, 5, 8, 8)).tokens.shape[2] == 48
    assert dataclasses.replace(encoder.config, dim=192, latent_channels=16) == build(name).config


@each
def test_inputs_that_do_not_fit_are_named_alike(name):
    encoder = build(name)
    for latents, mask, named in (
        (torch.zeros(2, *CLIP), None, r"latents\[:, None\]"),
        (torch.zeros(1, 0, *CLIP), None, "attach no memory"),
        (torch.zeros(1, 1, 3, 5, 8, 8), None, "3 channels, this encoder takes 16"),
        (torch.zeros(1, 2, *CLIP), torch.ones(1, 3, dtype=torch.bool), r"\(1, 3\)"),
    ):
        with pytest.raises(InputError, match=named):
            encoder(latents, mask)


def test_folders_without_an_encoder_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere. is not a folder"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_encoder(tmp_path)
    for content, named in (("{", "is not JSON"), ("[]", "JSON object"), ('{"_class_name": "Gate"}', "'Gate'.*Patch")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=named):
            load_encoder(tmp_path)
    build("patch").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 64}))
    with pytest.raises(InputError, match="another configuration"):
        load_encoder(tmp_path)
