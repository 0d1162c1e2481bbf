"""Backbones: the video models that memory is attached to."""

from memkit.backbones.codec import WanCodec
from memkit.backbones.presets import PRESETS, VideoFormat, WanPreset
from memkit.backbones.wan import WanBackbone

__all__ = ["PRESETS", "VideoFormat", "WanBackbone", "WanCodec", "WanPreset"]
