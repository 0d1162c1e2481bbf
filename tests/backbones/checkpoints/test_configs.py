"""Configurations of published models, read off the shapes of their original weights at full size."""

import pytest
import torch

from memkit.backbones import PRESETS, WanBackbone
from memkit.backbones.checkpoints import matching_presets
from memkit.backbones.checkpoints.files import open_mapping
from memkit.backbones.checkpoints.plan import plan
from tests.helpers import original_wan
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import HEADS, load


@pytest.fixture
def without_values(monkeypatch):
    """Makes `random_state` give tensors without values, which may be of any size."""
    monkeypatch.setattr(original_wan, "normal", lambda *shape, generator: torch.empty(*shape, device="meta"))


def state_of(transformer, image=None):
    """Original weights of a configuration, as far as `random_state` draws them."""
    return random_state(
        dim=transformer["num_attention_heads"] * 128,
        ffn=transformer["ffn_dim"],
        layers=transformer["num_layers"],
        in_channels=transformer["in_channels"],
        out_channels=transformer["out_channels"],
        text=4096,
        image=image,
    )


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.usefixtures("without_values")
def test_every_published_size_fits_and_is_named(name):
    wanted = PRESETS[name]().transformer
    decided = plan(open_mapping(state_of(wanted, wanted.get("image_dim"))))
    assert {key: decided.settings[key] for key in wanted if key in decided.settings} == {
        key: value for key, value in wanted.items() if key in decided.settings
    }
    assert name in matching_presets(decided.settings)
    same_shapes = {"wan2.1-t2v-14b", "wan2.2-t2v-a14b"}
    assert set(matching_presets(decided.settings)) == (same_shapes if name in same_shapes else {name})


@pytest.mark.usefixtures("without_values")
def test_first_last_frame_to_video_and_fun_control_fit_and_have_no_preset():
    fourteen = PRESETS["wan2.1-i2v-14b"]().transformer
    state = state_of(fourteen, image=1280) | {"img_emb.emb_pos": torch.empty(1, 514, 1280, device="meta")}
    decided = plan(open_mapping(state))
    assert decided.settings["pos_embed_seq_len"] == 514 and matching_presets(decided.settings) == []
    control = {**PRESETS["wan2.1-t2v-1.3b"]().transformer, "in_channels": 48}
    decided = plan(open_mapping(state_of(control, image=1280)))
    assert decided.settings["in_channels"] == 48 and matching_presets(decided.settings) == []


def test_the_positions_of_first_and_last_frame_are_loaded_and_used():
    positions = torch.randn(1, 2 * 7, 20, generator=torch.Generator().manual_seed(1))
    state = random_state(in_channels=36, image=20)
    model = load({**state, "img_emb.emb_pos": positions})
    assert torch.equal(model.condition_embedder.image_embedder.pos_embed, positions)
    torch.manual_seed(0)
    inputs = {"hidden_states": torch.randn(1, 36, 2, 4, 4), "timestep": torch.tensor([500.0])}
    text, image = torch.randn(1, 5, 32), torch.randn(2, 7, 20)

    def run(model, image):
        with torch.no_grad():
            return model(**inputs, encoder_hidden_states=text, encoder_hidden_states_image=image)[0]

    want = run(load(state), (image.flatten(0, 1) + positions[0])[None])
    assert torch.equal(run(model, image), want)


def test_the_video_format_follows_the_latents_not_the_controls():
    formats = [
        WanBackbone.from_original(random_state(in_channels=given, out_channels=made), HEADS).video_format
        for given, made in ((16, 16), (48, 16), (48, 48))
    ]
    assert formats[0] == formats[1] != formats[2] and formats[2].num_frames == 121


def test_ti2v_and_wan22_i2v_names_give_the_stock_model():
    """48 channels in and out; 36 channels without the image encoder of Wan2.1."""
    for channels in ({"in_channels": 48, "out_channels": 48}, {"in_channels": 36}):
        state = random_state(**channels)
        model = load(state)
        assert model.config.image_dim is None and model.config.in_channels == channels["in_channels"]
        assert torch.equal(model.proj_out.weight, state["head.head.weight"])
        assert torch.equal(model.blocks[1].norm2.weight, state["blocks.1.norm3.weight"])
