"""PMRoPE as a module: number of parameters, meta construction, saving."""

import math

import pytest
import torch
from diffusers import WanTransformer3DModel

from memkit.backbones import PRESETS
from memkit.cameras import CameraPath
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.random_wan import random_transformer
from tests.positions.common import SIZES, cameras, latents, random_pm_rope, run


@pytest.mark.parametrize(("preset", "million"), [("wan2.1-t2v-1.3b", 141.6), ("wan2.2-ti2v-5b", 566.4)])
def test_added_parameters_at_the_published_sizes(preset, million):
    with torch.device("meta"):
        config = PMRoPEConfig.of(WanTransformer3DModel(**PRESETS[preset]().transformer))
        counts = {
            mode: sum(p.numel() for p in PMRoPE(PMRoPEConfig(config.layers, config.heads, 128, mode)).parameters())
            for mode in ("off", "phase", "full")
        }
    assert math.floor(counts["full"] / 1e5) / 10 == million
    assert (counts["off"], counts["phase"]) == (0, 30 * 7 * 128)


def test_it_survives_meta_construction_and_zeroing_again(model):
    with torch.device("meta"):
        pm = PMRoPE(PMRoPEConfig(*SIZES))
    pm = pm.to_empty(device="cpu")
    for how in ("whole", "each"):
        for parameter in pm.parameters():
            parameter.data.fill_(1.0)
        if how == "whole":
            pm.reset_parameters()
        else:  # as FSDP does
            for module in pm.modules():
                if list(module.parameters(recurse=False)):
                    module.reset_parameters()
        assert all((parameter == 0).all() for parameter in pm.parameters())
    with torch.no_grad(), pm.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
        assert torch.equal(run(model, latents(3)), run(random_transformer(), latents(3)))


@pytest.mark.parametrize("mode", ["off", "phase", "full"])
def test_saved_and_loaded_it_is_the_same(model, tmp_path, mode):
    pm, outs = random_pm_rope(mode), []
    assert sorted(p.name for p in pm.save_pretrained(tmp_path).iterdir()) == ["config.json", "model.safetensors"]
    again = PMRoPE.from_pretrained(tmp_path)
    assert again.config == pm.config
    for positions in (pm, again):
        with torch.no_grad(), positions.attach(model) as posed, posed.chunk(CameraPath.of(cameras(3))):
            outs.append(run(model, latents(3)))
    assert torch.equal(*outs)
