"""Prefixes, wrappers and nested dictionaries: every public form of the same weights is the same model."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.backbones.checkpoints.names import WRAPPERS, choose, weight_sets
from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import expected, is_model, load

PREFIXES = ("model", "diffusion_model", "module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")
DICTIONARIES = ("generator", "generator_ema", "ema", "model", "state_dict")


@st.composite
def forms(draw):
    """The state dict of `random_state()` under other names: prefixes, wrappers inside of names, nested dictionaries."""
    prefix = "".join(f"{part}." for part in draw(st.lists(st.sampled_from(PREFIXES), max_size=4)))
    wrapper = draw(st.sampled_from((*WRAPPERS, "")))
    state = {}
    for name, value in random_state().items():
        parts = name.split(".")
        at = 2 if parts[0] == "blocks" else 1
        state[prefix + ".".join([*parts[:at], *([wrapper] if wrapper else []), *parts[at:]])] = value
    for key in draw(st.lists(st.sampled_from(DICTIONARIES), max_size=3)):
        state = {key: state, "step": 7, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    return state


@given(forms())
@settings(max_examples=40)
def test_every_form_is_the_same_model(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_model(load(form))


@pytest.mark.parametrize(
    "prefix",
    ["model.diffusion_model.", "diffusion_model.", "model.", "module.", "diffusion_model.model.", "pipe.dit."]
    + ["model._fsdp_wrapped_module.", "_orig_mod.module.", "generator.model._orig_mod."],
)
def test_the_public_prefixes(prefix):
    assert is_model(load({prefix + name: value for name, value in random_state().items()}))


def test_a_default_is_taken_with_a_word_about_the_others_and_each_can_be_chosen(tmp_path):
    content = {"generator": random_state(seed=1), "generator_ema": random_state(), "critic": random_state(seed=2)}
    torch.save(content, tmp_path / "dmd.pt")
    with pytest.warns(UserWarning, match=r"dmd.pt.*loading 'generator_ema'.*weights=.*'generator_ema', 'generator'"):
        assert is_model(load(tmp_path / "dmd.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed, name in enumerate(("generator_ema", "generator", "critic")):
            assert is_model(load(tmp_path / "dmd.pt", weights=name), seed)
        same = random_state()
        assert is_model(load({"generator": same, "generator_ema": {n: v.clone() for n, v in same.items()}}))
    with pytest.raises(InputError, match="no weights 'ema'; it holds .*'generator'"):
        load(tmp_path / "dmd.pt", weights="ema")


@pytest.mark.parametrize(
    ("keys", "default"),
    [
        (("model", "ema"), "ema"),
        (("generator", "model"), "generator"),
        (("generator", "generator_ema", "ema"), "generator_ema"),
        (("state_dict.model", "state_dict.ema"), "ema"),
        (("model._fsdp_wrapped_module", "critic"), "model"),
        (("", "ema"), "ema"),
    ],
)
def test_the_documented_order(keys, default):
    names = [f"{key}.{name}".lstrip(".") for key in keys for name in ("patch_embedding.weight", "x.weight")]
    sets, rest = weight_sets(names)
    assert rest == [] and choose(sets, None, "it").label == default
    assert {each.label for each in sets} >= {default} and all(len(each.names) == 2 for each in sets)


def test_without_a_default_the_choices_are_named():
    one = random_state()
    for content in ({"high": one, "low": random_state(seed=1)}, {"critic": one}):
        with pytest.raises(InputError, match=f"holds the weights .*'{list(content)[-1]}'.*weights="):
            load(content)
    assert is_model(load({"high": one, "low": random_state(seed=1)}, weights="high"))
    assert is_model(load({"critic": one}, weights="critic"))
    with pytest.raises(InputError, match="one set of weights, not 'ema'"):
        load(one, weights="ema")


def test_a_parameter_that_is_there_twice_is_named():
    state = random_state()
    with pytest.raises(InputError, match="the same parameter, head.head.bias"):
        load({**state, "head._orig_mod.head.bias": state["head.head.bias"]})


def test_what_lies_beside_the_transformer_is_not_read():
    """An all-in-one file of ComfyUI, and the optimizer of a training checkpoint."""
    all_in_one = {f"model.diffusion_model.{name}": value for name, value in random_state().items()}
    all_in_one["first_stage_model.conv1.weight"] = all_in_one["text_encoders.umt5.shared.weight"] = torch.zeros(1)
    assert is_model(load(all_in_one))
    with pytest.warns(UserWarning, match="LoRA beside the weights"):
        layers = {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 48)}
        assert is_model(load({"generator": random_state(), "generator_lora": layers}))


def test_parameters_are_read_without_their_graph():
    state = {name: torch.nn.Parameter(value) for name, value in random_state().items()}
    model = load({"model": state})
    assert is_model(model) and all(parameter.is_leaf for parameter in model.parameters())


def test_the_file_may_go_away_after_it_was_read(tmp_path):
    torch.save({"model": random_state()}, tmp_path / "a.pt")
    model = load(tmp_path / "a.pt")
    size = (tmp_path / "a.pt").stat().st_size
    (tmp_path / "a.pt").write_bytes(bytes(size))
    assert is_model(model) and expected()
