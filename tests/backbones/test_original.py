"""Original Wan names: the loaded stock model computes what the original architecture does."""

import pytest
import torch
from safetensors.torch import save_file

from memkit.backbones import PRESETS, WanBackbone
from memkit.errors import InputError
from tests.helpers.original_wan import forward, random_state

SMALL_HEADS = {"num_attention_heads": 2, "attention_head_dim": 24}


def inputs():
    torch.manual_seed(3)
    return torch.randn(2, 16, 3, 4, 6), torch.tensor([812.0, 40.0]), torch.randn(2, 5, 32)


def velocity(backbone):
    with torch.no_grad():
        return backbone.velocity(*inputs())


def test_equals_the_original_forward():
    state = random_state()
    got = velocity(WanBackbone.from_original(state, SMALL_HEADS))
    want = forward(state, *inputs(), heads=2)
    assert (got - want).norm() / want.norm() < 1e-5


@pytest.mark.parametrize("form", ["file", "folder", "pt", "prefixed"])
def test_every_form_on_disk_gives_the_same_model(form, tmp_path):
    state = random_state()
    want = velocity(WanBackbone.from_original(state, SMALL_HEADS))
    if form == "file":
        save_file(state, source := tmp_path / "model.safetensors")
    elif form == "pt":
        torch.save(state, source := tmp_path / "model.pth")
    elif form == "prefixed":
        source = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    else:
        names, source = sorted(state), tmp_path
        save_file({n: state[n] for n in names[::2]}, tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors")
        save_file({n: state[n] for n in names[1::2]}, tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors")
    assert torch.equal(velocity(WanBackbone.from_original(source, SMALL_HEADS)), want)


def test_the_callers_state_dict_is_left_alone():
    state = random_state()
    before = {name: value.clone() for name, value in state.items()}
    WanBackbone.from_original(state, SMALL_HEADS)
    assert state.keys() == before.keys() and all(torch.equal(state[n], before[n]) for n in state)


def test_bfloat16_keeps_the_sensitive_parts_in_fp32():
    model = WanBackbone.from_original(random_state(), SMALL_HEADS, torch_dtype=torch.bfloat16).transformer
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    for name in (
        "blocks.0.scale_shift_table",
        "blocks.1.norm2.weight",
        "condition_embedder.time_embedder.linear_1.weight",
    ):
        assert dtypes[name] == torch.float32
    assert dtypes["blocks.0.attn1.norm_q.weight"] == torch.bfloat16
    assert model.rope.freqs_cos.dtype == torch.float32
    latents, timestep, text = inputs()
    with torch.no_grad():
        got = model(latents.bfloat16(), timestep, text.bfloat16(), return_dict=False)[0]
    want = forward(random_state(), *inputs(), heads=2)
    assert (got - want).norm() / want.norm() < 0.05


def test_image_to_video_names_and_sizes_are_read_off():
    state = random_state(in_channels=36, image=20)
    model = WanBackbone.from_original(state, SMALL_HEADS).transformer
    assert (model.config.in_channels, model.config.image_dim, model.config.added_kv_proj_dim) == (36, 20, 48)
    assert torch.equal(model.blocks[1].attn2.add_k_proj.weight, state["blocks.1.cross_attn.k_img.weight"])


def test_published_sizes_are_read_off_the_shapes():
    for name in ("wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"):
        wanted = PRESETS[name]().transformer
        dim = wanted["num_attention_heads"] * 128
        with torch.device("meta"):
            sizes = {"in_channels": wanted["in_channels"], "out_channels": wanted["out_channels"], "text": 4096}
        from memkit.backbones.checkpoints import infer_config

        shapes = {
            "patch_embedding.weight": (dim, sizes["in_channels"], 1, 2, 2),
            "head.head.weight": (4 * sizes["out_channels"], dim),
            "text_embedding.0.weight": (dim, 4096),
            "time_embedding.0.weight": (dim, 256),
            "blocks.0.ffn.0.weight": (wanted["ffn_dim"], dim),
            "blocks.0.norm3.weight": (dim,),
            f"blocks.{wanted['num_layers'] - 1}.modulation": (1, 6, dim),
        }
        read = infer_config({n: torch.empty(s, device="meta") for n, s in shapes.items()})
        assert read == {key: wanted[key] for key in read}


def test_what_does_not_fit_is_named(tmp_path):
    state = random_state()
    with pytest.raises(InputError, match=r"attn1\.to_q\.weight"):
        WanBackbone.from_original({n: v for n, v in state.items() if n != "blocks.1.self_attn.q.weight"}, SMALL_HEADS)
    with pytest.raises(InputError, match="left over"):
        WanBackbone.from_original({**state, "blocks.0.extra.weight": torch.zeros(1)}, SMALL_HEADS)
    with pytest.raises(InputError, match="another shape"):
        WanBackbone.from_original(state, {**SMALL_HEADS, "ffn_dim": 80})
    with pytest.raises(InputError, match="from_pretrained"):
        WanBackbone.from_original({"blocks.0.attn1.to_q.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="no file"):
        WanBackbone.from_original(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="holds no"):
        WanBackbone.from_original(tmp_path)
