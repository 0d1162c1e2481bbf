"""Checkpoints of the released encoder: every form in which they come, and what is wrong with others."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from memkit.encoders import DitMemConfig, DitMemEncoder, load_dit_mem
from memkit.encoders.dit_mem_layers import filter_curve
from memkit.errors import InputError
from tests.helpers.released_encoder import (
    BRANCHES,
    CONFIG,
    SIZE,
    params_only,
    quietly,
    randn,
    release_state_dict,
    release_tokens,
    same,
)


@pytest.fixture
def bare():
    return release_state_dict(prefix="")


@pytest.mark.parametrize("prefix", ["pipe.dit_mem.", "dit_mem.", ""])
@pytest.mark.parametrize("aliases", [True, False])
def test_every_way_to_name_the_tensors_loads_the_same(prefix, aliases, bare):
    latents = randn(1, 2, 3, *SIZE)
    state = release_state_dict(prefix, aliases)
    if prefix:
        state["pipe.dit.blocks.0.weight"] = torch.zeros(3)
    assert torch.equal(load_dit_mem(state)(latents).tokens, load_dit_mem(bare)(latents).tokens)


def test_parameters_alone_load_with_a_warning_that_counts(bare):
    with pytest.warns(UserWarning, match="lacks 8 of 8 BatchNorm statistics.*4 of 4 filters"):
        encoder = load_dit_mem(params_only(bare), CONFIG)
    for branch in BRANCHES:
        for block, channels, grid in (("conv_block1", 6, (6, 5, 9)), ("conv_block2", 8, (3, 2, 4))):
            name = f"{branch}.{block}.fft_filter"
            bare[f"{name}.complex_weight"] = filter_curve(branch.startswith("high"), channels, *grid)
            bare[f"{name}.norm.running_mean"] = torch.zeros(channels)
            bare[f"{name}.norm.running_var"] = torch.ones(channels)
    latents = randn(1, 2, 3, *SIZE)
    same(encoder(latents).tokens[0].repeat_interleave(100, 0), release_tokens(bare, latents[0]))
    assert torch.equal(encoder(latents).tokens, quietly(params_only(bare), CONFIG)(latents).tokens)


def test_the_callers_tensors_are_copied(bare):
    encoder, before = load_dit_mem(bare), {name: value.clone() for name, value in bare.items()}
    with torch.no_grad():
        for value in encoder.state_dict().values():
            value.add_(1)
    assert all(torch.equal(bare[name], value) for name, value in before.items())


def test_files(tmp_path, bare):
    latents = randn(1, 2, 3, *SIZE)
    expected = load_dit_mem(bare)(latents).tokens
    torch.save(release_state_dict(), tmp_path / "release.pt")
    save_file({name: value.clone() for name, value in bare.items()}, tmp_path / "release.safetensors")
    for file in ("release.pt", "release.safetensors"):
        assert torch.equal(load_dit_mem(tmp_path / file)(latents).tokens, expected)
    halves = {name: value.bfloat16() for name, value in params_only(bare).items()}
    torch.save(halves, tmp_path / "bf16.pt")
    encoder = quietly(str(tmp_path / "bf16.pt"), CONFIG)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


class Payload:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_files_with_code_or_damage_are_refused(tmp_path, bare, capsys):
    torch.save({"pipe.dit_mem.x": Payload()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x02noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for file in ("evil.pt", "list.pt", "noise.pt", "noise.safetensors", "none.pt"):
        with pytest.raises(InputError, match=file):
            load_dit_mem(tmp_path / file)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("self_attention.k.bias"), "lacks self_attention.k.bias"),
        (lambda s: s.pop("high_pass_module.feature_proj.weight"), "lacks high_pass_module.feature_proj.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda s: s.update({"self_attention.q.bias": torch.zeros(3)}), r"self_attention.q.bias of shape \(3,\)"),
        (lambda s: s.update({"low_pass_module.cnn.0.conv.bias": torch.ones(6)}), "two different tensors"),
        (
            lambda s: s.update({"low_pass_module.conv_block1.fft_filter.complex_weight": torch.zeros(2)}),
            "complex_weight",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_named(change, named):
    state = release_state_dict("", aliases=False)
    state["low_pass_module.cnn.0.conv.bias"] = state["low_pass_module.conv_block1.conv.bias"]
    change(state)
    with pytest.raises(InputError, match=named):
        load_dit_mem(state)


def test_a_grid_that_cannot_be_known_is_asked_for(bare):
    with pytest.raises(InputError, match="config=DitMemConfig"):
        load_dit_mem(params_only(bare))


def test_parameters_alone_tell_a_grid_of_one_cell(bare):
    state, second = params_only(bare), CONFIG.channels[1]
    for name in [name for name in state if name.endswith("feature_proj.weight")]:
        state[name] = state[name][:, :second].clone()
    encoder, want = quietly(state, None), quietly(state, dataclasses.replace(CONFIG, grid=(1, 1)))
    latents = randn(1, 2, 3, *SIZE)
    assert encoder.config.grid == (1, 1) and torch.equal(encoder(latents).tokens, want(latents).tokens)


@pytest.mark.parametrize("lost", ["nothing", "one filter", "all buffers"])
def test_a_loaded_checkpoint_is_saved_whole(tmp_path, bare, lost):
    """The filters that a checkpoint brought come back to the bit; those that it lacked are the curve again."""
    if lost == "one filter":
        del bare["low_pass_module.conv_block1.fft_filter.complex_weight"]
        del bare["low_pass_module.cnn.0.fft_filter.complex_weight"]
    encoder = quietly(params_only(bare) if lost == "all buffers" else bare, CONFIG)
    latents = randn(1, 2, 3, *SIZE)
    expected = encoder(latents).tokens
    encoder.save_pretrained(tmp_path)
    loaded = DitMemEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded(latents).tokens, expected) and loaded.config == encoder.config
    held = [size is not None for size in loaded.config.stored_filters]
    assert held == {"nothing": [True] * 4, "one filter": [True, True, False, True], "all buffers": [False] * 4}[lost]
    again = loaded.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()


def test_names_and_counts_are_the_releases(bare):
    assert len(release_state_dict()) == 118 and len(params_only(bare)) == 38


def test_the_real_size():
    with torch.device("meta"):
        encoder = DitMemEncoder(DitMemConfig())
    unused = 2 * 2 * (512 + 768)  # the BatchNorm that the release never calls
    assert sum(p.numel() for p in encoder.parameters()) + unused == pytest.approx(78.78e6, abs=5e3)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    for branch in BRANCHES:
        assert shapes[f"{branch}.conv_block1.conv.weight"] == (512, 16, 7, 7, 7)
        assert shapes[f"{branch}.conv_block2.conv.weight"] == (768, 512, 3, 3, 3)
        assert shapes[f"{branch}.feature_proj.weight"] == (1536, 13824)
    assert shapes["self_attention.norm_q.weight"] == (1536,)
