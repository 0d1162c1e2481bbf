"""Filtering the hidden states of a model: equal to filtering by hand, and nothing stays behind."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memkit.backbones import VideoFormat, WanBackbone
from memkit.encoders import HighPass, LowPass
from memkit.errors import InputError
from memkit.generation import generate_videos
from memkit.injectors import filter_hidden_states
from memkit.injectors.hidden_filters import Place
from tests.helpers.random_wan import random_pipeline, random_transformer

BANDS = {"low": LowPass(0.25, 0.25), "high": HighPass(0.25, 0.25)}
GRID = 3, 2, 4  # patches, of 1×2×2
PLACES: list[Place] = ["embedding", 0, 2]


@pytest.fixture(scope="module")
def backbone() -> WanBackbone:
    """Two experts."""
    return WanBackbone.from_pipeline(random_pipeline(boundary_ratio=0.5))


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    time, height, width = GRID
    latents = torch.randn(2, 16, time, 2 * height, 2 * width, generator=random)
    return latents, torch.tensor([300.0, 300.0]), torch.randn(2, 5, 32, generator=random)


def _run(model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(*inputs, return_dict=False)[0]


def _hooks(backbone: WanBackbone) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for t in backbone.transformers for m in t.modules())


@pytest.mark.parametrize("place", PLACES)
def test_what_changes_nothing_leaves_every_bit(backbone, inputs, place: Place) -> None:
    for model in backbone.transformers:
        before = _run(model, inputs)
        for keep, strength in ((nn.Identity(), 1.0), (nn.Identity(), 0.5), (HighPass(), 0.0)):
            with filter_hidden_states(backbone, keep, place, strength) as changed:
                assert _run(model, inputs).equal(before)
            assert len(changed) == 1 and changed[0].equal(torch.zeros(2))
        with filter_hidden_states(backbone, LowPass(math.inf, math.inf), place):
            torch.testing.assert_close(_run(model, inputs), before)  # through the transform and back


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("strength", [1.0, 0.5, -0.5])
def test_equal_to_the_state_reshaped_and_filtered_by_hand(backbone, inputs, band, place: Place, strength) -> None:
    """On a grid of three different sizes, so that no two axes can be mixed up; of a sum of cosines, not by FFT."""
    for model in backbone.transformers:
        shares = []

        def by_hand(module: nn.Module, args, out: Tensor, shares: list[Tensor] = shares) -> Tensor:
            time, height, width = GRID
            tokens = rearrange(out, "b d t h w -> b (t h w) d") if place == "embedding" else out
            matrix = _matrix(band)
            new = tokens + strength * (torch.einsum("st,btd->bsd", matrix, tokens) - tokens)
            shares.append((new - tokens).square().sum((1, 2)) / tokens.square().sum((1, 2)))
            if place != "embedding":
                return new
            return rearrange(new, "b (t h w) d -> b d t h w", t=time, h=height, w=width)

        before = _run(model, inputs)
        handle = (model.patch_embedding if place == "embedding" else model.blocks[place]).register_forward_hook(by_hand)
        expected = _run(model, inputs)
        handle.remove()
        with filter_hidden_states(backbone, BANDS[band], place, strength) as changed:
            out = _run(model, inputs)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(changed[0], shares[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(out, before, rtol=1e-2, atol=1e-3)


def _matrix(band: str) -> Tensor:
    """The filter of a band at 0.25 as a matrix [tokens, tokens]: its gain between plane waves."""
    where = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in GRID))
    waves = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) / n for n in GRID))
    waves = waves - waves.round()
    low = 1 / (1 + (waves / 0.25).square().sum(-1) ** 4)
    gain = low if band == "low" else 1 - low
    phase = 2 * math.pi * (where[:, None] - where[None]) @ waves.T
    return (phase.cos() @ gain / len(where)).float()


@pytest.mark.parametrize("place", PLACES)
def test_nothing_stays_behind_not_even_after_an_error(backbone, inputs, place: Place) -> None:
    before = [_run(model, inputs) for model in backbone.transformers]
    with filter_hidden_states(backbone, LowPass(), place):
        assert _hooks(backbone) > 0
        assert not any(_run(m, inputs).equal(b) for m, b in zip(backbone.transformers, before, strict=True))
    assert _hooks(backbone) == 0
    with pytest.raises(ZeroDivisionError), filter_hidden_states(backbone, LowPass(), place):
        raise ZeroDivisionError
    assert _hooks(backbone) == 0
    with pytest.raises(InputError), filter_hidden_states(backbone, lambda x: LowPass()(x[0, 0, 0]), place):
        _run(backbone.transformer, inputs)  # the filter itself fails
    assert _hooks(backbone) == 0
    assert all(_run(m, inputs).equal(b) for m, b in zip(backbone.transformers, before, strict=True))


@pytest.mark.parametrize("place", [2, 3, -1])
def test_a_block_that_an_expert_lacks_is_refused_before_any_hook(place: int) -> None:
    pipe = random_pipeline(boundary_ratio=0.5)
    pipe.transformer_2 = random_transformer(num_layers=2)
    backbone = WanBackbone.from_pipeline(pipe)
    with pytest.raises(InputError, match="no block"), filter_hidden_states(backbone, LowPass(), place):
        pass
    assert _hooks(backbone) == 0


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(PLACES), st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 3))
def test_any_grid_and_batch_and_a_sample_by_itself(place: Place, grid: tuple[int, int, int], batch: int) -> None:
    backbone = WanBackbone(random_transformer())
    time, height, width = grid
    latents = torch.randn(batch, 16, time, 2 * height, 2 * width)
    inputs = latents, torch.full((batch,), 500.0), torch.randn(batch, 4, 32)
    with filter_hidden_states(backbone, LowPass(), place) as changed:
        together = _run(backbone.transformer, inputs)
        for i in range(batch):
            alone = _run(backbone.transformer, tuple(x[i : i + 1] for x in inputs))  # type: ignore[arg-type]
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed[0], torch.cat(changed[1:]), rtol=1e-4, atol=1e-6)


def test_the_pipeline_filters_every_step_and_branch_of_both_experts(backbone) -> None:
    made = {"seeds": [1], "steps": 4, "guidance_scale": 2.0}
    backbone = WanBackbone.from_pipeline(backbone.pipeline(), VideoFormat(5, 32, 32, 8.0))
    plain = generate_videos(backbone, ["a red ball falls"], **made)
    seen = [0, 0]
    counts = [
        model.register_forward_hook(lambda *_, i=i: seen.__setitem__(i, seen[i] + 1))
        for i, model in enumerate(backbone.transformers)
    ]
    with filter_hidden_states(backbone, LowPass(), 1) as changed:
        low = generate_videos(backbone, ["a red ball falls"], **made)
    for handle in counts:
        handle.remove()
    assert min(seen) > 0 and sum(seen) == len(changed) == 2 * 4
    assert not low.equal(plain) and generate_videos(backbone, ["a red ball falls"], **made).equal(plain)
