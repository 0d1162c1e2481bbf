"""Backbones: the video models that memory is attached to, and the protocol by which injectors know them."""

from memkit.backbones.adapters import ADAPTERS, WanAdapter, adapter_of
from memkit.backbones.base import Carrier, Groups, Table
from memkit.backbones.codec import WanCodec
from memkit.backbones.presets import PRESETS, VideoFormat, WanPreset
from memkit.backbones.protocol import BackboneAdapter, Call, Grid, Sizes
from memkit.backbones.wan import WanBackbone

__all__ = [
    "ADAPTERS",
    "PRESETS",
    "BackboneAdapter",
    "Call",
    "Carrier",
    "Grid",
    "Groups",
    "Sizes",
    "Table",
    "VideoFormat",
    "WanAdapter",
    "WanBackbone",
    "WanCodec",
    "WanPreset",
    "adapter_of",
]
