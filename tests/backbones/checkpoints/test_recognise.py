"""What is not a plain Wan is named, with the remedy: by the names that its releases have."""

import pytest
import torch

from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_pipeline, random_transformer
from tests.helpers.wan_files import is_model, load


def small(*shape):
    return torch.zeros(*shape or (1,))


BESIDE = {
    "vace_blocks.0.after_proj.weight": "Wan VACE.*WanVACETransformer3DModel",
    "vace_patch_embedding.weight": "Wan VACE.*WanVACETransformer3DModel",
    "motion_encoder.dec.direction.weight": "Wan-Animate.*WanAnimateTransformer3DModel",
    "face_adapter.fuser_blocks.0.k_norm.weight": "Wan-Animate",
    "fps_embedding.weight": "SkyReels-V2.*SkyReelsV2Transformer3DModel",
    "casual_audio_encoder.encoder.conv1.weight": "driven by audio",
    "ref_conv.weight": "layers for controls",
    "control_adapter.conv.weight": "layers for controls",
    "blocks.0.cam_encoder.weight": "layers for controls.*ReCamMaster",
    "blocks.0.self_attn.q.quantized_weight_values": "NVFP4, as LongLive-2.0",
    "blocks.0.self_attn.q.scale_weight": "fp8 with scales, as ComfyUI.*bf16 or fp16",
    "scaled_fp8": "fp8 with scales, as ComfyUI",
    "blocks.0.self_attn.q.comfy_quant": "fp8 with scales, as ComfyUI",
    "blocks.0.self_attn.q.weight.absmax": "bitsandbytes.*BitsAndBytesConfig",
    "blocks.0.self_attn.q.weight._data": "layout of another library",
    "blocks.0.self_attn.q.base_layer.weight": "LoRA layers of peft still in it",
}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(("name", "what"), BESIDE.items())
def test_relatives_and_quantised_forms_are_named(name, what, prefix):
    state = {**random_state(), name: small()}
    with pytest.raises(InputError, match=f"The state dict is .*{what}"):
        load({prefix + key: value for key, value in state.items()})


ALONE = {
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "a LoRA alone.*lora=",
    "lora_unet_blocks_0_self_attn_q.lora_down.weight": "a LoRA alone",
    "base_model.model.blocks.0.self_attn.q.lora_B.default.weight": "a LoRA alone",
    "transformer.blocks.0.attn1.to_q.lora_A.weight": "a LoRA alone",
    "high_pass_module.conv_block1.conv.weight": "an encoder of DiT-Mem.*load_dit_mem",
    "pipe.dit_mem.low_pass_module.conv_block1.conv.weight": "an encoder of DiT-Mem",
    "decoder.middle.0.residual.0.gamma": "a VAE",
    "token_embedding.weight": "a text encoder",
    "shared.weight": "a text encoder",
    "visual.transformer.0.norm1.weight": "a CLIP encoder",
    "double_blocks.0.img_attn.qkv.weight": "a model of another family",
    "something.else": "no checkpoint of an original Wan: .*something.else.*from_pretrained",
}


@pytest.mark.parametrize(("name", "what"), ALONE.items())
def test_what_is_no_transformer_of_wan_is_named(name, what):
    with pytest.raises(InputError, match=f"The state dict is {what}"):
        load({name: small()})


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_parts_of_a_diffusers_pipeline_are_named(part):
    what = {"transformer": "a Wan in diffusers' own format", "vae": "a VAE", "text_encoder": "a text encoder"}[part]
    with pytest.raises(InputError, match=what):
        load(getattr(random_pipeline(), part).state_dict())


def test_diffusers_layout_is_recognised_before_anything_is_said_to_be_missing():
    with pytest.raises(InputError, match="diffusers' own format; load its folder"):
        load({f"model.{name}": value for name, value in random_transformer().state_dict().items()})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_integers_without_scales_are_refused_even_with_a_dtype(dtype):
    state = random_state()
    state["blocks.0.self_attn.q.weight"] = state["blocks.0.self_attn.q.weight"].to(dtype)
    for options in ({}, {"torch_dtype": torch.bfloat16}):
        with pytest.raises(InputError, match=f"{str(dtype)[6:]}, and the scales of its weights are not in it.*bf16"):
            load(state, **options)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_without_scales_is_read_as_a_cast_only_if_a_dtype_is_asked_for(dtype):
    cast = {n: v.to(dtype) if v.ndim == 2 and n.endswith("weight") else v for n, v in random_state().items()}
    with pytest.raises(InputError, match="no scales in it.*torch_dtype=torch.bfloat16"):
        load(cast)
    want = load({name: value.float() for name, value in cast.items()}).state_dict()
    found = load(cast, torch_dtype=torch.float32).state_dict()
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert not is_model(load(cast, torch_dtype=torch.float32))


@pytest.mark.parametrize(
    "lost", ["head.head.weight", "text_embedding.0.weight", "time_embedding.0.weight", "blocks.0.ffn.0.weight"]
)
def test_an_incomplete_checkpoint_is_named(lost):
    with pytest.raises(InputError, match=f"incomplete checkpoint of an original Wan: it lacks {lost}"):
        load({name: value for name, value in random_state().items() if name != lost})
    with pytest.raises(InputError, match="all blocks|blocks.0.ffn"):
        load({name: value for name, value in random_state().items() if "blocks" not in name})


def test_missing_blocks_are_named_before_a_model_of_that_size_is_built():
    state = random_state()
    with pytest.raises(InputError, match="has blocks up to 999, but lacks blocks 2, 3, 4, 5…"):
        load({**state, "blocks.999.modulation": torch.zeros(1)})
    with pytest.raises(InputError, match="lacks blocks 1…|lacks blocks 1, 2"):
        load({name.replace("blocks.1.", "blocks.7."): value for name, value in state.items()})


def test_weights_without_values_are_refused():
    with pytest.raises(InputError, match="on the meta device"):
        load({name: value.to("meta") for name, value in random_state().items()})


def test_shapes_of_no_wan_and_settings_of_no_model_are_refused():
    state = random_state()
    with pytest.raises(InputError, match="other shapes than a Wan"):
        load({**state, "patch_embedding.weight": torch.zeros(48, 64)})
    from memkit.backbones import WanBackbone

    with pytest.raises(InputError, match="does not take"):
        WanBackbone.from_original(state, {"no_such_setting": 3})
    with pytest.raises(InputError, match="does not fit .*of another shape"):
        WanBackbone.from_original(state, {"num_attention_heads": 3, "attention_head_dim": 24})
