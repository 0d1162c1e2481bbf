"""Blocks saved and loaded back as a user would, on a random Wan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipelineBlocks, WanPipeline
from diffusers.guiders import ClassifierFreeGuidance

SIZE = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_folder: Path) -> Callable[..., Any]:
    """A pipeline from blocks that went through a folder, with the components of the random Wan."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))

    def load(blocks: ModularPipelineBlocks, guidance_scale: float) -> Any:
        blocks.save_pretrained(tmp_path / "blocks")
        again = ModularPipelineBlocks.from_pretrained(str(tmp_path / "blocks"), trust_remote_code=True)
        assert type(again) is type(blocks)
        pipe = again.init_pipeline(str(random_folder))
        pipe.load_components()
        enabled = guidance_scale != 1
        pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=guidance_scale, enabled=enabled))
        return pipe

    return load


@pytest.fixture
def stock(random_folder: Path) -> WanPipeline:
    pipe = WanPipeline.from_pretrained(random_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
