"""The released encoder against a literal, slow version of its arithmetic: 200 tokens per video, attended densely."""

import dataclasses
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from memkit.encoders import DitMemEncoder, load_dit_mem
from memkit.encoders.dit_mem_layers import ReleaseFilter, filter_curve
from memkit.errors import InputError
from tests.helpers.released_encoder import (
    BRANCHES,
    CONFIG,
    SIZE,
    quietly,
    randn,
    release_state_dict,
    release_tokens,
    same,
)


@pytest.fixture
def bare():
    return release_state_dict(prefix="")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_two_tokens_a_video_stand_for_the_releases_two_hundred(bare, count, config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a full checkpoint gives no reason to warn
        encoder = load_dit_mem(release_state_dict(), config)
    assert encoder.config == CONFIG
    latents = randn(2, count, 3, *SIZE, seed=9)
    memory = encoder(latents)
    assert memory.tokens.shape == (2, 2 * count, 16) and memory.mask is None
    assert torch.equal(memory.log_weight, torch.full((2, 2 * count), math.log(100)))
    for b in range(2):
        expected = release_tokens(bare, latents[b])
        assert expected.shape == (200 * count, 16)
        same(memory.tokens[b].repeat_interleave(100, dim=0), expected)
    assert (memory.tokens[0, 0] - memory.tokens[0, count]).norm() > 0.1  # high and low do differ


def test_a_query_sees_the_same_memory(bare):
    """What the log-weight is for: attention over video keys and memory comes out as over the 200 N tokens."""
    latents = randn(1, 3, 3, *SIZE, seed=9)
    memory = load_dit_mem(bare)(latents)
    query, video = randn(5, 16, seed=1), randn(7, 16, seed=2)
    few, many = torch.cat([video, memory.tokens[0]]), torch.cat([video, release_tokens(bare, latents[0])])
    logits = query @ few.T
    logits[:, 7:] += memory.log_weight[0]
    same(torch.softmax(logits, -1) @ few, torch.softmax(query @ many.T, -1) @ many)


def test_other_sizes_are_pooled_to_the_grid_and_say_so(bare):
    encoder = load_dit_mem(bare)
    latents = randn(1, 2, 3, 30, 33, 50, seed=4)  # features (8, 9, 13), then (4, 4, 6), then (2, 2, 3)
    with pytest.warns(UserWarning, match="without its noise") as warned:
        memory = encoder(latents)
    assert any("(6, 5, 5), these are (8, 9, 7)" in str(warning.message) for warning in warned)
    for branch in BRANCHES:
        for block, channels, grid in (("conv_block1", 6, (8, 9, 13)), ("conv_block2", 8, (4, 4, 6))):
            curve = filter_curve(branch.startswith("high"), channels, *grid)
            bare[f"{branch}.{block}.fft_filter.complex_weight"] = curve
    same(memory.tokens[0].repeat_interleave(100, dim=0), release_tokens(bare, latents[0]))


def test_the_curve_is_the_releases():
    """By the formula, one bin at a time; the bin of frequency −1 comes out highest, which is the release's defect."""
    for high in (True, False):
        curve = filter_curve(high, 3, 4, 5, 6)
        assert curve.shape == (3, 4, 5, 4, 2) and (curve[..., 1] == 0).all()
        for c, slope, offset in ((0, 0.7, -0.05), (1, 1.0, 0.0), (2, 1.3, 0.05)):
            for d, h, w in ((0, 0, 0), (3, 4, 3), (1, 2, 0), (0, 0, 3)):
                root = (math.sqrt((d / 3) ** 2 + (h / 4) ** 2 + (w / 3) ** 2) / math.sqrt(3)) ** 0.5
                value = (0.2 + 0.8 * root if high else 1.2 - 0.8 * root) * slope + offset
                assert curve[c, d, h, w, 0] == pytest.approx(min(max(value, 0.2), 1.2), abs=1e-6)
    assert filter_curve(True, 1, 1, 1, 1).shape == (1, 1, 1, 1, 2)


def test_masked_videos_are_never_read(bare):
    encoder, latents = load_dit_mem(bare), randn(2, 3, 3, *SIZE)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    spoiled = latents.clone()
    spoiled[~mask] = torch.nan
    memory = encoder(spoiled, mask)
    same(memory.tokens[0, [0, 2, 3, 5]], encoder(latents[:1, [0, 2]]).tokens[0])
    assert torch.equal(memory.mask, torch.cat([mask, mask], dim=1))
    assert (memory.tokens[~memory.mask] == 0).all()


def test_order_of_videos_only_orders_tokens(bare):
    encoder, latents = load_dit_mem(bare), randn(1, 3, 3, *SIZE)
    assert not any(module.training for module in encoder.modules())
    expected = encoder(latents).tokens
    same(encoder(latents[:, [2, 0, 1]]).tokens, expected[:, [2, 0, 1, 5, 3, 4]])


@pytest.mark.parametrize("size", [(12, 20, 34), (21, 12, 34), (21, 20, 12)])
def test_too_small_clips_name_the_minimum(bare, size):
    with pytest.raises(InputError, match="13 or more"):
        load_dit_mem(bare)(randn(1, 1, 3, *size))
    assert quietly(bare)(randn(1, 1, 3, *SIZE)).tokens.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ((2, 3, *SIZE), r"latents\[:, None\]"),
        ((1, 1, 5, *SIZE), "5 channels, this encoder takes 3"),
        ((1, 0, 3, *SIZE), "attach no memory"),
    ],
)
def test_shapes_that_do_not_fit_are_named(bare, shape, named):
    with pytest.raises(InputError, match=named):
        load_dit_mem(bare)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"heads": 5}, "multiple of heads=5"), ({"dim": 0}, "dim is 0"), ({"resize_to": (12, 13, 13)}, "of 13 or more")],
)
def test_configurations_that_cannot_be_are_named(change, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(CONFIG, **change)


def test_in_training_dropout_falls_on_what_is_filtered_before_the_residual():
    x = randn(4, 6, 5, 6, 7)
    layer = ReleaseFilter(6, high=True, stored=None)
    layer.norm = torch.nn.Identity()
    filtered = layer.eval()(x) - x
    kept = (layer.train()(x) - x) / filtered
    assert ((kept.abs() < 1e-3) | ((kept - 2).abs() < 1e-2))[filtered.abs() > 1e-2].all()
    assert 0.45 < (kept > 1).float().mean() < 0.55


def without_dropout(encoder):
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return encoder


def test_in_training_the_statistics_are_those_of_the_real_videos_of_the_batch(bare):
    """The literal release, given mean and variance by hand; a masked video is not counted."""
    latents = randn(1, 3, 3, *SIZE, seed=9)
    latents[:, 1] = torch.nan
    mask = torch.tensor([[True, False, True]])
    encoder = without_dropout(load_dit_mem(bare)).train()
    seen = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    memory = encoder(latents, mask)
    for name, x in seen.items():
        assert len(x) == 2
        bare[f"{name}.running_mean"] = x.mean((0, 2, 3, 4))
        bare[f"{name}.running_var"] = x.var((0, 2, 3, 4), correction=0)
    assert len(seen) == 4
    expected = release_tokens(bare, latents[0, [0, 2]])
    same(memory.tokens[0, [0, 2, 3, 5]].repeat_interleave(100, dim=0), expected)
    only = without_dropout(load_dit_mem(release_state_dict())).train()
    only(latents[:, [0, 2]])
    for name, value in encoder.named_buffers():
        same(value, dict(only.named_buffers())[name])


def test_a_batch_without_any_real_video_leaves_the_statistics(bare):
    encoder = load_dit_mem(bare).train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    memory = encoder(torch.full((2, 2, 3, *SIZE), torch.nan), torch.zeros(2, 2, dtype=torch.bool))
    assert (memory.tokens == 0).all() and not memory.mask.any()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())


def test_resized_videos_are_as_if_resized_by_hand():
    config = dataclasses.replace(CONFIG, resize_to=(20, 32, 32))
    torch.manual_seed(0)
    encoder = DitMemEncoder(config)
    plain = DitMemEncoder(CONFIG)
    plain.load_state_dict(encoder.state_dict())
    small = randn(2, 2, 3, 5, 8, 8)
    large = F.interpolate(small.flatten(0, 1), (20, 32, 32), mode="trilinear", align_corners=False)
    same(encoder(small).tokens, plain(large.unflatten(0, (2, 2))).tokens)
    assert encoder(randn(1, 1, 3, 1, 1, 1)).tokens.isfinite().all()
