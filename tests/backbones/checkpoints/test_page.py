"""The page on checkpoints: its code runs as it is written, on small files of the names that it uses."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

from memkit.streaming import STREAM_PRESETS
from tests.backbones.checkpoints.test_folders import write_shards
from tests.backbones.checkpoints.test_lora import lora
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_pipeline

PAGE = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()


@pytest.mark.filterwarnings("ignore:.*several sets of weights")
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = random_state()
    save_file(state, "wan2.1_t2v_1.3B.safetensors")
    torch.save({"generator": state, "generator_ema": random_state(seed=1)}, "dmd.pt")
    torch.save({"generator": {f"model.{name}": value for name, value in state.items()}}, "base.pt")
    torch.save(lora("LongLive"), "lora.pt")
    torch.save({"generator_ema": state}, "self_forcing_dmd.pt")
    for seed, level in enumerate(("high", "low")):
        write_shards(tmp_path / f"{level}_noise_model", seed=seed)

    def from_pretrained(name, **parts):
        """`random_pipeline` in place of what the page fetches from the hub."""
        pipe = random_pipeline(boundary_ratio=0.875 if "A14B" in name else None)
        for part, model in parts.items():
            setattr(pipe, part, model)
        return pipe

    monkeypatch.setattr(WanPipeline, "from_pretrained", from_pretrained)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    for block in blocks:
        exec(block.replace("seeds=[1]", "seeds=[1], size=(4, 4)"), names)
    assert names["latents"].shape == (1, 16, 3, 4, 4) and names["stream"].position == 6
    assert torch.equal(names["high"].proj_out.weight, state["head.head.weight"])
    assert not torch.equal(names["low"].proj_out.weight, state["head.head.weight"])


def test_the_numbers_of_the_table_are_those_of_the_presets():
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| (\d+) \| (\d+) \((\d+)\) \| ([\d, ]+) \| (.*) \|$", PAGE, re.M)
    assert {row[0] for row in rows} == STREAM_PRESETS.keys()
    for name, chunk, window, sink, timesteps, shift in rows:
        config = STREAM_PRESETS[name]()
        assert (config.chunk, config.window, config.sink) == (int(chunk), int(window), int(sink))
        assert config.timesteps == tuple(map(int, timesteps.split(",")))
        assert config.shift == (None if shift.startswith("none") else float(shift))
