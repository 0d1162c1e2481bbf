"""A recipe's training for tests, to its end and stopped on the way; ``train`` is the recipe's module of that name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit import training


def finished(train: Any, config: Any, out: Path, **changes: object) -> dict[str, torch.Tensor]:
    """The weights of a run in ``out`` with these changes, begun or gone on with."""
    own = dataclasses.replace(config, out=out, **changes)
    assert train.main(train.Command(own)) == 0
    return torch.load(out / "checkpoint.pt", weights_only=True)["modules"]


def stop_once_saved(train: Any, config: Any, step: int) -> None:
    """Interrupt a run as a user would, as soon as the checkpoint of this step is on disk."""
    save = training.save_checkpoint

    def stopping(state: dict[str, Any], path: Path, run: dict[str, Any]) -> None:
        save(state, path, run)
        if state["step"] == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save_checkpoint", stopping)  # for recipes, and for `save_run`
        patch.setattr("memkit.training.checkpoint.save_checkpoint", stopping)
        train.main(train.Command(config))
