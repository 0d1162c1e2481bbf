"""What MemLearner's training changes."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.rollout import ContextMethod
from recipes.common.trained import Trained, save_transformer
from recipes.common.training import lr_multiplier, save_checkpoint
from recipes.memlearner.methods import save_method
from recipes.memlearner.presets import Config


class Training(Trained):
    """The transformer, which may be sharded, and the method's parts, which are whole."""

    def __init__(self, config: Config, backbone: WanBackbone, method: ContextMethod, launched: Accelerator) -> None:
        modules = {"transformer": backbone.transformer, "method": method}
        super().__init__(modules, {"transformer": config.lr, "method": config.camera_lr}, config.clip_norm, launched)
        self.config, self.backbone, self.method = config, backbone, method

    def step(self, step: int) -> Tensor:
        """Take the gradients of one step, of those in which a module learns alone or of the others; their norm."""
        config, first = self.config, self.config.pretrain_steps
        at, of = (step, first) if step < first else (step - first, config.steps)
        return self.update(lr_multiplier(at, of, config.warmup, config.schedule))

    def save(self, step: int, about: dict[str, Any]) -> None:
        """Write transformer and method for use, then the checkpoint. All processes call it; the main one writes."""
        if (state := self.state()) is None:
            return
        out = self.config.out
        save_transformer(self.backbone.transformer, state["modules"], out / "transformer")
        save_method(self.method, out / "method")
        save_checkpoint({**state, "step": step}, out / "checkpoint.pt", about)
