"""Backbones: the models that memory is given to."""

from memkit.backbones.presets import PRESETS, VideoFormat, WanPreset
from memkit.backbones.wan import WanBackbone

__all__ = ["PRESETS", "VideoFormat", "WanBackbone", "WanPreset"]
