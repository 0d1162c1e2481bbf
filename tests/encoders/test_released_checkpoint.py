"""Checkpoints as DiT-Mem released them: all 118 tensors or the 38 trained ones, by their names, at any latent shape."""

import math
import warnings

import pytest
import torch

from memkit.encoders import DitMemConfig, load_dit_mem
from memkit.encoders.dit_mem_layers import filter_curve
from memkit.errors import InputError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.random_wan import random_transformer
from tests.helpers.released_encoder import (
    BRANCHES,
    CONFIG,
    SIZE,
    params_only,
    quietly,
    randn,
    release_state_dict,
    release_tokens,
)

BLOCK_NORM = ("fft_filter.norm", "bn")
SIZES = [SIZE, (13, 13, 13), (30, 33, 50), (13, 26, 61), (45, 14, 13)]


def real_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released 1.3B checkpoint."""
    first = {"conv.weight": (512, 16, 7, 7, 7), "conv.bias": (512,), "fft_filter.complex_weight": (512, 6, 15, 14, 2)}
    second = {"conv.weight": (768, 512, 3, 3, 3), "conv.bias": (768,), "fft_filter.complex_weight": (768, 3, 7, 7, 2)}
    shapes: dict[str, tuple[int, ...]] = {}
    for branch in BRANCHES:
        for number, (width, block) in enumerate(((512, first), (768, second))):
            names = [
                f"{norm}.{part}" for norm in BLOCK_NORM for part in ("weight", "bias", "running_mean", "running_var")
            ]
            block = block | dict.fromkeys(names, (width,)) | {f"{norm}.num_batches_tracked": () for norm in BLOCK_NORM}
            for at in (f"conv_block{number + 1}", f"cnn.{number}"):
                shapes |= {f"{branch}.{at}.{name}": shape for name, shape in block.items()}
        shapes |= {f"{branch}.feature_proj.weight": (1536, 13824), f"{branch}.feature_proj.bias": (1536,)}
    for name in "qkvo":
        shapes |= {f"self_attention.{name}.weight": (1536, 1536), f"self_attention.{name}.bias": (1536,)}
    return shapes | {"self_attention.norm_q.weight": (1536,), "self_attention.norm_k.weight": (1536,)}


def with_curves(state, size, statistics=False):
    """What the encoder falls back to at latents of ``size``: the curve without noise, and mean 0, variance 1."""
    state = dict(state)
    first = tuple((n - 1) // 4 + 1 for n in size)  # kernel 7, stride 4, padding 3
    for branch in BRANCHES:
        for block, channels, grid in (("conv_block1", 6, first), ("conv_block2", 8, tuple(n // 2 for n in first))):
            name = f"{branch}.{block}.fft_filter"
            state[f"{name}.complex_weight"] = filter_curve(branch.startswith("high"), channels, *grid)
            if statistics:
                state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"] = (
                    torch.zeros(channels),
                    torch.ones(channels),
                )
    return state


def reproduces(memory: Memory, state, latents) -> None:
    """2 N tokens, each for 100 of the release's 200 N, to 1e-4 of their size."""
    expected = release_tokens(state, latents[0])
    assert memory.tokens.shape == (1, len(expected) // 100, 16)
    assert torch.equal(memory.log_weight, torch.full(memory.tokens.shape[:2], math.log(100)))
    copies = memory.expand()
    assert copies.log_weight is None
    error = (copies.tokens[0] - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


def test_the_names_made_here_are_the_releases():
    shapes = real_shapes()
    assert len(shapes) == 118 and shapes.keys() == release_state_dict("").keys()
    assert len(params_only(shapes)) == 38
    parameters = sum(math.prod(shape) for shape in params_only(shapes).values())
    assert parameters == pytest.approx(78.78e6, abs=5e3) and 2 * parameters == pytest.approx(157.6e6, abs=5e4)


@pytest.mark.parametrize("whole", [True, False])
def test_the_real_shapes_are_the_default_config(whole):
    shapes = real_shapes()
    kept = [name for name in (shapes if whole else params_only(shapes)) if ".cnn." not in name]
    with torch.device("meta"):
        encoder = quietly({f"pipe.dit_mem.{name}": torch.empty(shapes[name]) for name in kept})
    assert encoder.config == DitMemConfig()
    own = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert own == {name: shapes[name] for name in own} and {name for name in kept if ".bn." not in name} <= own.keys()


@pytest.mark.parametrize("prefix", ["pipe.dit_mem.", "dit_mem.", ""])
def test_the_trained_tensors_in_bf16_as_the_releases_training_writes_them(tmp_path, prefix):
    saved = {name: value.bfloat16() for name, value in params_only(release_state_dict(prefix)).items()}
    torch.save(saved, tmp_path / "epoch-0.pt")
    encoder = quietly(tmp_path / "epoch-0.pt", CONFIG)
    latents = randn(1, 2, 3, *SIZE, seed=3)
    rounded = {name.removeprefix(prefix): value.float() for name, value in saved.items()}
    reproduces(encoder(latents), with_curves(rounded, SIZE, statistics=True), latents)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("whole", [True, False])
def test_any_latent_shape_of_13_cells_or_more(size, whole):
    """The filters of a whole checkpoint are used at their own size; elsewhere, and without filters, the curve is."""
    bare, latents = release_state_dict(""), randn(1, 2, 3, *size, seed=4)
    if whole:
        expected = bare if size == SIZE else with_curves(bare, size)
        encoder = load_dit_mem(release_state_dict())
    else:
        expected = with_curves(bare, size, statistics=True)
        encoder = quietly(params_only(release_state_dict()), CONFIG)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        memory = encoder(latents)
    assert len(said) == (4 if whole and size != SIZE else 0)
    assert all("using the release's curve without its noise" in str(warning.message) for warning in said)
    reproduces(memory, expected, latents)


STATISTICS, FILTERS = ("running_mean", "running_var"), ("complex_weight",)


@pytest.mark.parametrize(
    ("lost", "counts"), [(STATISTICS, (8, 0)), (FILTERS, (0, 4)), (("running_var",), (4, 0)), ((), None)]
)
def test_what_is_lost_is_counted_and_what_is_used_instead_is_said(lost, counts):
    bare = release_state_dict("")
    state = {name: value for name, value in bare.items() if not name.endswith(lost)} if lost else bare
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        encoder = load_dit_mem(state, CONFIG)
    if counts is None:
        assert not said
        return
    (warning,) = said
    assert str(warning.message) == (
        f"The state dict lacks {counts[0]} of 8 BatchNorm statistics (using mean 0, variance 1) and {counts[1]} of 4 "
        f"filters (using the release's curve without its noise)."
    )
    expected = with_curves(bare, SIZE) if lost == FILTERS else dict(bare)
    for name in expected:
        if lost and name.endswith(lost) and "fft_filter.norm" in name:
            expected[name] = torch.ones_like(bare[name]) if name.endswith("var") else torch.zeros_like(bare[name])
    latents = randn(1, 2, 3, *SIZE)
    reproduces(encoder(latents), expected, latents)


def test_a_checkpoint_of_another_latent_shape_keeps_its_own_filters():
    size = (21, 32, 32)  # features of (6, 8, 8) and (3, 4, 4), pooled from (1, 2, 2) to the grid of (1, 2)
    state = with_curves(release_state_dict("", aliases=False), size)
    for i, (name, value) in enumerate(state.items()):
        if name.endswith("complex_weight"):
            state[name] = value + 0.05 * randn(*value.shape, seed=i)
    with pytest.raises(InputError, match="2 cells"):  # which neither these filters nor the release's own grid explain
        load_dit_mem(state)
    encoder, latents = load_dit_mem(state, CONFIG), randn(1, 3, 3, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reproduces(encoder(latents), state, latents)


def test_a_model_sees_200_n_tokens_in_2_n():
    """Through the injector and a Wan: the weighted tokens steer it as the release's copies do."""
    transformer = random_transformer(num_attention_heads=1, attention_head_dim=16, num_layers=2)
    latents = randn(1, 3, 3, *SIZE, seed=9)
    few = load_dit_mem(release_state_dict())(latents)
    many = Memory(release_tokens(release_state_dict(""), latents[0])[None])
    assert few.tokens.shape == (1, 6, 16) and many.tokens.shape == (1, 600, 16)
    inputs = randn(1, 16, 3, 4, 4), torch.tensor([500]), randn(1, 5, 32)
    outputs = []
    with torch.no_grad():
        for memory in (few, many, Memory(few.tokens)):
            with SelfAttentionConcat(memory).attach(transformer):
                outputs.append(transformer(*inputs).sample)
    size = outputs[1].abs().max()
    assert (outputs[0] - outputs[1]).abs().max() / size < 1e-4
    assert (outputs[2] - outputs[1]).abs().max() / size > 1e-3  # without the weight they do not
