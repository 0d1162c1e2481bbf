"""Checkpoints with the original parameter names: what they are, and stock models from them."""

from memkit.backbones.checkpoints.config import infer_config, matching_presets
from memkit.backbones.checkpoints.load import load_original

__all__ = ["infer_config", "load_original", "matching_presets"]
