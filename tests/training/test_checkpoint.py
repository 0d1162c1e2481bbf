"""A checkpoint is taken by its own run and by no other, and says which settings differ."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memkit.errors import InputError
from memkit.training import RESUME_OVERRIDES, load_checkpoint, run_settings, save_checkpoint
from recipes.dit_mem.presets import tiny


def test_a_checkpoint_names_the_settings_that_differ_and_those_that_are_renamed(tmp_path) -> None:
    file, run = tmp_path / "checkpoint.pt", run_settings(tiny(), RESUME_OVERRIDES, bank="a")
    assert load_checkpoint(file, run) is None
    save_checkpoint({"step": 3, "modules": {"w": torch.arange(3.0)}}, file, run)
    state = load_checkpoint(file, run_settings(dataclasses.replace(tiny(), save_every=7), RESUME_OVERRIDES, bank="a"))
    assert state is not None and state["step"] == 3 and state["modules"]["w"].tolist() == [0.0, 1.0, 2.0]
    other = run_settings(dataclasses.replace(tiny(), seed=1), RESUME_OVERRIDES, bank="b")
    with pytest.raises(InputError, match=r"seed \(42 before, 1 now\), bank \(a before, b now\)"):
        load_checkpoint(file, other)
    old = {"image_share" if name == "image_cond_prob" else name: value for name, value in run.items()}
    save_checkpoint({"step": 3}, file, old)
    with pytest.raises(InputError, match=r"image_share \(1.0 before, None now\), image_cond_prob \(None before, 1.0"):
        load_checkpoint(file, run)
