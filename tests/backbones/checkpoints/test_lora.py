"""LoRAs on original names: loaded by diffusers and peft, equal to weights with the products added."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import load

RANK = 4
ENDS = ("lora_A", "lora_B")
LAYERS = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("self_attn.q", "self_attn.k", "cross_attn.o", "ffn.0")]
LAYERS += ["blocks.1.self_attn.v", "blocks.0.ffn.2"]


def factors(layers=LAYERS, rank=RANK):
    """``A`` [rank, in] and ``B`` [out, rank] per layer."""
    state, made = random_state(), {}
    for i, layer in enumerate(layers):
        generator = torch.Generator().manual_seed(100 + i)
        out, inp = state[f"{layer}.weight"].shape
        made[layer] = [torch.randn(*s, generator=generator) * 0.2 for s in ((rank, inp), (out, rank))]
    return made


def named(front: str = "", ends=ENDS, back: str = ".weight"):
    """The factors under original names, with something before and after each."""
    return {
        f"{front}{name}.{end}{back}": factor
        for name, pair in factors().items()
        for end, factor in zip(ends, pair, strict=True)
    }


def lora(form: str):
    """The state dict of a LoRA, in a layout that is out there."""
    match form:
        case "LongLive":  # peft's names, beside the critic's
            flat = named("base_model.model.")
            return {"generator_lora": flat, "critic_lora": {n: torch.randn_like(w) for n, w in flat.items()}, "step": 3}
        case "bare PEFT":
            return named("base_model.model.")
        case "PEFT of FSDP, with the adapter's name":
            return named("base_model.model.model._fsdp_wrapped_module.", back=".default.weight")
        case "ComfyUI":
            return named("diffusion_model.")
        case "ComfyUI with alpha":
            made = named("diffusion_model.", ends=("lora_down", "lora_up"))
            made = {name: factor * 2 if "lora_down" in name else factor for name, factor in made.items()}
            return made | {f"diffusion_model.{name}.alpha": torch.tensor(RANK / 2) for name in factors()}
        case "diffusers":
            made = convert_wan_transformer_to_diffusers(named())
            return {f"transformer.{name}": factor for name, factor in made.items()}


FORMS = ["LongLive", "bare PEFT", "PEFT of FSDP, with the adapter's name", "ComfyUI", "ComfyUI with alpha", "diffusers"]


def inputs():
    torch.manual_seed(3)
    return torch.randn(2, 16, 3, 4, 6), torch.tensor([812.0, 40.0]), torch.randn(2, 5, 32)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_model_with_the_products_added(form, tmp_path):
    torch.save({"generator": random_state()}, tmp_path / "base.pt")
    torch.save(lora(form), tmp_path / "lora.pt")
    merged = random_state()
    for name, (down, up) in factors().items():
        merged[f"{name}.weight"] += up @ down
    with torch.no_grad():
        got, want, base = (
            model(*inputs(), return_dict=False)[0]
            for model in (load(tmp_path / "base.pt", lora=tmp_path / "lora.pt"), load(merged), load(random_state()))
        )
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)
    assert (got - base).abs().max() > 0.1


def test_it_is_an_adapter_that_can_be_taken_off():
    model = load(random_state(), lora=lora("bare PEFT"))
    model.disable_adapters()
    with torch.no_grad():
        assert torch.equal(model(*inputs())[0], load(random_state())(*inputs())[0])


def test_what_is_no_lora_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(InputError, match="The state dict is no LoRA.*lora="):
        load(random_state(), lora=random_state())
    missing = {name.replace("blocks.1", "blocks.7"): w for name, w in lora("bare PEFT").items()}
    with pytest.raises(InputError, match="is a LoRA .*blocks.7"):
        load(random_state(), lora=missing)
    shapes = {"lora_A": (4, 72), "lora_B": (72, 4)}
    wrong = {f"blocks.0.self_attn.q.{end}.weight": torch.ones(*shape) for end, shape in shapes.items()}
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match="wrong.pt is a LoRA that does not fit this model"):
        load(random_state(), lora=tmp_path / "wrong.pt")
    several = {"first_lora": lora("bare PEFT"), "second_lora": lora("bare PEFT")}
    with pytest.raises(InputError, match="several LoRAs: first_lora, second_lora"):
        load(random_state(), lora=several)
