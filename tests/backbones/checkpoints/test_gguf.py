"""GGUF: stays quantised, through diffusers' own classes, and computes with what its blocks decode to."""

import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, dequantize_gguf_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from tests.helpers.original_wan import forward, random_state

gguf = pytest.importorskip("gguf")
HEADS = {"num_attention_heads": 2, "attention_head_dim": 32}


def write_gguf(path, state, kind, prefix=""):
    """As converters write it: matrices quantised in blocks of 32, the rest plain; returns the decoded state."""
    writer = gguf.GGUFWriter(path, "wan")
    decoded = {}
    for name, value in state.items():
        array = value.numpy()
        if value.ndim == 2 and name.endswith("weight"):
            array = gguf.quantize(array, kind)
            writer.add_tensor(prefix + name, array, raw_dtype=kind)
            decoded[name] = torch.from_numpy(gguf.dequantize(array, kind).copy())
            if kind == gguf.GGMLQuantizationType.Q8_0:
                decoded[name] = decoded[name].half().float()  # the dtype in which diffusers decodes
        else:
            writer.add_tensor(prefix + name, array)
            decoded[name] = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return decoded


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16])
def test_it_computes_with_the_decoded_weights(tmp_path, kind, prefix):
    decoded = write_gguf(tmp_path / "m.gguf", random_state(dim=64), kind, prefix)
    model = WanBackbone.from_original(tmp_path / "m.gguf", HEADS, torch_dtype=torch.float32).transformer
    assert isinstance(model.blocks[0].attn1.to_q, GGUFLinear) and not model.training
    torch.manual_seed(3)
    latents, times, text = torch.randn(2, 16, 3, 4, 6), torch.tensor([812.0, 40.0]), torch.randn(2, 5, 32)
    with torch.no_grad():
        got = model(latents, times, text, return_dict=False)[0]
    want = forward(decoded, latents, times, text, heads=2)
    assert (got - want).norm() / want.norm() < 1e-5
    assert model.blocks[0].scale_shift_table.dtype == torch.float32
    weight = dequantize_gguf_tensor(model.blocks[1].ffn.net[2].weight)
    torch.testing.assert_close(weight.float(), decoded["blocks.1.ffn.2.weight"], rtol=0, atol=1e-2)


def test_a_convolution_in_bf16_is_decoded_as_diffusers_cannot_run_it_otherwise(tmp_path):
    state, kind = random_state(dim=64), gguf.GGMLQuantizationType.BF16
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "wan")
    for name, value in state.items():
        writer.add_tensor(name, gguf.quantize(value.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = WanBackbone.from_original(tmp_path / "m.gguf", HEADS, torch_dtype=torch.float32).transformer
    want = state["patch_embedding.weight"].bfloat16().float()
    assert torch.equal(model.patch_embedding.weight, want)
    assert torch.equal(model.scale_shift_table, state["head.modulation"].bfloat16().float())


def test_bf16_is_what_it_computes_with_by_default(tmp_path):
    write_gguf(tmp_path / "m.gguf", random_state(dim=64), gguf.GGMLQuantizationType.Q8_0)
    model = WanBackbone.from_original(tmp_path / "m.gguf", HEADS).transformer
    assert model.patch_embedding.weight.dtype == model.blocks[0].attn1.to_q.compute_dtype == torch.bfloat16
    assert model.blocks[0].norm2.weight.dtype == torch.float32


def test_what_does_not_fit_and_what_is_not_finite_are_named(tmp_path):
    state = random_state(dim=64)
    write_gguf(tmp_path / "m.gguf", {n: v for n, v in state.items() if n != "blocks.1.self_attn.o.bias"}, 8)
    with pytest.raises(InputError, match=r"m.gguf does not fit.*missing: blocks.1.attn1.to_out.0.bias"):
        WanBackbone.from_original(tmp_path / "m.gguf", HEADS)
    state["blocks.0.modulation"][0, 0, 0] = float("nan")
    write_gguf(tmp_path / "m.gguf", state, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(InputError, match="m.gguf holds 1 NaN or infinite values .*blocks.0.modulation"):
        WanBackbone.from_original(tmp_path / "m.gguf", HEADS)


@given(data=st.data())
@settings(max_examples=30)
def test_a_file_that_is_cut_short_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "m.gguf", random_state(dim=64, layers=1), gguf.GGMLQuantizationType.Q8_0)
    whole = (folder / "m.gguf").read_bytes()
    length = data.draw(st.integers(4, 8000) | st.integers(4, len(whole) - 1))
    (folder / "m.gguf").write_bytes(whole[:length])
    with pytest.raises(InputError, match="m.gguf .*cut short"):
        WanBackbone.from_original(folder / "m.gguf", HEADS)
