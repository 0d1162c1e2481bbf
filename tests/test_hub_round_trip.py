"""Every part that has weights, and memkit's blocks, go to a hub by HTTP and come back as they were."""

import dataclasses
import json

import pytest
import torch
from diffusers import ModularPipelineBlocks

from memkit.encoders import MemoryGate, load_encoder, make_encoder
from memkit.errors import InputError
from memkit.injectors import (
    FrameContext,
    FrameContextConfig,
    QueryLayers,
    QueryLayersConfig,
    QueryModule,
    QueryModuleConfig,
)
from memkit.modular import WanMemoryBlocks, WanStreamBlocks
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.local_hub import local_hub


def gated():
    encoder = make_encoder("frequency", "tiny", dim=48)
    encoder.gate = MemoryGate(3, 2, 0.5)
    return encoder


LEARNED = QueryLayersConfig(dim=48, blocks=3, layers=2, query="learned", query_shape=(16, 2, 4, 4))
PARTS = {
    "frequency encoder with a gate": gated,
    "dit_mem encoder": lambda: make_encoder("dit_mem", "tiny", dim=48),
    "patch encoder": lambda: make_encoder("patch", "tiny", dim=48),
    "query layers": lambda: QueryLayers(LEARNED),
    "query module": lambda: QueryModule(QueryModuleConfig(layers=1, heads=2, head_dim=24, ffn_dim=64, text_dim=32)),
    "PM-RoPE": lambda: PMRoPE(PMRoPEConfig(3, 2, 24)),
    "frame context": lambda: FrameContext(FrameContextConfig(dim=48, blocks=3, packing=((1, 1), (2, 2)))),
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with local_hub(monkeypatch) as hub:
        yield hub


@pytest.mark.parametrize("name", PARTS)
def test_a_part_comes_back_bit_for_bit(hub, tmp_path, name):
    torch.manual_seed(0)
    part = PARTS[name]()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn_like(parameter))
    url = part.push_to_hub("someone/part", token="t", commit_message="First")
    assert url.endswith(hub.sha("someone/part")) and set(hub.repos["someone/part"]) >= {"config.json", "README.md"}
    assert json.loads(hub.repos["someone/part"]["config.json"])["_class_name"] == type(part).__name__
    again = type(part).from_pretrained("someone/part", cache_dir=tmp_path)
    want, got = part.state_dict(), again.state_dict()
    assert again.config == part.config and want.keys() == got.keys() and not again.training
    assert all(torch.equal(want[key], got[key]) and want[key].dtype == got[key].dtype for key in want)
    folder = type(part).from_pretrained(part.save_pretrained(tmp_path / "folder"))  # a local folder is the same
    assert all(torch.equal(want[key], x) for key, x in folder.state_dict().items())


def test_what_is_pushed_later_replaces_what_was_there(hub, tmp_path):
    gated().push_to_hub("someone/part", token="t")
    plain = make_encoder("patch", "tiny", dim=48)
    plain.push_to_hub("someone/part", token="t")
    assert load_encoder("someone/part", cache_dir=tmp_path).gate is None
    assert load_encoder("someone/part", cache_dir=tmp_path).config == plain.config
    plain.push_to_hub("someone/part", token="t", subfolder="second")
    assert "second/model.safetensors" in hub.repos["someone/part"]
    below = load_encoder("someone/part", cache_dir=tmp_path, subfolder="second")
    assert dataclasses.asdict(below.config) == dataclasses.asdict(plain.config)
    with pytest.raises(InputError, match="'someone/nothing' is not a folder"):
        load_encoder("someone/nothing", cache_dir=tmp_path)


@pytest.mark.parametrize("blocks", [WanMemoryBlocks, WanStreamBlocks])
def test_blocks_are_loaded_from_the_hub(hub, tmp_path, monkeypatch, blocks):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    blocks().save_pretrained(tmp_path / "blocks", push_to_hub=True, repo_id="someone/blocks", token="t")
    assert {"block.py", "modular_config.json"} <= set(hub.repos["someone/blocks"])
    again = ModularPipelineBlocks.from_pretrained("someone/blocks", trust_remote_code=True, cache_dir=tmp_path / "hub")
    assert type(again) is blocks
